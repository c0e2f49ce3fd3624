"""The lines of a journal: how each is chained to the exact bytes before it, and what a reader finds wrong.

A line is `{"body":…,"prev":"<hex>","seq":N}`, in a signed journal with a last member
`"sig":"<base64>"`. `prev` is the digest of the whole line before (zeros in the first). The
signature covers the line without its `sig` member, so it covers `prev`, and with it
everything earlier. Nothing is serialised again to be checked.

The digest and signature functions are arguments: this module gives them no meaning.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO, NoReturn

from secfed.ids import NO_DIGEST, Digest
from secfed.limits import ENTRY_BYTES_MAX
from secfed.store import jsontext
from secfed.store.jsontext import Json

__all__ = [
    "EMPTY",
    "Chain",
    "DamageError",
    "Entry",
    "Fault",
    "FaultKind",
    "Head",
    "LineDigest",
    "Scan",
    "Signer",
    "Verifier",
    "check_expected",
]

LineDigest = Callable[[bytes], Digest]
Signer = Callable[[bytes], bytes]
Verifier = Callable[[bytes, bytes], bool]

_SIGNATURE_MEMBER = b',"sig":"'


@dataclass(frozen=True, slots=True)
class Head:
    """How many entries a journal has, and the digest of the last one's line."""

    count: int
    digest: Digest


EMPTY = Head(0, NO_DIGEST)
"""The head of a journal without entries."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One acknowledged line: its number from 0, its content, and the digest of its exact bytes."""

    seq: int
    body: Mapping[str, Json]
    digest: Digest


class FaultKind(Enum):
    """What is wrong with an entry, in words that follow its number."""

    CHANGED = "was changed after it was written"
    FOREIGN = "is not signed by the expected key"
    UNPROVEN = "is not signed by the expected key, or was changed"
    MISPLACED = "stands out of order: entries were swapped, inserted or removed"
    SPLICED = "does not follow the entry before it: entries were exchanged"
    CUT = "is missing: the tail was cut off"
    REPLACED = "is not the one that was known under this number"


@dataclass(frozen=True, slots=True)
class Fault:
    """The first entry that is wrong, by its number from 0, and how."""

    entry: int
    kind: FaultKind

    def __str__(self) -> str:
        return f"entry {self.entry} {self.kind.value}"


class DamageError(Exception):
    """Carries the fault from the scan to whoever reports it."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Chain:
    """How lines are chained and signed. Without a verifier a signature's place is checked, not its truth."""

    digest: LineDigest
    signed: bool
    verifier: Verifier | None

    def read(self, line: bytes, head: Head, following: bytes) -> Entry:
        """Check the line that should come next; `following` is the line after it, for the diagnosis only."""
        digest = self.digest(line)
        try:
            unsigned, signature = self._split(line)
            seq, prev, body = _members(unsigned)
        except ValueError:
            _blame(head.count, FaultKind.CHANGED)
        if self.verifier is not None and not self.verifier(unsigned, signature):
            vouched = self._vouched(following, digest)
            if vouched is None:
                _blame(head.count, FaultKind.UNPROVEN)
            _blame(head.count, FaultKind.FOREIGN if vouched else FaultKind.CHANGED)
        if seq != head.count:
            _blame(head.count, FaultKind.MISPLACED)
        if prev != head.digest.hex():
            vouched = self._vouched(following, digest)
            if self.signed or vouched is None or head.count == 0:
                _blame(head.count, FaultKind.SPLICED)
            _blame(head.count - 1 if vouched else head.count, FaultKind.CHANGED)
        return Entry(seq, body, digest)

    def write(self, seq: int, prev: Digest, body: Mapping[str, Json], signer: Signer | None) -> bytes:
        """The inverse of `read`, without the newline."""
        line = jsontext.compact({"seq": seq, "prev": prev.hex(), "body": body})
        if signer is None:
            return line
        return line[:-1] + _SIGNATURE_MEMBER + _base64(signer(line)) + b'"}'

    def _split(self, line: bytes) -> tuple[bytes, bytes]:
        """Part a line into what is signed and the signature; raise ValueError where it has no such form."""
        if not self.signed:
            return line, b""
        unsigned, member, rest = line.rpartition(_SIGNATURE_MEMBER)
        if not member or not rest.endswith(b'"}'):
            raise ValueError("no signature")
        signature = binascii.a2b_base64(rest[:-2], strict_mode=True)
        if _base64(signature) != rest[:-2]:  # one signature, one text
            raise ValueError("not canonical")
        return unsigned + b"}", signature

    def _vouched(self, following: bytes, digest: Digest) -> bool | None:
        """Whether the next line points at this one; None if there is none, or none that can be read."""
        try:
            return _members(self._split(following)[0])[1] == digest.hex()
        except ValueError:
            return None


def _base64(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False)


def _blame(entry: int, kind: FaultKind) -> NoReturn:
    raise DamageError(Fault(entry, kind))


def _members(line: bytes) -> tuple[int, str, Mapping[str, Json]]:
    """Parse (seq, prev, body); raise ValueError unless exactly these stand there."""
    entry = jsontext.parse(line)
    if not isinstance(entry, Mapping) or entry.keys() != {"seq", "prev", "body"}:
        raise ValueError("not an entry")
    seq, prev, body = entry["seq"], entry["prev"], entry["body"]
    if type(seq) is not int or not isinstance(prev, str) or not isinstance(body, Mapping):
        raise ValueError("not an entry")
    return seq, prev, body


@dataclass(slots=True)
class Scan:
    """Walks the lines; `head` and `end` tell how far they are sound, `tail` what follows the last newline.

    `hashed` takes in the very bytes that were judged sound, so nobody needs to read them from the disk again.
    """

    file: BinaryIO
    chain: Chain
    limit: int
    head: Head = EMPTY
    end: int = 0
    tail: bytes = b""
    hashed: hashlib._Hash = field(default_factory=hashlib.sha256)

    def __iter__(self) -> Iterator[Entry]:
        line = self._next_line(0)
        while line.endswith(b"\n"):
            following = self._next_line(self.end + len(line))
            entry = self.chain.read(line[:-1], self.head, following.removesuffix(b"\n"))
            self.head = Head(entry.seq + 1, entry.digest)
            self.end += len(line)
            self.hashed.update(line)
            yield entry
            line = following
        if len(line) > ENTRY_BYTES_MAX:
            _blame(self.head.count, FaultKind.CHANGED)
        self.tail = line

    def _next_line(self, start: int) -> bytes:
        return self.file.readline(min(self.limit - start, ENTRY_BYTES_MAX + 1))

    def unfinished(self) -> Entry | None:
        """Judge the tail: an entry that lacks nothing but its newline, or None if a crash cut it short.

        A whole entry followed by another byte is no crash: its newline was changed.
        """
        try:
            _value, rest = jsontext.first_value(self.tail)
        except ValueError:
            return None
        if rest:
            _blame(self.head.count, FaultKind.CHANGED)
        return self.chain.read(self.tail, self.head, b"")


def check_expected(expect: Head | None, head: Head, known: Digest | None) -> None:
    """Compare with a head known elsewhere; `known` is the digest at its place in this file."""
    if expect is None or expect.count == 0:
        return
    if head.count < expect.count:
        _blame(head.count, FaultKind.CUT)
    if known != expect.digest:
        _blame(expect.count - 1, FaultKind.REPLACED)
