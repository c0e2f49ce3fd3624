"""A logical batch in pieces that fit in memory and pad little; which pieces changes no sum.

A unit's records may fall into several pieces: it is complete where its last one stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["MicroBatch", "micro_batches"]

_PIECE_TOKENS = 32
"""What one more micro-batch costs beside its tokens, in tokens: calls of layers, hooks, clipping."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A piece of a logical batch, small enough for memory.

    Attributes:
        records: Positions in the list of examples.
        slots: For every record, the number of its unit within this piece.
        shares: For every record, one over the number of records of its unit.
        complete: How many of the piece's units end here; at most one goes on in the next piece.
    """

    records: tuple[int, ...] = field(repr=False)
    slots: tuple[int, ...] = field(repr=False)
    shares: tuple[float, ...] = field(repr=False)
    complete: int


def micro_batches(units: Sequence[Sequence[int]], lengths: Sequence[int], size: int) -> Iterator[MicroBatch]:
    """Cut a logical batch into pieces of at most `size` records; a unit may span several pieces.

    Args:
        units: Positions of the records of every unit drawn.
        lengths: Tokens of every record, by position.
        size: Most records of a piece.
    """
    flat = [
        (number, record, 1.0 / len(unit), position == len(unit) - 1)
        for number, unit in enumerate(units)
        for position, record in enumerate(unit)
    ]
    start = 0
    for end in _cuts([lengths[record] for _, record, _, _ in flat], size):
        piece = flat[start:end]
        first = piece[0][0]
        yield MicroBatch(
            records=tuple(record for _, record, _, _ in piece),
            slots=tuple(number - first for number, _, _, _ in piece),
            shares=tuple(share for _, _, share, _ in piece),
            complete=sum(last for _, _, _, last in piece),
        )
        start = end


def _cuts(lengths: Sequence[int], size: int) -> list[int]:
    """Where the pieces end that have the fewest tokens in all, padding and calls counted."""
    cost, begin = [0], [0]
    for end in range(1, len(lengths) + 1):
        longest, best = 0, (0, 0)
        for start in range(end - 1, max(end - size, 0) - 1, -1):
            longest = max(longest, lengths[start])
            tried = (cost[start] + (end - start) * longest + _PIECE_TOKENS, start)
            best = tried if start == end - 1 else min(best, tried)
        cost.append(best[0])
        begin.append(best[1])
    ends = []
    end = len(lengths)
    while end > 0:
        ends.append(end)
        end = begin[end]
    return ends[::-1]
