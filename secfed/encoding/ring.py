"""Vectors over Z/2^B: reduce, add, and pack to B bits a word.

Words live in uint32 arrays and may be left unreduced there, since 2^B divides 2^32: additions
and masks wrap harmlessly, and one `reduce` at the end, or packing, makes them canonical. On the wire a word
takes exactly B bits, lowest bit first, word after word, and the last byte is filled with zeros.

Packing goes by pairs and groups. Two words are joined into 2B bits; a group, eight words where
they fill a lane of 64 bits, ends at a byte; and as the groups lie evenly spaced, one strided
operation does the same lane, or the same pair, of all groups of a tile at once.

Packed vectors are added as they are, lane by lane. Of the words in a lane every second is taken
apart, so that each has its neighbour's bits to grow into; what grew there is cut off once, at the end.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secfed.errors import PeerError

__all__ = [
    "BITS_MAX",
    "add_into",
    "add_packed",
    "check_padding",
    "pack",
    "packed_bytes",
    "reduce",
    "sum_packed",
    "unpack",
]

BITS_MAX = 32
"""Widest word, bits: what a uint32 holds."""

_GROUP_WORDS = 8
"""Fewest words that end at a byte whatever their width."""

_LANE_BITS = 64

_TILE_WORDS = 1 << 16
"""Words worked on at once: 256 KiB, so that numpy's cost per call vanishes and the L2 cache holds them."""


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


def add_packed(total: NDArray[np.uint32], data: bytes | bytearray | memoryview, bits: int) -> None:
    """Add a packed vector to a running sum in place, modulo 2^32, without unpacking it as a whole.

    Args:
        total: Shape (d,). Untouched if the data is refused.
        data: Exactly `packed_bytes(d, bits)` bytes.
        bits: B, 1 to 32.

    Raises:
        PeerError: As `unpack`.
    """
    layout, octets = _checked(data, bits, total.size)
    words, scratch = np.empty(_TILE_WORDS, "<u4"), np.empty(_TILE_WORDS // 2, np.uint64)
    for start, groups in _tiles(total.size, layout):
        tile = words[: groups * layout.words]
        _unpack_groups(_filled(octets, start * bits // 8, groups * layout.octets), layout, scratch, tile)
        part = total[start : start + tile.size]
        np.add(part, tile[: part.size], out=part)


def sum_packed(vectors: Sequence[bytes | bytearray | memoryview], bits: int, count: int) -> memoryview:
    """Add packed vectors modulo 2^B without unpacking them.

    Args:
        vectors: At most 2^B, each exactly `packed_bytes(count, bits)` bytes.
        bits: B, 1 to 32.
        count: d.

    Returns:
        Their sum, packed.

    Raises:
        PeerError: As `unpack`, for any of them.
    """
    digits = _digits(bits)
    if len(vectors) > 1 << bits:
        raise ValueError(f"{len(vectors)} vectors at once outgrow words of {bits} bits")
    sources = [_checked(data, bits, count)[1] for data in vectors]
    summed = np.empty(packed_bytes(count, bits), np.uint8)
    scratch, octets = np.empty((4, digits.even.size), "<u8"), digits.even.nbytes
    for start in range(0, summed.size, octets):
        part = summed[start : start + octets]
        lanes = -(-part.size * 8 // _LANE_BITS)
        tiles = (_filled(source, start, 8 * lanes).view("<u8") for source in sources)
        part[:] = _sum_lanes(tiles, digits, scratch[:, :lanes]).view(np.uint8)[: part.size]
    return summed.data


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
    """Write each word's B bits, modulo 2^B; of words below 2^B the inverse of `unpack`.

    Args:
        words: Shape (d,).
        bits: B, 1 to 32.

    Returns:
        `packed_bytes(d, bits)` bytes. A slice that starts at a multiple of 8 words starts at a byte.
    """
    if words.dtype != np.uint32 or words.ndim != 1:
        raise ValueError("only a vector of uint32 is packed")
    layout = _layout(bits)
    scratch = np.empty((2, _TILE_WORDS // 2), np.uint64)
    file = _file_of(-(-words.size // layout.words) * layout.octets)
    packed = np.frombuffer(file.getbuffer(), np.uint8)
    for start, groups in _tiles(words.size, layout):
        tile = _filled(words, start, groups * layout.words).astype("<u4", copy=False)
        first = start * bits // 8
        _pack_groups(tile, layout, scratch, packed[first : first + groups * layout.octets])
    del packed
    file.truncate(packed_bytes(words.size, bits))
    return file.getvalue()


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
    layout, octets = _checked(data, bits, count)
    words = np.empty(-(-count // layout.words) * layout.words, "<u4")
    scratch = np.empty(_TILE_WORDS // 2, np.uint64)
    for start, groups in _tiles(count, layout):
        tile = words[start : start + groups * layout.words]
        _unpack_groups(_filled(octets, start * bits // 8, groups * layout.octets), layout, scratch, tile)
    return words[:count].astype(np.uint32, copy=False)


# -- where the bits of a group lie -------------------------------------------------------------


class _Part(NamedTuple):
    """A pair of words in a lane: `moved` by so many bits, to the left or to the right."""

    pair: int
    move: np.ufunc
    bits: np.uint64


class _Lane(NamedTuple):
    """64 bits of a packed group, from this byte on, and the pairs that meet in them."""

    start: int
    parts: tuple[_Part, ...]


class _Place(NamedTuple):
    """The 64 bits of a packed group in which a pair begins, and by how much it is shifted there.

    `spill` is by how much the following 64 bits are shifted to meet it; 0 where nothing spills.
    """

    start: int
    shift: np.uint64
    spill: np.uint64


class _Layout(NamedTuple):
    """How a group of so many words, in so many bytes, is written by lanes and read by places."""

    bits: int
    words: int
    octets: int
    lanes: tuple[_Lane, ...]
    places: tuple[_Place, ...]


@functools.cache
def _layout(bits: int) -> _Layout:
    """The smallest group of this width that ends at a byte and fills a lane."""
    _mask(bits)
    words = _GROUP_WORDS
    while words * bits < _LANE_BITS:
        words *= 2
    octets = words * bits // 8
    last = octets - _LANE_BITS // 8  # the last lane ends with the group, and may overlap the one before
    lanes = tuple(_lane(start, words // 2, bits) for start in [*range(0, last, _LANE_BITS // 8), last])
    places = tuple(_place(2 * bits * pair, last, bits) for pair in range(words // 2))
    return _Layout(bits, words, octets, lanes, places)


def _lane(start: int, pairs: int, bits: int) -> _Lane:
    """All that reaches into the 64 bits from a byte on."""
    parts = []
    for pair in range(pairs):
        shift = 2 * bits * pair - 8 * start
        if -2 * bits < shift < _LANE_BITS:
            parts.append(_Part(pair, np.left_shift if shift >= 0 else np.right_shift, np.uint64(abs(shift))))
    return _Lane(start, tuple(parts))


def _place(begin: int, last: int, bits: int) -> _Place:
    """Where to read the pair that begins at a bit."""
    start = min(begin // 8, last)
    shift = begin - 8 * start
    spill = _LANE_BITS - shift if shift + 2 * bits > _LANE_BITS else 0
    return _Place(start, np.uint64(shift), np.uint64(spill))


# -- tiles of groups ---------------------------------------------------------------------------


def _tiles(count: int, layout: _Layout) -> Iterator[tuple[int, int]]:
    """(first word, groups) of each tile."""
    for start in range(0, count, _TILE_WORDS):
        yield start, -(-min(_TILE_WORDS, count - start) // layout.words)


def _filled(source: NDArray[Any], start: int, size: int) -> NDArray[Any]:
    """`size` elements from `start` on, contiguous, zeros after the source's end."""
    part = source[start : start + size]
    return np.ascontiguousarray(part if part.size == size else np.pad(part, (0, size - part.size)))


def _every(octets: NDArray[np.uint8], start: int, layout: _Layout) -> NDArray[np.uint64]:
    """The 64 bits from a byte of every group on, wherever in memory that is: a view."""
    return np.ndarray(octets.size // layout.octets, "<u8", buffer=octets, offset=start, strides=layout.octets)


def _pack_groups(
    words: NDArray[np.uint32], layout: _Layout, scratch: NDArray[np.uint64], out: NDArray[np.uint8]
) -> None:
    """Whole groups; what a word has above B bits is left out."""
    pairs, joined, rest = words.view("<u8"), scratch[0, : words.size // 2], scratch[1, : words.size // 2]
    low = np.uint64(_mask(layout.bits))
    np.bitwise_and(pairs, low << np.uint64(BITS_MAX), out=joined)
    np.right_shift(joined, np.uint64(BITS_MAX - layout.bits), out=joined)
    np.bitwise_and(pairs, low, out=rest)
    np.bitwise_or(joined, rest, out=joined)
    columns = joined.reshape(-1, layout.words // 2).T
    lane, moved = rest[: columns.shape[1]], rest[columns.shape[1] : 2 * columns.shape[1]]
    for start, parts in layout.lanes:
        first, *others = parts
        first.move(columns[first.pair], first.bits, out=lane)
        for pair, move, by in others:
            move(columns[pair], by, out=moved)
            np.bitwise_or(lane, moved, out=lane)
        _every(out, start, layout)[...] = lane


def _unpack_groups(
    octets: NDArray[np.uint8], layout: _Layout, scratch: NDArray[np.uint64], out: NDArray[np.uint32]
) -> None:
    """The inverse of `_pack_groups`."""
    joined = scratch[: out.size // 2]
    columns = joined.reshape(-1, layout.words // 2).T
    for column, (start, shift, spill) in zip(columns, layout.places, strict=True):
        np.right_shift(_every(octets, start, layout), shift, out=column)
        if spill:
            column |= _every(octets, start + _LANE_BITS // 8, layout) << spill
    pairs, low = out.view("<u8"), np.uint64(_mask(layout.bits))
    np.bitwise_and(joined, low, out=pairs)
    np.left_shift(joined, np.uint64(BITS_MAX - layout.bits), out=joined)
    np.bitwise_and(joined, low << np.uint64(BITS_MAX), out=joined)
    np.bitwise_or(pairs, joined, out=pairs)


# -- lanes that are added ----------------------------------------------------------------------


class _Digits(NamedTuple):
    """How words, or the parts of one that two lanes share, lie in each lane of a tile.

    Attributes:
        even: Bits of every second one, counted from the lowest.
        shift: Where the lower part of a shared word begins; 64 where none is shared.
        cut: Bits of that part.
    """

    even: NDArray[np.uint64]
    shift: NDArray[np.uint64]
    cut: NDArray[np.uint64]


@functools.cache
def _digits(bits: int) -> _Digits:
    """Of a tile, for this width; it repeats after B lanes, which hold 64 words."""
    _mask(bits)
    even, cut = [], []
    for begin in range(0, bits * _LANE_BITS, _LANE_BITS):
        words = [(begin + bit) // bits for bit in range(_LANE_BITS)]
        even.append(sum(1 << bit for bit, word in enumerate(words) if (word - words[0]) % 2 == 0))
        cut.append((begin + _LANE_BITS) % bits)
    columns = np.array([even, [_LANE_BITS - each for each in cut], cut], "<u8")
    return _Digits(*np.tile(columns, _TILE_WORDS // _LANE_BITS))


def _sum_lanes(
    vectors: Iterable[NDArray[np.uint64]], digits: _Digits, scratch: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Add lanes of packed words; what ends up in `scratch` is packed again.

    Between two even digits lies a whole word, and between two odd ones too, so up to 2^B of them
    are added before one reaches the other. Above a lane only the lower part of a shared word may
    not be lost: it is summed once more, at the bottom of lanes of its own.
    """
    whole, even, shared, taken = scratch
    scratch[:3] = 0
    size = whole.size
    for lanes in vectors:
        np.add(whole, lanes, out=whole)
        np.bitwise_and(lanes, digits.even[:size], out=taken)
        np.add(even, taken, out=even)
        np.right_shift(lanes, digits.shift[:size], out=taken)
        np.add(shared, taken, out=shared)
    odd = np.subtract(whole, even, out=whole)
    carries = np.right_shift(shared, digits.cut[:size], out=shared)
    np.add(even[1:], carries[:-1], out=even[1:])  # the lowest digit of a lane is even
    np.bitwise_and(even, digits.even[:size], out=even)
    np.bitwise_and(odd, ~digits.even[:size], out=odd)
    packed: NDArray[np.uint64] = np.bitwise_or(even, odd, out=even)
    return packed


# -- checks and buffers ------------------------------------------------------------------------


def _checked(
    data: bytes | bytearray | memoryview, bits: int, count: int
) -> tuple[_Layout, NDArray[np.uint8]]:
    """The layout of this width, and the data, if it can be `count` words."""
    layout = _layout(bits)
    if count < 0 or len(data) != packed_bytes(count, bits):
        raise PeerError(f"{len(data)} bytes are not {count} words of {bits} bits")
    if data:
        check_padding(data[-1], bits, count)
    return layout, np.frombuffer(data, np.uint8)


def _file_of(size: int) -> io.BytesIO:
    """So many bytes to write into, which are then handed over without a copy."""
    file = io.BytesIO()
    if size:
        file.seek(size - 1)
        file.write(b"\0")
    return file


def _mask(bits: int) -> int:
    """2^bits - 1, for a width that exists."""
    if not 1 <= bits <= BITS_MAX:
        raise ValueError(f"a word has 1 to {BITS_MAX} bits, not {bits}")
    return (1 << bits) - 1
