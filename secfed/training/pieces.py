"""A logical batch in pieces that fit in memory, cut so that no unit can feel which others were drawn.

How a product is rounded follows its shape. A made-up adapter can turn rounding into any difference, so
the shapes that a unit's gradient is computed in must follow from that unit alone:

- A unit of one record shares pieces with others. Its record is padded to the next of `RUNGS` tokens, by
  its own length; a piece has as many rows as one of `COUNTS`, empty ones filled with made-up rows whose
  gradients are left out. Which count and which place has to make no difference, to the bit: `probe`
  looks before each job. A count for which it does is `apart` and not used with that length; a length of
  which too few counts are left is in `alone`, and its records go through one at a time.
- A unit of several records has pieces of its own, cut by its own lengths. It may need several: it is
  complete where its last record stands.

Where no row of a piece is padded, models take other ways. So in shared pieces either every row is padded
or none is: those of the longest records, which have the top rung's length themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = ["COUNTS", "MOST_TOKENS", "RUNGS", "Ladder", "MicroBatch", "micro_batches", "pieces"]

RUNGS: Final = (16, 24, 32, 40, 48, 64, 96, 128)
"""Tokens that records in shared pieces are padded to; a longer one fills a piece by itself."""

COUNTS: Final = (16, 12, 8, 6, 5, 4, 3, 2, 1)
"""Rows of shared pieces, where the probe finds no difference. More of them would save less than it takes to
look at them.
"""

MOST_TOKENS: Final = 512
"""Most tokens of a piece of several rows."""

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
        shape: Rows and tokens to fill up to; None where all is one unit's, and its own lengths decide.
        full: With a shape: no row is padded, made-up ones neither.
    """

    records: tuple[int, ...] = field(repr=False)
    slots: tuple[int, ...] = field(repr=False)
    shares: tuple[float, ...] = field(repr=False)
    complete: int
    shape: tuple[int, int] | None = None
    full: bool = False

    @property
    def rows(self) -> int:
        """Rows that go through the model, made-up ones included."""
        return len(self.records) if self.shape is None else self.shape[0]


@dataclass(frozen=True, slots=True)
class Ladder:
    """Which shapes the pieces of a job have: a function of public things alone.

    Attributes:
        size: Most records of a piece.
        longest: Tokens that no record exceeds, and no piece; None if the model takes any length.
        alone: Rungs whose records go through the model one at a time.
        apart: Rungs and numbers of rows, of pieces that round in another way than the rung's others.
    """

    size: int
    longest: int | None = None
    alone: frozenset[int] = frozenset()
    apart: frozenset[tuple[int, int]] = frozenset()

    @property
    def rungs(self) -> tuple[int, ...]:
        """Tokens of shared pieces, if the probe finds nothing."""
        if self.longest is None:
            return tuple(rung for rung in RUNGS if self._fitting(rung))
        below = [rung for rung in RUNGS if rung < self.longest]
        top = [self.longest] if self.longest <= RUNGS[-1] else []
        return tuple(rung for rung in (*below, *top) if self._fitting(rung))

    def counts(self, rung: int) -> tuple[int, ...]:
        """Rows that a shared piece of so many tokens a row may have, most first."""
        return tuple(count for count in self._fitting(rung) if (rung, count) not in self.apart)

    def _fitting(self, rung: int) -> tuple[int, ...]:
        """The same before the probe; none where single rows alone would fit."""
        found = tuple(count for count in COUNTS if count <= self.size and count * rung <= MOST_TOKENS)
        return found if found[0] > 1 else ()

    def rung(self, length: int) -> int | None:
        """What a record is padded to, by a token at least, unless it has the top rung's length itself; None
        for one that goes through by itself.
        """
        rungs = self.rungs
        found = next((rung for rung in rungs if rung > length or rung == length == rungs[-1]), None)
        return None if found in self.alone else found


def pieces(units: Sequence[Sequence[int]], lengths: Sequence[int], ladder: Ladder) -> Iterator[MicroBatch]:
    """Cut a logical batch.

    Args:
        units: Positions of the records of every unit drawn.
        lengths: Tokens of every record, by position: of the longest sequence, where it has several.
        ladder: Shapes of shared pieces.
    """
    shared: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
    for unit in units:
        rung = ladder.rung(lengths[unit[0]]) if len(unit) == 1 else None
        if rung is not None:
            shared[rung, lengths[unit[0]] == rung].append(unit[0])
        else:
            longest = max(lengths[record] for record in unit)
            size = min(ladder.size, max(1, MOST_TOKENS // longest))
            yield from micro_batches([unit], lengths, size)
    for (rung, full), waiting in sorted(shared.items()):
        start = 0
        for rows in _fewest_tokens(len(waiting), rung, ladder.counts(rung)):
            taken = waiting[start : start + rows]
            start += rows
            count = len(taken)
            yield MicroBatch(tuple(taken), tuple(range(count)), (1.0,) * count, count, (rows, rung), full)


def _fewest_tokens(records: int, rung: int, counts: Sequence[int]) -> list[int]:
    """Rows of the pieces that cost the least for so many records, made-up rows and calls counted."""
    cost, last = [0], [0]
    for left in range(1, records + 1):
        tried = [(cost[max(0, left - rows)] + rows * rung + _PIECE_TOKENS, -rows) for rows in counts]
        least, rows = min(tried)
        cost.append(least)
        last.append(-rows)
    chosen = []
    while records > 0:
        chosen.append(last[records])
        records -= last[records]
    return sorted(chosen, reverse=True)


def micro_batches(units: Sequence[Sequence[int]], lengths: Sequence[int], size: int) -> Iterator[MicroBatch]:
    """Cut records into pieces of at most `size` that pad little; a unit may span several pieces.

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
