"""An append-only file of JSON lines, each chained to the exact bytes before it (`store.chain`).

An entry counts from the moment `append` returns: line and file are synced. A last line that
a crash cut short was never acknowledged: it is put aside in `<name>.torn-<n>` and the file
goes on without it. Every other deviation is damage: it is named, and the file left alone.
Somebody who may write the file can still cut whole entries off its end; only a head that is
known elsewhere (`expect`) shows that. A file that grew or shrank under an open journal is not
written on, and what a journal vouches for (`sound`) is what it verified or wrote itself, never
what lies on the disk by then.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from secfed.errors import StorageError
from secfed.ids import Digest
from secfed.limits import ENTRY_BYTES_MAX
from secfed.store.chain import (
    EMPTY,
    Chain,
    DamageError,
    Entry,
    Fault,
    FaultKind,
    Head,
    LineDigest,
    Scan,
    Signer,
    Verifier,
    check_expected,
)
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

__all__ = ["EMPTY", "ChainReport", "Entry", "Fault", "FaultKind", "Head", "Journal", "Verified", "verify"]

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Verified:
    """How far a journal is sound: its head there, where that entry ends, and SHA-256 of all up to it."""

    head: Head
    size_bytes: int
    sha256: bytes


class Journal:
    """An open journal: one process, one writer; not for several threads at once.

    Args:
        path: The file, created (0600) if it is missing; its directory exists.
        digest: Of a line's exact bytes, for the chain.
        signer: Makes an entry's signature over the line without it; None for an unsigned journal.
        verifier: Checks one; goes with `signer`.
        expect: A head known elsewhere, which must stand in this file.
        verified: What need not be verified again if the file begins with the very same bytes; if not, all
            entries are verified, which tells what is wrong. It ends where `expect` stands, if that is given.
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
        verified: Verified | None = None,
        barrier: Barrier = no_barrier,
        error: type[StorageError] = StorageError,
    ) -> None:
        if (signer is None) != (verifier is None):
            raise ValueError("signer and verifier go together")
        self._path = path
        self._signer = signer
        self._chain = Chain(digest, signer is not None, verifier)
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
                self._head, self._end, self._hashed = self._recover(expect, verified)
        except DamageError as damage:
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

    @property
    def sound(self) -> Verified:
        """All that was verified at opening or written since, as it was then: for `verified` another time."""
        return Verified(self._head, self._end, self._hashed.digest())

    def append(self, body: Mapping[str, Json]) -> Entry:
        """Write one entry; it is durable when this returns.

        Raises:
            StorageError: As `error`: somebody else changed the file's size, or the entry could not be written
                or synced. Whether it stands is unknown until the journal is opened again; until then
                nothing more is appended.
            TypeError: The body holds a float or another value without exact text.
        """
        if not self._usable:
            raise self._error(f"{self._path}: an earlier write failed, or the journal is closed")
        line = self._chain.write(self._head.count, self._head.digest, body, self._signer)
        if len(line) >= ENTRY_BYTES_MAX:
            raise ValueError(f"an entry of {len(line)} bytes is longer than {ENTRY_BYTES_MAX}")
        self._usable = False
        with storage_errors(self._path, self._error):
            found = os.fstat(self._file).st_size
            if found != self._end:
                raise self._error(
                    f"{self._path} has {found} bytes and not the {self._end} that were written: "
                    "somebody else changed it"
                )
            self._barrier("before:append")
            write_all(self._file, line + b"\n")
            self._barrier("before:sync")
            os.fsync(self._file)
        entry = Entry(self._head.count, body, self._chain.digest(line))
        self._head = Head(entry.seq + 1, entry.digest)
        self._end += len(line) + 1
        self._hashed.update(line + b"\n")
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
        unverified = Chain(self._chain.digest, self._chain.signed, None)
        try:
            with storage_errors(self._path, self._error), self._path.open("rb") as file:
                scan = Scan(file, unverified, end)
                yield from scan
                check_expected(head, scan.head, scan.head.digest)
        except DamageError as damage:
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

    def _recover(self, expect: Head | None, verified: Verified | None) -> tuple[Head, int, hashlib._Hash]:
        """Verify the file and settle an unfinished last line; head, end and hash of what stands."""
        with os.fdopen(self._file, "rb", closefd=False) as file:  # the one that is locked, by whatever name
            scan = self._begin(file, verified)
            known = scan.head.digest
            for entry in scan:
                if expect is not None and entry.seq == expect.count - 1:
                    known = entry.digest
            last = scan.unfinished() if scan.tail else None
        head, end = scan.head, scan.end
        if last is not None:
            head, end = Head(last.seq + 1, last.digest), end + len(scan.tail) + 1
            scan.hashed.update(scan.tail + b"\n")
            if expect is not None and last.seq == expect.count - 1:
                known = last.digest
        check_expected(expect, head, known)
        if last is not None:  # whole but for its newline: it counts, so that nothing is under-counted
            write_all(self._file, b"\n")
            os.fsync(self._file)
        elif scan.tail:
            self._put_aside(scan.tail, end)
        return head, end, scan.hashed

    def _begin(self, file: BinaryIO, verified: Verified | None) -> Scan:
        """A scan of all, or of what follows the verified bytes if these are still there."""
        limit = os.fstat(self._file).st_size
        if verified is not None and verified.size_bytes <= limit:
            scan = Scan(file, self._chain, limit, verified.head, verified.size_bytes)
            left = verified.size_bytes
            while piece := file.read(min(_PIECE_BYTES, left)):
                scan.hashed.update(piece)
                left -= len(piece)
            if scan.hashed.digest() == verified.sha256:
                return scan
            file.seek(0)
        return Scan(file, self._chain, limit)

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


@dataclass(frozen=True, slots=True)
class ChainReport:
    """Verdict on a journal's file: the head of its sound part, and the first fault if there is one.

    `torn_bytes` counts a last line that a crash cut short; it was never acknowledged and is no fault.
    """

    head: Head
    torn_bytes: int
    fault: Fault | None


def verify(
    path: Path,
    *,
    digest: LineDigest,
    verifier: Verifier | None = None,
    expect: Head | None = None,
    each: Callable[[Entry], None] = lambda _entry: None,
) -> ChainReport:
    """Judge a journal's file without changing or locking it.

    Args:
        path: The file.
        digest: As the journal was written.
        verifier: None for an unsigned journal.
        expect: A head known elsewhere; without it a tail that was cut off cannot be seen.
        each: Given every entry of the sound part in its order, so that nobody reads the file again.

    Raises:
        StorageError: The file cannot be read.
    """
    chain = Chain(digest, verifier is not None, verifier)
    known: Digest | None = None
    with storage_errors(path), path.open("rb") as file:
        scan = Scan(file, chain, os.fstat(file.fileno()).st_size)
        try:
            for entry in scan:
                if expect is not None and entry.seq == expect.count - 1:
                    known = entry.digest
                each(entry)
            last = scan.unfinished() if scan.tail else None
            if last is not None:
                scan.head, scan.tail = Head(last.seq + 1, last.digest), b""
                if expect is not None and last.seq == expect.count - 1:
                    known = last.digest
                each(last)
            check_expected(expect, scan.head, known)
        except DamageError as damage:
            return ChainReport(scan.head, len(scan.tail), damage.fault)
    return ChainReport(scan.head, len(scan.tail), None)
