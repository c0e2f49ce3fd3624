"""The search for secrets can fail: it finds what a careless line would leave, in whatever form."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import numpy as np
import pytest

from secfed.attack import procfs, sentinels
from secfed.encoding import ring

SECRET = bytes(range(60, 92))

LEAKS = {
    "raw": b"x" + SECRET,
    "hex": SECRET.hex().encode(),
    "capitals": SECRET.hex().upper().encode(),
    "base64": base64.b64encode(SECRET),
    "url": base64.urlsafe_b64encode(SECRET),
    "shifted": base64.b64encode(b"a" + SECRET + b"b"),
    "shifted-twice": base64.b64encode(b"ab" + SECRET),
    "lines": base64.encodebytes(b"\x30\x2e" + SECRET + SECRET),
    "repr": repr({"key": SECRET}).encode(),
    "number": str(int.from_bytes(SECRET, "big")).encode(),
    "list": str(list(SECRET)).encode(),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_secret_is_found_in_each_of_its_forms(tmp_path: Path, leak: str) -> None:
    (tmp_path / "file").write_bytes(LEAKS[leak])
    (found,) = sentinels.search(tmp_path, [sentinels.of_secret("it", SECRET)])
    assert str(found) == "it in file"
    assert sentinels.search(tmp_path, [sentinels.of_secret("another", bytes(32))]) == []


def test_a_secret_is_found_in_a_files_name(tmp_path: Path) -> None:
    (tmp_path / SECRET.hex()).touch()
    assert len(sentinels.search(tmp_path, [sentinels.of_secret("it", SECRET)])) == 1


VALUES = np.random.default_rng(3).uniform(-1, 1, 48).astype(np.float32)
WORDS = np.random.default_rng(4).integers(0, 1 << 16, 50, dtype=np.uint32)


@pytest.mark.parametrize(
    "leak",
    [
        VALUES.tobytes(),
        VALUES.astype(np.float64).tobytes(),
        VALUES[24:].tobytes(),
        json.dumps(VALUES.tolist()).encode(),
        WORDS.tobytes(),
        WORDS.astype(np.uint16).tobytes(),
        ring.pack(WORDS, 18),
        str(WORDS.tolist()).encode(),
    ],
    ids=["float32", "float64", "half", "json", "words", "narrow", "packed", "list"],
)
def test_a_vector_is_found_in_each_of_its_forms(leak: bytes) -> None:
    vector = sentinels.of_vector("it", VALUES.tolist(), WORDS, 18)
    assert sentinels.found_in(b"before" + leak + b"after", [vector]) == [vector]


def test_what_stands_by_design_is_left_out(tmp_path: Path) -> None:
    for name in ("own", "other"):
        (tmp_path / name).write_bytes(SECRET)
    secret = sentinels.of_secret("it", SECRET)
    finds = sentinels.search(tmp_path, [secret], by_design=lambda path, _: path.name == "own")
    assert [find.where for find in finds] == ["other"]


def test_a_sentinel_does_not_print_its_secret() -> None:
    assert SECRET.hex() not in repr(sentinels.of_secret("it", SECRET))
    assert "words" not in repr(sentinels.of_text("it", "some words of it"))


def test_proc_shows_environment_and_arguments() -> None:
    shown = procfs.exposed(os.getpid())
    assert os.environ["PATH"].encode() in shown["environ"]
    assert b"python" in shown["cmdline"]
    assert b"/" in shown["fd"]
    assert len(procfs.core_limits(os.getpid())) == 2
