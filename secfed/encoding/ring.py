"""Vectors over Z/2^B: reduce, add, and pack to B bits a word.

Words live in uint32 arrays and may be left unreduced there, since 2^B divides 2^32: additions
and masks wrap harmlessly and one `reduce` at the end makes them canonical. On the wire a word
takes exactly B bits, lowest bit first, word after word, and the last byte is filled with zeros.

Packing goes by pairs and then by blocks: two words are first joined into 2B bits, and the 32
pairs of a block of 64 words, which fill B 64-bit lanes, are shifted into their lanes for all
blocks of a tile at once.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secfed.errors import PeerError

__all__ = ["BITS_MAX", "add_into", "check_padding", "pack", "packed_bytes", "reduce", "unpack"]

BITS_MAX = 32
"""Widest word, bits: what a uint32 holds."""

_BLOCK_WORDS = 64
_BLOCK_PAIRS = 32

_TILE_BLOCKS = 2048
"""Blocks worked on at once: 512 KiB of words, so that numpy's cost per call vanishes and caches hold."""

_LOW_WORD = np.uint64(0xFFFFFFFF)
_HIGH_WORD = np.uint64(0xFFFFFFFF00000000)


def reduce(words: NDArray[np.uint32], bits: int) -> None:
    """Bring every word into [0, 2^bits), in place.

    Args:
        words: Shape (d,).
        bits: B, 1 to 32.
    """
    np.bitwise_and(words, np.uint32(_mask(bits)), out=words)


def add_into(total: NDArray[np.uint32], words: NDArray[np.uint32]) -> None:
    """Add a vector to a running sum in place, modulo 2^32.

    Args:
        total: Shape (d,).
        words: Shape (d,).

    Raises:
        ValueError: The shapes differ; nothing is broadcast.
    """
    if total.shape != words.shape:
        raise ValueError(f"a vector of shape {words.shape} does not add to one of shape {total.shape}")
    np.add(total, words, out=total)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` words of `bits` bits take."""
    return (count * bits + 7) // 8


def check_padding(last: int, bits: int, count: int) -> None:
    """Hold a packed vector's last byte against its one form, where the rest is not at hand.

    Args:
        last: The byte.
        bits: B, 1 to 32.
        count: d.

    Raises:
        PeerError: A bit after the last word is not zero.
    """
    used = count * bits % 8
    if used and last >> used:
        raise PeerError("a packed vector has a bit set after its last word")


def pack(words: NDArray[np.uint32], bits: int) -> bytes:
    """Write B bits a word; the inverse of `unpack`.

    Args:
        words: Shape (d,), each below 2^bits (`reduce` first).
        bits: B, 1 to 32.

    Returns:
        `packed_bytes(d, bits)` bytes. A slice that starts at a multiple of 8 words starts at a byte.

    Raises:
        ValueError: A word is 2^bits or more, and would spill into its neighbour.
    """
    if words.dtype != np.uint32 or words.ndim != 1:
        raise ValueError("only a vector of uint32 is packed")
    if words.size and int(words.max()) > _mask(bits):
        raise ValueError(f"a word does not fit {bits} bits")
    blocks = -(-words.size // _BLOCK_WORDS)
    packed = np.empty((blocks, bits), "<u8")
    for start in range(0, blocks, _TILE_BLOCKS):
        rows = min(_TILE_BLOCKS, blocks - start)
        tile = _filled(words, start * _BLOCK_WORDS, rows * _BLOCK_WORDS).astype("<u4", copy=False)
        packed[start : start + rows] = _lanes(_joined(tile.view("<u8"), bits), bits).T
    data = packed.tobytes()
    length = packed_bytes(words.size, bits)
    return data if len(data) == length else data[:length]


def unpack(data: bytes | bytearray | memoryview, bits: int, count: int) -> NDArray[np.uint32]:
    """Read words of B bits; the inverse of `pack`.

    Args:
        data: Exactly `packed_bytes(count, bits)` bytes.
        bits: B, 1 to 32.
        count: d, known from the manifest and never taken from the sender.

    Returns:
        Shape (count,), each below 2^bits.

    Raises:
        PeerError: Another length, checked before anything is allocated, or a bit after the last
            word that is not zero: each vector has one packed form.
    """
    _mask(bits)
    if count < 0 or len(data) != packed_bytes(count, bits):
        raise PeerError(f"{len(data)} bytes are not {count} words of {bits} bits")
    if data:
        check_padding(data[-1], bits, count)
    blocks = -(-count // _BLOCK_WORDS)
    words = np.empty(blocks * _BLOCK_WORDS, "<u4")
    octets = np.frombuffer(data, np.uint8)
    block_bytes = bits * 8
    for start in range(0, blocks, _TILE_BLOCKS):
        rows = min(_TILE_BLOCKS, blocks - start)
        tile = _filled(octets, start * block_bytes, rows * block_bytes)
        pairs = _pairs(tile.view("<u8").reshape(rows, bits), bits)
        _part(pairs, bits, words[start * _BLOCK_WORDS : (start + rows) * _BLOCK_WORDS].view("<u8"))
    return words[:count].astype(np.uint32, copy=False)


class _Place(NamedTuple):
    """Where a pair of words lies in its block: its lane, and by how much it is shifted there.

    `spill` is by how much the rest is shifted back into the next lane; 0 where nothing spills.
    """

    lane: int
    shift: np.uint64
    spill: np.uint64


@functools.cache
def _places(bits: int) -> tuple[_Place, ...]:
    """The places of a block's 32 pairs, in order."""
    places = []
    for pair in range(_BLOCK_PAIRS):
        lane, shift = divmod(2 * bits * pair, 64)
        spill = 64 - shift if shift + 2 * bits > 64 else 0
        places.append(_Place(lane, np.uint64(shift), np.uint64(spill)))
    return tuple(places)


def _filled(source: NDArray[Any], start: int, size: int) -> NDArray[Any]:
    """`size` elements from `start` on, contiguous, zeros after the source's end."""
    part = source[start : start + size]
    return np.ascontiguousarray(part if part.size == size else np.pad(part, (0, size - part.size)))


def _joined(pairs: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Two words of 32 bits as one value of 2B bits; the inverse of `_part`."""
    joined = pairs & _HIGH_WORD
    joined >>= np.uint64(BITS_MAX - bits)
    joined |= pairs & _LOW_WORD
    return joined


def _part(joined: NDArray[np.uint64], bits: int, out: NDArray[np.uint64]) -> None:
    """One value of 2B bits (higher bits are ignored) as two words of 32 bits."""
    low = np.uint64(_mask(bits))
    np.bitwise_and(joined, low, out=out)
    joined <<= np.uint64(BITS_MAX - bits)
    joined &= low << np.uint64(BITS_MAX)
    out |= joined


def _lanes(joined: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Values of 2B bits, shape (32 rows,), shifted into their lanes, shape (B, rows)."""
    columns = np.ascontiguousarray(joined.reshape(-1, _BLOCK_PAIRS).T)
    lanes = np.zeros((bits, columns.shape[1]), np.uint64)
    moved = np.empty(columns.shape[1], np.uint64)
    for place, column in zip(_places(bits), columns, strict=True):
        np.left_shift(column, place.shift, out=moved)
        np.bitwise_or(lanes[place.lane], moved, out=lanes[place.lane])
        if place.spill:
            np.right_shift(column, place.spill, out=lanes[place.lane + 1])
    return lanes


def _pairs(packed: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Packed blocks, shape (rows, B), as values of 2B bits and stray higher ones, shape (32 rows,)."""
    lanes = np.ascontiguousarray(packed.T)
    columns = np.empty((_BLOCK_PAIRS, lanes.shape[1]), np.uint64)
    moved = np.empty(lanes.shape[1], np.uint64)
    for place, column in zip(_places(bits), columns, strict=True):
        np.right_shift(lanes[place.lane], place.shift, out=column)
        if place.spill:
            np.left_shift(lanes[place.lane + 1], place.spill, out=moved)
            np.bitwise_or(column, moved, out=column)
    return np.ascontiguousarray(columns.T).reshape(-1)


def _mask(bits: int) -> int:
    """2^bits - 1, for a width that exists."""
    if not 1 <= bits <= BITS_MAX:
        raise ValueError(f"a word has 1 to {BITS_MAX} bits, not {bits}")
    return (1 << bits) - 1
