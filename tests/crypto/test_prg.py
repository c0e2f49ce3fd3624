"""The mask stream: published bytes, both modes alike, seekable, and masks that cancel."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed.crypto import prg
from secfed.crypto.prg import SEGMENT_BYTES, SEGMENT_WORDS, KeyStream, Mode, combine_masks

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/keystream_gcm.json").read_text())
SEED = bytes(range(32))


def seeds(count: int, start: int = 0) -> list[bytes]:
    return [hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(start, start + count)]


def slow_sum(size: int, add: list[bytes], subtract: list[bytes], start_segment: int = 0) -> Any:
    """The definition, whole streams at once."""
    total = np.zeros(size, np.uint32)
    for seed in add:
        total += KeyStream(seed).words(size, start_segment=start_segment)
    for seed in subtract:
        total -= KeyStream(seed).words(size, start_segment=start_segment)
    return total


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_keystream_matches_the_published_gcm_vectors(case: dict[str, str], mode: Mode) -> None:
    """Either mode, with the vector's nonce as segment number, gives the published ciphertext."""
    context = mode.context(bytes.fromhex(case["seed"]), int(case["nonce"], 16))
    assert context.update(bytes.fromhex(case["plaintext"])).hex() == case["ciphertext"]


@pytest.mark.parametrize("segment", [0, 1, 255, 1 << 31])
def test_both_modes_give_the_same_segment(segment: int) -> None:
    zeros = bytes(SEGMENT_BYTES)
    ctr = Mode.CTR.context(SEED, segment).update(zeros)
    assert ctr == Mode.GCM.context(SEED, segment).update(zeros)
    assert ctr[:4096] == KeyStream(SEED).read(4096, start_segment=segment)


KERNEL_SHA256 = "cd26ede8e3d3c338c6c052e1e959346f74bbe967acbddca7360f0e3ba613cf33"
"""Of the sum below as little-endian words: worked out from the counter blocks by the block cipher alone."""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mode", Mode)
def test_the_kernel_gives_the_known_words(mode: Mode, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forced to either mode, over several segments and an odd tail."""
    monkeypatch.setattr(prg, "fastest_mode", lambda: mode)
    words = np.zeros(2 * SEGMENT_WORDS + 12_345, np.uint32)
    combine_masks(words, seeds(2), seeds(1, 9), threads=threads)
    assert hashlib.sha256(words.astype("<u4").tobytes()).hexdigest() == KERNEL_SHA256
    assert np.array_equal(words, slow_sum(words.size, seeds(2), seeds(1, 9)))
    assert KeyStream(SEED).read(100_001) == KeyStream(SEED).read(200_000)[:100_001]


def test_the_stream_is_aes_of_the_counter_blocks() -> None:
    """Segment 3, blocks 0, 1 and the last, from the block cipher alone."""
    block = Cipher(AES(SEED), ECB()).encryptor()
    stream = KeyStream(SEED).read(SEGMENT_BYTES, start_segment=3)
    for index in (0, 1, SEGMENT_BYTES // 16 - 1):
        counter = (3).to_bytes(12, "big") + (index + 2).to_bytes(4, "big")
        assert stream[16 * index : 16 * index + 16] == block.update(counter)


@pytest.mark.parametrize("count", [0, 1, 4096, 5000, SEGMENT_WORDS + 4097])
def test_tiles_are_the_stream_piece_by_piece(count: int) -> None:
    """The last one is as short as what is left; all lie in one buffer."""
    tiles = [tile.copy() for tile in KeyStream(SEED).tiles(count, 4096)]
    assert [tile.size for tile in tiles[:-1]] == [4096] * (-(-count // 4096) - 1 if count else 0)
    assert b"".join(tile.tobytes() for tile in tiles) == KeyStream(SEED).words(count).tobytes()


@pytest.mark.parametrize("size", [0, -1, 3000, 1 << 16])
def test_a_tile_divides_a_segment_and_fits_the_zeros(size: int) -> None:
    with pytest.raises(ValueError, match="tiles"):
        next(KeyStream(SEED).tiles(10, size))


def test_words_are_little_endian() -> None:
    stream = KeyStream(SEED)
    data = stream.read(40)
    assert [int.from_bytes(data[4 * i : 4 * i + 4], "little") for i in range(10)] == stream.words(10).tolist()


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 131_071, 131_073, SEGMENT_BYTES + 1])
def test_a_shorter_read_is_the_start_of_a_longer_one(count: int) -> None:
    stream = KeyStream(SEED)
    data = stream.read(count)
    assert len(data) == count
    assert data == stream.read(SEGMENT_BYTES + 64)[:count]


def test_segments_are_seekable() -> None:
    """Masking a vector slice by slice gives the vector masked at once."""
    size = 3 * SEGMENT_WORDS - 100
    whole = np.zeros(size, np.uint32)
    combine_masks(whole, seeds(3), seeds(2, 50))
    parts = np.zeros(size, np.uint32)
    for segment in (2, 0, 1):
        part = parts[segment * SEGMENT_WORDS : (segment + 1) * SEGMENT_WORDS]
        combine_masks(part, seeds(3), seeds(2, 50), start_segment=segment)
    assert np.array_equal(whole, parts)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_nothing(threads: int) -> None:
    size = 5 * SEGMENT_WORDS + 7
    one, many = np.zeros(size, np.uint32), np.zeros(size, np.uint32)
    combine_masks(one, seeds(3), seeds(3, 20))
    combine_masks(many, seeds(3), seeds(3, 20), threads=threads)
    assert np.array_equal(one, many)


def test_more_seeds_than_one_group() -> None:
    """Groups of 64 ciphers: 150 seeds over a bit more than a tile."""
    size = 40_000
    words = np.full(size, 0xFFFFFFFF, np.uint32)
    combine_masks(words, seeds(100), seeds(50, 200))
    assert np.array_equal(words, slow_sum(size, seeds(100), seeds(50, 200)) - np.uint32(1))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 70_000),
    st.lists(st.binary(min_size=32, max_size=32), max_size=3),
    st.lists(st.binary(min_size=32, max_size=32), max_size=3),
)
def test_exchanging_add_and_subtract_takes_masks_away(
    size: int, add: list[bytes], minus: list[bytes]
) -> None:
    """What the client put on, the aggregator takes off: bit for bit, modulo 2^32."""
    words = np.arange(size, dtype=np.uint32) * np.uint32(2_654_435_761)
    before = words.copy()
    combine_masks(words, add, minus)
    combine_masks(words, minus, add)
    assert np.array_equal(words, before)


def test_one_mask_is_its_stream() -> None:
    """From a segment in the middle, put on and taken off again."""
    words = np.arange(50_000, dtype=np.uint32)
    combine_masks(words, [SEED], [], start_segment=5)
    stream = KeyStream(SEED).words(50_000, start_segment=5)
    assert np.array_equal(words, np.arange(50_000, dtype=np.uint32) + stream)
    combine_masks(words, [], [SEED], start_segment=5)
    assert np.array_equal(words, np.arange(50_000, dtype=np.uint32))


def test_edge_masks_of_a_cohort_cancel() -> None:
    """Lower index adds, higher subtracts: the sum of all masks is zero."""
    edges = {(i, j): seeds(1, 10 * i + j)[0] for i in range(4) for j in range(i + 1, 4)}
    total = np.zeros(10_000, np.uint32)
    for member in range(4):
        masked = np.zeros(10_000, np.uint32)
        combine_masks(
            masked,
            [seed for (i, _), seed in edges.items() if i == member],
            [seed for (_, j), seed in edges.items() if j == member],
        )
        assert masked.any()
        total += masked
    assert not total.any()


def test_words_look_uniform() -> None:
    """Ones among 2^25 bits within 5 standard deviations (wrong once in 1.7 million streams; frozen seed)."""
    words = KeyStream(SEED).words(1 << 20)
    ones = int(np.bitwise_count(words).sum(dtype=np.int64))
    assert abs(ones - (1 << 24)) < 5 * (1 << 25) ** 0.5 / 2


@pytest.mark.parametrize(
    "words",
    [
        np.zeros(8, np.int32),
        np.zeros(8, np.uint64),
        np.zeros((2, 4), np.uint32),
        np.zeros(16, np.uint32)[::2],
        np.frombuffer(bytes(32), np.uint32),
    ],
    ids=["signed", "64 bits", "matrix", "strided", "read-only"],
)
def test_only_a_flat_vector_of_words_is_masked(words: Any) -> None:
    with pytest.raises(ValueError, match="uint32"):
        combine_masks(words, [SEED], [])


@pytest.mark.parametrize("seed", [b"", bytes(16), bytes(24), bytes(33)])
def test_a_seed_has_256_bits(seed: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        KeyStream(seed)
    with pytest.raises(ValueError, match="32 bytes"):
        combine_masks(np.zeros(4, np.uint32), [], [SEED, seed])


@pytest.mark.parametrize(("start", "threads"), [(-1, 1), (1 << 32, 1), (0, 0)])
def test_parameters_out_of_range_are_refused(start: int, threads: int) -> None:
    with pytest.raises(ValueError, match="segment"):
        combine_masks(np.zeros(4, np.uint32), [SEED], [], start_segment=start, threads=threads)


def test_a_stream_prints_nothing() -> None:
    assert repr(KeyStream(SEED)) == "KeyStream(hidden)"
