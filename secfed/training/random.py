"""Secret randomness of DP-SGD: a noise stream, a sampling stream, and the sampler that charges itself.

Every value comes from AES-256-CTR under a key from the operating system's entropy, one key a
purpose. Generators of torch, numpy and Python are never asked: libraries seed them with constants,
so that all sites would add the same, known noise. No state is ever saved.

Source: Box and Muller 1958; Mironov 2012 (why float noise is put on a grid); PRF-based sampling as
in Opacus' secure mode discussion, arXiv:2109.12298.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secfed.crypto.kdf import derive
from secfed.crypto.labels import Label
from secfed.crypto.prg import KeyStream
from secfed.privacy.events import Q_DENOMINATOR, PoissonGaussian, Relation, Unit

__all__ = ["GRID_BITS", "PoissonSampler", "Stream", "Streams", "gaussian", "snap"]

GRID_BITS = 24
"""The grid's step is 2^-24 of the noise's power of two: fine beside the noise, coarse beside a double."""


class Stream:
    """An endless secret stream of uniform 64-bit words.

    Every draw has its own key, derived from the stream's key and a counter, so that draws never
    overlap whatever their sizes.
    """

    __slots__ = ("_count", "_key", "_label")

    def __init__(self, label: Label, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._label = label
        self._key = derive(entropy(32), label)
        self._count = 0

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next `count` words, shape (count,)."""
        key = derive(self._key, self._label, self._count.to_bytes(8, "big"))
        self._count += 1
        return np.frombuffer(KeyStream(key).read(8 * count), dtype="<u8").astype(np.uint64, copy=False)

    def __repr__(self) -> str:
        return f"Stream({self._label.name})"


@dataclass(frozen=True, slots=True)
class Streams:
    """The secret streams of one local run."""

    noise: Stream = field(repr=False)
    sampling: Stream = field(repr=False)

    @classmethod
    def fresh(cls, entropy: Callable[[int], bytes] = os.urandom) -> Streams:
        """New streams, each under a key of its own."""
        return cls(Stream(Label.STREAM_NOISE, entropy), Stream(Label.STREAM_SAMPLING, entropy))


def gaussian(stream: Stream, count: int, std: float) -> NDArray[np.float64]:
    """Independent normal values with mean 0.

    Box-Muller on 64-bit uniforms: the tail ends at sqrt(2 * 64 ln 2) = 9.42 standard deviations,
    beyond which the normal law has 5e-21 of its mass.

    Args:
        count: How many.
        std: Standard deviation, above 0.

    Returns:
        Shape (count,), float64.
    """
    pairs = (count + 1) // 2
    unit = stream.words(2 * pairs).astype(np.float64)
    unit += 1.0
    unit *= 2.0**-64  # in (0, 1]: the logarithm is finite
    radius, angle = unit[:pairs], unit[pairs:]
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    radius *= std
    angle *= 2.0 * math.pi
    values = np.concatenate([np.cos(angle), np.sin(angle)])
    values[:pairs] *= radius
    values[pairs:] *= radius
    return values[:count]


def snap(values: NDArray[np.float64], std: float) -> NDArray[np.float64]:
    """Round sums that carry noise of `std` onto a grid of 2^-24 of its power of two.

    The low bits of a float sum tell which noise values are possible and so what was added to
    them; after rounding they are gone. Rounding comes after the noise and costs no privacy.
    """
    step = 2.0 ** (math.floor(math.log2(std)) - GRID_BITS)
    steps = values / step
    np.rint(steps, out=steps)
    steps *= step
    return steps


class PoissonSampler:
    """Draws each unit on its own with probability q_num / 2^64, and knows what that has to be charged as.

    The event comes from the sampler, so that batches drawn in any other way (shuffled, of a fixed
    size, capped) cannot be charged as a Poisson sample.

    Args:
        units: How many units there are; private, and no part of the event.
        q_num: Sampling rate times 2^64, from 1 to 2^64, public.
        stream: The secret sampling stream.
    """

    def __init__(self, units: int, q_num: int, stream: Stream) -> None:
        if not 1 <= q_num <= Q_DENOMINATOR:
            raise ValueError("q_num must be from 1 to 2^64")
        self._units = units
        self._q_num = q_num
        self._stream = stream
        self._draws = 0

    def draw(self) -> NDArray[np.int64]:
        """Indices of the units in the next batch, ascending; empty now and then."""
        self._draws += 1
        if self._q_num == Q_DENOMINATOR:
            return np.arange(self._units)
        return np.flatnonzero(self._stream.words(self._units) < np.uint64(self._q_num))

    def event(
        self, *, noise_multiplier: str, relation: Relation, unit: Unit, records_per_unit: int
    ) -> PoissonGaussian:
        """What was done with the batches drawn so far, one noisy step for each."""
        return PoissonGaussian(
            q_num=self._q_num,
            noise_multiplier=noise_multiplier,
            steps=self._draws,
            relation=relation,
            unit=unit,
            records_per_unit=records_per_unit,
        )
