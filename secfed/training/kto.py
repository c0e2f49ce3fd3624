"""`kto`: a causal language model learns from single responses with a thumb up or down.

The loss compares a response's gain over the base model with a reference point z0. Common trainers
take z0 from the batch, which lets one row move every other row's gradient; here it is a constant of
the plan, or comes from the plan's public texts and the broadcast adapter, which are public too, or
rides along with the adapter (`point`) and was public when the round began.

Source: Ethayarajh et al. 2024, arXiv:2402.01306; z0 = 0: D'Oosterlinck et al. 2024, arXiv:2408.06266.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from secfed.errors import DataError
from secfed.rounds.plan import KtoSpec, PublicMessage
from secfed.training.point import POINT_LAYER, ReferencePoint
from secfed.training.reference import Reference
from secfed.training.responses import Responses, collate, log_likelihoods
from secfed.training.rows import FORMATS, Message, Row, Value
from secfed.training.task import IGNORED, NOTHING, Example, UnlearnableError

__all__ = ["Thumbs"]

_PUBLIC_BATCH = 8
"""Public pairs that go through the model at once."""

_BESIDE = "beside_"
"""Before the names of what belongs to a private prompt with a public completion."""


class Thumbs:
    """Rows with a prompt, a completion, and a label that is true for a thumb up.

    Args:
        tokenizer: The base model's tokenizer.
        max_length: Longest record in tokens; see `Responses`.
        loss: Which loss, with its constants; a metric needs none.

    Raises:
        DataError, ConfigError: A public pair of the loss is a chat that cannot be written as one.
    """

    formats = FORMATS["kto"]
    metric = "thumbs right (share of rows whose likelihood moved the way of their label, a tie counts half)"

    def __init__(self, tokenizer: Any, max_length: int, loss: KtoSpec) -> None:
        self._responses = Responses(tokenizer, max_length)
        self._padding: int = tokenizer.eos_token_id
        self._loss = loss
        self._reference = Reference()
        self._public = [
            self._responses.response(_value(pair.prompt), _value(pair.completion)) for pair in loss.kl_pairs
        ]
        self._beside = [_value(pair.completion) for pair in loss.kl_pairs if loss.kl == "ride-along"]
        self._point = float(loss.kl_value) if loss.kl == "fixed" else None

    def check(self, row: Row) -> None:
        """Refuse a chat without an assistant's turn in its completion, or one that the template refuses."""
        self._example(row)

    def example(self, row: Row) -> Example:
        """Prompt and completion as one sequence, and the thumb."""
        try:
            return self._example(row)
        except UnlearnableError:
            return NOTHING

    def collate(self, examples: Sequence[Example], width: int | None = None) -> dict[str, Tensor]:
        """What `responses.collate` makes; numbers of the reference, and desirable, shape (records,).

        Under `kl = "ride-along"` also the first two of every prompt with a public completion.
        """
        batch = self._sequences(examples, width)
        if self._beside:
            beside = self._sequences([example.beside or NOTHING for example in examples], width)
            batch |= {_BESIDE + name: part for name, part in beside.items()}
        return batch | {"desirable": torch.tensor([example.desirable for example in examples])}

    def begin(self, module: nn.Module) -> None:
        """z0 of the round: where it rides along, it came with the adapter; under `kl = "public"` it is the
        mean gain of the plan's public completions, at least 0.
        """
        if self._loss.kl == "ride-along":
            self._point = cast(ReferencePoint, module.get_submodule(POINT_LAYER)).point
        if self._loss.kl != "public":
            return
        device = next(module.parameters()).device
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(self._public), _PUBLIC_BATCH):
                batch = self.collate(self._public[start : start + _PUBLIC_BATCH])
                total += float(self._gain(module, {n: part.to(device) for n, part in batch.items()}).sum())
        self._point = max(0.0, total / len(self._public))

    def losses(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """w sigmoid(-beta s (rho - z0)) of every record, with s = 1 or -1 by its thumb; shape (records,).

        A point that rides along learns from the same backward pass; it adds nothing to the losses' values.
        """
        if self._point is None:
            raise ValueError("a round's reference point comes from `begin`")
        desirable, loss = batch["desirable"], self._loss
        weight = torch.where(desirable, float(loss.desirable_weight), float(loss.undesirable_weight))
        away = (self._gain(module, batch) - self._point) * torch.where(desirable, -1.0, 1.0)
        losses: Tensor = weight * torch.sigmoid(float(loss.beta) * away)
        return losses + self._pull(module, batch) if self._beside else losses

    def measure(self, module: nn.Module, batch: Mapping[str, Tensor]) -> tuple[float, int]:
        """Rows whose rho has the sign of their label, and rows."""
        signs = torch.sign(self._gain(module, batch)) * torch.where(batch["desirable"], 1.0, -1.0)
        return float((signs + 1).sum() / 2), len(signs)

    def _sequences(self, examples: Sequence[Example], width: int | None) -> dict[str, Tensor]:
        """A batch, and the numbers of its sequences for the reference."""
        numbers = self._reference.numbers(examples, width)
        return collate(examples, self._padding, width) | {"numbers": numbers}

    def _gain(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """rho: log-likelihood less the reference's, in nats, shape (records,)."""
        reference = self._reference.log_likelihoods(module, batch, batch["numbers"])
        return log_likelihoods(module, batch)[0] - reference

    def _pull(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """What every record adds to its loss so that a point that rides along learns from it."""
        layer = cast(ReferencePoint, module.get_submodule(POINT_LAYER))
        beside = {name[len(_BESIDE) :]: part for name, part in batch.items() if name.startswith(_BESIDE)}
        with torch.no_grad():
            gains = self._gain(module, beside)
        counts = (beside["targets"] != IGNORED).any(dim=1)  # what nothing can be learnt from pulls nowhere
        term: Tensor = layer(torch.where(counts, gains, layer.nats))
        return term

    def _example(self, row: Row) -> Example:
        """One row as a sequence, or the refusal that says why not."""
        written = self._responses.response(row["prompt"], row["completion"])
        return Example(
            written.tokens,
            written.targets,
            written.cut,
            desirable=row["label"] is True,
            beside=self._with_public(row["prompt"], written) if self._beside else None,
        )

    def _with_public(self, prompt: Value, written: Example) -> Example:
        """A private prompt with one of the public completions: which one follows from the row alone."""
        completion = self._beside[sum(written.tokens) % len(self._beside)]
        if isinstance(prompt, str) is not isinstance(completion, str):
            raise DataError(
                "the plan's public completions and the prompts here are not both texts or both chats",
                hint="Ask for a plan whose kl_file is written as the sites' rows are, or with another kl.",
            )
        return self._responses.response(prompt, completion)


def _value(said: str | tuple[PublicMessage, ...]) -> Value:
    """A public text or chat as a cell of a row."""
    return said if isinstance(said, str) else tuple(Message(turn.role, turn.content) for turn in said)
