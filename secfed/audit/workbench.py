"""What the mechanism audit works on: a model, made-up rows, and the training loop around them.

The model computes in double precision. In single precision the gradient of a row that the model is sure
of is mostly rounding, which depends on the rows beside it; made as loud as C it would hide whether
anything else does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secfed.aggregation.registry import by_name
from secfed.aggregation.spec import AdapterSpec
from secfed.aggregation.strategy import POINT
from secfed.audit.canary import WORDS, invent
from secfed.errors import LedgerError, SecfedError
from secfed.rounds.plan import DpoSpec, DpSpec, KtoSpec
from secfed.training import dpsgd
from secfed.training.adapter import build, task_of
from secfed.training.point import SHARE
from secfed.training.random import PoissonSampler, Streams
from secfed.training.task import Example, Task

__all__ = ["ROWS", "Bench", "ClippedSum", "Mechanism", "made_up_pairs"]

_MICRO_BATCH = 16
"""Rows that go through the model at once, where a logical batch is not cut at random."""

_NO_CLIP = 1e12
"""A clipping norm that no gradient of a made-up row reaches."""

_LENGTH = 8
"""Words of a made-up text."""

ClippedSum = Callable[[Sequence[Sequence[int]], float, int], NDArray[np.float64]]
"""Units, factor of the losses and micro-batch to a logical batch's sum, flat, in double precision."""

ROWS = 24
"""Made-up rows that units are formed of."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """What is audited: an adapter on a base model, and the privacy section of a plan.

    Attributes:
        adapter: What is trained.
        base_folder: Where its base model lies.
        strategy: Which arrays of the adapter are trained, by the strategy's name.
        dp: Noise, clipping norm, sampling rate and unit.
        max_length: Longest row in tokens.
        preference: The loss of `dpo` and `kto`; if a point rides along with it, `adapter` says so too.
    """

    adapter: AdapterSpec
    base_folder: Path
    strategy: str
    dp: DpSpec
    max_length: int = 64
    preference: DpoSpec | KtoSpec | None = None


def made_up_pairs(count: int = 4) -> Iterator[tuple[str, str]]:
    """Prompts and completions in the place of a plan's public ones, for a point that rides along."""
    for row in invent("kto", count, words=WORDS, length=_LENGTH):
        yield str(row["prompt"]), str(row["completion"])


class _Louder:
    """A task whose losses count `factor` times: it makes gradients of any size, by the same code."""

    def __init__(self, task: Task, factor: float) -> None:
        self._task = task
        self._factor = factor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def losses(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The task's own, times the factor."""
        return self._task.losses(module, batch) * self._factor


class Bench:
    """A model with an adapter drawn at random, made-up rows, and the training loop around them."""

    def __init__(self, mechanism: Mechanism, device: str, entropy: Callable[[int], bytes]) -> None:
        spec = mechanism.adapter
        self.dp = mechanism.dp
        self.clip = float(self.dp.clip)
        self.sigma = float(self.dp.noise_multiplier)
        self.entropy = entropy
        self.random = np.random.default_rng(int.from_bytes(entropy(16), "big"))  # trials, no secret
        self.model = build(spec, mechanism.base_folder, device=device)
        self.model.module.double()  # see above: rounding shall not stand in for coupling
        if self.model.point is not None:
            self.model.point.scale(bound=1.0, clip=self.clip)
        self.task = task_of(spec, mechanism.base_folder, mechanism.max_length, mechanism.preference)
        rows = invent(spec.trainer, ROWS, labels=spec.labels, words=WORDS, length=_LENGTH, entropy=entropy)
        self.examples = [self.task.example(row) for row in rows]
        shapes = {name: tuple(part.shape) for name, part in self.model.parameters.items()}
        self.names = by_name(mechanism.strategy).trainable(shapes)
        self.coordinates = sum(math.prod(shapes[name]) for name in self.names)
        self.adapter = {
            name: self.random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()
        }

    def begin(self) -> None:
        """Load the adapter, as a round does."""
        self.model.load(self.adapter)
        self.task.begin(self.model.module)

    def release(
        self,
        examples: Sequence[Example],
        units: Sequence[Sequence[int]],
        *,
        key: bytes,
        sampling_num: int,
        steps: int,
        factor: float = 1.0,
    ) -> tuple[NDArray[np.float64], int, float]:
        """Train, and read off what the optimiser was given, in units of C.

        Args:
            key: 32 bytes that all streams of the run come from; the same key gives the same noise.

        Returns:
            The sum over all steps, shape (coordinates,); steps that the sampler vouches for; and a
            bound on the norm of what single precision rounds away.
        """
        self.begin()
        streams = Streams.fresh(lambda _count: key)  # each stream derives its own from it
        sampler = PoissonSampler(len(units), sampling_num, streams.sampling)
        with self.model.trainable(self.names) as parameters:
            optimizer = self._optimizer(parameters, streams)
            dpsgd.train(
                self.model,
                parameters,
                cast(Task, _Louder(self.task, factor)),
                examples,
                units,
                sampler=sampler,
                optimizer=optimizer,
                steps=steps,
                micro_batch=_MICRO_BATCH,
                on_step=lambda _done: None,
            )
        after = self.model.arrays()
        there = _flat(after, self.names)
        released = _flat(self.adapter, self.names) - there
        lost = (2 * np.linalg.norm(released) + np.linalg.norm(there)) * np.finfo(np.float32).eps
        grid = self.sigma * math.sqrt(self.coordinates) * 2.0**-24
        return released, self._charged(sampler), float(lost + grid)

    def _charged(self, sampler: PoissonSampler) -> int:
        """Steps of the event that a sampler vouches for; 0 if it vouches for none."""
        try:
            return sampler.event(
                noise_multiplier=self.dp.noise_multiplier,
                relation=self.dp.relation,
                unit=self.dp.unit,
                records_per_unit=self.dp.records_per_unit,
            ).steps
        except LedgerError:
            return 0

    @contextmanager
    def summing(self, clip: float) -> Iterator[ClippedSum]:
        """What sums clipped gradients of made-up rows, without noise, on the adapter as it starts out."""
        self.begin()
        with self.model.trainable(self.names) as parameters, dpsgd.per_record_gradients(self.model.module):
            optimizer = self._optimizer(parameters, Streams.fresh(self.entropy), clip=clip)

            def clipped_sum(
                units: Sequence[Sequence[int]], factor: float, micro_batch: int
            ) -> NDArray[np.float64]:
                optimizer.zero_grad()
                louder = cast(Task, _Louder(self.task, factor))
                dpsgd.accumulate(self.model, louder, self.examples, units, optimizer, micro_batch)
                parts: list[Tensor] = [parameter.summed_grad for parameter in optimizer.params]
                return np.concatenate([part.cpu().numpy().ravel() for part in parts])

            yield clipped_sum

    @property
    def riding(self) -> int | None:
        """Where among a release's coordinates the point stands that rides along, if one does."""
        if self.model.point is None:
            return None
        before = self.names[: self.names.index(POINT)]
        return sum(self.adapter[name].size for name in before)

    def saturating(self, record: int) -> float:
        """The factor of a record's loss at which all that is clipped by itself is as long as it may be."""
        with self.summing(_NO_CLIP) as clipped_sum:
            gradient = clipped_sum([(record,)], 1.0, 1)
        riding = self.riding
        if riding is None:
            needed = [(self.clip, float(np.linalg.norm(gradient)))]
        else:
            others = float(np.linalg.norm(np.delete(gradient, riding)))
            needed = [(self.clip, others), (SHARE * self.clip, abs(float(gradient[riding])))]
        if not all(math.isfinite(norm) and norm > 0 for _, norm in needed):
            raise SecfedError(
                "a made-up row has no gradient, so that clipping cannot be measured",
                hint="Audit with the small model, or with another base model.",
            )
        return max(clip / norm for clip, norm in needed)

    def _optimizer(
        self, parameters: Mapping[str, nn.Parameter], streams: Streams, clip: float | None = None
    ) -> dpsgd.SecretNoiseOptimizer:
        """The optimiser of a round; its step is the noisy sum, in units of C."""
        return dpsgd.SecretNoiseOptimizer(
            torch.optim.SGD(parameters.values(), lr=self.dp.batch / self.clip),
            noise_multiplier=self.sigma,
            clip=self.clip if clip is None else clip,
            batch=self.dp.batch,
            noise=streams.noise,
            point=None if self.model.point is None else self.model.point.value,
        )


def _flat(arrays: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> NDArray[np.float64]:
    """The named arrays as one vector, in double precision."""
    return np.concatenate([arrays[name].astype(np.float64).ravel() for name in names])
