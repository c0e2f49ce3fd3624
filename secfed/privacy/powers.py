"""One release's privacy loss distribution, composed with itself any number of times.

The same masses as dp_accounting's own `self_compose`, bit by bit. That works out anew for every number of
times where the tails may be cut, and spends most of its time on moments that depend on the one release
alone; here these are worked out once.

Imports dp_accounting: the accountant loads this module when a figure is first asked for.

Source: Koskela et al. 2020, arXiv:1906.03049 (composition by Fourier transform, tails by Chernoff's bound).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from dp_accounting.pld.pld_pmf import DensePLDPmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from scipy import fft
from scipy.special import logsumexp

__all__ = ["Powers"]

_TAIL = 1e-15
"""Most mass beyond both ends that is cut off; it is added to the mass of an infinite loss."""

_ORDERS = np.concatenate((np.arange(-20, 0), np.arange(1, 21)))
"""Of the moments that Chernoff's bound is taken at, times the number of losses."""


class Powers:
    """The compositions of one release with itself.

    Args:
        distribution: Of the release; pessimistic.
    """

    def __init__(self, distribution: PrivacyLossDistribution) -> None:
        self._directions = [_Direction(distribution._pmf_remove)]
        if not distribution._symmetric:
            self._directions.append(_Direction(distribution._pmf_add))

    def times(self, count: int) -> PrivacyLossDistribution:
        """The distribution of `count` such releases together."""
        return PrivacyLossDistribution(*(direction.times(count) for direction in self._directions))


class _Direction:
    """One of the two orders of a pair of data sets."""

    def __init__(self, pmf: Any) -> None:
        self._pmf = pmf
        self._dense = isinstance(pmf, DensePLDPmf)  # the others are small, and the library's own is fast
        if self._dense:
            places = np.arange(pmf.size)
            self._orders = _ORDERS / pmf.size
            self._log_moments = [float(logsumexp(places * order, b=pmf._probs)) for order in self._orders]

    def times(self, count: int) -> Any:
        if not self._dense:
            return self._pmf.self_compose(count, _TAIL)
        pmf = self._pmf
        low, high = self._ends(count)
        cells = fft.next_fast_len(max(high - low + 1, pmf.size))
        whole = np.real(fft.ifft(fft.fft(pmf._probs, cells) ** count))
        masses = np.roll(whole, -low)[: high - low + 1]  # the transform goes round in a circle
        infinite = _TAIL - math.expm1(count * math.log1p(-pmf._infinity_mass))
        return DensePLDPmf(
            pmf._discretization, pmf._lower_loss * count + low, masses, infinite, pmf._pessimistic_estimate
        )

    def _ends(self, count: int) -> tuple[int, int]:
        """Between which places all but `_TAIL` of the mass lies."""
        low, high = 0, (self._pmf.size - 1) * count
        for order, log_moment in zip(self._orders, self._log_moments, strict=True):
            bound = (count * log_moment + math.log(2 / _TAIL)) / order
            if order > 0 and math.isfinite(bound):
                high = min(high, math.ceil(bound))
            elif math.isfinite(bound):
                low = max(low, math.floor(bound))
        return low, high
