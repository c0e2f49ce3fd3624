"""`sft`: a causal language model learns completions; the loss is over the record's own tokens.

Each record's loss is the mean over its own completion tokens. A mean over the batch's tokens, as
common trainers take it, would make a record's gradient depend on the lengths of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from secfed.training.task import IGNORED, Example, pad

__all__ = ["Completions"]


class Completions:
    """Rows with a prompt and a completion; the completion ends with the end-of-text token.

    Args:
        tokenizer: The base model's tokenizer.
        max_length: Longest record in tokens. What is too long loses the start of its prompt
            first, then the end of its completion.
    """

    columns = ("prompt", "completion")
    metric = "mean completion loss (nats a token)"

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length

    def check(self, row: Mapping[str, str]) -> None:
        """Every text can be learnt from."""

    def example(self, row: Mapping[str, str]) -> Example:
        """Prompt and completion as one sequence; only the completion counts."""
        prompt = self._tokenizer(row["prompt"])["input_ids"]
        completion = self._tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        completion = [*completion, self._tokenizer.eos_token_id]
        total = len(prompt) + len(completion)
        kept_completion = completion[: max(self._max_length - 1, 1)]  # one prompt token predicts its first
        room = self._max_length - len(kept_completion)
        kept_prompt = prompt[-room:] if room else []
        tokens = (*kept_prompt, *kept_completion)
        targets = (*[IGNORED] * len(kept_prompt), *kept_completion)
        return Example(tokens, targets, cut=total - len(tokens))

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """input_ids, attention_mask and targets, each of shape (records, longest)."""
        return {
            "input_ids": pad([example.tokens for example in examples], self._tokenizer.eos_token_id),
            "attention_mask": pad([[1] * len(example.tokens) for example in examples], 0),
            "targets": pad([example.targets for example in examples], IGNORED),
        }

    def losses(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean negative log-likelihood of every record's completion, shape (records,)."""
        sums, counts = _completion_sums(module, batch)
        return sums / counts.clamp(min=1)

    def measure(self, module: nn.Module, batch: Mapping[str, Tensor]) -> tuple[float, int]:
        """Negative log-likelihood of the completion tokens, and their number."""
        sums, counts = _completion_sums(module, batch)
        return float(sums.sum()), int(counts.sum())


def _completion_sums(module: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood and number of completion tokens of every record."""
    output = module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    logits, targets = output.logits[:, :-1], batch["targets"][:, 1:]
    losses = nn.functional.cross_entropy(
        logits.transpose(1, 2).float(), targets, ignore_index=IGNORED, reduction="none"
    )
    return losses.sum(dim=1), (targets != IGNORED).sum(dim=1)
