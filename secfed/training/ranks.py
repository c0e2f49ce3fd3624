"""One site on several devices: rank 0 is the client, the other ranks sum a part of every batch.

A launcher (`accelerate launch`, `torchrun`) starts the same command once a device. Rank 0 alone opens
keys, ledger, data and network, draws the batches and adds the noise. The others open the base model,
are told the plan, and for every step the trained arrays and the records of their units; they answer
with the sum of those units' clipped gradients.

How the claim stays what it is for one process: the sum over a batch is taken in parts. A unit is
dealt whole to one rank, which averages its records and clips it, by the same code. The batch is one
draw and the noise one draw, both at rank 0, on the whole sum; other ranks hold no secret stream and
nothing that could take a step. Where ranks disagree about plan, model, precision or versions, or one
of them is gone, nothing is released: the error comes before the charge, or the charge stands.

What they say to each other goes over `channel`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import secfed
from secfed.aggregation.registry import by_name
from secfed.aggregation.strategy import NamedArrays
from secfed.crypto.kdf import lengthed
from secfed.errors import SecfedError
from secfed.rounds.plan import DpSpec, TrainSpec
from secfed.training.adapter import AdapterModel, task_of
from secfed.training.channel import START_AGAIN, Channel
from secfed.training.dpsgd import ClippingOptimizer, accumulate, per_record_gradients
from secfed.training.models import weights_sha256
from secfed.training.pieces import Ladder
from secfed.training.spec import adapter_spec
from secfed.training.task import Example, Task
from secfed.training.trainer import MICRO_BATCH, Precision, ladder_of, load_model

__all__ = ["Team", "assist"]

_PLAN, _ROUND, _STEP, _ALIVE, _LEAVE = "plan", "round", "step", "alive", "leave"

_HERE, _NO = b"\x01" * 32, bytes(32)
"""What a rank answers that is asked whether it is there, and one that cannot load a job."""


class Team:
    """The other ranks, as rank 0 sees them (`dpsgd.Helpers`).

    Args:
        channel: Of rank 0.
        model_folder: Where this site keeps a base model, by its public id.
        precision: Of the frozen base, at every rank.
    """

    def __init__(self, channel: Channel, model_folder: Callable[[str], Path], precision: Precision) -> None:
        self._channel = channel
        self._model_folder = model_folder
        self._precision: Precision = precision
        self._dealt = 0
        self._busy = False

    def alive(self) -> None:
        """See that every rank still listens: asked before each charge.

        Raises:
            SecfedError: One is gone, or an earlier error left them out of step.
        """
        self._say(_ALIVE, {}, {})
        self._busy = not self._channel.alike(_HERE)
        if self._busy:
            raise SecfedError("the ranks of this site are out of step; nothing was sent", hint=START_AGAIN)

    def prepare(self, train: TrainSpec, dp: DpSpec, device: torch.device, ladder: Ladder) -> None:
        """Let every rank load a job's model, before anything is charged; this one has done so.

        Args:
            train: The job plan's training section.
            dp: Its privacy section.
            device: Where rank 0 holds the model.
            ladder: Shapes of the pieces at rank 0.

        Raises:
            SecfedError: A rank could not, or holds another one, but can be told of the next job; or a rank
                is gone, or an earlier error left them out of step.
        """
        facts = _facts(train, dp, self._model_folder(train.base.id), self._precision, device, ladder)
        self._say(_PLAN, {"train": train.model_dump_json(), "dp": dp.model_dump_json()}, {})
        alike = self._channel.alike(facts)
        self._busy = False  # all have answered, and wait for what comes next
        if not alike:
            raise SecfedError(
                "a rank of this site cannot load this job, or the ranks differ in base model, precision, "
                "kind of device, threads or versions; nothing was sent",
                hint="Start all ranks from one installation with one client.toml, on like devices.",
            )

    def begin(self, base: NamedArrays) -> None:
        """Give every rank a round's broadcast adapter."""
        self._say(_ROUND, {}, base)
        self._busy = False

    def deal(
        self,
        units: Sequence[Sequence[int]],
        examples: Sequence[Example],
        parameters: Mapping[str, nn.Parameter],
    ) -> Sequence[Sequence[int]]:
        """Give each rank its units of a drawn batch; returns those of rank 0."""
        shares = [units[rank :: self._channel.size] for rank in range(self._channel.size)]
        written = [[[asdict(examples[record]) for record in unit] for unit in share] for share in shares[1:]]
        arrays = {name: part.detach().cpu().numpy() for name, part in parameters.items()}
        self._say(_STEP, {"shares": written}, arrays)
        self._dealt = len(units)
        return shares[0]

    def collect(self, optimizer: ClippingOptimizer) -> None:
        """Add the sums of the other ranks to this one's.

        Raises:
            SecfedError: A rank is gone, or units of the batch are missing in the sum.
        """
        own = optimizer.flat_sum()
        count = -(-self._dealt // self._channel.size)
        total = self._channel.total(np.append(own, float(count)))
        if total[-1] != self._dealt:
            raise SecfedError("units of a batch are missing in the ranks' sum; nothing was sent")
        optimizer.put_sum(total[:-1])
        self._busy = False

    def close(self) -> None:
        """Send the other ranks home; where they are out of step, they go once this process ends."""
        if not self._busy:
            with contextlib.suppress(SecfedError):  # they are gone already
                self._channel.say(_LEAVE, {}, {})
        self._channel.close()

    def _say(self, kind: str, said: Mapping[str, Any], arrays: NamedArrays) -> None:
        if self._busy:
            raise SecfedError(
                "an earlier error left the ranks of this site out of step; nothing was sent", hint=START_AGAIN
            )
        self._busy = True  # until all have heard it, and answered where that is due
        self._channel.say(kind, said, arrays)


def assist(
    channel: Channel,
    model_folder: Callable[[str], Path],
    *,
    device: str,
    precision: Precision,
    micro_batch: int = MICRO_BATCH,
    on_refusal: Callable[[SecfedError], None] = lambda _: None,
) -> None:
    """What a rank other than 0 does, until it is sent home.

    Args:
        channel: Of this rank.
        model_folder: Where this site keeps a base model, by its public id.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: Of the frozen base.
        micro_batch: Records that go through the model at once.
        on_refusal: Told why a job could not be loaded here; the site declines it, and goes on.

    Raises:
        SecfedError: Rank 0 is gone.
    """
    part: _Part | None = None
    said, arrays = channel.hear()
    while said["kind"] != _LEAVE:
        if said["kind"] == _PLAN:
            part = None  # the former job's model makes room before the next one is loaded
            train = TrainSpec.model_validate_json(said["train"])
            dp = DpSpec.model_validate_json(said["dp"])
            facts = _NO
            try:
                folder = model_folder(train.base.id)
                part = _Part(train, dp, folder, device, precision, micro_batch)
                facts = _facts(train, dp, folder, precision, part.device, part.ladder)
            except SecfedError as problem:
                on_refusal(problem)
            if not channel.alike(facts):
                part = None
            said, arrays = channel.hear()
        elif said["kind"] == _ALIVE:
            channel.alike(_HERE)
            said, arrays = channel.hear()
        elif said["kind"] == _ROUND and part is not None:
            said, arrays = part.run(channel, arrays)
        else:
            raise SecfedError("rank 0 speaks of a round before its plan")
    channel.close()


class _Part:
    """A job's model at a rank that only sums."""

    def __init__(
        self,
        train: TrainSpec,
        dp: DpSpec,
        folder: Path,
        device: str,
        precision: Precision,
        micro_batch: int,
    ) -> None:
        self._clip = float(dp.clip)
        self._names = by_name(train.strategy).trainable(train.adapter)
        self._task: Task = task_of(adapter_spec(train), folder, train.max_length, train.preference)
        self._model: AdapterModel = load_model(train, dp, folder, device=device, precision=precision)
        self.ladder = ladder_of(self._model, self._task, train, dp, precision, micro_batch)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._model.device

    def run(self, channel: Channel, base: NamedArrays) -> tuple[dict[str, Any], NamedArrays]:
        """Sum the shares of a round's steps; returns what rank 0 says after them."""
        model, point = self._model, self._model.point
        model.load(base)
        self._task.begin(model.module)
        with model.trainable(self._names) as parameters, per_record_gradients(model.module):
            optimizer = ClippingOptimizer(
                torch.optim.SGD(parameters.values(), lr=0.0),
                clip=self._clip,
                point=None if point is None else point.value,
            )
            said, arrays = channel.hear()
            while said["kind"] == _STEP:
                with torch.no_grad():
                    for name, parameter in parameters.items():
                        parameter.copy_(torch.from_numpy(arrays[name]))
                share = said["shares"][channel.rank - 1]
                examples, units = _read(share)
                optimizer.zero_grad()
                accumulate(model, self._task, examples, units, optimizer, self.ladder)
                channel.total(np.append(optimizer.flat_sum(), float(len(units))))
                said, arrays = channel.hear()
        return said, arrays


def _read(share: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[list[Example], list[tuple[int, ...]]]:
    """Records that rank 0 wrote, and the units by positions among them."""
    examples: list[Example] = []
    units = []
    for unit in share:
        first = len(examples)
        examples += [_example(record) for record in unit]
        units.append(tuple(range(first, len(examples))))
    return examples, units


def _example(written: Mapping[str, Any]) -> Example:
    """The inverse of `asdict`."""
    return Example(
        tuple(written["tokens"]),
        tuple(written["targets"]),
        cut=written["cut"],
        rejected=None if written["rejected"] is None else _example(written["rejected"]),
        desirable=written["desirable"],
        beside=None if written["beside"] is None else _example(written["beside"]),
    )


def _facts(
    train: TrainSpec, dp: DpSpec, folder: Path, precision: Precision, device: torch.device, ladder: Ladder
) -> bytes:
    """A digest of what all ranks must have alike, 32 bytes.

    Unlike devices, and unlike numbers of threads, may round equal records differently.
    """
    libraries = ("opacus", "peft", "torch", "transformers")
    versions = [secfed.__version__, *map(importlib.metadata.version, libraries)]
    shapes = [ladder.size, ladder.longest, sorted(ladder.alone), sorted(ladder.apart)]
    machine = [device.type, str(torch.get_num_threads()), repr(shapes)]
    if device.type == "cuda":
        machine += [torch.cuda.get_device_name(device), str(torch.cuda.get_device_capability(device))]
    plan = (train.model_dump_json(), dp.model_dump_json())
    parts = (*plan, weights_sha256(folder), precision, *versions, *machine)
    return hashlib.sha256(lengthed(*(part.encode() for part in parts))).digest()
