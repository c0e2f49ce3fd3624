"""Check a long ledger's signatures on several cores; every one of them, and no other rule.

Signatures are most of the work of verifying a ledger, and each stands for itself. Helper processes check
them piece by piece and name those that hold by a digest of exactly what was checked; the verifier then
finds each line's in that set, or checks it itself. So a helper that is slow, wrong about where a line
begins, or gone makes verifying slower and never weaker: only a signature that was checked counts.

Helpers know one key. A ledger that was handed over to another is verified without them, because there
it also matters which key signed which line.
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path

from secfed.crypto import signing
from secfed.crypto.kdf import lengthed
from secfed.crypto.labels import Label
from secfed.privacy import handover
from secfed.privacy.entries import HANDOVER_TYPE
from secfed.store.files import storage_errors

__all__ = ["PIECE_BYTES", "proven", "signed", "verifier"]

PIECE_BYTES = 1 << 20
"""What a helper takes at once: some two thousand entries, a quarter of a second."""

_SIGNATURE = b',"sig":"'
_HANDED_OVER = f'"type":"{HANDOVER_TYPE}"'.encode()
_KEY_BYTES = 32

Verifier = Callable[[bytes, bytes], bool]


def signed(line: bytes) -> bytes:
    """What a ledger's signature covers of a line without its signature."""
    return lengthed(Label.SIGN_LEDGER.value, line)


def verifier(path: Path, public: bytes, helpers: Executor | None) -> Verifier:
    """What verifies a ledger's lines, each under the key then in force; see `handover.verifier`.

    Args:
        helpers: Processes that check ahead; None for none.

    Raises:
        StorageError: The file cannot be read.
    """
    own = handover.verifier(path, public, signed)
    if helpers is None:
        return own
    with storage_errors(path):
        data = path.read_bytes()
    if _HANDED_OVER in data:
        return own
    size = len(data)
    pieces = (
        helpers.submit(proven, path, public, start, start + PIECE_BYTES)
        for start in range(0, size, PIECE_BYTES)
    )
    return _Ahead(deque(pieces), own)


def proven(path: Path, public: bytes, start: int, end: int) -> bytes:
    """Check the lines that begin within [start, end) of a file; the keys of those that hold, in a row."""
    with path.open("rb") as file:
        file.seek(max(0, start - 1))
        if start:
            file.readline()  # up to the first line that begins here; nothing of it if one does at `start`
        keys = bytearray()
        while file.tell() < end and (line := file.readline()):
            unsigned, _, rest = line.removesuffix(b'"}\n').rpartition(_SIGNATURE)
            try:
                signature = base64.b64decode(rest, validate=True)
            except ValueError:
                continue
            if signing.verify(public, signed(unsigned + b"}"), signature):
                keys += _key(unsigned + b"}", signature)
    return bytes(keys)


class _Ahead:
    """Asks for what the helpers found, in the order of the file."""

    def __init__(self, pieces: deque[Future[bytes]], own: Verifier) -> None:
        self._pieces, self._own = pieces, own
        self._proven: set[bytes] = set()

    def __call__(self, line: bytes, signature: bytes) -> bool:
        key = _key(line, signature)
        while key not in self._proven and self._pieces:
            self._take()
        return key in self._proven or self._own(line, signature)

    def _take(self) -> None:
        try:
            found = self._pieces.popleft().result()
        except (BrokenExecutor, OSError):
            return  # what no helper checked is checked here
        self._proven.update(found[place : place + _KEY_BYTES] for place in range(0, len(found), _KEY_BYTES))


def _key(line: bytes, signature: bytes) -> bytes:
    """Names exactly what was checked; the line comes last, for the signature's length is checked."""
    return hashlib.sha256(len(signature).to_bytes(8) + signature + line).digest()
