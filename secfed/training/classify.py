"""`classify`: a mean-pooled encoder with a linear head, cross entropy of each record.

The encoder's own pooler is left out: in sentence encoders it was never trained. The head is
clipped and noised jointly with the adapter.

Source: mean pooling, Reimers and Gurevych 2019, arXiv:1908.10084.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from opacus.grad_sample import register_grad_sampler
from torch import Tensor, nn

from secfed.errors import ConfigError
from secfed.training.rows import FORMATS, Row
from secfed.training.task import IGNORED, Example, UnlearnableError, pad

__all__ = ["Classification", "Head", "PooledClassifier"]


class Head(nn.Linear):
    """A linear layer that takes each record's product by itself.

    Libraries multiply matrices of one, two or three rows in other ways than longer ones, so that the last
    bit of a record's logits would follow how many records go through beside it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Shape (records, in) to (records, out)."""
        return (input[:, None] * self.weight).sum(dim=2) + self.bias


def _head_gradients(layer: Head, activations: Sequence[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
    """Gradients of each record's loss, for Opacus' hooks: shapes (records, out, in) and (records, out)."""
    return {layer.weight: backprops[:, :, None] * activations[0][:, None], layer.bias: backprops}


register_grad_sampler(Head)(_head_gradients)


class PooledClassifier(nn.Module):
    """Encoder, mean over the tokens that are no padding, linear head.

    Args:
        encoder: Returns `last_hidden_state`, shape (records, tokens, hidden).
        hidden: Width of the encoder.
        labels: Number of classes.
    """

    def __init__(self, encoder: nn.Module, hidden: int, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = Head(hidden, labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits, shape (records, labels)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        # the base may compute in bfloat16; the head never does
        states = states.to(next(self.head.parameters()).dtype)
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
        logits: Tensor = self.head(pooled)
        return logits


class Classification:
    """Rows with a text and a label, those that count out of the plan's list.

    Args:
        tokenizer: The base model's tokenizer.
        labels: Class names in order, from the job plan.
        max_length: Longest text in tokens; the rest is cut.

    Raises:
        ConfigError: No token of a text fits beside those that the tokenizer adds, where it would
            leave texts uncut; or it has no token to pad with.
    """

    formats = FORMATS["classify"]
    metric = "accuracy"

    def __init__(self, tokenizer: Any, labels: Sequence[str], max_length: int) -> None:
        added = tokenizer.num_special_tokens_to_add()
        if max_length <= added:
            raise ConfigError(
                f"rows of {max_length} tokens hold no text: the base's tokenizer adds {added} of its own",
                hint=f"Plan max_length = {added + 1} or more.",
            )
        if tokenizer.pad_token_id is None:
            raise ConfigError(
                "the base's tokenizer has no padding token, and texts of a batch differ in length",
                hint="Choose a base model whose tokenizer has one.",
            )
        self._tokenizer = tokenizer
        self._indices = {label: index for index, label in enumerate(labels)}
        self._max_length = max_length

    def check(self, row: Row) -> None:
        """Refuse a label that is not in the list."""
        label = str(row["label"])
        if label not in self._indices:
            raise UnlearnableError(f"label {label!r} is not in the job's list ({', '.join(self._indices)})")

    def example(self, row: Row) -> Example:
        """Token ids and the label's index; a label out of the list, or no token, gives a loss of zero."""
        tokens = self._tokenizer(row["text"], truncation=True, max_length=self._max_length)["input_ids"]
        tokens = tokens[: self._max_length]  # whatever a tokenizer takes truncation to be
        if not tokens:
            return Example((self._tokenizer.pad_token_id,), (IGNORED,), cut=0)
        full = self._tokenizer(row["text"])["input_ids"] if len(tokens) == self._max_length else tokens
        target = self._indices.get(str(row["label"]), IGNORED)
        return Example(tuple(tokens), (target,), cut=len(full) - len(tokens))

    def collate(self, examples: Sequence[Example], width: int | None = None) -> dict[str, Tensor]:
        """input_ids and attention_mask, shape (records, tokens); targets, shape (records,)."""
        return {
            "input_ids": pad([example.tokens for example in examples], self._tokenizer.pad_token_id, width),
            "attention_mask": pad([[1] * len(example.tokens) for example in examples], 0, width),
            "targets": torch.tensor([example.targets[0] for example in examples]),
        }

    def begin(self, module: nn.Module) -> None:
        """The losses take nothing from the adapter beforehand."""

    def losses(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross entropy of every record, shape (records,); zero, with its gradient, without a target."""
        logits = module(batch["input_ids"], batch["attention_mask"])
        return nn.functional.cross_entropy(logits, batch["targets"], ignore_index=IGNORED, reduction="none")

    def measure(self, module: nn.Module, batch: Mapping[str, Tensor]) -> tuple[float, int]:
        """Records classified rightly, and records."""
        guesses = module(batch["input_ids"], batch["attention_mask"]).argmax(dim=1)
        return float((guesses == batch["targets"]).sum()), len(guesses)
