"""Rényi bounds of the known mechanisms, and the filter that gates the next charge.

Everything here follows from public parameters and needs numpy only, so a client can decide
without loading an accountant. Each mechanism is represented by a pair of one-dimensional
Gaussian mixtures that dominates it; the Rényi divergence of the pair is integrated on a grid, in
log-space. The trapezoid rule converges exponentially for such integrands, and what error is left
is added as slack, upwards.

Sources: Mironov, Talwar, Zhang 2019, arXiv:1908.10530 (sampled Gaussian); Choquette-Choo et al.
2024, arXiv:2310.15526 (mixtures for several records of one unit); Lebeda, Regehr, Kamath, Steinke
2024, arXiv:2405.20769 (the pair for replace-one); Canonne, Kamath, Steinke 2020, arXiv:2004.00010,
proposition 12 (conversion); Feldman and Zrnic 2021, arXiv:2008.11193 (filter at fixed orders).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secfed.errors import LedgerError
from secfed.privacy.events import (
    Q_DENOMINATOR,
    Event,
    Gaussian,
    NonPrivate,
    PoissonGaussian,
    Relation,
    Unit,
)

__all__ = ["FILTER_ORDERS", "NOISE_MIN", "Mechanism", "Meter", "Tally", "tally"]

FILTER_ORDERS = (2, 3, 4, 6, 8, 16, 32, 64)
"""The filter's orders, fixed before anything is spent; each gets delta / 8 (a union bound)."""

NOISE_MIN = 0.05
"""Least noise multiplier that is accounted: below it one step costs an epsilon in the hundreds."""

_FINE_ORDERS = (*(1 + tenth / 10 for tenth in range(1, 100)), *range(11, 65), 80, 96, 128, 192, 256)
"""Orders among which the best is picked for a plan that is fixed in advance."""

_TAIL_SIGMAS = 12
"""The integral ends this many standard deviations beyond its outermost peak; exp(-72) is left out."""

_POINTS_MAX = 2 * 10**7
"""Most grid points times mixture components of one order: some seconds of work, 160 MB."""

_SLACK = 1e-12
"""Added to each step's bound for what the quadrature may have lost; measured error is below 1e-14."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One release, reduced to what its privacy depends on.

    Attributes:
        q_num: Sampling rate over 2**64.
        noise: Noise multiplier.
        relation: Neighbouring relation.
        records: Independently sampled records of one unit, each of sensitivity 1.
    """

    q_num: int
    noise: float
    relation: Relation
    records: int = 1

    @property
    def q(self) -> float:
        """The sampling rate."""
        return self.q_num / Q_DENOMINATOR

    def log_probability(self, drawn: int) -> float:
        """Natural logarithm of the probability that `drawn` of the unit's records are drawn."""
        missed = self.records - drawn
        if self.q == 1:
            return -math.inf if missed else 0.0
        ways = math.log(math.comb(self.records, drawn))
        return ways + drawn * math.log(self.q) + missed * math.log1p(-self.q)


@dataclass(frozen=True, slots=True)
class Tally:
    """A list of events as counts of equal releases; order does not matter to any bound here."""

    counts: Mapping[Mechanism, int]
    non_private: bool


class Meter:
    """Adds up the Rényi cost of one event after another; epsilon can be read at any point.

    Args:
        delta: Of the whole budget, in (0, 1).
        orders: Fixed before the first event; each gets an equal part of delta, so the figure holds
            however later events are chosen.
        fixed_in_advance: Pick the best of many orders afterwards instead, at all of delta: true only
            for events that were all fixed before the first output was seen.

    Raises:
        LedgerError: A delta out of range.
    """

    def __init__(
        self,
        delta: float,
        *,
        orders: tuple[int, ...] = FILTER_ORDERS,
        fixed_in_advance: bool = False,
    ) -> None:
        if not 0 < delta < 1:
            raise LedgerError("delta must be above 0 and below 1")
        self.delta = delta
        self._orders: tuple[float, ...] = _FINE_ORDERS if fixed_in_advance else orders
        self._promise: _Promise | None = None
        self._spent = np.zeros(len(self._orders))
        alpha = np.asarray(self._orders, dtype=np.float64)
        log_delta = math.log(delta if fixed_in_advance else delta / len(orders))
        self._conversion = np.log1p(-1 / alpha) - (log_delta + np.log(alpha)) / (alpha - 1)

    def add(self, event: Event) -> None:
        """Charge one event.

        Raises:
            LedgerError: No bound is known for it, or it promises something else (unit or relation)
                than those before it, so that there is no common figure.
        """
        release = _release(event)
        if release is None:
            self._spent = np.full_like(self._spent, np.inf)
            return
        mechanism, count, promise = release
        if self._promise not in (None, promise):
            raise LedgerError(_MIXED)
        self._promise = promise
        self._spent = self._spent + count * _divergences(mechanism, self._orders)

    @classmethod
    def of(cls, tallied: Tally, delta: float, *, fixed_in_advance: bool = False) -> Meter:
        """A meter to which a whole tally was charged."""
        meter = cls(delta, fixed_in_advance=fixed_in_advance)
        for mechanism, count in tallied.counts.items():
            meter._spent += count * _divergences(mechanism, meter._orders)
        if tallied.non_private:
            meter._spent = np.full_like(meter._spent, np.inf)
        return meter

    @property
    def epsilon(self) -> float:
        """What was spent: 0 before the first event, infinity once a release was non-private."""
        if not self._spent.any():
            return 0.0
        return max(0.0, float(np.min(self._spent + self._conversion)))


def tally(events: Iterable[Event], relation: Relation | None = None) -> Tally:
    """Count equal releases, so that 20 rounds of 50 steps are 1000 steps.

    Args:
        relation: Account under this relation; the events' own where None.

    Raises:
        LedgerError: As `Meter.add`.
    """
    counts: Counter[Mechanism] = Counter()
    non_private = False
    promises: set[_Promise] = set()
    for event, equal in groupby(events):
        release = _release(event, relation)
        times = sum(1 for _ in equal)
        if release is None:
            non_private = True
        else:
            mechanism, count, promise = release
            counts[mechanism] += count * times
            promises.add(promise)
    if len(promises) > 1:
        raise LedgerError(_MIXED)
    ordered = sorted(counts, key=lambda mechanism: (mechanism.q_num, mechanism.noise, mechanism.records))
    return Tally({mechanism: counts[mechanism] for mechanism in ordered}, non_private)


_Promise: TypeAlias = tuple[Unit, Relation]

_MIXED = "events that protect different units, or under different relations, have no common figure"


def _release(event: Event, relation: Relation | None = None) -> tuple[Mechanism, int, _Promise] | None:
    """Which mechanism, how often, and what it promises; None for a non-private release."""
    match event:
        case NonPrivate():
            return None
        case PoissonGaussian():
            q_num, count = event.q_num, event.steps
            records = event.records_per_unit if event.sampling == "record" else 1
        case Gaussian():
            q_num, count, records = Q_DENOMINATOR, event.count, 1
        case _:
            raise LedgerError(f"no bound is known for event {event.kind!r}, so it is refused")
    promised = relation or event.relation
    noise = float(event.noise_multiplier)
    if noise < NOISE_MIN:
        raise LedgerError(f"noise multiplier {event.noise_multiplier} is below {NOISE_MIN}: not accounted")
    if promised == "replace-one" and records > 1:
        raise LedgerError("no bound is known for replace-one with several sampled records of one unit")
    return Mechanism(q_num, noise, promised, records), count, (event.unit, promised)


@lru_cache(maxsize=1024)
def _divergences(mechanism: Mechanism, orders: tuple[float, ...]) -> NDArray[np.float64]:
    """Rényi divergence of one release at each order, in the worse direction, rounded up."""
    sigma, k = mechanism.noise, mechanism.records
    # The integrand is analytic up to where a mixture vanishes, at imaginary part pi sigma^2 / k: this
    # step keeps the trapezoid rule's error near exp(-39).
    step = min(sigma / 20, sigma**2 / (2 * k))
    reach = [math.ceil((2 * alpha * k + _TAIL_SIGMAS * sigma) / step) for alpha in orders]
    most = (_POINTS_MAX // (k + 1) - 1) // 2
    middle = max((half for half in reach if half <= most), default=0)
    if not middle:
        raise LedgerError("the noise is too small for this many records of one unit: no bound is computed")
    x = step * np.arange(-middle, middle + 1, dtype=np.float64)
    one = _log_mixture(x, mechanism, sign=1)
    if mechanism.relation == "replace-one":
        pairs = [(one, _log_mixture(x, mechanism, sign=-1))]  # mirror images: both directions agree
    else:
        without = -(x**2) / (2 * sigma**2)
        pairs = [(one, without), (without, one)]
    log_weight = math.log(step / (sigma * math.sqrt(2 * math.pi)))
    worst = []
    for alpha, half in zip(orders, reach, strict=True):
        if half > most:  # an order without a bound holds nothing; the others do
            worst.append(math.inf)
            continue
        near = slice(middle - half, middle + half + 1)  # every peak of this order, and its tails
        logs = [_log_integral(alpha * p[near] + (1 - alpha) * q[near]) for p, q in pairs]
        worst.append((max(logs) + log_weight) / (alpha - 1))
    bounds = np.maximum(worst, 0.0) * (1 + _SLACK) + _SLACK
    bounds.setflags(write=False)
    return bounds


def _log_mixture(x: NDArray[np.float64], mechanism: Mechanism, *, sign: int) -> NDArray[np.float64]:
    """Log density, but for the Gaussian's constant, when j of the k records are drawn: centre j."""
    total = np.full_like(x, -np.inf)
    for drawn in range(mechanism.records + 1):
        log_density = mechanism.log_probability(drawn) - (x - sign * drawn) ** 2 / (2 * mechanism.noise**2)
        np.logaddexp(total, log_density, out=total)
    return total


def _log_integral(log_values: NDArray[np.float64]) -> float:
    peak = float(np.max(log_values))
    return peak + math.log(float(np.sum(np.exp(log_values - peak))))
