"""Epsilon at delta of a discrete privacy loss, for as many deltas as are asked.

The divergence at every loss is worked out once, from running sums, and each delta is looked up in it.

Source: Doroshenko et al. 2022, arXiv:2207.04380 (the hockey-stick divergence of a discrete loss).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["HockeyStick"]


class HockeyStick:
    """A privacy loss in one direction, as its divergences.

    Of losses l above 0, in falling order, are kept: the mass of all above l under the first data set
    (`upper`, an infinite loss included) and under the second (`lower`), and the divergence at l, which is
    upper - exp(l) lower and grows from loss to loss. As the masses are not negative, their running sums are
    right to some 1e-16 times their number, relative to the sum, however small it is.

    Args:
        losses: All above 0 that may decide, rising.
        masses: Of each, not negative.
        infinite: Mass of an infinite loss.
        least: No epsilon below this is given: losses below it are not among those above.
    """

    def __init__(
        self,
        losses: NDArray[np.float64],
        masses: NDArray[np.float64],
        *,
        infinite: float = 0.0,
        least: float = 0.0,
    ) -> None:
        self._losses, masses = losses[::-1], masses[::-1]
        self._infinite, self._least = infinite, least
        self._upper = np.concatenate(([infinite], infinite + np.cumsum(masses)))
        self._lower = np.concatenate(([0.0], np.cumsum(masses * np.exp(-self._losses))))
        with np.errstate(divide="ignore"):  # no mass yet
            scaled = np.exp(self._losses + np.log(self._lower[:-1]))
        self._divergence = self._upper[:-1] - scaled

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon at which the divergence is at most `delta`; may be infinite."""
        if self._infinite > delta:
            return math.inf
        exceeded = self._divergence > delta
        place = int(np.argmax(exceeded)) if exceeded.any() else len(exceeded)
        upper, lower = float(self._upper[place]), float(self._lower[place])
        if upper <= delta + lower:
            return self._least
        if lower == 0:
            return float(self._losses[place - 1])
        return max(self._least, math.log((upper - delta) / lower))
