"""An append-only file of JSON lines, each chained to the exact bytes before it.

A line is `{"body":…,"prev":"<hex>","seq":N}`, in a signed journal with a last member
`"sig":"<base64>"`. `prev` is the digest of the whole line before (zeros in the first). The
signature covers the line without its `sig` member, so it covers `prev`, and with it
everything earlier. Nothing is serialised again to be checked.

An entry counts from the moment `append` returns: line and file are synced. A last line that
a crash cut short was never acknowledged: it is put aside in `<name>.torn-<n>` and the file
goes on without it. Every other deviation is damage: it is named, and the file left alone.
Somebody who may write the file can still cut whole entries off its end; only a head that is
known elsewhere (`expect`) shows that.

The digest and signature functions are arguments: this module gives them no meaning.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NoReturn, Self

from secfed.errors import StorageError
from secfed.ids import NO_DIGEST, Digest
from secfed.store import jsontext
from secfed.store.files import (
    PRIVATE_MODE,
    Barrier,
    create_exclusive,
    no_barrier,
    storage_errors,
    sync_directory,
    take_lock,
    write_all,
)
from secfed.store.jsontext import Json

__all__ = ["EMPTY", "ChainReport", "Entry", "Fault", "FaultKind", "Head", "Journal", "verify"]

LineDigest = Callable[[bytes], Digest]
Signer = Callable[[bytes], bytes]
Verifier = Callable[[bytes, bytes], bool]

_MAX_LINE_BYTES = 1 << 20
"""Longest line read or written: far above any entry, and a bound before memory is taken."""

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


@dataclass(frozen=True, slots=True)
class ChainReport:
    """Verdict on a journal's file: the head of its sound part, and the first fault if there is one.

    `torn_bytes` counts a last line that a crash cut short; it was never acknowledged and is no fault.
    """

    head: Head
    torn_bytes: int
    fault: Fault | None


class _DamageError(Exception):
    """Carries the fault from the scan to whoever reports it."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass(frozen=True, slots=True)
class _Chain:
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
        return line[:-1] + _SIGNATURE_MEMBER + base64.b64encode(signer(line)) + b'"}'

    def _split(self, line: bytes) -> tuple[bytes, bytes]:
        """Part a line into what is signed and the signature; raise ValueError where it has no such form."""
        if not self.signed:
            return line, b""
        unsigned, member, rest = line.rpartition(_SIGNATURE_MEMBER)
        if not member or not rest.endswith(b'"}'):
            raise ValueError("no signature")
        signature = base64.b64decode(rest[:-2], validate=True)
        if base64.b64encode(signature) != rest[:-2]:  # one signature, one text
            raise ValueError("not canonical")
        return unsigned + b"}", signature

    def _vouched(self, following: bytes, digest: Digest) -> bool | None:
        """Whether the next line points at this one; None if there is none, or none that can be read."""
        try:
            return _members(self._split(following)[0])[1] == digest.hex()
        except ValueError:
            return None


def _blame(entry: int, kind: FaultKind) -> NoReturn:
    raise _DamageError(Fault(entry, kind))


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
class _Scan:
    """Walks the lines; `head` and `end` tell how far they are sound, `tail` what follows the last newline."""

    file: BinaryIO
    chain: _Chain
    limit: int
    head: Head = EMPTY
    end: int = 0
    tail: bytes = b""

    def __iter__(self) -> Iterator[Entry]:
        line = self._next_line(0)
        while line.endswith(b"\n"):
            following = self._next_line(self.end + len(line))
            entry = self.chain.read(line[:-1], self.head, following.removesuffix(b"\n"))
            self.head = Head(entry.seq + 1, entry.digest)
            self.end += len(line)
            yield entry
            line = following
        if len(line) > _MAX_LINE_BYTES:
            _blame(self.head.count, FaultKind.CHANGED)
        self.tail = line

    def _next_line(self, start: int) -> bytes:
        return self.file.readline(min(self.limit - start, _MAX_LINE_BYTES + 1))

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


def _check_expected(expect: Head | None, head: Head, known: Digest | None) -> None:
    """Compare with a head known elsewhere; `known` is the digest at its place in this file."""
    if expect is None or expect.count == 0:
        return
    if head.count < expect.count:
        _blame(head.count, FaultKind.CUT)
    if known != expect.digest:
        _blame(expect.count - 1, FaultKind.REPLACED)


class Journal:
    """An open journal: one process, one writer; not for several threads at once.

    Args:
        path: The file, created (0600) if it is missing; its directory exists.
        digest: Of a line's exact bytes, for the chain.
        signer: Makes an entry's signature over the line without it; None for an unsigned journal.
        verifier: Checks one; goes with `signer`.
        expect: A head known elsewhere, which must stand in this file.
        barrier: See the package.
        error: The class for damage and for failing writes.

    Raises:
        StorageError: As `error`: the file is damaged (entry and kind of damage named), or cannot be used.
        LockedError: Another process has it open.
    """

    def __init__(
        self,
        path: Path,
        *,
        digest: LineDigest,
        signer: Signer | None = None,
        verifier: Verifier | None = None,
        expect: Head | None = None,
        barrier: Barrier = no_barrier,
        error: type[StorageError] = StorageError,
    ) -> None:
        if (signer is None) != (verifier is None):
            raise ValueError("signer and verifier go together")
        self._path = path
        self._signer = signer
        self._chain = _Chain(digest, signer is not None, verifier)
        self._barrier = barrier
        self._error = error
        self._usable = False
        with storage_errors(path, error):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(path, flags, PRIVATE_MODE)
        try:
            take_lock(self._file, path)
            sync_directory(path.parent)
            with storage_errors(path, error):
                os.fsync(self._file)  # what is read below must not be lost again
                self._head, self._end = self._recover(expect)
        except _DamageError as damage:
            os.close(self._file)
            raise error(f"{path}: {damage.fault}") from None
        except BaseException:
            os.close(self._file)
            raise
        self._usable = True

    @property
    def head(self) -> Head:
        """Count and digest of the last acknowledged entry."""
        return self._head

    def append(self, body: Mapping[str, Json]) -> Entry:
        """Write one entry; it is durable when this returns.

        Raises:
            StorageError: As `error`: it could not be written or synced. Whether it stands is unknown until
                the journal is opened again; until then nothing more is appended.
            TypeError: The body holds a float or another value without exact text.
        """
        if not self._usable:
            raise self._error(f"{self._path}: an earlier write failed, or the journal is closed")
        line = self._chain.write(self._head.count, self._head.digest, body, self._signer)
        if len(line) >= _MAX_LINE_BYTES:
            raise ValueError(f"an entry of {len(line)} bytes is longer than {_MAX_LINE_BYTES}")
        self._usable = False
        with storage_errors(self._path, self._error):
            self._barrier("before:append")
            write_all(self._file, line + b"\n")
            self._barrier("before:sync")
            os.fsync(self._file)
        entry = Entry(self._head.count, body, self._chain.digest(line))
        self._head = Head(entry.seq + 1, entry.digest)
        self._end += len(line) + 1
        self._usable = True
        self._barrier("after:append")
        return entry

    def entries(self) -> Iterator[Entry]:
        """Read all acknowledged entries again, oldest first.

        Raises:
            StorageError: As `error`: the file is no longer the one that was verified at opening.
        """
        head, end = self._head, self._end
        # The signatures were verified at opening; that the chain ends in the same head shows the same bytes.
        unverified = _Chain(self._chain.digest, self._chain.signed, None)
        try:
            with storage_errors(self._path, self._error), self._path.open("rb") as file:
                scan = _Scan(file, unverified, end)
                yield from scan
                _check_expected(head, scan.head, scan.head.digest)
        except _DamageError as damage:
            raise self._error(f"{self._path}: {damage.fault}") from None

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file, self._usable = -1, False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recover(self, expect: Head | None) -> tuple[Head, int]:
        """Verify the whole file and settle an unfinished last line; the head and the end of what stands."""
        with self._path.open("rb") as file:
            scan = _Scan(file, self._chain, os.fstat(self._file).st_size)
            known = None
            for entry in scan:
                if expect is not None and entry.seq == expect.count - 1:
                    known = entry.digest
            last = scan.unfinished() if scan.tail else None
        head, end = scan.head, scan.end
        if last is not None:
            head, end = Head(last.seq + 1, last.digest), end + len(scan.tail) + 1
            if expect is not None and last.seq == expect.count - 1:
                known = last.digest
        _check_expected(expect, head, known)
        if last is not None:  # whole but for its newline: it counts, so that nothing is under-counted
            write_all(self._file, b"\n")
            os.fsync(self._file)
        elif scan.tail:
            self._put_aside(scan.tail, end)
        return head, end

    def _put_aside(self, torn: bytes, end: int) -> None:
        """Keep an unacknowledged part of a line beside the journal, then cut it off."""
        number = 0
        while (aside := self._path.with_name(f"{self._path.name}.torn-{number}")).exists():
            number += 1
        create_exclusive(aside, torn, barrier=self._barrier)
        self._barrier("before:truncate")
        os.ftruncate(self._file, end)
        os.fsync(self._file)
        self._barrier("after:truncate")


def verify(
    path: Path, *, digest: LineDigest, verifier: Verifier | None = None, expect: Head | None = None
) -> ChainReport:
    """Judge a journal's file without changing or locking it.

    Args:
        path: The file.
        digest: As the journal was written.
        verifier: None for an unsigned journal.
        expect: A head known elsewhere; without it a tail that was cut off cannot be seen.

    Raises:
        StorageError: The file cannot be read.
    """
    chain = _Chain(digest, verifier is not None, verifier)
    known: Digest | None = None
    with storage_errors(path), path.open("rb") as file:
        scan = _Scan(file, chain, os.fstat(file.fileno()).st_size)
        try:
            for entry in scan:
                if expect is not None and entry.seq == expect.count - 1:
                    known = entry.digest
            last = scan.unfinished() if scan.tail else None
            if last is not None:
                scan.head, scan.tail = Head(last.seq + 1, last.digest), b""
                if expect is not None and last.seq == expect.count - 1:
                    known = last.digest
            _check_expected(expect, scan.head, known)
        except _DamageError as damage:
            return ChainReport(scan.head, len(scan.tail), damage.fault)
    return ChainReport(scan.head, len(scan.tail), None)
