"""Assets: archives are read without unpacking, conversions are whole or absent, names stay in the cache."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from secfed.errors import ConfigError
from secfed.training import assets
from secfed.training.data import load
from secfed.training.models import model_folder, weights_sha256
from secfed.training.rows import FORMATS

SENTENCES = "1\t2.25\tA fine film\r\n2\t-1.5\tDull\r\n3\t0.1\tIt exists\r\n"


def tar_of(members: dict[str, bytes], *, link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        if link is not None:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(entry)
    return buffer.getvalue()


def vader(cache: Path, inner: bytes) -> None:
    (cache / "sdist").mkdir(parents=True)
    outer = tar_of({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner})
    (cache / "sdist" / "vadersentiment-3.3.2.tar.gz").write_bytes(outer)


def test_movies_are_labelled_and_made_once(tmp_path: Path) -> None:
    vader(tmp_path, tar_of({"hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": SENTENCES.encode()}))
    said: list[str] = []
    (place,) = assets.prepare(tmp_path, ["vader"], say=said.append)
    rows = [json.loads(line) for line in place.read_text().splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == [
        ("A fine film", "positive"),
        ("Dull", "negative"),
    ]
    place.write_text("mine")
    assets.prepare(tmp_path, ["vader"], say=said.append)
    assert place.read_text() == "mine"
    assert ["from" in said[0], "already" in said[1]] == [True, True]


@pytest.mark.parametrize("trick", ["path", "link", "two", "none"])
def test_archives_cannot_write_anywhere(tmp_path: Path, trick: str) -> None:
    cache = tmp_path / "cache"
    name = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
    inner = {
        "path": tar_of({f"../../{name}": SENTENCES.encode()}),
        "link": tar_of({}, link=name),
        "two": tar_of({name: SENTENCES.encode(), f"x/{name}": b"1\t3\tother"}),
        "none": tar_of({"readme": b""}),
    }[trick]
    vader(cache, inner)
    if trick == "path":  # content is taken, its path is not
        assets.prepare(cache, ["vader"], say=lambda _: None)
    else:
        with pytest.raises(ConfigError, match="archive"):
            assets.prepare(cache, ["vader"], say=lambda _: None)
        assert list((cache / "data").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def test_oversized_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vader(tmp_path, tar_of({"hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": SENTENCES.encode()}))
    monkeypatch.setattr(assets, "MEMBER_BYTES_MAX", 10)
    with pytest.raises(ConfigError, match="at most 10 bytes"):
        assets.prepare(tmp_path, ["vader"], say=lambda _: None)


def test_missing_things_have_a_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="unknown asset"):
        assets.prepare(tmp_path, ["nothing"], say=lambda _: None)
    assert assets.main(["--cache", str(tmp_path), "--only", "vader"]) == 2
    error = capsys.readouterr().err
    assert "vaderSentiment-3.3.2.tar.gz" in error
    assert "make assets" in error


def test_model_folder_stays_in_the_cache(tmp_path: Path) -> None:
    for name in ("org/..", "org/", ".hidden", "org/a b", "org/missing"):
        with pytest.raises(ConfigError, match="is not in"):
            model_folder(tmp_path, name)
    with pytest.raises(ConfigError, match="no safetensors"):
        weights_sha256(tmp_path)


def test_prepared_assets_are_whole(cache: Path, tmp_path: Path) -> None:
    """The real ones: counts of the sources' descriptions, and digests that match their files."""
    movies = [json.loads(line) for line in (cache / "data/movies.jsonl").read_text().splitlines()]
    assert (len(movies), sum(row["label"] == "positive" for row in movies)) == (10_043, 4_982)
    chats = [json.loads(line) for line in (cache / "data/chitchat.jsonl").read_text().splitlines()]
    assert len(chats) > 3_000
    assert all(set(row) == {"person", "prompt", "completion"} and row["completion"].strip() for row in chats)
    for name, trainer, thumbs_up in (("pairs", "dpo", None), ("thumbs", "kto", 150)):
        table = load(cache / f"data/{name}.jsonl", FORMATS[trainer], scratch=tmp_path)
        assert (len(table.rows), table.kinds["prompt"]) == (300, "messages")
        assert (thumbs_up or 0) == sum(row.get("label") is True for row in table.rows)
    for model_id in (assets.MINILM_ID, assets.SMOLLM2_ID):
        place = model_folder(cache, model_id)
        source = json.loads((place / assets.SOURCE).read_text())
        assert (source["id"], source["weights_sha256"]) == (model_id, weights_sha256(place))
