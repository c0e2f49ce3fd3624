"""One local run of one round: from the broadcast adapter to the update and its event.

The run takes nothing from the site but its rows and its secret streams, and gives nothing but the
update, the event actually performed, and how many coordinates were clamped after the noise. No
loss, norm, batch size or row count leaves it.

Before it returns, it looks at the whole model: whatever changed must have been noised, and the
adapter must have moved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secfed.aggregation.registry import by_name
from secfed.aggregation.strategy import POINT, NamedArrays, Strategy
from secfed.errors import SecfedError
from secfed.privacy.events import Event
from secfed.rounds.plan import DpSpec, TrainSpec
from secfed.rounds.ports import Update
from secfed.training import dpsgd, guard, probe
from secfed.training.adapter import AdapterModel, build, task_of
from secfed.training.data import Table, Units, group
from secfed.training.dpsgd import Helpers
from secfed.training.pieces import Ladder
from secfed.training.point import WithPoint
from secfed.training.random import PoissonSampler, Streams
from secfed.training.spec import ADAM_BETAS, adapter_spec, planned_event, update_bound
from secfed.training.task import Example, Task

__all__ = ["LocalTrainer", "Precision", "clamp", "ladder_of", "load_model"]

Precision: TypeAlias = Literal["float32", "bfloat16"]
"""How the frozen base's numbers are kept at one site; adapters are float32, clipping and noise float64."""

MICRO_BATCH = 16
"""Records that go through the model at once: a matter of memory, not of the result."""


class LocalTrainer:
    """Trains one job at one site, round after round, on a model that is loaded once.

    Args:
        train: The job plan's training section.
        dp: The plan's privacy section; None for a job without differential privacy, whose event
            is `non_private`.
        base_folder: Where the base model lies here.
        table: The site's rows, in a format of the trainer.
        key: 32 secret bytes of the site, for the choice of a person's records.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: Threads of torch on the CPU, for the whole process; None leaves them.
        micro_batch: Records that go through the model at once.
        precision: Of the frozen base; a site's own choice.
        helpers: Other processes that sum a part of every private batch; they know this job's model.

    Raises:
        ConfigError: Base model, tokenizer, target modules or device do not fit, or the model couples
            records or does not take the plan's longest row.
        DataError: A person's column is needed.
    """

    def __init__(
        self,
        train: TrainSpec,
        dp: DpSpec | None,
        base_folder: Path,
        table: Table,
        key: bytes,
        *,
        device: str = "auto",
        threads: int | None = None,
        micro_batch: int = MICRO_BATCH,
        precision: Precision = "float32",
        helpers: Helpers | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        spec = adapter_spec(train)
        self._train = train
        self._dp = dp
        self._strategy: Strategy = by_name(train.strategy)
        self._task: Task = task_of(spec, base_folder, train.max_length, train.preference)
        self._units: Units = (
            group(table, "record", 1, key) if dp is None else group(table, dp.unit, dp.records_per_unit, key)
        )
        self._examples, self._units = _tokenise(table, self._units, self._task)
        self._model = load_model(train, dp, base_folder, device=device, precision=precision)
        self._micro_batch = micro_batch
        self._ladder = (
            None if dp is None else ladder_of(self._model, self._task, train, dp, precision, micro_batch)
        )
        self._helpers = helpers

    @property
    def model(self) -> AdapterModel:
        """The model as the last run or `load` left it; for evaluation on public rows."""
        return self._model

    @property
    def ladder(self) -> Ladder | None:
        """Which shapes pieces of private batches have; None where nothing is private."""
        return self._ladder

    @property
    def task(self) -> Task:
        """The trainer's task; for evaluation on public rows."""
        return self._task

    def run(
        self,
        base: NamedArrays,
        *,
        bound: float | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
        on_step: Callable[[int], None] = lambda _: None,
    ) -> Update:
        """Train one round. Under DP its event must have been reserved, durably, before this is called.

        Args:
            base: The broadcast adapter, whole.
            bound: The plan's bound. Under DP coordinates beyond it are clamped, after the noise;
                without DP nothing is clamped.
            entropy: Where the keys of the secret streams come from.
            on_step: Told how many steps are done.

        Returns:
            The contribution by the names of the plan's layout, with the event that was performed.

        Raises:
            SecfedError: Something moved that was not noised, the adapter did not move, or it is
                not finite. Nothing may be sent then; the charge stands.
        """
        self._model.load(base)
        self._task.begin(self._model.module)
        names = self._strategy.trainable(base)
        before = _fingerprints(self._model.module)
        with self._model.trainable(names) as parameters:
            if self._dp is None:
                self._run_plain(parameters, Streams.fresh(entropy), on_step)
                event = planned_event(self._train, None)
            else:
                event = self._run_private(parameters, self._dp, Streams.fresh(entropy), on_step)
        after = self._model.arrays()
        self._check_moves(before, names, base, after)
        update = self._strategy.contribution(base, after)
        if self._dp is None or bound is None:
            return Update(update, weight=1, saturated=0, event=event)
        clamped, count = clamp(update, bound)
        return Update(clamped, weight=1, saturated=count, event=event)

    def _run_private(
        self,
        parameters: Mapping[str, nn.Parameter],
        dp: DpSpec,
        streams: Streams,
        on_step: Callable[[int], None],
    ) -> Event:
        """DP-SGD; returns the event that the sampler vouches for."""
        if self._ladder is None:
            raise ValueError("a private job has a ladder")
        sampler = PoissonSampler(len(self._units), dp.sampling_num, streams.sampling)
        optimizer = dpsgd.SecretNoiseOptimizer(
            self._inner(parameters),
            noise_multiplier=float(dp.noise_multiplier),
            clip=float(dp.clip),
            batch=dp.batch,
            noise=streams.noise,
            point=None if self._model.point is None else self._model.point.value,
        )
        dpsgd.train(
            self._model,
            parameters,
            self._task,
            self._examples,
            self._units,
            sampler=sampler,
            optimizer=optimizer,
            steps=self._train.steps,
            micro_batch=self._ladder,
            on_step=on_step,
            helpers=self._helpers,
        )
        event = sampler.event(
            noise_multiplier=dp.noise_multiplier,
            relation=dp.relation,
            unit=dp.unit,
            records_per_unit=dp.records_per_unit,
        )
        if event != planned_event(self._train, dp):
            raise SecfedError(
                "what was trained is not what the plan says and the ledger holds; nothing was sent"
            )
        return event

    def _run_plain(
        self, parameters: Mapping[str, nn.Parameter], streams: Streams, on_step: Callable[[int], None]
    ) -> None:
        """Steps without noise, for a job whose event says so."""
        inner = self._inner(parameters)
        for step in range(1, self._train.steps + 1):
            keys = streams.sampling.words(len(self._units))
            chosen = np.argsort(keys)[: self._train.plain_batch]
            records = [record for index in chosen for record in self._units[index]]
            inner.zero_grad()
            for start in range(0, len(records), self._micro_batch):
                piece = records[start : start + self._micro_batch]
                batch = self._task.collate([self._examples[record] for record in piece])
                on_device = {name: part.to(self._model.device) for name, part in batch.items()}
                losses = self._task.losses(self._model.module, on_device)
                torch.autograd.backward(losses.sum() / len(records))
            inner.step()
            on_step(step)

    def _inner(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser that works after the noise; its state lasts one round."""
        rate, point = float(self._train.learning_rate), self._model.point
        arrays = [parameter for name, parameter in parameters.items() if name != POINT]
        inner: torch.optim.Optimizer
        if self._train.optimizer == "sgd":
            inner = torch.optim.SGD(arrays, lr=rate)
        else:
            inner = torch.optim.AdamW(arrays, lr=rate, betas=ADAM_BETAS, weight_decay=0.0)
        return inner if point is None else WithPoint(inner, point)

    def _check_moves(
        self,
        before: Mapping[int, int],
        names: Sequence[str],
        base: NamedArrays,
        after: NamedArrays,
    ) -> None:
        """Refuse to go on if a tensor moved that carries no noise, or if the adapter stayed."""
        allowed = {id(self._model.parameters[name]) for name in names}
        now = _fingerprints(self._model.module)
        if any(now.get(key) != before[key] for key in before if key not in allowed):
            raise SecfedError("training changed a tensor that carries no noise; nothing was sent")
        for name in names:
            if not np.isfinite(after[name]).all():
                raise SecfedError(f"training made {name!r} infinite; nothing was sent")
        if all(np.array_equal(after[name], base[name]) for name in names if name != POINT):
            raise SecfedError("training did not move the adapter; nothing was sent")


def load_model(
    train: TrainSpec, dp: DpSpec | None, folder: Path, *, device: str, precision: Precision
) -> AdapterModel:
    """The model of a job, held against what per-unit gradients need.

    It is loaded and looked at in float32 in any case: only then rounding does not hide coupling.

    Raises:
        ConfigError: See `adapter.build` and `guard.inspect`.
    """
    model = build(adapter_spec(train), folder, device=device)
    if model.point is not None:
        model.point.scale(bound=update_bound(train, dp), clip=1.0 if dp is None else float(dp.clip))
    names = by_name(train.strategy).trainable(train.adapter)
    with model.trainable(names) as parameters:
        guard.inspect(model.module, parameters, max_length=train.max_length)
    if precision == "bfloat16":
        model.round_base()
    return model


def ladder_of(
    model: AdapterModel, task: Task, train: TrainSpec, dp: DpSpec, precision: Precision, micro_batch: int
) -> Ladder:
    """The shapes of a private job's pieces; every one of them went through the model.

    With a base in bfloat16, or where a round has few records, each of them goes through it by itself.

    Raises:
        ConfigError: See `probe.look`.
    """
    return probe.look(
        model,
        task,
        by_name(train.strategy).trainable(train.adapter),
        size=1 if precision == "bfloat16" else micro_batch,
        max_length=train.max_length,
        records_per_unit=dp.records_per_unit,
        records=train.steps * dp.batch,
    )


def clamp(update: NamedArrays, bound: float) -> tuple[dict[str, NDArray[np.float32]], int]:
    """Cut every coordinate to [-bound, bound]; returns the arrays and how many were cut.

    The largest float32 within the bound is used, so that the result never exceeds it.
    """
    limit = np.float32(bound)
    if float(limit) > bound:
        limit = np.nextafter(limit, np.float32(0))
    cut = {name: np.clip(value, -limit, limit) for name, value in update.items()}
    return cut, sum(int((np.abs(value) > limit).sum()) for value in update.values())


def _tokenise(table: Table, units: Units, task: Task) -> tuple[list[Example], Units]:
    """Examples of the rows that units hold, and the units by positions among them."""
    used = [row for unit in units for row in unit]
    examples = [task.example(table.rows[row]) for row in used]
    places = {row: place for place, row in enumerate(used)}
    return examples, tuple(tuple(places[row] for row in unit) for unit in units)


def _fingerprints(module: nn.Module) -> dict[int, int]:
    """A sum over the bits of every parameter and buffer: cheap, and any stray update shows in it."""
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    return {id(tensor): _bit_sum(tensor.detach()) for tensor in tensors}


def _bit_sum(tensor: Tensor) -> int:
    """The sum of a tensor's bytes, four at a time where its type allows."""
    flat = tensor.contiguous().view(-1)
    wide = flat.view(torch.int32) if flat.element_size() % 4 == 0 else flat.view(torch.uint8)
    return int(wide.sum(dtype=torch.int64))
