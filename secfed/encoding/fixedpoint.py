"""Carry real vectors in the ring Z/2^B as fixed-point integers.

A grid of 2^b points covers [-bound, bound]; a coordinate goes to one of the two points beside
it, at random, so that it comes out right on average whatever the grid. The word width B is
such that n such integers add up without wrapping. `encode` and `decode_sum` are inverses up to
rounding and live side by side so that they cannot drift apart. Knows no model and no round.

Source: Bonawitz et al. 2019, arXiv:1912.00131 (quantised sums under secure aggregation).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from secfed.crypto.kdf import KEY_BYTES
from secfed.crypto.prg import SEGMENT_WORDS, KeyStream
from secfed.encoding.ring import BITS_MAX as WORD_BITS_MAX
from secfed.errors import EncodingError

__all__ = ["GRID_BITS_MAX", "FixedPoint", "word_bits"]

GRID_BITS_MAX = 30
"""Finest grid, bits: three clients' sums then just fit a 32-bit word."""

_TILE = SEGMENT_WORDS // 8
"""Coordinates rounded at once: 256 KiB of float64 for each temporary, so that caches hold them."""

_SHIFT = 2.0**20
"""Where the dice's numbers begin: the power of two at which a float64 has 32 bits of fraction."""

_DECODE_HINT = "The masks did not cancel, or a vector was not from this grid: nothing may be published."


def word_bits(clients: int, bits: int) -> int:
    """B, the bits of a word that holds the sum of n grid integers: ceil(log2(n (2^b - 1) + 1)).

    Args:
        clients: n, members of the cohort.
        bits: b, bits of the grid.

    Raises:
        EncodingError: B would pass 32.
    """
    if clients < 1 or not 1 <= bits <= GRID_BITS_MAX:
        raise ValueError(f"no word holds {clients} clients' integers of {bits} bits")
    width = (clients * ((1 << bits) - 1)).bit_length()
    if width > WORD_BITS_MAX:
        raise EncodingError(
            f"{clients} clients at {bits} bits need words of {width} bits; {WORD_BITS_MAX} is the most",
            hint="Choose fewer bits for the job's grid, or a smaller cohort.",
        )
    return width


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """A grid over [-bound, bound].

    Args:
        bound: Largest magnitude of a coordinate, in model units.
        bits: b; the grid has 2^b points.
    """

    bound: float
    bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= GRID_BITS_MAX:
            raise ValueError(f"a grid has 1 to {GRID_BITS_MAX} bits, not {self.bits}")
        if not (math.isfinite(2 * self.bound) and self.step > 0):
            raise ValueError("a grid's bound is positive and finite")

    @property
    def levels(self) -> int:
        """2^b - 1, the largest grid integer."""
        return (1 << self.bits) - 1

    @property
    def step(self) -> float:
        """Distance of two neighbouring grid points, in model units."""
        return 2 * self.bound / self.levels

    def encode(
        self, vector: NDArray[np.float64], entropy: Callable[[int], bytes] = os.urandom
    ) -> NDArray[np.uint32]:
        """Round a real vector onto the grid, each coordinate up or down at random.

        Args:
            vector: Shape (d,), in model units, every |x| <= bound.
            entropy: 32 uniform bytes, from which the rounding's stream is expanded. The bytes
                serve this one vector.

        Returns:
            Shape (d,), grid integers in [0, 2^b - 1].

        Raises:
            EncodingError: A coordinate is not finite or exceeds `bound`; its index is named, its
                value is not. Nothing is clamped here: a trainer clamps after its noise, and counts it.

        Guarantees:
            decode_sum(encode(x), count=1) lies within one step of x, and is x on average, both up
            to float64's own rounding (2^-22 of a step on the finest grid).
        """
        words = np.empty(vector.size, np.uint32)
        self.encode_into(vector, words, entropy)
        return words

    def encode_into(
        self,
        vector: NDArray[np.float64],
        out: NDArray[np.uint32],
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """As `encode`, into words that are there already, such as a part of a longer vector.

        Args:
            out: Shape (d,), overwritten; of no use if the vector is refused.
        """
        if vector.ndim != 1 or vector.dtype != np.float64:
            raise ValueError("a vector of float64 is encoded")
        if out.shape != vector.shape or out.dtype != np.uint32:
            raise ValueError("a vector is encoded into as many words of uint32")
        dice = KeyStream(entropy(KEY_BYTES)).tiles(vector.size, _TILE)
        scratch = _Scratch(min(_TILE, vector.size))
        for start, drawn in zip(range(0, vector.size, _TILE), dice, strict=True):
            tile, levels = vector[start : start + _TILE], out[start : start + _TILE]
            largest = tile.max()
            if not (largest <= self.bound and tile.min() >= -self.bound):  # NaN fails it too
                self._refuse(tile, start)
            self._round(tile, drawn, scratch, levels)
            if largest > self.bound - self.step:
                # At x = bound the last addition may round up to one point too many.
                np.minimum(levels, np.uint32(self.levels), out=levels)

    def decode_sum(self, total: NDArray[np.uint32], count: int) -> NDArray[np.float64]:
        """The sum of the real vectors behind a sum of grid integers.

        Args:
            total: Shape (d,), the sum of `count` encoded vectors, reduced modulo 2^B.
            count: How many vectors it is the sum of.

        Returns:
            Shape (d,), in model units.

        Raises:
            EncodingError: A word is above what `count` vectors can add up to.
        """
        if count < 1:
            raise ValueError("a sum has at least one summand")
        if total.size and int(total.max()) > count * self.levels:
            raise EncodingError(
                f"a word of the sum is above what {count} vectors can add up to", hint=_DECODE_HINT
            )
        values = total.astype(np.float64)
        values *= self.step
        values -= count * self.bound
        return values

    def _round(
        self,
        tile: NDArray[np.float64],
        dice: NDArray[np.uint32],
        scratch: _Scratch,
        out: NDArray[np.uint32],
    ) -> None:
        """floor(position + u) with u uniform in [0, 1): up as often as the fraction says."""
        position, shifted = scratch.position[: tile.size], scratch.shifted[: tile.size]
        scratch.dice[: tile.size] = dice
        np.multiply(tile, self.levels / (2 * self.bound), out=position)
        np.add(position, self.levels / 2 - _SHIFT, out=position)
        np.add(position, shifted, out=position)
        # Below 2^31, where the signed conversion is exact and twice as fast.
        np.copyto(out.view(np.int32), position, casting="unsafe")

    def _refuse(self, tile: NDArray[np.float64], offset: int) -> NoReturn:
        """Name the first coordinate of a tile that is beyond the bound, or NaN."""
        at = int(np.argmin(np.abs(tile) <= self.bound))
        reason = "is beyond the bound" if np.isfinite(tile[at]) else "is not finite"
        raise EncodingError(f"coordinate {offset + at} of the vector {reason}")


class _Scratch:
    """Room for one tile: positions on the grid, and the dice as numbers from 2^20 on.

    A float64 of 2^20 <= x < 2^20 + 1 has its fraction's 32 bits in its low word, so that dice written
    there are 2^20 + u without a conversion.
    """

    __slots__ = ("dice", "position", "shifted")

    def __init__(self, size: int) -> None:
        self.position = np.empty(size)
        self.shifted = np.full(size, _SHIFT, "<f8")
        self.dice = self.shifted.view("<u4")[::2]
