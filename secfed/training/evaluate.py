"""The task's metric on public rows: rows that belong to no site and were in no training.

A metric on private rows would be a release of its own; nothing here is run on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from secfed.aggregation import folder
from secfed.aggregation.strategy import NamedArrays
from secfed.training.adapter import AdapterModel, build, task_of
from secfed.training.data import Table, example_of
from secfed.training.task import Example, Task

__all__ = ["Evaluator", "Metric", "evaluate_folder"]

_BATCH = 32
"""Records at once."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure on public rows.

    Attributes:
        name: What it is.
        value: Accuracy in [0, 1], or mean negative log-likelihood of a completion token, nats.
        rows: Public rows it was measured on.
        perplexity: exp(value) for `sft`, None for `classify`.
    """

    name: str
    value: float
    rows: int
    perplexity: float | None


class Evaluator:
    """Measures adapters of one model on one set of public rows, tokenised once."""

    def __init__(self, model: AdapterModel, task: Task, public: Table) -> None:
        self._model = model
        self._task = task
        examples = [example_of(public, row, task) for row in range(len(public.rows))]
        self._examples: Sequence[Example] = sorted(examples, key=lambda example: len(example.tokens))

    def measure(self, arrays: NamedArrays) -> Metric:
        """Load an adapter and measure it."""
        self._model.load(arrays)
        top, bottom = 0.0, 0
        with torch.inference_mode():
            for start in range(0, len(self._examples), _BATCH):
                batch = self._task.collate(self._examples[start : start + _BATCH])
                on_device: Mapping[str, torch.Tensor] = {
                    name: part.to(self._model.device) for name, part in batch.items()
                }
                part_top, part_bottom = self._task.measure(self._model.module, on_device)
                top += part_top
                bottom += part_bottom
        value = top / bottom
        perplexity = math.exp(value) if self._model.spec.trainer == "sft" else None
        return Metric(self._task.metric, value, len(self._examples), perplexity)


def evaluate_folder(
    adapter: Path, base_folder: Path, public: Table, *, max_length: int, device: str = "auto"
) -> Metric:
    """Measure an adapter folder, as `secfed eval` does.

    Args:
        adapter: A folder that `aggregation.folder.write` made.
        base_folder: Where the base model lies.
        public: Rows that the user names as public.
        max_length: Longest row in tokens.
    """
    spec, arrays = folder.read(adapter)
    model = build(spec, base_folder, device=device)
    return Evaluator(model, task_of(spec, base_folder, max_length), public).measure(arrays)
