"""The rules of a ledger, without the disk: which entry may follow which.

A `Book` takes the entries one after another and refuses the one that breaks a rule. Writing and
verifying go through the same book, so a ledger that was written is a ledger that verifies, and a
forged history fails where it first says something impossible. The rules:

- The first entry opens the ledger and fixes the budget for good; no other entry opens it again.
- A reservation counts from the moment it stands there, whether or not anything follows.
- Only under a reservation that was not voided may something be sent; every attempt at one sum
  carries the same contribution, named by its keyed digest.
- A reservation can be voided only while nothing was sent under it.
- A hand-over to another signing key changes no charge.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from secfed.errors import LedgerError
from secfed.ids import JobId
from secfed.privacy import events
from secfed.privacy.entries import LedgerEntry, Opening, Reserved, Sent, Voided
from secfed.privacy.events import Event, NonPrivate
from secfed.store.journal import Head

__all__ = ["Book", "Charge", "LedgerState"]


@dataclass(frozen=True, slots=True)
class Charge:
    """A reservation and what became of it."""

    number: int
    reserved: Reserved
    sent: tuple[Sent, ...] = ()
    voided: Voided | None = None


@dataclass(frozen=True, slots=True)
class LedgerState:
    """A ledger as it stands: opening, every charge in order, and the head that all this ends in."""

    opening: Opening
    charges: tuple[Charge, ...]
    head: Head

    @property
    def spent(self) -> tuple[Event, ...]:
        """All events that count: everything reserved and not voided."""
        return tuple(charge.reserved.event for charge in self.charges if charge.voided is None)


@dataclass(slots=True)
class Book:
    """Entries so far, and the rules for the next one."""

    opening: Opening | None = None
    _charges: dict[int, Charge] = field(default_factory=dict)
    _latest: dict[tuple[JobId, int], int] = field(default_factory=dict)

    def check(self, entry: LedgerEntry) -> None:
        """Refuse an entry that may not come next.

        Raises:
            LedgerError: It breaks a rule of the module's list.
        """
        if isinstance(entry, Opening):
            if self.opening is not None:
                raise LedgerError("a ledger is opened once")
            return
        if self.opening is None:
            raise LedgerError("the first entry must open the ledger")
        match entry:
            case Reserved(event=event):
                _fits(self.opening, event)
            case Sent():
                for sent in self._charge(entry).sent:
                    if sent.sum_index != entry.sum_index:
                        continue
                    if sent.contribution != entry.contribution:
                        raise LedgerError("another contribution was already sent under this reservation")
                    if sent.attempt == entry.attempt:
                        raise LedgerError("this attempt was already marked as sent")
            case Voided():
                if self._charge(entry).sent:
                    raise LedgerError("a reservation under which something was sent cannot be voided")

    def apply(self, number: int, entry: LedgerEntry) -> None:
        """Take the entry with this number in; errors as `check`."""
        self.check(entry)
        match entry:
            case Opening():
                self.opening = entry
            case Reserved():
                self._charges[number] = Charge(number, entry)
                self._latest[entry.job, entry.round] = number
            case Sent():
                charge = self._charges[entry.reservation]  # not `replace`, which takes ten times as long
                self._charges[entry.reservation] = Charge(
                    charge.number, charge.reserved, (*charge.sent, entry), charge.voided
                )
            case Voided():
                self._charges[entry.reservation] = replace(self._charges[entry.reservation], voided=entry)

    def latest(self, job: JobId, round_number: int) -> Charge | None:
        """The newest reservation of a round, unless it was voided."""
        number = self._latest.get((job, round_number))
        charge = None if number is None else self._charges[number]
        return None if charge is None or charge.voided else charge

    def state(self, head: Head) -> LedgerState:
        """A snapshot.

        Raises:
            LedgerError: Nothing was opened.
        """
        if self.opening is None:
            raise LedgerError("the ledger has no entry: it was never opened")
        return LedgerState(self.opening, tuple(self._charges.values()), head)

    def _charge(self, entry: Sent | Voided) -> Charge:
        """The open reservation that an entry speaks of."""
        charge = self._charges.get(entry.reservation)
        if charge is None:
            raise LedgerError(f"entry {entry.reservation} is no reservation")
        if (charge.reserved.job, charge.reserved.round) != (entry.job, entry.round):
            raise LedgerError(f"reservation {charge.number} is of another job or round")
        if charge.voided:
            raise LedgerError(f"reservation {charge.number} was voided")
        return charge


def _fits(opening: Opening, event: Event) -> None:
    """Refuse an event that this ledger's promise says nothing about."""
    if isinstance(event, NonPrivate):
        return
    if opening.budget is None:
        raise LedgerError("a scratch ledger has no budget and takes non-private releases only")
    if (event.unit, event.relation) != (opening.unit, opening.relation):
        raise LedgerError(
            f"the ledger protects a {opening.unit} under {opening.relation}, "
            f"the event a {event.unit} under {event.relation}"
        )
    if isinstance(event, events.PoissonGaussian) and event.records_per_unit > opening.records_per_unit:
        raise LedgerError(
            f"the event counts on {event.records_per_unit} records of one {opening.unit}, "
            f"the data set on {opening.records_per_unit}"
        )
