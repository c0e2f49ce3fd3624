"""Primitives by themselves, and the kernel with and without its additions."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from secfed.bench.floors import Bare, measure_bare, time_kernel, without_additions
from secfed.bench.meter import Reading, Target
from secfed.bench.work import OF_AGGREGATOR, OF_CLIENT, LongHash
from secfed.crypto import prg
from secfed.secagg.params import Params

UNPRICED = {
    "masking.mask", "masking.unmask", "ring.sum_packed", "ring.add_packed",  # the protocol's own floors
    "calls.piece_at", "SpoolWriter.commit", "Spool.writer",  # nothing of theirs grows with the bytes
    "graph.ring_order",  # on a ring only
}  # fmt: skip


def label(target: Target) -> str:
    return f"{target[0].__name__.rpartition('.')[2]}.{target[1]}"


def test_every_function_that_is_timed_has_a_price(tmp_path: Path) -> None:
    """Of its calls or of its bytes, above zero, and nothing is left on disk."""
    bare = measure_bare(Params.of(5, 1, min_cohort=3), tmp_path)
    timed = {
        label(target) for parts in (OF_CLIENT, OF_AGGREGATOR) for each in parts.values() for target in each
    }
    assert timed - UNPRICED == bare.call_s.keys() | bare.byte_s.keys()
    assert all(price > 0 for prices in (bare.call_s, bare.byte_s) for price in prices.values())
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_stands_on_nothing_has_no_floor() -> None:
    reading = Reading(work={"part": {"made.work": (3, 10)}})
    assert Bare().floor_s(reading, "part") is None
    assert Bare().floor_s(reading, "another") is None
    assert Bare({"made.work": 2.0}, {"made.work": 0.5}).floor_s(reading, "part") == 11.0


def test_the_kernel_is_as_before_once_it_was_timed() -> None:
    """Half of it was without additions; what it adds afterwards is what it added before."""
    seeds = [bytes([number]) * 32 for number in range(3)]
    before, after = (np.zeros(70_000, np.uint32) for _ in range(2))
    prg.combine_masks(before, seeds[:2], seeds[2:])
    assert time_kernel(70_000, 3).keystream_s > 0
    with without_additions():
        prg.combine_masks(after, seeds[:2], seeds[2:])
    assert not after.any()
    prg.combine_masks(after, seeds[:2], seeds[2:])
    assert np.array_equal(before, after)


def test_a_hash_that_can_be_timed_is_the_same_hash() -> None:
    """Short, long, and in pieces."""
    for size in (0, 10, 1 << 14, 100_000):
        whole, pieces = LongHash(bytes(size)), LongHash()
        for start in range(0, size, 7000):
            pieces.update(bytes(min(7000, size - start)))
        assert whole.digest() == pieces.digest() == hashlib.sha256(bytes(size)).digest()
