"""Log-likelihoods under the base model: what a preference loss holds the adapter to.

The reference is the base model itself, with the adapter switched off, in every round of a job.
It never changes, so figures are kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from secfed.training.responses import log_likelihoods
from secfed.training.task import Example

__all__ = ["Reference", "adapter_off"]


class Reference:
    """Reference log-likelihoods of one base model, kept by all that decides about their last bit.

    A figure is worked out when its response is first asked for: only rows that a sampler drew ever
    need one. How long that takes tells which batches hold rows that were not drawn before.
    """

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._known: dict[int, float] = {}

    def numbers(self, examples: Sequence[Example], width: int | None = None) -> Tensor:
        """A number for every response, shape (records,).

        Args:
            examples: A batch of responses.
            width: Tokens of a row in a shared piece, where a figure follows from the response and the
                width alone, and so does its number. Without it both follow from the batch and the place.
        """
        keys: list[Hashable] = [(example.tokens, example.targets) for example in examples]
        if width is None:
            whole = tuple(keys)
            keys = [(place, whole) for place in range(len(whole))]
        else:
            keys = [(width, key) for key in keys]
        return torch.tensor([self._numbers.setdefault(key, len(self._numbers)) for key in keys])

    def log_likelihoods(self, module: nn.Module, batch: Mapping[str, Tensor], numbers: Tensor) -> Tensor:
        """Log-likelihood of every response under the base model, in nats, without a gradient.

        Args:
            module: A PeftModel; it is left as it was.
            batch: Holds what `responses.collate` makes.
            numbers: From `numbers`, for the same responses.

        Returns:
            Shape (records,), float32, on the batch's device.
        """
        wanted: list[int] = numbers.tolist()
        if any(number not in self._known for number in wanted):
            # the whole batch: fewer rows could round what is left otherwise
            with torch.no_grad(), adapter_off(module):
                sums, _ = log_likelihoods(module, batch)
            self._known |= zip(wanted, sums.tolist(), strict=True)
        return torch.tensor([self._known[number] for number in wanted], device=batch["input_ids"].device)


@contextmanager
def adapter_off(module: nn.Module) -> Iterator[None]:
    """The base model alone, in evaluation mode; afterwards everything is as it was.

    PEFT's own switch lets every array of the adapter take gradients when it is thrown back, those
    that a strategy has frozen as well.
    """
    gradients = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    modes = [(layer, layer.training) for layer in module.modules()]
    try:
        module.eval()
        with cast(PeftModel, module).disable_adapter():
            yield
    finally:
        for parameter, wanted in gradients:
            parameter.requires_grad_(wanted)
        for layer, mode in modes:
            layer.training = mode
