"""Put masks on one vector, and take the left-over ones off a sum.

A lower-numbered member adds an edge's mask, the higher-numbered one subtracts it, so that the
masks of two survivors cancel in the sum. Both directions are the same signed sum of streams.

Source: Bonawitz et al. 2017, section 4 (doi:10.1145/3133956.3133982).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from secfed.crypto.prg import combine_masks
from secfed.encoding import ring
from secfed.ids import MemberIndex

__all__ = ["mask", "unmask"]


def mask(
    words: NDArray[np.uint32],
    *,
    me: MemberIndex,
    self_seed: bytes,
    edge_seeds: Mapping[MemberIndex, bytes],
) -> None:
    """Mask a vector in place: y = x + self mask + masks to higher members - masks to lower ones.

    Args:
        words: Shape (d,); masked modulo 2^32, and so modulo 2^B once packing leaves only B bits.
        edge_seeds: The seed of every edge that is in the share set, exactly these.
    """
    combine_masks(
        words,
        add=[self_seed, *(seed for other, seed in edge_seeds.items() if other > me)],
        subtract=[seed for other, seed in edge_seeds.items() if other < me],
    )


def unmask(
    total: NDArray[np.uint32],
    *,
    self_seeds: Iterable[bytes],
    dropped_edges: Iterable[tuple[MemberIndex, MemberIndex, bytes]],
    bits: int,
    threads: int = 1,
) -> None:
    """Take the survivors' self masks and the edge masks towards dropouts off a sum, in place.

    Args:
        total: Shape (d,), the survivors' masked vectors added up.
        dropped_edges: (survivor, dropout, seed) for each edge between the two.
    """
    add: list[bytes] = []
    subtract = list(self_seeds)
    for survivor, dropout, seed in dropped_edges:
        (subtract if survivor < dropout else add).append(seed)
    combine_masks(total, add=add, subtract=subtract, threads=threads)
    ring.reduce(total, bits)
