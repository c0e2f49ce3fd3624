"""Masks cancel between survivors, come off for dropouts, and hide what they cover."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.crypto.prg import KeyStream
from secfed.encoding import ring
from secfed.ids import MemberIndex
from secfed.secagg import masking


def _seed(*parts: int) -> bytes:
    return digest(Label.EDGE_MASK, bytes(parts))


def _edges(member: int, clients: int) -> dict[MemberIndex, bytes]:
    others = (other for other in range(clients) if other != member)
    return {MemberIndex(other): _seed(*sorted((member, other))) for other in others}


@given(
    clients=st.integers(3, 9),
    bits=st.integers(1, 32),
    length=st.integers(1, 70),
    lost=st.sets(st.integers(0, 8), max_size=4),
    threads=st.integers(1, 2),
    values=st.integers(0, 2**32 - 1),
)
def test_survivors_masks_cancel_and_dropouts_masks_come_off(
    clients: int, bits: int, length: int, lost: set[int], threads: int, values: int
) -> None:
    """Sum of masked vectors, left-over masks removed, is the sum of the survivors' vectors modulo 2^B."""
    survivors = [member for member in range(clients) if member not in lost]
    draw = np.random.default_rng(values)
    total = np.zeros(length, dtype=np.uint32)
    plain = np.zeros(length, dtype=np.uint64)
    for member in survivors:
        words = draw.integers(0, 1 << bits, length, dtype=np.uint32)
        plain += words
        masking.mask(
            words,
            me=MemberIndex(member),
            self_seed=_seed(member, member),
            edge_seeds=_edges(member, clients),
        )
        ring.add_packed(total, ring.pack(words, bits), bits)
    dropouts = [member for member in range(clients) if member in lost]
    masking.unmask(
        total,
        self_seeds=[_seed(member, member) for member in survivors],
        dropped_edges=[
            (MemberIndex(survivor), MemberIndex(dropout), _seed(*sorted((survivor, dropout))))
            for survivor, dropout in itertools.product(survivors, dropouts)
        ],
        bits=bits,
        threads=threads,
    )
    assert (total == plain % 2**bits).all()


def test_three_members_worked_by_hand() -> None:
    """Member 1 adds its self mask and the edge to 2, and takes off the edge to 0."""
    words = np.array([5], dtype=np.uint32)
    masking.mask(
        words,
        me=MemberIndex(1),
        self_seed=_seed(1, 1),
        edge_seeds={MemberIndex(0): _seed(0, 1), MemberIndex(2): _seed(1, 2)},
    )
    own, low, high = (int(KeyStream(seed).words(1)[0]) for seed in (_seed(1, 1), _seed(0, 1), _seed(1, 2)))
    assert int(words[0]) == (5 + own - low + high) % 2**32


def test_one_missing_mask_hides_everything() -> None:
    """Mean and bits of 100 000 masked zeros: off by more than 6 sigma with probability below 2e-9."""
    words = np.zeros(100_000, dtype=np.uint32)
    masking.mask(words, me=MemberIndex(0), self_seed=_seed(9), edge_seeds={})
    ones = np.unpackbits(words.view(np.uint8)).sum()
    sigma = np.sqrt(words.size * 32) / 2
    assert abs(int(ones) - words.size * 16) < 6 * sigma
