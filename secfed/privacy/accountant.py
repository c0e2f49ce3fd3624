"""The figure: events to epsilon at delta, by privacy loss distributions or by Rényi bounds.

The composed privacy loss distribution (PLD) is a claim about events that were all fixed in
advance (a signed plan, spare rounds included). Across plans that were chosen after outputs were
seen only `Figure.epsilon_filter` is one; see `rdp`. Whatever goes wrong inside an accountant
means refuse.

A PLD figure is not below the true one: one release is rounded up onto a grid, which costs most of what it
is above (some 1e-4 of epsilon), and composing errs upwards alone, mostly by less than 1e-5 of epsilon
(measured: less than 1e-3 at 2e5 releases); see `tilted`. A Rényi bound is no less true: where it is the
smaller one, or there is no PLD figure, it is the claim.

dp_accounting is loaded when a figure is first asked for, never on import. A PLD figure may be kept on
disk for the questions that people ask before they decide (`secfed budget`); what decides, a site's
policy and its gate, works every figure out itself.

Sources: Doroshenko et al. 2022, arXiv:2207.04380 (connect the dots); Koskela et al. 2020,
arXiv:1906.03049 (composition by Fourier transform).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from secfed import __version__
from secfed.errors import LedgerError, SecfedError
from secfed.privacy.cache import FigureCache, Question
from secfed.privacy.events import Event, Relation
from secfed.privacy.rdp import Mechanism, Meter, Tally, tally

if TYPE_CHECKING:
    from secfed.privacy.tilted import Composed, Release

__all__ = [
    "CURVE_POINTS",
    "ROUNDING",
    "Figure",
    "Running",
    "curve",
    "epsilon",
    "finite",
    "load",
    "round_down",
    "round_up",
    "running",
]

CURVE_POINTS = 20
"""Most points of a curve that are worked out by PLD; between them a bound stands."""

_INTERVAL = 1e-4
"""Discretisation of the privacy loss."""

_MIXTURE_INTERVAL = 1e-3
"""The same where several records of one unit make the losses large; a coarser grid rounds up more."""

_PLD_MAX = 200.0
"""Above this Rényi epsilon the PLD's arrays grow without use, and the Rényi bound is the figure."""

_PLD_RELEASES_MAX = 200_000
"""Beyond this many releases a PLD takes minutes and adds up its own rounding: the same holds."""

_AGREEMENT = 1e-3
"""How far, relative and absolute, one release may exceed all of them before the figure must be wrong."""

_METHOD = "tilted"
"""How a PLD is composed: figures that were kept under another method are not found."""

ROUNDING = 1.5e-3
"""One unit of the last printed digit, and the rounding of two floats: a fall by more is no rounding."""

_SINGLES = 16
"""Distributions of one release that are kept in memory."""

_SMALLEST = Decimal("0.001")
"""Last printed digit of an epsilon, and the least that any release costs."""

_RDP = ("RDP", f"secfed {__version__}")
"""What gave a figure that is a Rényi bound, and its version."""

Composition = tuple[tuple[Mechanism, int], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """Epsilon of a list of events at one delta; infinite as soon as one of them was non-private.

    Attributes:
        epsilon: The claim for a plan fixed in advance, rounded up to 3 decimals.
        delta: As asked.
        accountant: Which method gave `epsilon`; `accountant_version` that of its library.
        relation: Neighbouring relation; None if no event has one.
        epsilon_rdp: Rényi bound at its best order, rounded up; `epsilon` is never above it.
        epsilon_filter: What the gate holds against a cap, rounded up.
    """

    epsilon: float
    delta: float
    accountant: str
    accountant_version: str
    relation: Relation | None
    epsilon_rdp: float
    epsilon_filter: float

    def to_json(self) -> dict[str, object]:
        """JSON object; an infinite figure is null, and its reason says why.

        There is no figure at all without a Rényi bound and a gate's figure: `epsilon` refuses then. So these
        are null where every figure is.
        """
        reason = "a release was not private: epsilon is infinite" if math.isinf(self.epsilon) else None
        return {
            "epsilon": finite(self.epsilon),
            "delta": self.delta,
            "accountant": self.accountant,
            "accountant_version": self.accountant_version,
            "relation": self.relation,
            "epsilon_rdp": finite(self.epsilon_rdp),
            "epsilon_rdp_reason": reason,
            "epsilon_filter": finite(self.epsilon_filter),
            "epsilon_filter_reason": reason,
            "reason": reason,
        }


@dataclass(frozen=True, slots=True)
class Running:
    """Epsilon after one of a row of events; `exact` is False where a Rényi bound stands for the PLD."""

    epsilon: float
    exact: bool


def epsilon(
    events: Iterable[Event],
    delta: float,
    relation: Relation | None = None,
    *,
    cache: FigureCache | None = None,
) -> Figure:
    """Account for events that were fixed in advance.

    Args:
        events: In any order; equal mechanisms are composed together.
        delta: In (0, 1).
        relation: Account under this relation instead of the events' own.
        cache: Where the PLD figure may be found, and is kept; never for a decision.

    Raises:
        LedgerError: An event without a bound, events without a common figure, a delta out of
            range, or any failure of an accountant.
    """
    tallied = tally(events, relation)
    by_filter = Meter.of(tallied, delta).epsilon
    bound = _bound(tallied, delta)
    exact, accountant, version = _claim(tallied, bound, delta, cache)
    return Figure(
        epsilon=exact,
        delta=delta,
        accountant=accountant,
        accountant_version=version,
        relation=next((mechanism.relation for mechanism in tallied.counts), None),
        epsilon_rdp=_figure(bound, tallied),
        epsilon_filter=_figure(by_filter, tallied),
    )


def curve(events: Iterable[Event], deltas: Sequence[float]) -> tuple[float, ...]:
    """Epsilon of the same events at several deltas, each rounded up to 3 decimals; errors as `epsilon`."""
    tallied = tally(events)
    return tuple(_claim(tallied, _bound(tallied, delta), delta)[0] for delta in deltas)


def running(events: Sequence[Event], delta: float) -> tuple[Running, ...]:
    """Epsilon after the first event, the first two, and so on.

    At most `CURVE_POINTS` of them, the last always included, are PLD figures. Any other is the smaller of
    the Rényi bound and the next PLD figure, both of which are true; so the row never falls.

    Raises:
        LedgerError: As `epsilon`.
    """
    count = len(events)
    points = min(count, CURVE_POINTS)
    anchors = {round((place + 1) * count / points) - 1 for place in range(points)}
    meter = Meter(delta, fixed_in_advance=True)
    row: list[Running] = []
    least = 0.0
    for last, event in enumerate(events):
        meter.add(event)
        if last in anchors:
            exact, accountant, _ = _claim(tally(events[: last + 1]), meter.epsilon, delta)
            if exact < least - ROUNDING:
                raise LedgerError(f"the accountant says {exact} after more releases than {least} was for")
            exact = least = max(exact, least)
            row.append(Running(exact, exact=accountant != "RDP"))
        else:
            row.append(Running(round_up(meter.epsilon), exact=False))
    following = math.inf
    for place in reversed(range(count)):
        if row[place].exact:
            following = row[place].epsilon
        else:
            row[place] = Running(min(row[place].epsilon, following), exact=False)
    return tuple(row)


def load() -> None:
    """Load dp_accounting, which the first figure would wait a second for."""
    from secfed.privacy import mixture, tilted  # noqa: F401


def round_up(value: float) -> float:
    """To 3 decimals, upwards: what is spent."""
    return value if math.isinf(value) else float(Decimal(value).quantize(_SMALLEST, ROUND_CEILING))


def round_down(value: float) -> float:
    """To 3 decimals, downwards: what remains."""
    return value if math.isinf(value) else float(Decimal(value).quantize(_SMALLEST, ROUND_FLOOR))


def finite(value: float) -> float | None:
    """The value for JSON, which has no infinity."""
    return None if math.isinf(value) else value


def _claim(
    tallied: Tally, bound: float, delta: float, cache: FigureCache | None = None
) -> tuple[float, str, str]:
    """Epsilon, and the method and version that gave it."""
    if tallied.non_private:
        return math.inf, "none", ""
    if bound > _PLD_MAX or sum(tallied.counts.values()) > _PLD_RELEASES_MAX:
        return _figure(bound, tallied), *_RDP
    try:
        version = _library_version()
        composition = tuple(tallied.counts.items())
        question = _question(composition, delta, version)
        kept = None if cache is None else cache.read(question)
        found = kept is not None and 0 <= kept <= bound
        exact = kept if kept is not None and found else _pld_epsilon(composition, delta)
    except SecfedError:
        raise
    except Exception as failure:
        raise LedgerError(f"the accountant failed, so nothing is charged: {failure}") from failure
    if not exact >= 0:
        raise LedgerError(f"the accountant says {exact}, which is no epsilon, so nothing is charged")
    if exact > bound:
        return _figure(bound, tallied), *_RDP
    if cache is not None and not found:
        cache.write(question, exact)
    return _figure(exact, tallied), "PLD", version


def _question(composition: Composition, delta: float, version: str) -> Question:
    """All that a PLD figure depends on, as exact text."""
    return {
        "accountant": "PLD",
        "version": version,
        "secfed": __version__,
        "method": _METHOD,
        "interval": repr(_interval(composition)),
        "delta": repr(delta),
        "composition": [
            {
                "q_num": mechanism.q_num,
                "noise": repr(mechanism.noise),
                "relation": mechanism.relation,
                "records": mechanism.records,
                "count": count,
            }
            for mechanism, count in composition
        ],
    }


def _bound(tallied: Tally, delta: float) -> float:
    return Meter.of(tallied, delta, fixed_in_advance=True).epsilon


def _figure(value: float, tallied: Tally) -> float:
    """Rounded up; zero only where nothing was released."""
    return max(round_up(value), float(_SMALLEST)) if tallied.counts or tallied.non_private else 0.0


@lru_cache(maxsize=1)
def _library_version() -> str:
    return f"dp-accounting {metadata.version('dp-accounting')}"


@lru_cache(maxsize=4096)
def _pld_epsilon(composition: Composition, delta: float) -> float:
    if not composition:
        return 0.0
    whole = _composed(composition).epsilon(delta)
    interval = _interval(composition)
    for mechanism, _ in composition[-_SINGLES:]:  # those that are still at hand
        alone = _alone(mechanism, interval).epsilon(delta)
        if math.isfinite(alone) and alone > whole * (1 + _AGREEMENT) + _AGREEMENT:
            raise LedgerError(f"the accountant says {whole} for all releases, and {alone} for one of them")
    return whole


@lru_cache(maxsize=2)
def _composed(composition: Composition) -> _Both:
    """All releases together."""
    return _both(composition, _interval(composition))


@lru_cache(maxsize=_SINGLES)
def _alone(mechanism: Mechanism, interval: float) -> _Both:
    """One release."""
    return _both(((mechanism, 1),), interval)


def _both(composition: Composition, interval: float) -> _Both:
    from secfed.privacy.tilted import Composed

    releases = [(_directions(mechanism, interval), count) for mechanism, count in composition]
    ways = (0,) if all(remove is add for (remove, add), _ in releases) else (0, 1)
    return _Both(tuple(Composed([(pair[way], count) for pair, count in releases]) for way in ways))


@dataclass(frozen=True, slots=True)
class _Both:
    """A composition in each order of the pair of data sets, or in one if they are alike."""

    directions: tuple[Composed, ...]

    def epsilon(self, delta: float) -> float:
        return max(direction.epsilon(delta) for direction in self.directions)


@lru_cache(maxsize=_SINGLES)
def _directions(mechanism: Mechanism, interval: float) -> tuple[Release, Release]:
    """One release in each order of the pair; the same object twice if they are alike."""
    from secfed.privacy.tilted import Release

    distribution = _single(mechanism, interval)
    remove = Release(distribution._pmf_remove)
    return remove, remove if distribution._symmetric else Release(distribution._pmf_add)


def _interval(composition: Composition) -> float:
    return _MIXTURE_INTERVAL if any(mechanism.records > 1 for mechanism, _ in composition) else _INTERVAL


def _single(mechanism: Mechanism, interval: float) -> Any:
    """The privacy loss distribution of one release; pessimistic, so rounded up."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution as pld

    if mechanism.records > 1:
        from secfed.privacy import mixture

        drawn = range(mechanism.records + 1)
        chances = [math.exp(mechanism.log_probability(count)) for count in drawn]
        return mixture.distribution(mechanism.noise, chances, interval)
    relations = {
        "add-remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace-one": NeighboringRelation.REPLACE_ONE,
    }
    return pld.from_gaussian_mechanism(
        mechanism.noise,
        value_discretization_interval=interval,
        sampling_prob=mechanism.q,
        neighboring_relation=relations[mechanism.relation],
    )
