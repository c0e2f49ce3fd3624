"""The adapter that a job starts from, from its public seed: the same bits at every site.

Library generators change between versions and devices, so the values come from a keystream that
is specified here. For an array of the name N and n elements:

    key    = derive(seed, Label.FFA_FROZEN_A, N in UTF-8)
    words  = the first 4 n bytes of the key's stream (`crypto.prg`), little-endian 32-bit words
    u      = (word >> 8) / 2^24, in [0, 1), exact in float32
    value  = (2 u - 1) * sqrt(1 / fan_in), in float64, then rounded once to float32

which is uniform as PyTorch's Kaiming initialisation of a linear layer is. A factors and the
head's weight are drawn; B factors and the head's bias are zero, so that the first adapter leaves
the base model's features as they are.

Source: LoRA, Hu et al. 2021, arXiv:2106.09685; He et al. 2015, arXiv:1502.01852.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from secfed.aggregation.strategy import HEAD_WEIGHT, Schema, is_frozen_half
from secfed.crypto.kdf import derive
from secfed.crypto.labels import Label
from secfed.crypto.prg import KeyStream

__all__ = ["SEED_BYTES", "initial_adapter"]

SEED_BYTES = 32
"""Length of a job's public seed."""

_TILE = 1 << 15
"""Numbers drawn at once: in float64 a large array would take six times its own size meanwhile."""


def initial_adapter(schema: Schema, seed: bytes) -> dict[str, NDArray[np.float32]]:
    """All arrays of the first adapter.

    Args:
        schema: Names and shapes of the whole adapter, frozen arrays included.
        seed: 32 bytes, public, from the job plan.

    Guarantees:
        The same schema and seed give the same bits on every machine; the order of names and the
        presence of other arrays change nothing.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a job's seed has {SEED_BYTES} bytes, not {len(seed)}")
    return {name: _initial_array(name, tuple(schema[name]), seed) for name in sorted(schema)}


def _initial_array(name: str, shape: tuple[int, ...], seed: bytes) -> NDArray[np.float32]:
    """One array: drawn for A and the head's weight, else zero."""
    if not (is_frozen_half(name) or name == HEAD_WEIGHT):
        return np.zeros(shape, dtype=np.float32)
    count = math.prod(shape)
    stream = KeyStream(derive(seed, Label.FFA_FROZEN_A, name.encode()))
    bound = math.sqrt(1.0 / shape[-1])
    values = np.empty(count, dtype=np.float32)
    for number, words in enumerate(stream.tiles(count, _TILE)):
        unit = (words >> 8).astype(np.float64) / 2.0**24
        values[number * _TILE :][: words.size] = (2.0 * unit - 1.0) * bound
    return values.reshape(shape)
