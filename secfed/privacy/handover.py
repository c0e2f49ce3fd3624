"""Whose signatures a ledger carries, after its site's identity key was exchanged for a new one.

A hand-over is an entry like any other: chained, and signed by the key that was in force. In it the new
key signs the head that it takes over, so that the key in force now answers for all that was charged
before: nobody can put a made-up past, ended by a hand-over to this key, in the ledger's place.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from secfed.crypto import signing
from secfed.crypto.kdf import lengthed
from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.errors import LedgerError
from secfed.ids import Digest
from secfed.privacy.entries import HANDOVER_TYPE, Body, Handover, read_body
from secfed.store import jsontext
from secfed.store.files import storage_errors

__all__ = ["check_accepted", "make", "verifier"]

_MARK = f'"type":"{HANDOVER_TYPE}"'.encode()
"""Stands in the exact text of every hand-over."""


def make(old: SigningKey, new: SigningKey, head: Digest, at: str) -> Handover:
    """The entry by which `new` takes over a ledger that ends in `head`; `old` still has to sign it."""
    accepted = new.sign(_accepts(old.public, new.public, head))
    return Handover(old.public.hex(), new.public.hex(), accepted.hex(), at)


def check_accepted(entry: Handover, head: Digest) -> None:
    """The new key took over exactly this head.

    Raises:
        LedgerError: It did not.
    """
    old, new = bytes.fromhex(entry.old), bytes.fromhex(entry.new)
    if not signing.verify(new, _accepts(old, new, head), bytes.fromhex(entry.accepted)):
        raise LedgerError("the new key did not sign the head that it takes over")


def verifier(path: Path, public: bytes, signed: Callable[[bytes], bytes]) -> Callable[[bytes, bytes], bool]:
    """What verifies a ledger's lines, each under the key then in force, for a chain that ends in `public`.

    The keys are read from the file as they are claimed there; it is the signatures that prove them: each
    hand-over is a line under its old key, and `check_accepted` binds its new one.

    Args:
        signed: What is signed of a line.
    """
    with storage_errors(path):
        turns = list(_turns(path.read_bytes().splitlines())) if path.exists() else []
    if not turns:
        return lambda line, signature: signing.verify(public, signed(line), signature)
    return _Keys(turns, public, signed)


@dataclass(frozen=True, slots=True)
class _Keys:
    """A verifier that knows which key signs which entry."""

    turns: list[tuple[int, Handover]]
    public: bytes
    signed: Callable[[bytes], bytes]

    def __call__(self, line: bytes, signature: bytes) -> bool:
        number, _ = _members(line)
        passed = bisect.bisect_left([turn for turn, _ in self.turns], number)
        if passed == len(self.turns):
            key = self.public
        else:
            key = bytes.fromhex(self.turns[passed][1].old)
            following = self.turns[passed + 1][1].old if passed + 1 < len(self.turns) else self.public.hex()
            if number == self.turns[passed][0] and self.turns[passed][1].new != following:
                return False
        return signing.verify(key, self.signed(line), signature)


def _turns(lines: Iterable[bytes]) -> Iterator[tuple[int, Handover]]:
    """Number and content of every hand-over; a line that is damaged is found by its signature later."""
    for line in lines:
        if _MARK not in line:
            continue
        number, body = _members(line)
        try:
            content = read_body(body)
        except LedgerError:
            continue
        if isinstance(content, Handover):
            yield number, content


def _members(line: bytes) -> tuple[int, Body]:
    """An entry's number and content as its line has them; -1 and nothing where it has neither."""
    try:
        entry = jsontext.parse(line)
    except ValueError:
        return -1, {}
    seq, body = (entry.get("seq"), entry.get("body")) if isinstance(entry, Mapping) else (None, None)
    return (seq, body) if type(seq) is int and isinstance(body, Mapping) else (-1, {})


def _accepts(old: bytes, new: bytes, head: Digest) -> bytes:
    return lengthed(Label.SIGN_LEDGER_HANDOVER.value, old, new, head)
