"""`dpo`: a causal language model learns to prefer the chosen response of a pair to the rejected one.

A pair is one record: its loss looks at both responses, its gradient is the sum over both, and it
is clipped once. Losses that sort or normalise over the batch are not offered, since in them one pair
moves the others' gradients.

Source: Rafailov et al. 2023, arXiv:2305.18290; the other losses as `rounds.plan.DpoSpec` names them.
Formulas are those of TRL 1.16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from secfed.rounds.plan import DpoSpec
from secfed.training.reference import Reference
from secfed.training.responses import Responses, collate, log_likelihoods
from secfed.training.rows import PAIRS, Row, with_prompt
from secfed.training.task import NOTHING, Example, UnlearnableError

__all__ = ["Pairs", "dpo_loss"]

_CHOSEN, _REJECTED = "chosen_", "rejected_"


class Pairs:
    """Rows with a prompt, a chosen and a rejected response; the prompt may stand before both responses.

    Args:
        tokenizer: The base model's tokenizer.
        max_length: Longest response with its prompt, in tokens; see `Responses`.
        loss: Which loss; a metric needs none.
    """

    formats = PAIRS
    metric = "reward accuracy (share of pairs whose chosen response gained more, a tie counts half)"

    def __init__(self, tokenizer: Any, max_length: int, loss: DpoSpec) -> None:
        self._responses = Responses(tokenizer, max_length)
        self._padding: int = tokenizer.eos_token_id
        self._loss = loss
        self._reference = Reference()

    def check(self, row: Row) -> None:
        """Refuse a chat without an assistant's turn in each response, or one that the template refuses."""
        self._example(row)

    def example(self, row: Row) -> Example:
        """Both responses, each with the prompt before it."""
        try:
            return self._example(row)
        except UnlearnableError:
            return Example(NOTHING.tokens, NOTHING.targets, cut=0, rejected=NOTHING)

    def collate(self, examples: Sequence[Example], width: int | None = None) -> dict[str, Tensor]:
        """What `responses.collate` makes and the reference's numbers, of both responses of every pair."""
        batch: dict[str, Tensor] = {}
        rejected = [example.rejected or NOTHING for example in examples]
        for prefix, side in ((_CHOSEN, examples), (_REJECTED, rejected)):
            numbers = self._reference.numbers(side, width)
            parts = collate(side, self._padding, width) | {"numbers": numbers}
            batch |= {prefix + name: part for name, part in parts.items()}
        return batch

    def begin(self, module: nn.Module) -> None:
        """The losses take nothing from the adapter beforehand."""

    def losses(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss of every pair, shape (pairs,). The module is called once for each side of the pairs."""
        chosen, chosen_tokens = self._gain(module, batch, _CHOSEN)
        rejected, rejected_tokens = self._gain(module, batch, _REJECTED)
        return dpo_loss(self._loss, chosen, rejected, chosen_tokens, rejected_tokens)

    def measure(self, module: nn.Module, batch: Mapping[str, Tensor]) -> tuple[float, int]:
        """Pairs whose chosen response gained more over the base model, and pairs."""
        chosen, _ = self._gain(module, batch, _CHOSEN)
        rejected, _ = self._gain(module, batch, _REJECTED)
        return float((torch.sign(chosen - rejected) + 1).sum() / 2), len(chosen)

    def _gain(self, module: nn.Module, batch: Mapping[str, Tensor], prefix: str) -> tuple[Tensor, Tensor]:
        """rho of one side, log-likelihood over the reference's, and its tokens; shapes (pairs,)."""
        side = {name.removeprefix(prefix): part for name, part in batch.items() if name.startswith(prefix)}
        reference = self._reference.log_likelihoods(module, side, side["numbers"])
        sums, tokens = log_likelihoods(module, side)
        return sums - reference, tokens

    def _example(self, row: Row) -> Example:
        """One row as a pair, or the refusal that says why not."""
        pair = with_prompt(row)
        chosen = self._responses.response(pair["prompt"], pair["chosen"])
        rejected = self._responses.response(pair["prompt"], pair["rejected"])
        return Example(chosen.tokens, chosen.targets, cut=chosen.cut + rejected.cut, rejected=rejected)


def dpo_loss(
    loss: DpoSpec, chosen: Tensor, rejected: Tensor, chosen_tokens: Tensor, rejected_tokens: Tensor
) -> Tensor:
    """Loss of every pair by itself.

    Args:
        chosen: rho of the chosen responses: log-likelihood less the reference's, in nats, shape (pairs,).
        rejected: rho of the rejected ones.
        chosen_tokens: Tokens that rho is summed over, shape (pairs,).
        rejected_tokens: Of the rejected ones.

    Returns:
        Shape (pairs,).
    """
    beta = float(loss.beta)
    margin = beta * (chosen - rejected)
    match loss.loss_type:
        case "sigmoid":
            return -logsigmoid(margin)
        case "hinge":
            return torch.relu(1 - margin)
        case "ipo":
            mean_margin = chosen / chosen_tokens.clamp(min=1) - rejected / rejected_tokens.clamp(min=1)
            return (mean_margin - 1 / (2 * beta)) ** 2
        case "robust":
            flipped = float(loss.label_smoothing)
            return (flipped * logsigmoid(-margin) - (1 - flipped) * logsigmoid(margin)) / (1 - 2 * flipped)
        case "apo_zero":
            return torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected)
