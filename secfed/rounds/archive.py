"""A published round's folder as one file, for members to fetch, and back with everything verified.

The container is safetensors with one byte array a file: it has no paths, no links and no code,
and its parser bounds what it reads. What makes the content credible is not how it came but the
aggregator's signature over the manifest, which names every file by its digest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.errors import PeerError
from secfed.identity import signed
from secfed.identity.fields import from_base64
from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest
from secfed.rounds.publish import MANIFEST_FILE, SIGNATURE_FILE
from secfed.store import jsontext
from secfed.store.files import storage_errors

__all__ = ["Archive", "archive_digest", "pack", "unpack"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""What a file in a round's folder may be called: no path, nothing hidden."""


def archive_digest(result: Digest) -> Digest:
    """By which a round's folder is asked for: it follows from the digest of the round's result."""
    return digest(Label.ADAPTER, b"folder", result)


def pack(folder: Path) -> bytes:
    """The files of a folder, sorted by name.

    Raises:
        StorageError: A file cannot be read.
    """
    with storage_errors(folder):
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    return save({name: np.frombuffer(data, np.uint8) for name, data in files.items()})


@dataclass(frozen=True, slots=True)
class Archive:
    """A verified folder: its files, and what its manifest says."""

    files: Mapping[str, bytes]
    manifest: Mapping[str, object]


def unpack(data: bytes, *, result: Digest, aggregator: ClientId, public: bytes) -> Archive:
    """Take a fetched folder apart and verify it.

    Args:
        result: Digest of the round's result, as the aggregator's status has it.
        aggregator: The aggregator's name and, in `public`, its identity key from the roster.

    Raises:
        PeerError: Not such a container, not signed by the aggregator, or a file is not the one
            that the manifest names.
    """
    try:
        arrays = load(data)
        files = {name: np.ascontiguousarray(array).tobytes() for name, array in arrays.items()}
        text = files[MANIFEST_FILE]
        signature = from_base64(files[SIGNATURE_FILE].decode("ascii").strip(), 64)
        manifest = jsontext.parse(text)
        if not isinstance(manifest, Mapping) or not isinstance(manifest["files"], Mapping):
            raise ValueError("not a round's manifest")
        context = bytes.fromhex(str(manifest["attempt_digest"]))
        named = manifest["files"]
    except (SafetensorError, KeyError, ValueError) as problem:
        raise PeerError(f"the fetched folder cannot be read: {type(problem).__name__}") from problem
    signed.open_(
        Signed(text, signature),
        public,
        Label.SIGN_MANIFEST_FILE,
        context=context,
        sender=aggregator,
        recipient=None,
    )
    if manifest.get("result") != result.hex():
        raise PeerError("the fetched folder is another round's")
    found = files.keys() - {MANIFEST_FILE, SIGNATURE_FILE}
    if found != named.keys() or not all(_NAME.fullmatch(name) for name in files):
        raise PeerError("the fetched folder holds other files than its manifest names")
    for name in found:
        if hashlib.sha256(files[name]).hexdigest() != named[name]:
            raise PeerError(f"{name} in the fetched folder is not the one that its manifest names")
    return Archive(files, manifest)
