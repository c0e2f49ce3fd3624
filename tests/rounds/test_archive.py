"""A fetched folder is what the aggregator signed, or it is refused; it can write nowhere else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.errors import PeerError
from secfed.identity import signed
from secfed.ids import ClientId, Digest
from secfed.rounds import archive
from secfed.rounds.publish import MANIFEST_FILE, SIGNATURE_FILE

RESULT, H = Digest(b"r" * 32), b"h" * 32
NAME = ClientId("aggregator")
KEY = SigningKey.from_seed(bytes(range(32)))
FILES = {"sum.safetensors": b"the sum", "README.txt": b"what this is\n"}


def write(folder: Path, files: dict[str, bytes] = FILES, result: Digest = RESULT) -> Path:
    """A round's folder, signed."""
    folder.mkdir()
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    text = json.dumps({"attempt_digest": H.hex(), "result": result.hex(), "files": digests}).encode()
    proof = signed.sign(KEY, Label.SIGN_MANIFEST_FILE, context=H, sender=NAME, recipient=None, statement=text)
    (folder / MANIFEST_FILE).write_bytes(text)
    (folder / SIGNATURE_FILE).write_bytes(base64.b64encode(proof.signature) + b"\n")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def unpack(data: bytes) -> archive.Archive:
    """As a member does that asked for `RESULT`."""
    return archive.unpack(data, result=RESULT, aggregator=NAME, public=KEY.public)


def changed(packed: bytes, change: Callable[[dict[str, bytes]], object]) -> bytes:
    """The container with other files in it."""
    files = {name: array.tobytes() for name, array in load(packed).items()}
    change(files)
    return save({name: np.frombuffer(data, np.uint8) for name, data in files.items()})


def test_a_packed_folder_comes_back(tmp_path: Path) -> None:
    found = unpack(archive.pack(write(tmp_path / "round")))
    assert {name: found.files[name] for name in FILES} == FILES
    assert found.manifest["result"] == RESULT.hex()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda files: files.update({"sum.safetensors": b"another"}), "is not the one that its manifest"),
        (lambda files: files.update({"extra.txt": b"more"}), "other files than its manifest"),
        (lambda files: files.pop("README.txt"), "other files than its manifest"),
        (lambda files: files.pop(MANIFEST_FILE), "cannot be read"),
        (lambda files: files.update({MANIFEST_FILE: files[MANIFEST_FILE] + b" "}), "does not verify"),
        (lambda files: files.update({SIGNATURE_FILE: b"AAAA\n"}), "cannot be read"),
    ],
)
def test_a_changed_folder_is_refused(
    tmp_path: Path, change: Callable[[dict[str, bytes]], object], rule: str
) -> None:
    packed = archive.pack(write(tmp_path / "round"))
    with pytest.raises(PeerError, match=rule):
        unpack(changed(packed, change))


def test_another_rounds_folder_is_refused(tmp_path: Path) -> None:
    packed = archive.pack(write(tmp_path / "round", result=Digest(b"o" * 32)))
    with pytest.raises(PeerError, match="another round's"):
        unpack(packed)


def test_a_folder_that_another_key_signed_is_refused(tmp_path: Path) -> None:
    packed = archive.pack(write(tmp_path / "round"))
    with pytest.raises(PeerError, match="does not verify"):
        archive.unpack(packed, result=RESULT, aggregator=NAME, public=SigningKey.from_seed(bytes(32)).public)


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", ".hidden", "a/b", ""])
def test_names_cannot_leave_the_folder_even_if_signed(tmp_path: Path, name: str) -> None:
    """Who signs a path gets no further than who changes one."""
    packed = archive.pack(write(tmp_path / "round"))
    data = b"content"
    text = json.dumps(
        {
            "attempt_digest": H.hex(),
            "result": RESULT.hex(),
            "files": {name: hashlib.sha256(data).hexdigest()},
        }
    ).encode()
    proof = signed.sign(KEY, Label.SIGN_MANIFEST_FILE, context=H, sender=NAME, recipient=None, statement=text)

    def replace(files: dict[str, bytes]) -> None:
        files.clear()
        files[name] = data
        files[MANIFEST_FILE] = text
        files[SIGNATURE_FILE] = base64.b64encode(proof.signature)

    with pytest.raises(PeerError, match="other files"):
        unpack(changed(packed, replace))


def test_what_is_no_container_is_refused() -> None:
    with pytest.raises(PeerError, match="cannot be read"):
        unpack(b"\x00" * 100)
