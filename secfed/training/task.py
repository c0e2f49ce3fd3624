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

from secfed.errors import DataError
from secfed.training.rows import Format, Row

__all__ = ["IGNORED", "NOTHING", "Example", "Task", "UnlearnableError", "pad"]

IGNORED = -100
"""Target of a position that no loss counts."""


class UnlearnableError(DataError):
    """A row that nothing can be learnt from.

    Shown to people who look at their own file; in training such a row has a loss of zero.
    """


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenised record.

    Attributes:
        tokens: Token ids.
        targets: Ids that a loss counts, `IGNORED` elsewhere, as long as `tokens`; `classify`: the
            label's index alone, `IGNORED` for a label that the plan does not have.
        cut: How many tokens did not fit.
        rejected: `dpo`: the pair's other response, while this one is the chosen.
        desirable: `kto`: whether the thumb is up.
        beside: `kto` with a point that rides along: the prompt with a public completion.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    cut: int
    rejected: Example | None = None
    desirable: bool = True
    beside: Example | None = None


NOTHING = Example((0,), (IGNORED,), cut=0)
"""What a row becomes that nothing can be learnt from: one token, whichever, that no loss counts."""


class Task(Protocol):
    """One kind of training, on one base model."""

    @property
    def formats(self) -> tuple[Format, ...]:
        """What rows may look like."""

    @property
    def metric(self) -> str:
        """Name of what `measure` counts."""

    def check(self, row: Row) -> None:
        """Refuse a row that nothing can be learnt from; for people who look at their own file.

        Raises:
            UnlearnableError: Such as a label that is not among the classes.
            DataError, ConfigError: As `example`.
        """

    def example(self, row: Row) -> Example:
        """Tokenise one row. None is refused: what nothing can be learnt from has a loss of zero.

        A site that declined a plan because of one row would answer the plan's question about that row,
        and charge nothing for it.

        Raises:
            DataError: A prompt and its responses are not the same kind, a text or messages. As a column
                has one kind, this says nothing about one row.
            ConfigError: Rows hold messages, and the base model's chat template cannot be used.
        """

    def collate(self, examples: Sequence[Example], width: int | None = None) -> dict[str, Tensor]:
        """Pad examples into one batch, records first: to so many tokens, or to the longest."""

    def begin(self, module: nn.Module) -> None:
        """Work out what a round's losses take from the broadcast adapter, which `module` holds now."""

    def losses(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss of every record by itself, shape (records,).

        The module may be called several times; a record's gradient is the sum over all calls.
        """

    def measure(self, module: nn.Module, batch: Mapping[str, Tensor]) -> tuple[float, int]:
        """The metric's numerator and denominator over a batch of public rows."""


def pad(rows: Sequence[Sequence[int]], value: int, width: int | None = None) -> Tensor:
    """Rows of different lengths as one matrix, filled up on the right; shape (rows, width or longest)."""
    width = max(len(row) for row in rows) if width is None else width
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
