"""Weight, counters and coordinates in one vector, and their sum taken apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed.encoding import ring
from secfed.encoding.contribution import (
    ContributionSum,
    contribution_words,
    decode_contribution_sum,
    encode_contribution,
)
from secfed.encoding.fixedpoint import FixedPoint, word_bits
from secfed.errors import EncodingError

FIXED = FixedPoint(bound=4.0, bits=16)


def test_slots_worked_by_hand() -> None:
    """Slot 0 the weight, then the counters, then the coordinates."""
    fixed = FixedPoint(bound=3.0, bits=2)
    words = encode_contribution(np.array([-3.0, 3.0]), 2, [1, 9], fixed)
    assert words.tolist() == [2, 1, 3, 0, 3]
    assert words.size == contribution_words(2, 2)
    total = decode_contribution_sum(words, 1, 2, fixed)
    assert (total.weight_sum, total.counters, total.count) == (2, (1, 3), 1)
    assert total.weighted_sum.tolist() == [-3.0, 3.0]
    assert total.mean().tolist() == [-1.5, 1.5]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 65_535), st.integers(0, 10**6)), min_size=1, max_size=12))
def test_sums_of_weights_and_counters_are_exact(members: list[tuple[int, int]]) -> None:
    """Through the ring and its packing; counters stop at 2^b - 1 each."""
    bits = word_bits(len(members), FIXED.bits)
    total = np.zeros(3, np.uint32)
    for weight, counter in members:
        words = encode_contribution(np.array([4.0]), weight, [counter], FIXED)
        ring.add_into(total, ring.unpack(ring.pack(words, bits), bits, 3))
    ring.reduce(total, bits)
    result = decode_contribution_sum(total, len(members), 1, FIXED)
    assert result.weight_sum == sum(weight for weight, _ in members)
    assert result.counters == (sum(min(counter, 65_535) for _, counter in members),)
    assert result.weighted_sum.tolist() == pytest.approx([4.0 * len(members)])


def test_the_weighted_mean() -> None:
    """Two members of weight 1 and 3: the mean leans to the second, within a grid step of each."""
    x, y = np.linspace(-1, 1, 101), np.linspace(1, 0, 101)
    total = encode_contribution(x, 1, [], FIXED) + encode_contribution(3 * y, 3, [], FIXED)
    result = decode_contribution_sum(total, 2, 0, FIXED)
    assert result.counters == ()
    mean = result.mean()
    assert np.all(np.abs(mean - (x + 3 * y) / 4) <= 2 * FIXED.step / 4)
    assert result.mean(out=result.weighted_sum) is result.weighted_sum
    assert np.array_equal(result.weighted_sum, mean)


@pytest.mark.parametrize("weight", [-1, 65_536, 1 << 40])
def test_a_weight_out_of_range_is_refused(weight: int) -> None:
    with pytest.raises(EncodingError, match="weight"):
        encode_contribution(np.zeros(3), weight, [], FIXED)


def test_a_negative_counter_is_a_bug() -> None:
    with pytest.raises(ValueError, match="counter"):
        encode_contribution(np.zeros(3), 1, [-1], FIXED)


def test_a_coordinate_beyond_the_bound_is_refused_after_weighting() -> None:
    encode_contribution(np.array([2.0]) * 2, 2, [], FIXED)
    with pytest.raises(EncodingError, match="coordinate 0"):
        encode_contribution(np.array([2.0]) * 3, 3, [], FIXED)


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_a_sum_that_cannot_be_is_refused(slot: int) -> None:
    total = np.zeros(3, np.uint32)
    total[slot] = 2 * 65_535
    decode_contribution_sum(total, 2, 1, FIXED)
    total[slot] += 1
    with pytest.raises(EncodingError, match="above what 2"):
        decode_contribution_sum(total, 2, 1, FIXED)


def test_too_few_words_are_a_bug() -> None:
    with pytest.raises(ValueError, match="counters"):
        decode_contribution_sum(np.zeros(2, np.uint32), 1, 2, FIXED)
    with pytest.raises(ValueError, match="counters"):
        decode_contribution_sum(np.zeros(2, np.uint32), 1, -1, FIXED)


def test_no_weight_no_mean() -> None:
    result = ContributionSum(np.zeros(2), 0, (), 3)
    with pytest.raises(EncodingError, match="weights"):
        result.mean()
    assert "array" not in repr(result)
