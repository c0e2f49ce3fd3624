"""Expand a 32-byte seed to uniform words, and add many such streams over one vector.

The stream of a seed: segment s, 1 MiB long, is AES-256-CTR from the counter block
(s as 96 bits, big-endian) || 00000002, read as little-endian uint32 words. AES-256-GCM over
zeros with nonce s gives the very same bytes, and which of the two is faster depends on the
processor and on OpenSSL's version; each process times both once and takes the faster. Because
a key serves as a keystream here, it never seals anything.

Masking is bounded by memory unless the vector is walked in tiles that stay in the second-level
cache: each seed's stream is advanced one tile and added in place, then the next seed's, and
nothing of the vector's length is ever expanded. Segments are seekable, so that threads share
them; the cipher releases Python's lock.

Sums are modulo 2^32. The caller reduces to the word width once, at the end (`encoding.ring`).

Source: NIST SP 800-38A (CTR), SP 800-38D (GCM).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from numpy.typing import NDArray

from secfed.crypto.kdf import KEY_BYTES

__all__ = ["SEGMENT_BYTES", "SEGMENT_WORDS", "KeyStream", "Mode", "combine_masks", "fastest_mode"]

SEGMENT_BYTES = 1 << 20
"""Keystream under one nonce, bytes: 2^16 of the 2^32 - 2 blocks that a nonce allows."""

SEGMENT_WORDS = SEGMENT_BYTES // 4
"""Words of one segment."""

_TILE_BYTES = 1 << 17
"""Bytes of the vector worked on at once: with zeros and keystream three tiles, less than an L2 cache."""

_GROUP = 64
"""Seeds whose ciphers are alive at once: bounds memory, and a tile is read once for so many seeds."""

_SEGMENTS_MAX = 1 << 32
"""Segments of one seed, 4 PiB: far above any vector, far below the nonce's 96 bits."""

_ZEROS = bytes(_TILE_BYTES)


class Mode(Enum):
    """Two ways to the same bytes."""

    CTR = "AES-256-CTR"
    GCM = "AES-256-GCM over zeros"

    def context(self, seed: bytes, segment: int) -> CipherContext:
        """A cipher that turns zeros into the segment's keystream."""
        mode = CTR(_counter_block(segment)) if self is Mode.CTR else GCM(_nonce(segment))
        return Cipher(AES(seed), mode).encryptor()

    def seek(self, context: CipherContext, seed: bytes, segment: int) -> CipherContext:
        """A cipher of the same seed for another segment; in CTR the key schedule is kept."""
        if self is Mode.GCM:
            return self.context(seed, segment)
        context.reset_nonce(_counter_block(segment))
        return context


class KeyStream:
    """The stream of one seed. Stateless: the same call gives the same words. Prints nothing.

    Args:
        seed: 32 secret bytes that serve nothing else.
    """

    __slots__ = ("_seed",)

    def __init__(self, seed: bytes) -> None:
        _check_seed(seed)
        self._seed = seed

    def words(self, count: int, *, start_segment: int = 0) -> NDArray[np.uint32]:
        """The first `count` words from the given segment on, shape (count,)."""
        drawn = self._draw(4 * count, start_segment)
        return np.frombuffer(drawn, "<u4").astype(np.uint32, copy=False)

    def tiles(self, count: int, size: int) -> Iterator[NDArray[np.uint32]]:
        """The first `count` words, `size` at a time, each tile in the place of the one before.

        Args:
            size: A power of two, at most the kernel's own tile of 2^15 words.
        """
        if not 1 <= size <= len(_ZEROS) // 4 or SEGMENT_WORDS % size:
            raise ValueError(f"a segment is not walked in tiles of {size} words")
        mode, keystream, zeros = fastest_mode(), bytearray(4 * size), memoryview(_ZEROS)
        words = np.frombuffer(keystream, "<u4")
        for segment, begin in enumerate(range(0, count, SEGMENT_WORDS)):
            context = mode.context(self._seed, segment)
            for start in range(begin, min(begin + SEGMENT_WORDS, count), size):
                tile = words[: count - start]
                context.update_into(zeros[: tile.nbytes], keystream)
                yield tile.astype(np.uint32, copy=False)

    def read(self, count: int, *, start_segment: int = 0) -> bytes:
        """The first `count` bytes from the given segment on."""
        return bytes(self._draw(count, start_segment))

    def _draw(self, count: int, start_segment: int) -> bytearray:
        """The stream itself, into one fresh buffer."""
        mode, drawn = fastest_mode(), bytearray(count)
        view, zeros = memoryview(drawn), memoryview(_ZEROS)
        for segment, begin in enumerate(range(0, count, SEGMENT_BYTES), start_segment):
            context = mode.context(self._seed, segment)
            for start in range(begin, min(begin + SEGMENT_BYTES, count), _TILE_BYTES):
                tile = view[start : start + _TILE_BYTES]
                context.update_into(zeros[: len(tile)], tile)
        return drawn

    def __repr__(self) -> str:
        return "KeyStream(hidden)"


def combine_masks(
    words: NDArray[np.uint32],
    add: Sequence[bytes],
    subtract: Sequence[bytes],
    *,
    start_segment: int = 0,
    threads: int = 1,
) -> None:
    """Add some seeds' streams to a vector and subtract others', in place, modulo 2^32.

    The one kernel of masking and of unmasking: the client masks with it, and the aggregator
    takes away what is left over with add and subtract exchanged.

    Args:
        words: Shape (d,), contiguous and writable. Only whole segments can be skipped, so a slice
            of a longer vector starts at a multiple of `SEGMENT_WORDS`.
        add: Seeds, 32 bytes each.
        subtract: Seeds, 32 bytes each.
        start_segment: The segment that the first word stands at the start of.
        threads: How many segments are worked on at once.

    Raises:
        ValueError: Another type or layout of `words`, or a parameter out of range.

    Guarantees:
        The result does not depend on `threads`, nor on which mode is the faster one here.
    """
    if words.dtype != np.uint32 or words.ndim != 1 or not words.flags.carray:
        raise ValueError("masks are added to a writable, contiguous vector of uint32")
    segments = -(-words.size // SEGMENT_WORDS)
    if start_segment < 0 or start_segment + segments > _SEGMENTS_MAX or threads < 1:
        raise ValueError(f"no segment {start_segment}, or no {threads} threads")
    for seed in (*add, *subtract):
        _check_seed(seed)
    terms = [(np.add, seed) for seed in add] + [(np.subtract, seed) for seed in subtract]
    workers = min(threads, segments)
    if workers <= 1:
        _combine_every(words, terms, start_segment, first=0, step=1)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="secfed-masks") as pool:
        running = [
            pool.submit(_combine_every, words, terms, start_segment, first=first, step=workers)
            for first in range(workers)
        ]
        for done in running:
            done.result()


@functools.cache
def fastest_mode() -> Mode:
    """The faster mode on this machine, by about a millisecond of timing, once a process.

    Both give the same bytes, so what the clock says changes no result, and the key is zero.
    """
    out = memoryview(bytearray(_TILE_BYTES))
    best = dict.fromkeys(Mode, float("inf"))
    for _ in range(5):
        for mode in Mode:
            context = mode.context(bytes(KEY_BYTES), 0)
            begin = time.perf_counter()
            context.update_into(_ZEROS, out)
            best[mode] = min(best[mode], time.perf_counter() - begin)
    return min(Mode, key=best.__getitem__)


def _combine_every(
    words: NDArray[np.uint32],
    terms: Sequence[tuple[np.ufunc, bytes]],
    start_segment: int,
    *,
    first: int,
    step: int,
) -> None:
    """All streams over every step-th segment of the vector, a group of seeds at a time."""
    mode, keystream = fastest_mode(), bytearray(_TILE_BYTES)
    for begin in range(0, len(terms), _GROUP):
        operations, seeds = zip(*terms[begin : begin + _GROUP], strict=True)
        contexts = [mode.context(seed, start_segment + first) for seed in seeds]
        for segment in range(first, -(-words.size // SEGMENT_WORDS), step):
            if segment > first:
                contexts = [
                    mode.seek(context, seed, start_segment + segment)
                    for context, seed in zip(contexts, seeds, strict=True)
                ]
            part = words[segment * SEGMENT_WORDS : (segment + 1) * SEGMENT_WORDS]
            _combine_segment(part, operations, contexts, keystream)


def _combine_segment(
    part: NDArray[np.uint32],
    operations: Sequence[np.ufunc],
    contexts: Sequence[CipherContext],
    keystream: bytearray,
) -> None:
    """Some streams over at most one segment, tile by tile; `keystream` is scratch."""
    zeros, drawn = memoryview(_ZEROS), np.frombuffer(keystream, "<u4")
    steps = [
        (context.update_into, operation) for context, operation in zip(contexts, operations, strict=True)
    ]
    for start in range(0, part.size, drawn.size):
        tile = part[start : start + drawn.size]
        source, stream = zeros[: tile.nbytes], drawn[: tile.size]
        for draw, operation in steps:
            draw(source, keystream)
            operation(tile, stream, tile)


def _nonce(segment: int) -> bytes:
    """The segment's number as 96 bits."""
    return segment.to_bytes(12, "big")


def _counter_block(segment: int) -> bytes:
    """Where GCM starts to encrypt: counter 1 is its tag's, so the stream begins at 2."""
    return _nonce(segment) + b"\x00\x00\x00\x02"


def _check_seed(seed: bytes) -> None:
    """AES-256 only: a shorter seed would silently be a smaller cipher."""
    if len(seed) != KEY_BYTES:
        raise ValueError(f"a seed has {KEY_BYTES} bytes, not {len(seed)}")
