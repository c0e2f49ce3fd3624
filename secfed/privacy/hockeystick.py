"""Epsilon at delta of a privacy loss distribution, for as many deltas as are asked.

dp_accounting walks down the losses anew for every delta, one by one in Python. Here the divergence at
every loss is worked out once, from running sums, and each delta is looked up in it. The figures are
dp_accounting's to 1e-9.

Source: Doroshenko et al. 2022, arXiv:2207.04380 (the hockey-stick divergence of a discrete loss).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["HockeyStick"]


class HockeyStick:
    """A privacy loss distribution as its divergences.

    Args:
        distribution: dp_accounting's; its fields are read, because no method gives its masses.
    """

    def __init__(self, distribution: Any) -> None:
        directions = [distribution._pmf_remove]
        if not distribution._symmetric:
            directions.append(distribution._pmf_add)
        self._directions = [_Direction(direction.to_dense_pmf()) for direction in directions]

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon at which no direction's divergence exceeds `delta`; may be infinite."""
        return max(direction.epsilon(delta) for direction in self._directions)


class _Direction:
    """One of the two orders of a pair of data sets.

    Of losses l above 0, in falling order, are kept: the mass of all above l under the first data set
    (`upper`, an infinite loss included) and under the second (`lower`), and the divergence at l, which is
    upper - exp(l) lower and grows from loss to loss.
    """

    def __init__(self, dense: Any) -> None:
        masses = np.asarray(dense._probs, dtype=np.float64)
        losses = (dense._lower_loss + np.arange(len(masses))) * dense._discretization
        first = int(np.searchsorted(losses, 0.0, side="right"))  # below 0 nothing decides an epsilon
        self._losses, masses = losses[first:][::-1], masses[first:][::-1]
        self._infinite = float(dense._infinity_mass)
        self._upper = np.concatenate(([self._infinite], self._infinite + np.cumsum(masses)))
        self._lower = np.concatenate(([0.0], np.cumsum(masses * np.exp(-self._losses))))
        with np.errstate(divide="ignore", invalid="ignore"):  # no mass yet, or convolution's dust below 0
            scaled = np.exp(self._losses + np.log(self._lower[:-1]))
        self._divergence = self._upper[:-1] - scaled

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon at which the divergence is at most `delta`."""
        if self._infinite > delta:
            return math.inf
        exceeded = self._divergence > delta
        place = int(np.argmax(exceeded)) if exceeded.any() else len(exceeded)
        upper, lower = float(self._upper[place]), float(self._lower[place])
        if upper <= delta + lower:
            return 0.0
        if lower == 0:
            return float(self._losses[place - 1])
        return max(0.0, math.log((upper - delta) / lower))
