"""What a trainer has to say about its rows: tokenise, collate, loss of each record, metric.

A loss is a vector with one entry a record and no entry looks at another record: anything else
(token counts of the batch, batch statistics, in-batch negatives) would raise the sensitivity of
a clipped sum above the clipping norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["Example", "Task", "pad"]

IGNORED = -100
"""Target of a position that no loss counts."""


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenised record.

    Attributes:
        tokens: Token ids.
        targets: `sft`: ids that a loss counts, `IGNORED` elsewhere, as long as `tokens`;
            `classify`: the label's index alone, `IGNORED` for a label that the plan does not have.
        cut: How many tokens did not fit.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    cut: int


class Task(Protocol):
    """One kind of training."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns a row needs."""

    @property
    def metric(self) -> str:
        """Name of what `measure` counts."""

    def check(self, row: Mapping[str, str]) -> None:
        """Refuse a row that nothing can be learnt from; for people who look at their own file.

        Raises:
            DataError: A label that is not among the classes.
        """

    def example(self, row: Mapping[str, str]) -> Example:
        """Tokenise one row. None is refused: what nothing can be learnt from has a loss of zero.

        A site that declined a plan because of one row would answer the plan's question about that row,
        and charge nothing for it.
        """

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Pad examples into one batch, records first."""

    def losses(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss of every record by itself, shape (records,)."""

    def measure(self, module: nn.Module, batch: Mapping[str, Tensor]) -> tuple[float, int]:
        """The metric's numerator and denominator over a batch of public rows."""


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of different lengths as one matrix, filled up on the right; shape (rows, longest)."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
