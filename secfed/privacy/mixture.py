"""The privacy loss distribution of one release in which several records of one unit may be drawn.

dp_accounting inverts the privacy loss of such a mixture point by point, which takes it half a minute;
here all points are bisected at once. Everything else, the tails, the discretisation and its rounding
upwards, is dp_accounting's.

Imports dp_accounting: the accountant loads this module when a figure is first asked for.

Sources: Choquette-Choo et al. 2024, arXiv:2310.15526 (mixtures); Doroshenko et al. 2022,
arXiv:2207.04380 (connect the dots).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from dp_accounting.pld import pld_pmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, MixtureGaussianPrivacyLoss
from numpy.typing import NDArray

__all__ = ["distribution"]

_REACH_SIGMAS = 40
"""Beyond so many standard deviations outside of all peaks a Gaussian's tail is zero in double precision."""

_CELLS = 1 << 12
"""The losses are looked up on a grid of this many cells before they are bisected."""

_BISECTIONS = 20
"""Of one cell: a point is then right to 1e-8 of the whole reach. The divergence is at its maximum there, so
that it is right to the square of this."""


def distribution(noise: float, probabilities: Sequence[float], interval: float) -> PrivacyLossDistribution:
    """The privacy loss of one release, add-remove, rounded up onto a grid.

    Args:
        noise: Noise multiplier.
        probabilities: Of drawing 0, 1, 2 ... of the unit's records; they sum to 1.
        interval: Step of the grid.
    """
    directions = (AdjacencyType.REMOVE, AdjacencyType.ADD)
    remove, add = (_rounded_up(_Loss(noise, probabilities, direction), interval) for direction in directions)
    return PrivacyLossDistribution(remove, add)


def _rounded_up(loss: _Loss, interval: float) -> pld_pmf.PLDPmf:
    """By connecting the dots of the loss's divergences at all steps between its tails."""
    ends = loss.connect_dots_bounds()
    low, high = math.floor(ends.epsilon_lower / interval), math.ceil(ends.epsilon_upper / interval)
    divergences = loss.get_delta_for_epsilon(np.arange(low, high + 1) * interval)
    return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(interval, low, high, divergences)


class _Loss(MixtureGaussianPrivacyLoss):  # type: ignore[misc]  # the library has no types
    """The mixture's privacy loss, with an inverse for all points together."""

    def __init__(self, noise: float, probabilities: Sequence[float], direction: AdjacencyType) -> None:
        drawn = [float(count) for count in range(len(probabilities))]
        super().__init__(noise, drawn, list(probabilities), adjacency_type=direction)
        self._sigma, self._reach = noise, len(drawn) + _REACH_SIGMAS * noise
        self._sign = 1 if direction == AdjacencyType.ADD else -1

    def inverse_privacy_losses(
        self, privacy_losses: NDArray[np.float64], precision: float = 0
    ) -> NDArray[np.float64]:
        """For each loss the largest x at which it is still reached, to within a bisection, rounded down.

        The loss falls in x. Where it is never, or always, reached, the end of the reach stands for x.
        """
        del precision
        grid = np.linspace(-self._reach, self._reach, _CELLS + 1)
        right = np.searchsorted(-self._losses(grid), -np.asarray(privacy_losses), side="right")
        low, high = grid[np.maximum(right - 1, 0)], grid[np.minimum(right, _CELLS)]
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            reached = self._losses(middle) >= privacy_losses
            low, high = np.where(reached, middle, low), np.where(reached, high, middle)
        return low

    def _losses(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Privacy loss at each of many points; one component after another, to keep arrays small."""
        total = np.full_like(x, -np.inf)
        for count, probability in zip(self.sensitivities, self.sampling_probs, strict=True):
            ratio = (self._sign * count * x - count**2 / 2) / self._sigma**2
            np.logaddexp(total, math.log(probability) + ratio, out=total)
        return -self._sign * total
