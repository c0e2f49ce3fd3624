"""A data set's ledger: what was charged to it, kept so that a crash can over-count but not under-count.

The budget belongs to the data set and outlives models, jobs and processes, so the ledger lies
beside the data, under an identity drawn once at random. Each call writes one entry that is durable
before it returns: `reserve` before the first private batch is drawn, `mark_sent` before the first
masked byte leaves. Entries are chained over their exact bytes and signed by the site's key.

The file is its own record; a tail that was cut off is seen only against a head kept elsewhere
(`expect`): the aggregator countersigns one in every round.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.errors import LedgerError
from secfed.ids import NO_DIGEST, ClientId, Digest, JobId, RoundId
from secfed.privacy import handover, proving
from secfed.privacy.book import Book, Charge, LedgerState
from secfed.privacy.entries import (
    Budget,
    Handover,
    LedgerEntry,
    Opening,
    Reserved,
    Sent,
    read_body,
    write_body,
)
from secfed.privacy.events import Event, Relation, Unit
from secfed.store import journal
from secfed.store.files import Barrier, no_barrier
from secfed.store.journal import EMPTY, Entry, Head, Journal

__all__ = ["Authorization", "Ledger", "Verdict", "verify"]

OnHead = Callable[[Head], None]
"""Told each new head once its entry is durable, so that it can be remembered outside of the file."""


def _forget(_head: Head) -> None:
    """Nobody remembers heads elsewhere."""


_IDENTITY_BYTES = 32
"""Length of a ledger's random identity: never two alike."""

_AGAINST_RULES = "is signed and chained, but breaks a ledger's rules"

_NEVER_OPENED = "the ledger has no entry: it was never opened"


@dataclass(frozen=True, slots=True)
class Authorization:
    """Leave to charge one event, given by `budget.authorize` for one exact state of the ledger.

    Attributes:
        event: What may be charged, once.
        head: The ledger's head when it was given; of no use once that moved on.
        after: Epsilon of the filter with it.
    """

    event: Event
    head: Head
    after: float


class Ledger:
    """An open ledger: one process, one writer. Made by `create` or `open`; close it, or use `with`."""

    def __init__(self, chain: Journal, book: Book, now: Callable[[], datetime], on_head: OnHead) -> None:
        """Take over an open journal and the book of its entries."""
        self._journal = chain
        self._book = book
        self._now = now
        self._on_head = on_head

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        key: SigningKey,
        site: ClientId,
        unit: Unit,
        records_per_unit: int,
        relation: Relation,
        budget: Budget | None,
        unit_column: str | None = None,
        on_head: OnHead = _forget,
        entropy: Callable[[int], bytes] = os.urandom,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        barrier: Barrier = no_barrier,
    ) -> Ledger:
        """Open a new ledger for a data set that has none.

        Args:
            path: Beside the data; its directory exists.
            key: The site's signing key.
            budget: Fixed here for good; None for a scratch ledger of vector jobs.
            unit_column: The column that names the person; None where the unit is a record.
            on_head: Told every new head, once its entry is durable.

        Raises:
            LedgerError: A ledger is already there, or a value is out of range.
            LockedError: Another process has it open.
        """
        opening = Opening(
            ledger=entropy(_IDENTITY_BYTES).hex(),
            site=site,
            unit=unit,
            records_per_unit=records_per_unit,
            relation=relation,
            budget=budget,
            unit_column=unit_column,
            at=_stamp(now),
        )
        chain = _journal(path, key, None, barrier)
        try:
            if chain.head.count:
                raise LedgerError(
                    f"{path}: this data set has a ledger already",
                    hint="A data set has one budget for good: use the ledger that is there.",
                )
            ledger = cls(chain, Book(), now, on_head)
            ledger._write(opening)
        except BaseException:
            chain.close()
            raise
        return ledger

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        key: SigningKey,
        expect: Head | None = None,
        on_head: OnHead = _forget,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        barrier: Barrier = no_barrier,
    ) -> Ledger:
        """Open a ledger that is there, after verifying all of it.

        Args:
            expect: A head that is known from elsewhere and must stand in the file.
            on_head: Told every new head, once its entry is durable.

        Raises:
            LedgerError: Missing, damaged, cut, signed by another key, or against the rules.
            LockedError: Another process has it open.
        """
        if not path.exists():
            raise LedgerError(f"{path}: there is no ledger", hint="Restore it from its backup.")
        chain = _journal(path, key, expect, barrier)
        try:
            book = Book()
            before = NO_DIGEST
            for entry in chain.entries():
                _apply(book, entry, before)
                before = entry.digest
            if book.opening is None:
                raise LedgerError(_NEVER_OPENED)
        except LedgerError as broken:
            chain.close()
            raise LedgerError(f"{path}: {broken}") from broken
        except BaseException:
            chain.close()
            raise
        return cls(chain, book, now, on_head)

    @property
    def state(self) -> LedgerState:
        """A snapshot; it costs time linear in the charges."""
        return self._book.state(self._journal.head)

    @property
    def head(self) -> Head:
        """Count and digest of the last entry: goes out with every hello."""
        return self._journal.head

    def reserve(self, job: JobId, round_number: int, plan: Digest, authorization: Authorization) -> Charge:
        """Charge an authorized event; durable when this returns, and only now may data be touched.

        A round that is trained again is a new reservation, and is charged again.

        Raises:
            LedgerError: The authorization is for another state of the ledger, or the entry cannot be written.
        """
        if authorization.head != self.head:
            raise LedgerError("the ledger moved on since this charge was authorized", hint="Authorize again.")
        reserved = Reserved(job, round_number, authorization.event, plan, _stamp(self._now))
        return Charge(self._write(reserved), reserved)

    def resume(self, job: JobId, round_number: int, plan: Digest, event: Event) -> Charge:
        """The reservation under which a contribution that still exists was made; charges nothing.

        Only a caller that holds this contribution may go on under it; whoever trains again reserves again.

        Raises:
            LedgerError: No reservation of this round stands, or it was made for another plan or event.
        """
        charge = self._book.latest(job, round_number)
        if charge is None:
            raise LedgerError(f"nothing is reserved for round {round_number} of {job}")
        if (charge.reserved.plan, charge.reserved.event) != (plan, event):
            raise LedgerError(f"round {round_number} of {job} was reserved for another plan or event")
        return charge

    def mark_sent(self, sum_id: RoundId, attempt: int, contribution: Digest) -> None:
        """Note that a contribution is about to leave; durable when this returns, and only now may it.

        Saying the same thing again writes nothing.

        Args:
            contribution: Keyed digest of the exact contribution, so that nothing else goes out under it.

        Raises:
            LedgerError: Nothing is reserved, or another contribution went out under the reservation.
        """
        charge = self._book.latest(sum_id.job, sum_id.round)
        if charge is None:
            raise LedgerError(f"nothing is reserved for round {sum_id.round} of {sum_id.job}")
        for sent in charge.sent:
            if (sent.sum_index, sent.attempt, sent.contribution) == (sum_id.sum_index, attempt, contribution):
                return
        stamp = _stamp(self._now)
        self._write(
            Sent(charge.number, sum_id.job, sum_id.round, sum_id.sum_index, attempt, contribution, stamp)
        )

    def hand_over(self, old: SigningKey, new: SigningKey) -> None:
        """Let another key of the site sign from here on, and close: it is opened under that key now.

        Args:
            old: The key that it was opened with.

        Raises:
            LedgerError: The entry cannot be written.
        """
        self._write(handover.make(old, new, self.head.digest, _stamp(self._now)))
        self.close()

    def close(self) -> None:
        """Release the file and its lock; a second call does nothing."""
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, entry: LedgerEntry) -> int:
        """Check, write durably, then take in; the entry's number."""
        self._book.check(entry)
        number = self._journal.append(write_body(entry)).seq
        self._book.apply(number, entry)
        self._on_head(self.head)
        return number


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification of a ledger's file found.

    Attributes:
        path: The file.
        state: What stands in the sound part; None if not even the opening does.
        head: Where the sound part ends.
        fault: The first thing that is wrong, naming the entry; None if all is well.
        torn_bytes: Length of a last line that a crash cut short; it was never acknowledged.
        compared: Whether a head known elsewhere was held against it; without one a cut tail is not seen.
    """

    path: Path
    state: LedgerState | None
    head: Head
    fault: str | None
    torn_bytes: int
    compared: bool


def verify(
    path: Path, public: bytes, *, expect: Head | None = None, helpers: Executor | None = None
) -> Verdict:
    """Judge a ledger without changing or locking it; its site may be using it.

    Args:
        public: The site's public signing key, 32 bytes: the one in force at the ledger's end.
        expect: A head known elsewhere, such as a countersigned one.
        helpers: Processes that check signatures ahead; worth it for a long ledger.

    Raises:
        StorageError: The file cannot be read.
    """
    reading = _Reading()
    report = journal.verify(
        path,
        digest=_line_digest,
        verifier=proving.verifier(path, public, helpers),
        expect=expect,
        each=reading.take,
    )
    fault = reading.fault or (None if report.fault is None else str(report.fault))
    if reading.head == EMPTY and fault is None:
        fault = _NEVER_OPENED
    state = None if reading.book.opening is None else reading.book.state(reading.head)
    return Verdict(path, state, reading.head, fault, report.torn_bytes, expect is not None)


@dataclass(slots=True)
class _Reading:
    """Takes a verified file's entries into a book, up to the first that breaks a rule."""

    book: Book = field(default_factory=Book)
    head: Head = EMPTY
    fault: str | None = None

    def take(self, entry: Entry) -> None:
        """One more; after a fault none is taken any more."""
        if self.fault is not None:
            return
        try:
            _apply(self.book, entry, self.head.digest)
        except LedgerError as broken:
            self.fault = str(broken)
        else:
            self.head = Head(entry.seq + 1, entry.digest)


def _apply(book: Book, line: Entry, before: Digest) -> None:
    """Take one entry of a file into the book; `before` is the digest of the one before it."""
    try:
        entry = read_body(line.body)
        if isinstance(entry, Handover):
            handover.check_accepted(entry, before)
        book.apply(line.seq, entry)
    except LedgerError as broken:
        raise LedgerError(f"entry {line.seq} {_AGAINST_RULES}: {broken}") from broken


def _journal(path: Path, key: SigningKey, expect: Head | None, barrier: Barrier) -> Journal:
    return Journal(
        path,
        digest=_line_digest,
        signer=lambda line: key.sign(proving.signed(line)),
        verifier=proving.verifier(path, key.public, None),
        expect=expect,
        barrier=barrier,
        error=LedgerError,
    )


def _line_digest(line: bytes) -> Digest:
    return digest(Label.JOURNAL_ENTRY, line)


def _stamp(now: Callable[[], datetime]) -> str:
    return now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
