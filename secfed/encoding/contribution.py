"""One client's vector with everything that travels beside it under the mask.

Slot 0 holds the weight, then come the saturation counters, then the coordinates of the
weighted update. Weight and counters are plain integers of at most 2^b - 1: they share the
coordinates' words, masks and sum, so no scalar of a single client is ever in the clear.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secfed.encoding.fixedpoint import FixedPoint
from secfed.errors import EncodingError

__all__ = ["ContributionSum", "contribution_words", "decode_contribution_sum", "encode_contribution"]


@dataclass(frozen=True, slots=True)
class ContributionSum:
    """What a round publishes, before it becomes an adapter.

    Args:
        weighted_sum: Shape (d,), the sum of w x over the survivors, in model units.
        weight_sum: The sum of w.
        counters: The sums of the saturation counters, each client's capped at 2^b - 1.
        count: Survivors.
    """

    weighted_sum: NDArray[np.float64] = field(repr=False)
    weight_sum: int
    counters: tuple[int, ...]
    count: int

    def mean(self, out: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """The sum of w x over the sum of w, shape (d,).

        Args:
            out: Where to, if given; `weighted_sum` itself for whoever needs that no more.

        Raises:
            EncodingError: All weights are zero.
        """
        if self.weight_sum == 0:
            raise EncodingError(
                "all weights of the sum are zero, so there is no mean",
                hint="At least one member must offer a vector with a positive weight.",
            )
        return np.divide(self.weighted_sum, self.weight_sum, out=out)


def contribution_words(size: int, n_counters: int) -> int:
    """Words of a contribution: the weight, the counters, and `size` coordinates."""
    return 1 + n_counters + size


def encode_contribution(
    weighted: NDArray[np.float64],
    weight: int,
    counters: Sequence[int],
    fixed: FixedPoint,
    entropy: Callable[[int], bytes] = os.urandom,
) -> NDArray[np.uint32]:
    """Put weight, counters and coordinates into one vector of grid integers.

    Args:
        weighted: Shape (d,): w x, already multiplied; the bound holds for the product.
        weight: w, from 0 to 2^b - 1 (the plan's cap is checked by who knows the plan).
        counters: Not negative; they stop at 2^b - 1.
        fixed: The job's grid.
        entropy: See `FixedPoint.encode`.

    Returns:
        Shape (1 + len(counters) + d,).

    Raises:
        EncodingError: A weight out of range, or a coordinate that `FixedPoint.encode` refuses.
    """
    if not 0 <= weight <= fixed.levels:
        raise EncodingError(f"a weight is an integer from 0 to {fixed.levels} on a grid of {fixed.bits} bits")
    if any(counter < 0 for counter in counters):
        raise ValueError("a counter is not negative")
    words = np.empty(contribution_words(weighted.size, len(counters)), np.uint32)
    head = words.size - weighted.size
    words[:head] = [weight, *(min(counter, fixed.levels) for counter in counters)]
    fixed.encode_into(weighted, words[head:], entropy)
    return words


def decode_contribution_sum(
    total: NDArray[np.uint32], count: int, n_counters: int, fixed: FixedPoint
) -> ContributionSum:
    """Take a sum of contributions apart; the inverse of `encode_contribution`.

    Args:
        total: Shape (1 + n_counters + d,), the survivors' sum reduced modulo 2^B.
        count: Survivors.
        n_counters: How many counters each contribution carries.
        fixed: The job's grid.

    Raises:
        EncodingError: A word is above what `count` contributions can add up to.
    """
    if n_counters < 0 or total.size < contribution_words(0, n_counters):
        raise ValueError(f"{total.size} words hold no weight and {n_counters} counters")
    head, body = total[: 1 + n_counters], total[1 + n_counters :]
    if int(head.max()) > count * fixed.levels:
        raise EncodingError(
            f"the weight or a counter is above what {count} contributions can add up to",
            hint="The masks did not cancel, or a member broke the encoding: nothing may be published.",
        )
    weight_sum, *counters = (int(word) for word in head)
    return ContributionSum(fixed.decode_sum(body, count), weight_sum, tuple(counters), count)
