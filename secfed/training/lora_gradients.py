"""A LoRA factor as a layer of its own: fast products, and fast gradients one record at a time.

A factor is a linear map with one long side (the layer's width) and one short side (the rank r).
Ordinary training multiplies the gradients of a whole batch into one matrix; DP-SGD wants one
matrix a record, and ordinary layers would compute both. A `LoraFactor` computes what is asked for:

- for every record n of T tokens with inputs X_n (T, in) and gradients G_n (T, out) of the summed
  loss: G_n^T X_n, shape (out, in). With B behind A and the scale s that is
  s G^T (X A^T) for B and (s G B)^T X for A;
- under `per_record`, no gradient of the batch at all. The records' are taken in the layer's own
  backward pass: Opacus' hooks would put four more nodes around every factor and copy what comes
  out, which is a tenth of a step where rows are short.

Products of a long and a short side are taken so that the long side is contiguous in the result:
BLAS libraries are up to five times slower the other way round when r is 8 or less.

Source: LoRA, Hu et al. 2021, arXiv:2106.09685; per-example gradients of a linear layer, Goodfellow
2015, arXiv:1510.01799.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks, register_grad_sampler
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

__all__ = ["LoraFactor", "OtherLayers", "factor_gradients", "per_record", "use_factors"]


class LoraFactor(nn.Linear):
    """One of the two matrices of a LoRA layer, in place of the `nn.Linear` that PEFT makes.

    Args:
        layer: PEFT's layer, without bias; its weight is taken over and not copied.

    Attributes:
        per_record: Leave out the gradient of the whole batch; those of the records go where Opacus
            puts them, the weight's `grad_sample`, shape (records, out, in), summed over calls.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight = layer.weight
        self.per_record = False

    def forward(self, input: Tensor) -> Tensor:
        """Input (..., in) to output (..., out)."""
        product: Tensor = _Product.apply(input, self.weight, self)  # type: ignore[no-untyped-call]
        return product

    def add_samples(self, found: Tensor) -> None:
        """Add the gradients of one call's records to those of the batch's other calls."""
        weight: Any = self.weight
        known: Tensor | None = getattr(weight, "grad_sample", None)
        if known is not None and known.shape != found.shape:
            raise RuntimeError("a trained layer saw different numbers of records in one batch")
        weight.grad_sample = found if known is None else known + found


class _Product(torch.autograd.Function):
    """x W^T of a factor. Its backward pass computes the gradient of W, of the batch or of each record."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layer: LoraFactor) -> Tensor:
        ctx.layer, ctx.per_record = layer, layer.per_record
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        rows = x.reshape(-1, x.shape[-1])
        narrow = weight.shape[0] < weight.shape[1]
        out = torch.mm(weight, rows.t()).t() if narrow else torch.mm(rows, weight.t())
        return out.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            narrow = weight.shape[1] < weight.shape[0]
            product = torch.mm(weight.t(), rows.t()).t() if narrow else torch.mm(rows, weight)
            of_x = product.view(*gradient.shape[:-1], weight.shape[1])
        if x is not None and ctx.per_record:
            ctx.layer.add_samples(factor_gradients(ctx.layer, [x], gradient)[ctx.layer.weight])
        elif x is not None:
            of_weight = _gradient(rows[None], x.reshape(1, -1, x.shape[-1]))[0]
        return of_x, of_weight, None


def factor_gradients(
    layer: LoraFactor, activations: Sequence[Tensor], backprops: Tensor
) -> dict[Tensor, Tensor]:
    """Gradient of each record's loss with respect to a factor; registered with Opacus, whose hooks use it
    where they are put on a factor.

    Args:
        layer: The factor.
        activations: Its input alone, shape (records, ..., in).
        backprops: Gradient of the summed loss by its output, shape (records, ..., out).

    Returns:
        The weight's gradients, shape (records, out, in); nothing for a frozen factor.
    """
    if not layer.weight.requires_grad:
        return {}
    records = backprops.shape[0]
    inputs = activations[0].reshape(records, -1, layer.in_features)
    return {layer.weight: _gradient(backprops.reshape(records, -1, layer.out_features), inputs)}


register_grad_sampler(LoraFactor)(factor_gradients)


class OtherLayers(GradSampleHooks):  # type: ignore[misc]  # Opacus has no type information
    """Opacus' hooks on every trained layer but the factors, which need none."""

    def iterate_submodules(self, module: nn.Module) -> Iterator[nn.Module]:
        """The layers that get hooks."""
        if not isinstance(module, LoraFactor):
            yield from super().iterate_submodules(module)


def use_factors(module: nn.Module) -> None:
    """Put a `LoraFactor` in the place of both matrices of every linear LoRA layer."""
    for layer in module.modules():
        if isinstance(layer, LoraLinear):
            for factors in (layer.lora_A, layer.lora_B):
                for name, factor in factors.items():
                    if type(factor) is nn.Linear and factor.bias is None:
                        factors[name] = LoraFactor(factor)


@contextmanager
def per_record(module: nn.Module) -> Iterator[None]:
    """Let every factor of a module compute the gradients of single records, and none of the whole batch."""
    factors = [layer for layer in module.modules() if isinstance(layer, LoraFactor)]
    try:
        for factor in factors:
            factor.per_record = True
        yield
    finally:
        for factor in factors:
            factor.per_record = False


def _gradient(gradients: Tensor, inputs: Tensor) -> Tensor:
    """G^T X of every record: (records, tokens, out) and (records, tokens, in) to (records, out, in)."""
    if gradients.shape[2] < inputs.shape[2]:
        return torch.bmm(gradients.transpose(1, 2), inputs)
    return torch.bmm(inputs.transpose(1, 2), gradients).transpose(1, 2)
