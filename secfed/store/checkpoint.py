"""How far a journal is known to be sound: a small signed note beside it, replaced after every write.

A journal grows for years, and to verify each signature in it at every start would take minutes. The
note says how many entries there were, the digest of the last, and the digest of all bytes up to its
end; one pass of hashing then stands for all those signatures, and only what came after the note is
verified line by line. It also shows what the chain alone cannot: a tail that was cut off, or a file
that was emptied. Whoever sets note and journal back together is not noticed here.

What is noted is what the journal itself verified or wrote. This module never reads the journal's
file, or the note would vouch for whatever somebody else put there meanwhile.

As in `journal`, the signature functions are arguments and have no meaning here.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from secfed.errors import StorageError
from secfed.ids import Digest
from secfed.store import jsontext
from secfed.store.chain import EMPTY, Head, Signer, Verifier
from secfed.store.files import replace, storage_errors
from secfed.store.journal import Verified

__all__ = ["Checkpoint"]

_NOTE_MAX_BYTES = 1024
"""Several times a note, and a bound before memory is taken."""


class Checkpoint:
    """The note of one journal; who calls `save` holds that journal open, and so its lock.

    Args:
        journal: The journal's file, which the note lies beside.
        signer: Signs the note. verifier: Checks it.
        error: The class for a damaged note and for failing writes.

    Raises:
        StorageError: As `error`: the note cannot be read or was changed.

    Attributes:
        verified: What was noted, for the journal's opening; None where nothing was noted yet.
    """

    def __init__(
        self,
        journal: Path,
        *,
        signer: Signer,
        verifier: Verifier,
        error: type[StorageError] = StorageError,
    ) -> None:
        self._note = journal.with_name(f"{journal.name}.head")
        self._signer, self._error = signer, error
        self.verified: Verified | None = None
        with storage_errors(self._note, error):
            if not self._note.exists():
                return
            with self._note.open("rb") as file:
                data = file.read(_NOTE_MAX_BYTES)
        text, _, signature = data.removesuffix(b"\n").rpartition(b"\n")
        try:
            sound = verifier(text, base64.b64decode(signature, validate=True))
        except ValueError:
            sound = False
        if not sound:
            raise error(f"{self._note} was changed: it is not signed by the expected key")
        self.verified = _parse(text)

    @property
    def expected(self) -> Head:
        """The head that must stand in the journal; empty where nothing was noted yet."""
        return EMPTY if self.verified is None else self.verified.head

    def save(self, sound: Verified) -> None:
        """Note how far the journal is sound; durable on return.

        Args:
            sound: The open journal's `Journal.sound`.

        Raises:
            StorageError: As `error`: it cannot be written.
        """
        text = jsontext.compact(
            {
                "entries": sound.head.count,
                "last": sound.head.digest.hex(),
                "bytes": sound.size_bytes,
                "sha256": sound.sha256.hex(),
            }
        )
        try:
            replace(self._note, text + b"\n" + base64.b64encode(self._signer(text)) + b"\n")
        except StorageError as problem:
            raise self._error(str(problem)) from problem
        self.verified = sound


def _parse(text: bytes) -> Verified:
    """What a note says that is as it was signed."""
    note: dict[str, Any] = json.loads(text)
    head = Head(note["entries"], Digest(bytes.fromhex(note["last"])))
    return Verified(head, note["bytes"], bytes.fromhex(note["sha256"]))
