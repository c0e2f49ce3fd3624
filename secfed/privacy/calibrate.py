"""From a target epsilon to the smallest noise multiplier that keeps it.

The noise is searched on a grid of `STEP`, so that it is exact decimal text in a plan; epsilon
falls with the noise, and what is returned was itself accounted, not extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

from secfed.errors import BudgetExceededError, LedgerError
from secfed.privacy import accountant
from secfed.privacy.accountant import Figure
from secfed.privacy.cache import FigureCache
from secfed.privacy.events import NOISE_MAX, PoissonGaussian
from secfed.privacy.rdp import NOISE_MIN, Meter

__all__ = ["STEP", "Calibration", "noise_multiplier"]

STEP = Decimal("0.001")
"""Grid of the noise multipliers."""

_FIRST_SLOPE = 1.3
"""Epsilon falls about like this power of the noise, until two figures say it better."""

_GUESSES = 8
"""After this many straight lines the search halves instead, so that it surely ends."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The event with the least noise that keeps the target, and what it costs."""

    event: PoissonGaussian
    figure: Figure


def noise_multiplier(
    target: float, event: PoissonGaussian, delta: float, *, cache: FigureCache | None = None
) -> Calibration:
    """Find the least noise for which the event's epsilon (PLD) is at most the target.

    Args:
        target: Epsilon, above 0.
        event: All but its noise multiplier, which is ignored.
        delta: In (0, 1).
        cache: Where figures may be found, and are kept; only for a question, not for a plan.

    Raises:
        ValueError: A target that is not above 0.
        BudgetExceededError: Even `NOISE_MAX` does not reach the target.
        LedgerError: As `accountant.epsilon`, or its figures rise with the noise.

    Guarantees:
        The figure's epsilon is at most the target, and with one `STEP` less noise it is not, unless with
        that no figure is worked out at all.
    """
    if not 0 < target < math.inf:
        raise ValueError("the target epsilon must be above 0")
    low, high = math.ceil(Decimal(str(NOISE_MIN)) / STEP), int(NOISE_MAX / STEP)
    _counted(_with_noise(event, high), delta)  # whatever is wrong with the question itself is said here
    # A Rényi bound is cheap and lies above the claim: its answer is enough noise, and near the least.
    enough = _least(low, high, lambda step: _bounded(_with_noise(event, step), delta) <= target)
    figure = accountant.epsilon([_with_noise(event, enough)], delta, cache=cache)
    if figure.epsilon > target:
        raise BudgetExceededError(
            f"epsilon {target:g} is out of reach: it is {figure.epsilon:.3f} with noise {NOISE_MAX}",
            hint="Fewer steps, a smaller sampling rate or a larger delta bring epsilon down.",
        )
    slope, trials = _FIRST_SLOPE, 0
    while low < enough:  # `enough` keeps the target, and whatever is below `low` does not
        middle = (low + enough) // 2
        crossing = enough * (figure.epsilon / target) ** (1 / slope)
        trial = min(max(math.ceil(crossing), low), enough - 1) if trials < _GUESSES else middle
        trials += 1
        if math.isinf(_bounded(_with_noise(event, trial), delta)):
            low = trial + 1
            continue
        found = accountant.epsilon([_with_noise(event, trial)], delta, cache=cache)
        if found.epsilon < figure.epsilon - accountant.ROUNDING:
            raise LedgerError(
                f"the accountant says {found.epsilon} under less noise than {figure.epsilon} is for"
            )
        if 0 < figure.epsilon < found.epsilon:
            slope = math.log(found.epsilon / figure.epsilon) / math.log(enough / trial)
        if found.epsilon <= target:
            enough, figure = trial, found
        else:
            low = trial + 1
    return Calibration(_with_noise(event, enough), figure)


def _with_noise(event: PoissonGaussian, step: int) -> PoissonGaussian:
    return replace(event, noise_multiplier=format(step * STEP, "f"))


def _bounded(event: PoissonGaussian, delta: float) -> float:
    """A Rényi bound; infinity where the noise is too little for one, and so for any figure."""
    try:
        return _counted(event, delta)
    except LedgerError:
        return math.inf


def _counted(event: PoissonGaussian, delta: float) -> float:
    # The best of many orders is nearer, but slow where several records of one unit may be drawn.
    meter = Meter(delta, fixed_in_advance=event.sampling == "unit")
    meter.add(event)
    return meter.epsilon


def _least(low: int, high: int, keeps: Callable[[int], bool]) -> int:
    """The least step in [low, high] that keeps a falling bound; `high` if none does."""
    while low < high:
        middle = (low + high) // 2
        if keeps(middle):
            high = middle
        else:
            low = middle + 1
    return high
