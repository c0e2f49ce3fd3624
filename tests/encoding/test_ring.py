"""Words modulo 2^B: packing by hand, against big integers, and strict unpacking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed.encoding import ring
from secfed.errors import PeerError


def random_words(count: int, bits: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 1 << bits, count, dtype=np.uint32)


def by_big_integer(words: Any, bits: int) -> bytes:
    """The definition: word i stands at bit i B of one little-endian integer."""
    value = sum(int(word) << bits * i for i, word in enumerate(words))
    return value.to_bytes((len(words) * bits + 7) // 8, "little")


def test_three_words_packed_by_hand() -> None:
    """5, 0, 7 at 3 bits: 101, 000, 111 from the lowest bit on is 0b1_1100_0101."""
    words = np.array([5, 0, 7], np.uint32)
    assert ring.pack(words, 3) == bytes([0b11000101, 0b1])
    assert ring.unpack(bytes([0b11000101, 0b1]), 3, 3).tolist() == [5, 0, 7]


@pytest.mark.parametrize("bits", range(1, 33))
def test_every_width_packs_as_its_definition(bits: int) -> None:
    for count in (0, 1, 7, 8, 63, 64, 65, 130, 300):
        words = random_words(count, bits, seed=count)
        packed = ring.pack(words, bits)
        assert packed == by_big_integer(words, bits)
        assert len(packed) == ring.packed_bytes(count, bits)
        unpacked = ring.unpack(packed, bits, count)
        assert unpacked.dtype == np.uint32
        assert np.array_equal(unpacked, words)


@pytest.mark.parametrize("bits", [1, 7, 20, 23, 31, 32])
def test_several_tiles_and_a_tail(bits: int) -> None:
    """More than two tiles of 2^16 words, extremes included."""
    words = random_words((2 << 16) + 77, bits)
    words[::1000] = (1 << bits) - 1
    packed = ring.pack(words, bits)
    assert np.array_equal(ring.unpack(packed, bits, words.size), words)
    for start in ((1 << 16) - 64, (1 << 16) - 8, 2 << 16):  # around the tiles' ends
        expected = by_big_integer(words[start : start + 72], bits)
        assert packed[start * bits // 8 :].startswith(expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 32), st.data())
def test_unpack_is_the_inverse_of_pack(bits: int, data: st.DataObject) -> None:
    words = np.array(data.draw(st.lists(st.integers(0, (1 << bits) - 1), max_size=200)), np.uint32)
    assert np.array_equal(ring.unpack(ring.pack(words, bits), bits, words.size), words)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_unpacked(kind: Any) -> None:
    words = random_words(100, 20)
    assert np.array_equal(ring.unpack(kind(ring.pack(words, 20)), 20, 100), words)


def test_a_slice_at_a_multiple_of_eight_words_starts_at_a_byte() -> None:
    words = random_words(1000, 23)
    packed = ring.pack(words, 23)
    start = 8 * 41
    assert ring.pack(words[start:], 23) == packed[start * 23 // 8 :]
    assert np.array_equal(ring.unpack(packed[start * 23 // 8 :], 23, 1000 - start), words[start:])


@pytest.mark.parametrize("change", [b"", b"\0", b"\0\0"])
def test_another_length_is_refused(change: bytes) -> None:
    packed = ring.pack(random_words(9, 20), 20)
    wrong = packed[:-1] if not change else packed + change
    with pytest.raises(PeerError, match="not 9 words"):
        ring.unpack(wrong, 20, 9)


def test_a_huge_count_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(PeerError):
        ring.unpack(b"abc", 20, 1 << 60)
    with pytest.raises(PeerError):
        ring.unpack(b"", 20, -1)


def test_a_bit_after_the_last_word_is_refused() -> None:
    """9 words of 20 bits are 22.5 bytes: each of the four spare bits is looked at."""
    packed = ring.pack(random_words(9, 20), 20)
    for bit in range(4, 8):
        with pytest.raises(PeerError, match="after its last word"):
            ring.unpack(packed[:-1] + bytes([packed[-1] | 1 << bit]), 20, 9)


@pytest.mark.parametrize("bits", range(1, 33))
def test_what_a_word_has_above_its_width_is_left_out(bits: int) -> None:
    """Nothing runs into a neighbour: packing a masked vector is packing it reduced."""
    words = random_words(300, 32)
    reduced = words.copy()
    ring.reduce(reduced, bits)
    assert ring.pack(words, bits) == by_big_integer(reduced, bits)


@pytest.mark.parametrize("bits", [0, -1, 33])
def test_widths_end_at_32(bits: int) -> None:
    for call in (
        lambda: ring.pack(np.zeros(3, np.uint32), bits),
        lambda: ring.unpack(b"", bits, 0),
        lambda: ring.reduce(np.zeros(3, np.uint32), bits),
    ):
        with pytest.raises(ValueError, match="1 to 32 bits"):
            call()


@pytest.mark.parametrize("words", [np.zeros(4, np.int32), np.zeros(4), np.zeros((2, 2), np.uint32)])
def test_only_vectors_of_words_are_packed(words: Any) -> None:
    with pytest.raises(ValueError, match="vector of uint32"):
        ring.pack(words, 20)


def test_strided_words_are_packed_too() -> None:
    words = random_words(300, 11)
    assert ring.pack(words[::3], 11) == ring.pack(words[::3].copy(), 11)


@given(st.integers(1, 32), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
def test_reducing_once_at_the_end_is_reducing_at_each_step(bits: int, values: list[int]) -> None:
    total = np.zeros(1, np.uint32)
    for value in values:
        ring.add_into(total, np.array([value], np.uint32))
    ring.reduce(total, bits)
    assert int(total[0]) == sum(values) % (1 << bits)


@pytest.mark.parametrize("bits", [1, 5, 8, 16, 20, 23, 31, 32])
@pytest.mark.parametrize("count", [0, 1, 9, 1000, (1 << 16) + 11])
def test_adding_a_packed_vector_is_adding_it_unpacked(bits: int, count: int) -> None:
    total, words = random_words(count, 32, seed=3), random_words(count, bits)
    expected = total + words
    ring.add_packed(total, ring.pack(words, bits), bits)
    assert np.array_equal(total, expected)


def test_a_packed_vector_that_is_refused_leaves_the_sum_alone() -> None:
    total = random_words(9, 32)
    before, packed = total.copy(), ring.pack(random_words(9, 20), 20)
    for wrong in (packed[:-1], packed + b"\0", packed[:-1] + b"\xff"):
        with pytest.raises(PeerError):
            ring.add_packed(total, wrong, 20)
    assert np.array_equal(total, before)


def packed_sum(vectors: Any, bits: int) -> bytes:
    """Of rows, each packed."""
    return bytes(ring.sum_packed([ring.pack(row, bits) for row in vectors], bits, vectors.shape[1]))


@pytest.mark.parametrize("bits", range(1, 33))
def test_packed_vectors_add_up_to_their_packed_sum(bits: int) -> None:
    """Random words; from the 30th on, two of three are the largest, which carry most."""
    members = min(7, 1 << bits)
    for count in (0, 1, 7, 64, 65, 333, (1 << 16) + 11):
        vectors = random_words(members * count, bits, seed=count).reshape(members, count)
        vectors[:, 30::3] = vectors[:, 31::3] = (1 << bits) - 1
        assert packed_sum(vectors, bits) == ring.pack(np.add.reduce(vectors, axis=0, dtype=np.uint32), bits)


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 7, 8, 9])
def test_as_many_packed_vectors_as_a_width_bears(bits: int) -> None:
    """All words the largest, 2^B times: no sum can be larger. One more vector is refused."""
    packed = [ring.pack(np.full(200, (1 << bits) - 1, np.uint32), bits)] * (1 << bits)
    assert not any(ring.sum_packed(packed, bits, 200))
    with pytest.raises(ValueError, match="outgrow words"):
        ring.sum_packed([*packed, packed[0]], bits, 200)


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 32), st.integers(1, 150), st.integers(0, 8), st.integers(0, 1000))
def test_a_packed_sum_is_that_of_big_integers(bits: int, count: int, members: int, seed: int) -> None:
    vectors = random_words(members * count, bits, seed).reshape(members, count)
    sums = [sum(map(int, column)) % (1 << bits) for column in vectors.T]
    assert packed_sum(vectors, bits) == by_big_integer(sums, bits)


def test_packed_vectors_are_checked_before_they_are_added() -> None:
    packed = ring.pack(random_words(9, 20), 20)
    for wrong in (packed[:-1], packed + b"\0", packed[:-1] + b"\xff"):
        with pytest.raises(PeerError):
            ring.sum_packed([packed, wrong], 20, 9)


def test_nothing_is_broadcast() -> None:
    with pytest.raises(ValueError, match="does not add"):
        ring.add_into(np.zeros(4, np.uint32), np.zeros(1, np.uint32))
