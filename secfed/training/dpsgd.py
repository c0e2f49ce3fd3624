"""DP-SGD: noisy sums of clipped gradients, one gradient a privacy unit.

Per-record gradients come from LoRA's factors themselves (`lora_gradients`) and, of other layers, from
Opacus' hooks; its DPOptimizer is extended where its defaults are not private enough:
sampling, noise and denominators are not left to it.

- Batches come from `random.PoissonSampler`: secret, over units, never capped. An empty one still
  takes its noisy step.
- The gradients of a unit's records are averaged, and the unit is clipped once, to C in all: a
  reference point that rides along (`point`) has a share of C to itself. Norms and sums are
  float64, taken array by array in one place, so that one array's gradients at most exist twice; a
  factor (1 - 1e-6) covers their rounding. A unit whose gradient is not finite counts as zero, so that it
  cannot show.
- Noise is drawn once a logical batch, whatever micro-batches it was walked in, from a secret
  stream; the noisy sum is put on a grid and divided by the public constant B.

Source: Abadi et al. 2016, arXiv:1607.00133.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import register_grad_sampler
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from secfed.training.adapter import AdapterModel
from secfed.training.lora_gradients import OtherLayers, per_record
from secfed.training.pieces import Ladder, MicroBatch, micro_batches, pieces
from secfed.training.point import SHARE, ReferencePoint, point_gradients
from secfed.training.random import PoissonSampler, Stream, gaussian, snap
from secfed.training.task import NOTHING, Example, Task

__all__ = [
    "ROUNDING_MARGIN",
    "ClippingOptimizer",
    "Helpers",
    "MicroBatch",
    "SecretNoiseOptimizer",
    "accumulate",
    "micro_batches",
    "per_record_gradients",
    "run_piece",
    "train",
]

ROUNDING_MARGIN = 1 - 1e-6
"""Clipped gradients are shortened by this, so that rounding cannot carry a norm above C."""

register_grad_sampler(ReferencePoint)(point_gradients)


class ClippingOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus has no type information
    """The half of Opacus' DPOptimizer that sums clipped units, in float64; it takes no step.

    Args:
        inner: Holds the trained arrays.
        clip: C, above 0.
        point: A reference point among the parameters of `inner`: it is clipped to `SHARE` of C, and
            all others together to what that leaves of C.
    """

    def __init__(
        self,
        inner: torch.optim.Optimizer,
        *,
        clip: float,
        point: nn.Parameter | None = None,
        noise_multiplier: float = 0.0,
    ) -> None:
        if not clip > 0:
            raise ValueError("the clipping norm must be above 0")
        super().__init__(
            inner,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clip,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._unfinished: list[Tensor] | None = None
        self._wide: Tensor | None = None
        self._riding = next((i for i, parameter in enumerate(self.params) if parameter is point), None)
        if point is not None and self._riding is None:
            raise ValueError("the point is one of the trained arrays")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Begin a logical batch: the sums start at zero, in float64, also where no record comes."""
        super().zero_grad(set_to_none)
        for parameter in self.params:
            parameter.summed_grad = torch.zeros(
                parameter.numel(), dtype=torch.float64, device=parameter.device
            )
        self._unfinished = None

    def clip_and_accumulate(self, piece: MicroBatch) -> None:
        """Average within units, clip each complete unit to C in all, and add it to the batch's sum.

        Raises:
            RuntimeError: A layer gave no per-record gradient (its hook did not run).
        """
        samples = [_samples(parameter, piece) for parameter in self.params]
        device = samples[0].device
        shares = torch.tensor(piece.shares, dtype=torch.float64, device=device)
        slots = torch.tensor(piece.slots, device=device)
        single = self._unfinished is None and set(piece.shares) == {1.0}

        def means(index: int) -> Tensor:
            """Mean gradient of each unit so far in one array, float64, shape (units, elements)."""
            rows = self._widened(samples[index])
            if single:
                return rows
            # added row by row: a product of matrices would carry what is not finite into other units
            part = rows.new_zeros(piece.slots[-1] + 1, rows.shape[1])
            part.index_add_(0, slots, rows.mul_(shares[:, None]))
            if self._unfinished is not None:
                part[0] += self._unfinished[index]
            return part

        norms = torch.stack(
            [
                # of records alone, taken as they lie in memory: a norm asks for no order
                torch.linalg.vector_norm(part, dim=tuple(range(1, part.dim())), dtype=torch.float64)
                if single
                else torch.linalg.vector_norm(means(index), dim=1)
                for index, part in enumerate(samples)
            ]
        )
        counted = torch.isfinite(norms).all(dim=0)[: piece.complete]
        scales = [scale[: piece.complete] for scale in self._scales(norms)]
        spoilt = not bool(counted.all())
        open_units: list[Tensor] = []
        for index, parameter in enumerate(self.params):
            part = means(index)
            if piece.complete < len(part):
                open_units.append(part[-1].clone())
            done, scale = part[: piece.complete], scales[index]
            if spoilt:  # taken out, and not multiplied by 0: zero times infinity is not zero
                done, scale = done[counted], scale[counted]
            parameter.summed_grad.addmv_(done.t(), scale)
            parameter.grad_sample = None
            parameter.grad = None
        self._unfinished = open_units or None

    def _widened(self, samples: Tensor) -> Tensor:
        """One array's gradients in order and in float64, shape (records, elements), until the next array's.

        They are written where those of the array before lay: no array's memory is asked for twice.
        """
        size = samples.numel()
        if self._wide is None or self._wide.numel() < size:
            self._wide = torch.empty(size, dtype=torch.float64, device=samples.device)
        return self._wide[:size].view(samples.shape).copy_(samples).flatten(1)

    def _scales(self, norms: Tensor) -> list[Tensor]:
        """What each unit's part in each array is multiplied by, from its norms, shape (arrays, units)."""

        def to_share(share: float, norm: Tensor) -> Tensor:
            scale: Tensor = ROUNDING_MARGIN * (share * self.max_grad_norm / norm).clamp(max=1.0)
            return scale

        riding = self._riding
        if riding is None:
            return [to_share(1.0, torch.linalg.vector_norm(norms, dim=0))] * len(norms)
        others = torch.cat([norms[:riding], norms[riding + 1 :]])
        scales = [to_share(math.sqrt(1 - SHARE**2), torch.linalg.vector_norm(others, dim=0))] * len(norms)
        scales[riding] = to_share(SHARE, norms[riding])
        return scales

    def flat_sum(self) -> NDArray[np.float64]:
        """The batch's sum so far, all arrays in one vector on the CPU, shape (coordinates,)."""
        if self._unfinished is not None:
            raise RuntimeError("the last unit of the batch is not complete")
        if any(parameter.summed_grad is None for parameter in self.params):
            raise RuntimeError("noise goes once on a batch: begin the next one with zero_grad")
        flat: NDArray[np.float64] = torch.cat([each.summed_grad for each in self.params]).cpu().numpy()
        return flat

    def put_sum(self, flat: NDArray[np.float64]) -> None:
        """The inverse of `flat_sum`."""
        parts = torch.from_numpy(flat).to(self.params[0].device)
        sizes = [parameter.numel() for parameter in self.params]
        for parameter, part in zip(self.params, torch.split(parts, sizes), strict=True):
            parameter.summed_grad = part

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:  # noqa: ARG002
        """Sums without noise are stepped on by nobody."""
        raise RuntimeError("a clipped sum carries no noise yet")


class SecretNoiseOptimizer(ClippingOptimizer):
    """Opacus' DPOptimizer with units, float64 sums, secret noise and a public denominator.

    Args:
        inner: What makes a step of the noisy mean; everything in it is post-processing.
        noise_multiplier: sigma, above 0.
        clip: C, above 0.
        batch: B, the public denominator, above 0.
        noise: The secret stream.
        point: See `ClippingOptimizer`.
    """

    def __init__(
        self,
        inner: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        clip: float,
        batch: float,
        noise: Stream,
        point: nn.Parameter | None = None,
    ) -> None:
        if not (noise_multiplier > 0 and clip > 0 and batch > 0):
            raise ValueError("noise multiplier, clipping norm and batch must be above 0")
        super().__init__(inner, clip=clip, point=point, noise_multiplier=noise_multiplier)
        self._batch = batch
        self._noise = noise

    def add_noise(self) -> None:
        """Put one draw of noise on the whole batch's sum, and the result on a grid."""
        total = self.flat_sum()
        std = self.noise_multiplier * self.max_grad_norm
        self.put_sum(snap(total + gaussian(self._noise, total.size, std), std))

    def scale_grad(self) -> None:
        """Divide by the public constant B, and hand the result to the inner optimiser."""
        for parameter in self.params:
            parameter.grad = (parameter.summed_grad / self._batch).view_as(parameter).to(parameter.dtype)
            parameter.summed_grad = (
                None  # a second step without `zero_grad` fails instead of adding noise twice
            )

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:
        """Noise and scale; always followed by the inner step, also after an empty batch."""
        if closure is not None:
            raise ValueError("a closure would compute gradients past the clipping")
        self.add_noise()
        self.scale_grad()
        return True


def _samples(parameter: Any, piece: MicroBatch) -> Tensor:
    """The gradients of a piece's records by one array, where Opacus puts them; shape (records, ...)."""
    samples = parameter.grad_sample
    if not isinstance(samples, Tensor) or len(samples) != piece.rows:
        raise RuntimeError("a trained layer gave no gradient a record; nothing was sent")
    return samples[: len(piece.records)]


@contextmanager
def per_record_gradients(module: nn.Module) -> Iterator[None]:
    """Gradients of single records by every trained layer; all is as it was again whatever happens.

    Meanwhile numbers too small to be normal become 0: processors take longer over them, so that a
    made-up adapter could make time tell of rows.
    """
    with warnings.catch_warnings(), per_record(module):
        # meant: below the adapter's first layer the base is frozen
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        hooks = OtherLayers(module, loss_reduction="sum")
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(False)
            hooks.cleanup()


def accumulate(
    model: AdapterModel,
    task: Task,
    examples: Sequence[Example],
    units: Sequence[Sequence[int]],
    optimizer: ClippingOptimizer,
    micro_batch: int | Ladder,
) -> None:
    """Add the clipped gradients of a logical batch, micro-batch by micro-batch.

    What a unit adds follows from the unit alone; where the batch is cut, and in which order it comes,
    changes no more than the last bits of the sum in float64.

    Args:
        micro_batch: Which shapes the pieces have; a number stands for a ladder of pieces of so many
            records, every length shared.
    """
    ladder = micro_batch if isinstance(micro_batch, Ladder) else Ladder(micro_batch)
    lengths = [_tokens(example, ladder) for example in examples]
    by_length = [sorted(unit, key=lengths.__getitem__) for unit in units]
    for piece in pieces(by_length, lengths, ladder):
        run_piece(model, task, [examples[record] for record in piece.records], piece)
        optimizer.clip_and_accumulate(piece)


def run_piece(model: AdapterModel, task: Task, records: Sequence[Example], piece: MicroBatch) -> None:
    """Forward and backward through one piece; each record's gradients lie where Opacus puts them."""
    width = None if piece.shape is None else piece.shape[1]
    length = width if width is not None and piece.full else 1
    nothing = Example(NOTHING.tokens * length, NOTHING.targets * length, cut=0)
    empty = replace(nothing, rejected=nothing, beside=nothing)
    batch = task.collate([*records, *[empty] * (piece.rows - len(records))], width)
    losses = task.losses(model.module, {name: part.to(model.device) for name, part in batch.items()})
    torch.autograd.backward(losses.sum())


def _tokens(example: Example, ladder: Ladder) -> int:
    """Tokens of a record: of the longest sequence, if it is a pair or has another beside it.

    Where that one would fill the top rung and another not, the record is made too long for any rung.
    """
    parts = [each for each in (example, example.rejected, example.beside) if each is not None]
    lengths = [len(each.tokens) for each in parts]
    most = max(lengths)
    top = max(ladder.rungs, default=0)
    return most + 1 if most == top > min(lengths) else most


class Helpers(Protocol):
    """Other processes of this site, which sum clipped units; this one alone draws them and adds noise."""

    def deal(
        self,
        units: Sequence[Sequence[int]],
        examples: Sequence[Example],
        parameters: Mapping[str, nn.Parameter],
    ) -> Sequence[Sequence[int]]:
        """Deal a drawn batch out, each unit whole to one process; returns the units of this process."""

    def collect(self, optimizer: ClippingOptimizer) -> None:
        """Add the others' sums of the batch that was dealt to this process's."""


def train(
    model: AdapterModel,
    parameters: Mapping[str, nn.Parameter],
    task: Task,
    examples: Sequence[Example],
    units: Sequence[Sequence[int]],
    *,
    sampler: PoissonSampler,
    optimizer: SecretNoiseOptimizer,
    steps: int,
    micro_batch: int | Ladder,
    on_step: Callable[[int], None],
    helpers: Helpers | None = None,
) -> None:
    """Take `steps` noisy steps. Each takes one batch from the sampler, an empty one included.

    Args:
        parameters: What is trained, by name; exactly what the optimiser holds.
        examples: All records of the site.
        units: Record positions of every unit.
        on_step: Told the number of steps done; it learns nothing else.
        helpers: Other processes of this site that sum a part of every batch.
    """
    held = [id(parameter) for parameter in optimizer.params]
    if held != [id(parameter) for parameter in parameters.values()]:
        raise ValueError("the optimiser must hold exactly the trained arrays, in order")
    with per_record_gradients(model.module):
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            drawn = [units[index] for index in sampler.draw()]
            own = drawn if helpers is None else helpers.deal(drawn, examples, parameters)
            accumulate(model, task, examples, own, optimizer, micro_batch)
            if helpers is not None:
                helpers.collect(optimizer)
            optimizer.step()
            on_step(step)
