"""Releases composed by Fourier transform, with masses that are right far out in the tail.

A transform rounds in proportion to the largest mass, so masses below some 1e-16 are lost in its dust, and a
small delta is made of nothing else. So every release is tilted first: its mass at loss l is multiplied by
exp(a l - K(a)), where K(a) = log sum of mass times exp(a l), which makes the losses that decide a delta the
likely ones. Composing multiplies tilts as it does masses, and afterwards the tilt is taken off again.

What is left of the dust is bounded, and the bound is added to every mass; what is cut off above is added to
the mass of an infinite loss. So each mass is at least the true one, and epsilon errs upwards alone.

Bound of the dust, for N cells and unit roundoff u: a transform's error is at most c u log2(N) of its result's
L2 norm. The result is the product of all f_i^n_i, where f_i transforms release i, whose L2 norm is at most 1.
To first order the error of f_i enters n_i times, each time beside at most P, the product of all
f_i^(n_i - 1); a power rounds less than that. By Cauchy and Schwarz no cell is wrong by more than
c u log2(N) (1 + 2 sum of n_i) |P|_2 / sqrt(N), the inverse transform included.

Sources: Koskela et al. 2020, arXiv:1906.03049 (composition by Fourier transform, tails by Chernoff's bound);
Higham 2002, Accuracy and Stability of Numerical Algorithms, theorem 24.2 (error of the transform, c below 8);
Esscher 1932 (tilting).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from secfed.privacy.hockeystick import HockeyStick

__all__ = ["Composed", "Release"]

_DUST = 8 * float(np.finfo(np.float64).eps) / 2
"""c times u: what one transform may lose, for each doubling of its length."""

_TAIL = 1e-15
"""Most tilted mass that is cut off at each end."""

_SLACK = 1e-6
"""Part of delta that is held back for rounding outside of the transform: tilts (2e5 releases, exponents up to
1000: 5e-8), running sums (1e7 masses: 1e-9, times a or so), and one release's own masses (1e-9)."""

_CELLS_MAX = 1 << 25
"""A longer transform is not worth its minutes and gigabytes: there is no figure then."""

_TILTS = tuple(2.0 ** (eighth / 8) for eighth in range(-160, 9))
"""Candidates of a, over the grid's step: near deltas share one, which loses little beside the best."""

_ORDERS = tuple(sign * 2.0**power for power in range(-6, 3) for sign in (-1, 1))
"""Where Chernoff's bound is taken: so many times the tilt away from it. The moments of a sampled Gaussian
rise steeply from some order on, which may be near."""


class Release:
    """The privacy loss of one release in one of its two directions, and its moments.

    Args:
        pmf: dp_accounting's, pessimistic; its fields are read, because no method gives its masses.
    """

    def __init__(self, pmf: Any) -> None:
        dense = pmf.to_dense_pmf()
        self.step = float(dense._discretization)
        self.lowest = int(dense._lower_loss)
        self.infinite = float(dense._infinity_mass)
        losses = (self.lowest + np.arange(dense.size)) * self.step
        probabilities = np.asarray(dense._probs, dtype=np.float64)
        kept = probabilities > 0
        self.size = dense.size
        self._places, self._losses = np.flatnonzero(kept), losses[kept]
        self._log_masses = np.log(probabilities[kept])
        self._moments: dict[float, float] = {}

    def log_moment(self, order: float) -> float:
        """K(order), the log of the mean of exp(order times loss), an infinite loss left out."""
        known = self._moments.get(order)
        if known is None:
            exponents = order * self._losses + self._log_masses
            peak = float(np.max(exponents))
            known = self._moments[order] = peak + math.log(float(np.sum(np.exp(exponents - peak))))
        return known

    def tilted(self, tilt: float) -> NDArray[np.float64]:
        """Masses on the grid from the lowest loss, times exp(tilt loss - K(tilt)): they sum to 1."""
        masses = np.zeros(self.size)
        masses[self._places] = np.exp(tilt * self._losses + (self._log_masses - self.log_moment(tilt)))
        return masses


class Composed:
    """Releases together, in one direction.

    Args:
        parts: Each release with its number; all on one grid.

    Guarantees:
        Divergences are at least those of the exact composition of the masses given.
    """

    def __init__(self, parts: Sequence[tuple[Release, int]]) -> None:
        self._parts = tuple(parts)
        self._step = self._parts[0][0].step
        self._sticks: dict[float, HockeyStick | None] = {}

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon at which the divergence is surely at most `delta`; infinite if none is."""
        needed = -math.log(delta)
        tilt = _least(
            [step_tilt / self._step for step_tilt in _TILTS],
            lambda order: (self._log_moment(order) + needed) / order,
        )
        if tilt not in self._sticks:
            self._sticks[tilt] = self._compose(tilt)
        stick = self._sticks[tilt]
        return math.inf if stick is None else stick.epsilon(delta * (1 - _SLACK))

    def _log_moment(self, order: float) -> float:
        return sum(count * release.log_moment(order) for release, count in self._parts)

    def _compose(self, tilt: float) -> HockeyStick | None:
        low, high = self._ends(tilt)
        cells = fft.next_fast_len(max(high - low + 1, *(part.size for part, _ in self._parts), 2), real=True)
        if cells > _CELLS_MAX:
            return None
        rest: Any = 1.0  # P of the module's bound
        once: Any = 1.0
        for release, count in self._parts:
            transform = fft.rfft(release.tilted(tilt), cells)
            once = once * transform
            rest = rest * transform ** (count - 1)
        releases = sum(count for _, count in self._parts)
        norm = math.sqrt(2 * float(np.sum(np.abs(rest) ** 2)) / cells)
        dust = _DUST * math.log2(cells) * (1 + 2 * releases) * norm
        whole = fft.irfft(rest * once, cells)
        places = np.arange(max(low, 1), high + 1)  # below a loss of 0 nothing decides an epsilon
        lowest, highest = self._reach()
        tilted = np.maximum(
            whole[(places - lowest) % cells] + dust, 0
        )  # the transform goes round in a circle
        losses = places.astype(np.float64) * self._step
        log_moment = self._log_moment(tilt)
        with np.errstate(divide="ignore"):
            exponents = log_moment - tilt * losses + np.log(tilted)
        masses: NDArray[np.float64] = np.exp(np.minimum(exponents, 0))  # no mass is above 1
        gone = -math.expm1(sum(count * math.log1p(-release.infinite) for release, count in self._parts))
        cut = _TAIL * math.exp(min(log_moment - tilt * high * self._step, 0)) if high < highest else 0.0
        return HockeyStick(losses, masses, infinite=gone + cut, least=max(0.0, low * self._step))

    def _reach(self) -> tuple[int, int]:
        """The lowest and the highest place that any mass can have."""
        lowest = sum(count * release.lowest for release, count in self._parts)
        return lowest, lowest + sum(count * (release.size - 1) for release, count in self._parts)

    def _ends(self, tilt: float) -> tuple[int, int]:
        """Between which places the tilted mass lies, but for `_TAIL` at each end, by Chernoff's bound."""
        low, high = self._reach()
        needed = -math.log(_TAIL) - self._log_moment(tilt)
        for away in _ORDERS:
            end = (self._log_moment(tilt + away * tilt) + needed) / (away * tilt * self._step)
            if away > 0:
                high = min(high, math.ceil(end))
            else:
                low = max(low, math.floor(end))
        return low, max(low, high)


def _least(orders: Sequence[float], cost: Callable[[float], float]) -> float:
    """The order of least cost, which falls and then rises."""
    low, high = 0, len(orders) - 1
    while low < high:
        middle = (low + high) // 2
        if cost(orders[middle]) <= cost(orders[middle + 1]):
            high = middle
        else:
            low = middle + 1
    return orders[low]
