"""From right guesses to a lower bound on epsilon: the statistics of a one-run audit.

m canaries are put into the training data or left out by fair, independent coins. From the output
alone an auditor names some of them, always the same number r, as in or out; v guesses are right.
A mechanism that is private allows many right guesses with a small probability only, so many right
guesses refute it, at a confidence that is chosen beforehand.

Two families are tested, each by itself:

- (epsilon, delta)-DP. With W binomial over r trials of success e^epsilon / (1 + e^epsilon), the
  probability of v or more right guesses is at most
  P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i.
  Source: Steinke, Nasr and Jagielski 2023, arXiv:2305.08846, Theorem 5.2. No assumption.
- Gaussian trade-off curves G_mu, after Mahloujifar, Melis and Chaudhuri 2024, arXiv:2410.22235.
  With p_c the probability of exactly c right guesses, and f the trade-off curve, every j has
      sum_{c >= j} c p_c / m  <=  F(sum_{c >= j-1} (r - c) p_c / m),    F(x) = 1 - f(x),
  because canary i is named rightly with j - 1 of the others right in no more than F of the
  cases in which it is named wrongly with as many of the others right, and F is concave. If at
  least v were right with probability `level`, the two sums, followed from v down to 0, would
  have to grow beyond r / m, their value: then the curve is refuted at that level.

Adding or removing one canary is one flipped coin, so both speak of the relation add-remove.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

__all__ = [
    "EPSILON_MAX",
    "MU_MAX",
    "ceiling",
    "epsilon_lower",
    "gaussian_ceiling",
    "gaussian_epsilon",
    "gaussian_refuted",
    "mu_lower",
    "p_value",
]

EPSILON_MAX = 60.0
"""No number of canaries that anybody trains with shows more: e^-60 is one in 10^26."""

MU_MAX = 20.0
"""Likewise for a Gaussian curve: two normal laws 20 standard deviations apart never overlap."""

_STEPS = 50
"""Halvings of an interval: to the last bit that counts."""


def p_value(epsilon: float, delta: float, *, canaries: int, guesses: int, right: int) -> float:
    """Most that the probability of so many right guesses can be under (epsilon, delta)-DP.

    Args:
        epsilon: At least 0.
        delta: In [0, 1).
        canaries: m, those left unnamed included.
        guesses: r, from 1 to m.
        right: v, from 0 to r.

    Returns:
        In [0, 1].
    """
    _check(canaries, guesses, right)
    accuracy = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(stats.binom.sf(right - 1, guesses, accuracy))
    if right == 0 or delta == 0:
        return min(1.0, tail)
    below = stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, accuracy)
    steepest = float(np.max(np.cumsum(below) / np.arange(1, right + 1)))
    return min(1.0, tail + 2.0 * canaries * delta * steepest)


def epsilon_lower(delta: float, *, canaries: int, guesses: int, right: int, level: float) -> float:
    """The largest epsilon that is refuted; 0 if none is.

    Args:
        delta: At which the bound holds.
        level: One minus the confidence, in (0, 1).

    Guarantees:
        For a mechanism that is (epsilon, delta)-DP the result exceeds epsilon with a probability
        of at most `level`: what refutes a larger epsilon holds for this mechanism too, and the
        refuting numbers of right guesses are those from one fixed number up.
    """

    def refuted(epsilon: float) -> bool:
        found = p_value(epsilon, delta, canaries=canaries, guesses=guesses, right=right)
        return found < level

    return _last(refuted, EPSILON_MAX)


def ceiling(guesses: int, level: float) -> float:
    """The bound if every guess were right and delta 0: ln(p / (1 - p)), p = level^(1 / r)."""
    accuracy = level ** (1.0 / guesses)
    return max(0.0, math.log(accuracy) - math.log1p(-accuracy))


def gaussian_refuted(mu: float, *, canaries: int, guesses: int, right: int, level: float) -> bool:
    """Whether so many right guesses refute the trade-off curve G_mu at this level."""
    _check(canaries, guesses, right)
    rightly = level * right / canaries
    wrongly = level * (guesses - right) / canaries
    whole = guesses / canaries
    for count in range(right - 1, -1, -1):
        needed = float(ndtr(ndtri(rightly) - mu))
        if needed > wrongly:
            rightly += count / (guesses - count) * (needed - wrongly)
            wrongly = needed
        if rightly + wrongly > whole:
            return True
    return False


def mu_lower(*, canaries: int, guesses: int, right: int, level: float) -> float:
    """The largest mu that is refuted; 0 if none is. A mechanism that is G_mu has less, but for `level`."""

    def refuted(mu: float) -> bool:
        return gaussian_refuted(mu, canaries=canaries, guesses=guesses, right=right, level=level)

    return _last(refuted, MU_MAX)


def gaussian_ceiling(canaries: int, guesses: int, level: float) -> float:
    """`mu_lower` if every guess were right."""
    return mu_lower(canaries=canaries, guesses=guesses, right=guesses, level=level)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon at delta of the curve G_mu, at least 0; infinite for delta 0 and mu above 0.

    Source: Balle and Wang 2018, arXiv:1805.06530, Theorem 8; Dong, Roth and Su 2019,
    arXiv:1905.02383, Corollary 2.13.
    """
    if mu <= 0:
        return 0.0
    if delta <= 0:
        return math.inf

    def excess(epsilon: float) -> float:
        gained = float(ndtr(mu / 2 - epsilon / mu))
        lost = math.exp(epsilon + float(log_ndtr(-mu / 2 - epsilon / mu)))
        return gained - lost - delta

    if excess(0.0) <= 0:
        return 0.0
    high = mu * mu / 2 + mu * float(-ndtri(delta))  # there the first term alone is delta
    return float(brentq(excess, 0.0, high, xtol=1e-9))


def _last(refuted: Callable[[float], bool], highest: float) -> float:
    """A value that is refuted, up to rounding the largest; 0 where 0 is not refuted."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, highest
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if refuted(middle):
            low = middle
        else:
            high = middle
    return low


def _check(canaries: int, guesses: int, right: int) -> None:
    if not (1 <= guesses <= canaries and 0 <= right <= guesses):
        raise ValueError("right guesses are at most the guesses, and these at most the canaries")
