"""A global adapter as a PEFT folder that loads where secfed is not installed.

`write` and `read` are inverses. The folder holds `adapter_config.json` with PEFT's keys only,
`adapter_model.safetensors`, for `classify` also `head.safetensors`, and a model card with the
lines that load it. No path, user or host name gets in: the base model is named by its public id.

numpy only, because the aggregator writes it and has no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from secfed.aggregation.spec import AdapterSpec, Trainer
from secfed.aggregation.strategy import HEAD_BIAS, HEAD_WEIGHT, POINT, NamedArrays, is_known
from secfed.errors import DataError, EncodingError, StorageError

__all__ = ["CARD_FILE", "CONFIG_FILE", "HEAD_FILE", "WEIGHTS_FILE", "read", "write"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"
CARD_FILE = "README.md"

_CAUSAL, _FEATURES = "CAUSAL_LM", "FEATURE_EXTRACTION"
"""PEFT's task types: `classify` sits on the bare encoder, its head is a file of its own."""

_FORMAT = {"format": "pt"}
"""The safetensors metadata that PyTorch readers expect."""

_TRAINER = "secfed_trainer"
"""Metadata of the weights that names a trainer which nothing else in the folder tells."""

_TOLD: tuple[Trainer, ...] = ("dpo", "kto")
"""Trainers that are named there; a folder with a head is `classify`, any other `sft`."""


def write(
    folder: Path, spec: AdapterSpec, arrays: NamedArrays, *, notes: Sequence[tuple[str, str]] = ()
) -> tuple[str, ...]:
    """Write an adapter into a new or empty folder.

    Args:
        folder: Made if it is missing. Making its appearance atomic is the caller's business.
        spec: What the arrays are; labels go into the head's metadata and the card.
        arrays: The whole adapter by PEFT names, every value finite. A reference point that rides along
            serves training alone, and stays out of the folder.
        notes: Rows of the card's table (what, value), such as rounds and epsilon.

    Returns:
        The names of the files written, sorted.

    Raises:
        EncodingError: An array is unknown, not finite, or the head does not fit the labels.
    """
    head = _checked_head(spec, arrays)
    lora = {
        name: np.ascontiguousarray(value)
        for name, value in arrays.items()
        if name not in head and name != POINT
    }
    files = {
        CONFIG_FILE: _config_bytes(spec),
        WEIGHTS_FILE: save(
            lora, metadata=_FORMAT | ({_TRAINER: spec.trainer} if spec.trainer in _TOLD else {})
        ),
        CARD_FILE: _card(spec, notes).encode(),
    }
    if head:
        metadata = _FORMAT | {"labels": json.dumps(list(spec.labels), ensure_ascii=False)}
        files[HEAD_FILE] = save(
            {name.removeprefix("head."): np.ascontiguousarray(value) for name, value in head.items()},
            metadata=metadata,
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return tuple(sorted(files))


def read(folder: Path) -> tuple[AdapterSpec, dict[str, NDArray[np.float32]]]:
    """Read a folder that `write` made.

    Raises:
        StorageError: A file is missing or damaged.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        arrays = dict(load_file(folder / WEIGHTS_FILE))
        labels: tuple[str, ...] = ()
        if (folder / HEAD_FILE).exists():
            arrays |= {f"head.{name}": value for name, value in load_file(folder / HEAD_FILE).items()}
            labels = tuple(json.loads(_metadata(folder / HEAD_FILE)["labels"]))
        told = _metadata(folder / WEIGHTS_FILE).get(_TRAINER)
        spec = AdapterSpec(
            base_model=config["base_model_name_or_path"],
            revision=config["revision"],
            trainer="classify" if labels else next((known for known in _TOLD if known == told), "sft"),
            target_modules=tuple(config["target_modules"]),
            r=config["r"],
            alpha=config["lora_alpha"],
            labels=labels,
        )
    except FileNotFoundError as error:
        missing = "nothing" if error.filename is None else Path(error.filename).name
        raise DataError(
            f"{folder} holds no adapter: {missing} is not there",
            hint="Name a folder that a training job published, or that `secfed adapter fetch` wrote.",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StorageError(f"adapter folder {folder} cannot be read: {error}") from error
    return spec, arrays


def _checked_head(spec: AdapterSpec, arrays: NamedArrays) -> dict[str, NDArray[np.float32]]:
    """The head's arrays, after a check of all of them."""
    for name, value in arrays.items():
        if not is_known(name):
            raise EncodingError(f"{name!r} is neither a LoRA factor nor a head")
        if not np.isfinite(value).all():
            raise EncodingError(f"{name!r} holds a value that is not finite")
    head = {name: arrays[name] for name in (HEAD_WEIGHT, HEAD_BIAS) if name in arrays}
    shapes = {name: value.shape[0] for name, value in head.items()}
    expected = {name: len(spec.labels) for name in (HEAD_WEIGHT, HEAD_BIAS)} if spec.labels else {}
    if shapes != expected:
        raise EncodingError(f"the head has rows {shapes}, but the plan has {len(spec.labels)} labels")
    return head


def _metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file that was read already, so that its header is known to be sound."""
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return dict(header.get("__metadata__", {}))


def _config_bytes(spec: AdapterSpec) -> bytes:
    """PEFT's LoraConfig, as JSON with PEFT's keys only."""
    config = {
        "peft_type": "LORA",
        "task_type": _FEATURES if spec.trainer == "classify" else _CAUSAL,
        "base_model_name_or_path": spec.base_model,
        "revision": spec.revision,
        "inference_mode": True,
        "r": spec.r,
        "lora_alpha": spec.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(spec.target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }
    return json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"


_USE_CLASSIFY = """\
import torch, transformers
from peft import PeftModel
from safetensors.torch import load_file

base = "{base}"  # or the folder where you keep it
tokenizer = transformers.AutoTokenizer.from_pretrained(base)
encoder = PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(base), ".").eval()
head = load_file("head.safetensors")
batch = tokenizer(["A sentence to classify."], return_tensors="pt", padding=True)
mask = batch["attention_mask"].unsqueeze(-1)
pooled = (encoder(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
print({labels}[(pooled @ head["weight"].T + head["bias"]).argmax().item()])
"""

_USE_CAUSAL = """\
import torch, transformers
from peft import PeftModel

base = "{base}"  # or the folder where you keep it
tokenizer = transformers.AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), ".").eval()
batch = tokenizer("The text to go on from", return_tensors="pt")
with torch.no_grad():
    output = model.generate(**batch, max_new_tokens=40)
print(tokenizer.decode(output[0], skip_special_tokens=True))
"""


_LEARNT: dict[Trainer, str] = {
    "classify": "classes of texts",
    "sft": "completions of prompts",
    "dpo": "to prefer the chosen response of a pair to the rejected one",
    "kto": "from thumbs up and down",
}
"""What a trainer teaches, for the card."""


def _card(spec: AdapterSpec, notes: Sequence[tuple[str, str]]) -> str:
    """The model card: front matter, what this is, how it is used."""
    front = [
        f"base_model: {json.dumps(spec.base_model)}",
        "library_name: peft",
        "tags: [lora, federated-learning]",
    ]
    if spec.trainer != "classify":
        front.append("pipeline_tag: text-generation")
    rows = [
        ("base model", f"{spec.base_model} ({spec.revision})"),
        ("trained for", f"{spec.trainer}: {_LEARNT[spec.trainer]}"),
        ("LoRA", f"r = {spec.r}, alpha = {spec.alpha}, on {', '.join(spec.target_modules)}"),
        *([("labels", ", ".join(spec.labels))] if spec.labels else []),
        *notes,
    ]
    use = _USE_CLASSIFY if spec.trainer == "classify" else _USE_CAUSAL
    code = use.format(base=spec.base_model, labels=json.dumps(list(spec.labels), ensure_ascii=False))
    return "\n".join(
        [
            "---",
            *front,
            "---",
            "",
            "# Adapter trained across several sites",
            "",
            "The sites' data never left them; only the sum of their updates was opened.",
            "`secfed_manifest.json`, where present, says who took part and at what privacy cost.",
            "",
            "| what | value |",
            "|---|---|",
            *(f"| {_cell(what)} | {_cell(value)} |" for what, value in rows),
            "",
            "## Use, from inside this folder",
            "",
            "```python",
            code.rstrip("\n"),
            "```",
            "",
        ]
    )


def _cell(text: str) -> str:
    """Text that stays inside its table cell."""
    return text.replace("|", "\\|").replace("\n", " ")
