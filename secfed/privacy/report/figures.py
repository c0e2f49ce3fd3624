"""The figures that an account needs, each worked out once, whichever ledgers and rounds share it.

The sites of one job have mostly the same history, so their totals, the points of their curves and what
the gate counted are the same compositions of the same events. What is asked for is known before anything
is worked out: it is sorted by composition, so that one privacy loss distribution serves every delta
asked of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, repeat
from typing import TypeAlias

from secfed.privacy import accountant
from secfed.privacy.accountant import CURVE_POINTS, Figure, round_up
from secfed.privacy.budget import open_meter
from secfed.privacy.entries import Opening
from secfed.privacy.events import Event, Relation
from secfed.privacy.rdp import Meter

__all__ = ["Ask", "Composition", "Figures", "asks", "compose", "points_for"]

Composition: TypeAlias = frozenset[tuple[Event, int]]
"""Different events, each with how often it happened."""

Ask: TypeAlias = tuple[Composition, float]
"""A composition, and the delta at which its epsilon is wanted."""

Row: TypeAlias = tuple[tuple[float, bool], ...]
"""A running figure, and whether it is exact or a bound."""

_Runs: TypeAlias = tuple[tuple[Event, int], ...]
"""Events in their order, equal ones after another as one with its number: short, where a job's rounds are."""

_NICE = (1, 2, 5)
"""Points of a curve stand at multiples of these times a power of ten, so that sites share them."""


def points_for(ledgers: int) -> int:
    """Most PLD figures within the rows of each of so many ledgers: they take most of an account's time."""
    return CURVE_POINTS if ledgers <= _FEW_LEDGERS else _FEW_POINTS


_FEW_LEDGERS, _FEW_POINTS = 4, 5


class Figures:
    """Figures by composition and delta.

    Args:
        wanted: What will be asked for; anything else is worked out when it is.
        points: Most PLD figures within one row.

    Raises:
        LedgerError: As `accountant.epsilon`.
    """

    def __init__(self, wanted: Iterable[Ask] = (), points: int = CURVE_POINTS) -> None:
        self._points = points
        self._known: dict[tuple[Composition, float, Relation | None], Figure] = {}
        self._rows: dict[tuple[_Runs, float], Row] = {}
        self._gates: dict[tuple[_Runs, float, tuple[int, ...]], tuple[float, ...]] = {}
        self.ask(wanted)

    @property
    def points(self) -> int:
        """Most PLD figures within one row."""
        return self._points

    def ask(self, wanted: Iterable[Ask]) -> None:
        """Work out what will be asked for; errors as `of`."""
        by_composition: dict[Composition, set[float]] = {}
        for composition, delta in wanted:
            by_composition.setdefault(composition, set()).add(delta)
        for composition, deltas in by_composition.items():
            for delta in sorted(deltas):
                self.of(composition, delta)

    def of(self, composition: Composition, delta: float, relation: Relation | None = None) -> Figure:
        """The figure of events that were fixed in advance, under their own relation or another."""
        asked = (composition, delta, relation)
        known = self._known.get(asked)
        if known is None:
            events = chain.from_iterable(repeat(event, count) for event, count in composition)
            known = self._known[asked] = accountant.epsilon(events, delta, relation)
        return known

    def running(self, spent: tuple[Event, ...], delta: float) -> Row:
        """Epsilon after the first event, the first two, and so on, and whether it is a PLD figure.

        At most `points` of them and the last are. Any other is the smaller of the Rényi bound and the next
        PLD figure, both of which are true; so the row never falls.
        """
        asked = (_runs(spent), delta)
        known = self._rows.get(asked)
        if known is None:
            known = self._rows[asked] = self._run(spent, delta)
        return known

    def gate(self, spent: tuple[Event, ...], opening: Opening) -> tuple[float, ...]:
        """What the gate counted after the first event, the first two, and so on; not rounded.

        Raises:
            LedgerError: A scratch ledger, which has no gate.
        """
        meter = open_meter(opening)
        asked = (_runs(spent), meter.delta, opening.filter_orders)
        known = self._gates.get(asked)
        if known is None:
            known = self._gates[asked] = tuple(_charged(meter, spent))
        return known

    def _run(self, spent: tuple[Event, ...], delta: float) -> Row:
        exact = {place: self.of(made, delta) for place, made in _exact(spent, self._points)}
        bounds = list(_charged(Meter(delta, fixed_in_advance=True), spent))
        following, row = math.inf, []
        for place in reversed(range(len(spent))):
            if place in exact:
                following = exact[place].epsilon
            by_pld = place in exact and exact[place].accountant != "RDP"
            row.append((min(round_up(bounds[place]), following), by_pld))
        return tuple(reversed(row))


def asks(
    spent: Sequence[Event],
    jobs: Iterable[Sequence[Event]],
    delta: float,
    other_deltas: Iterable[float],
    points: int = CURVE_POINTS,
) -> Iterator[Ask]:
    """What the account of one ledger will ask for: its total, its jobs, its rounds and its curves."""
    total = compose(spent)
    yield from ((total, point) for point in (delta, *other_deltas))
    yield from ((compose(listed), delta) for listed in jobs)
    yield from ((compose([event]), delta) for event, _ in total)
    yield from ((made, delta) for _, made in _exact(spent, points))


def compose(events: Iterable[Event]) -> Composition:
    """Events without their order."""
    counts: Counter[Event] = Counter()
    for event, count in _runs(events):
        counts[event] += count
    return frozenset(counts.items())


def _runs(events: Iterable[Event]) -> _Runs:
    return tuple((event, sum(1 for _ in equal)) for event, equal in groupby(events))


def _charged(meter: Meter, spent: Iterable[Event]) -> Iterator[float]:
    """The meter's figure after each event."""
    for event in spent:
        meter.add(event)
        yield meter.epsilon


def _exact(spent: Sequence[Event], points: int) -> Iterator[tuple[int, Composition]]:
    """Where a curve has its PLD figures: every so many events, and after the last."""
    step = _step(len(spent), points)
    so_far: Counter[Event] = Counter()
    for start in range(0, len(spent), step):
        for event, count in _runs(spent[start : start + step]):
            so_far[event] += count
        yield min(start + step, len(spent)) - 1, frozenset(so_far.items())


def _step(count: int, points: int) -> int:
    """The least nice number of which at most `points` multiples fit into `count`."""
    tens = 1
    while True:
        for nice in _NICE:
            if count // (nice * tens) <= points:
                return nice * tens
        tens *= 10
