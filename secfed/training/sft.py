"""`sft`: a causal language model learns responses; the loss is over the record's own tokens.

Each record's loss is the mean over its own response tokens. A mean over the batch's tokens, as
common trainers take it, would make a record's gradient depend on the lengths of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from secfed.errors import DataError
from secfed.training.responses import Responses, collate, log_likelihoods
from secfed.training.rows import FORMATS, Row
from secfed.training.task import NOTHING, Example, UnlearnableError

__all__ = ["Completions"]


class Completions:
    """Rows with a prompt and a completion, or with a conversation's messages.

    Args:
        tokenizer: The base model's tokenizer.
        max_length: Longest record in tokens; see `Responses`.
    """

    formats = FORMATS["sft"]
    metric = "mean completion loss (nats a token)"

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._responses = Responses(tokenizer, max_length)
        self._padding: int = tokenizer.eos_token_id

    def check(self, row: Row) -> None:
        """Refuse a chat that has no assistant's turn, or that the template does not write."""
        self._example(row)

    def example(self, row: Row) -> Example:
        """Prompt and completion as one sequence; only the completion counts, or the assistant's turns."""
        try:
            return self._example(row)
        except UnlearnableError:
            return NOTHING

    def collate(self, examples: Sequence[Example], width: int | None = None) -> dict[str, Tensor]:
        """input_ids, attention_mask and targets, each of shape (records, tokens)."""
        return collate(examples, self._padding, width)

    def begin(self, module: nn.Module) -> None:
        """The losses take nothing from the adapter beforehand."""

    def losses(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean negative log-likelihood of every record's response tokens, shape (records,)."""
        sums, counts = log_likelihoods(module, batch)
        return -sums / counts.clamp(min=1)

    def measure(self, module: nn.Module, batch: Mapping[str, Tensor]) -> tuple[float, int]:
        """Negative log-likelihood of the response tokens, and their number."""
        sums, counts = log_likelihoods(module, batch)
        return -float(sums.sum()), int(counts.sum())

    def _example(self, row: Row) -> Example:
        """One row as a sequence, or the refusal that says why not."""
        if "messages" not in row:
            return self._responses.response(row["prompt"], row["completion"])
        messages = row["messages"]
        if not isinstance(messages, tuple):
            raise DataError("a conversation is a list of messages")
        return self._responses.conversation(messages)
