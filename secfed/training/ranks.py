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

What the ranks say to each other is private data, and is not encrypted. So they are processes of one
machine: they speak over the loopback interface, and meet through a file in the site's private folder.
Any process of the machine can reach their sockets; so each first shows that it has read that file.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import importlib.metadata
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import Tensor, nn
from torch.distributed import BroadcastOptions, ProcessGroupGloo, ReduceOptions
from torch.distributed import FileStore as Meeting  # type: ignore[attr-defined]  # missing in its stubs

import secfed
from secfed.aggregation.registry import by_name
from secfed.aggregation.strategy import NamedArrays
from secfed.crypto.kdf import KEY_BYTES, derive, lengthed
from secfed.crypto.labels import Label
from secfed.errors import SecfedError
from secfed.rounds.plan import DpSpec, TrainSpec
from secfed.training.adapter import AdapterModel, task_of
from secfed.training.dpsgd import ClippingOptimizer, accumulate, per_record_gradients
from secfed.training.models import weights_sha256
from secfed.training.spec import adapter_spec
from secfed.training.task import Example, Task
from secfed.training.trainer import MICRO_BATCH, Precision, load_model, records_at_once

__all__ = ["Channel", "Team", "assist"]

_JOINING = timedelta(seconds=600)
"""How long a rank waits for all others to start: at rank 0 a person may have to type a passphrase."""

_PATIENCE = timedelta(days=3650)
"""How long it waits afterwards: as long as a federation has no job. One that is gone is noticed."""

_PLAN, _ROUND, _STEP, _ALIVE, _LEAVE = "plan", "round", "step", "alive", "leave"

_AGAIN = "Start them again."

_ENTRY = "secfed-secret"
"""Where the meeting's file keeps what each rank must know."""

_HERE, _NO = b"\x01" * 32, bytes(32)
"""What a rank answers that is asked whether it is there, and one that cannot load a job."""


class Channel:
    """What the ranks of one site say to each other.

    Args:
        rank: This process's number, from 0.
        size: How many there are, at least 2.
        meeting: A file that is not there yet, the same for all, in a folder of the site's user alone.
        joining: How long the others may take to start.

    Raises:
        SecfedError: They did not all come in time, or something else spoke in the place of one.
    """

    def __init__(self, rank: int, size: int, meeting: Path, *, joining: timedelta = _JOINING) -> None:
        if not (size >= 2 and 0 <= rank < size):
            raise ValueError("ranks are numbered from 0, and at least two")
        self.rank, self.size = rank, size
        options: Any = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        options._timeout = joining
        with _together():
            store = Meeting(str(meeting), size)
            store.set_timeout(joining)
            if rank == 0:
                store.set(_ENTRY, secrets.token_hex(KEY_BYTES))
            secret = bytes.fromhex(store.get(_ENTRY).decode())
            self._group: Any = ProcessGroupGloo(store, rank, size, options)
        self._greet(secret)
        self._group.set_timeout(_PATIENCE)
        self._from_first, self._to_first = BroadcastOptions(), ReduceOptions()
        self._from_first.rootRank = self._to_first.rootRank = 0

    def close(self) -> None:
        """Hang up; the last rank that does takes the meeting's file away."""
        self._group = None

    def say(self, kind: str, said: Mapping[str, Any], arrays: NamedArrays) -> None:
        """Tell all other ranks; of rank 0."""
        text = json.dumps({"kind": kind} | dict(said)).encode()
        packed = save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        self._broadcast(torch.tensor([len(text), len(packed)]))
        self._broadcast(torch.frombuffer(bytearray(text + packed), dtype=torch.uint8))

    def hear(self) -> tuple[dict[str, Any], NamedArrays]:
        """What rank 0 says next; of the others."""
        lengths = self._broadcast(torch.zeros(2, dtype=torch.int64)).tolist()
        data = self._broadcast(torch.zeros(sum(lengths), dtype=torch.uint8)).numpy().tobytes()
        said: dict[str, Any] = json.loads(data[: lengths[0]])
        return said, load_arrays(data[lengths[0] :])

    def alike(self, digest: bytes) -> bool:
        """Whether all ranks hold the same 32 bytes; every rank learns the same answer.

        Raises:
            SecfedError: A rank is gone.
        """
        return all(each == digest for each in self._gather(digest))

    def total(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of all ranks' vectors, at rank 0; shape (coordinates,)."""
        part = torch.from_numpy(vector.copy())
        with _together():
            self._group.reduce([part], self._to_first).wait()
        return part.numpy()

    def _greet(self, secret: bytes) -> None:
        """Show the others that this process read the meeting's file, and see that each of them did."""
        due = [derive(secret, Label.RANK_GREETING, str(rank).encode()) for rank in range(self.size)]
        for heard, greeting in zip(self._gather(due[self.rank]), due, strict=True):
            if not hmac.compare_digest(heard, greeting):
                self.close()
                raise SecfedError(
                    "a process that is none of this site's ranks spoke to them; nothing was sent"
                )

    def _gather(self, own: bytes) -> list[bytes]:
        """What each rank says, by its number; all say equally many bytes."""
        part = torch.frombuffer(bytearray(own), dtype=torch.uint8)
        heard = [torch.zeros_like(part) for _ in range(self.size)]
        with _together():
            self._group.allgather([heard], [part]).wait()
        return [each.numpy().tobytes() for each in heard]

    def _broadcast(self, part: Tensor) -> Tensor:
        with _together():
            self._group.broadcast([part], self._from_first).wait()
        return part


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
            raise SecfedError("the ranks of this site are out of step; nothing was sent", hint=_AGAIN)

    def prepare(self, train: TrainSpec, dp: DpSpec, device: torch.device) -> None:
        """Let every rank load a job's model, before anything is charged; this one has done so.

        Args:
            train: The job plan's training section.
            dp: Its privacy section.
            device: Where rank 0 holds the model.

        Raises:
            SecfedError: A rank could not, or holds another one, but can be told of the next job; or a rank
                is gone, or an earlier error left them out of step.
        """
        facts = _facts(train, dp, self._model_folder(train.base.id), self._precision, device)
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
                "an earlier error left the ranks of this site out of step; nothing was sent", hint=_AGAIN
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
                facts = _facts(train, dp, folder, precision, part.device)
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
        self._micro_batch = records_at_once(dp, precision, micro_batch)

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
                accumulate(model, self._task, examples, units, optimizer, self._micro_batch)
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


def _facts(train: TrainSpec, dp: DpSpec, folder: Path, precision: Precision, device: torch.device) -> bytes:
    """A digest of what all ranks must have alike, 32 bytes.

    Unlike devices, and unlike numbers of threads, may round equal records differently.
    """
    libraries = ("opacus", "peft", "torch", "transformers")
    versions = [secfed.__version__, *map(importlib.metadata.version, libraries)]
    machine = [device.type, str(torch.get_num_threads())]
    if device.type == "cuda":
        machine += [torch.cuda.get_device_name(device), str(torch.cuda.get_device_capability(device))]
    plan = (train.model_dump_json(), dp.model_dump_json())
    parts = (*plan, weights_sha256(folder), precision, *versions, *machine)
    return hashlib.sha256(lengthed(*(part.encode() for part in parts))).digest()


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """A rank that is gone ends the round, and not the client with a traceback."""
    try:
        yield
    except RuntimeError as problem:
        raise SecfedError("another rank of this site is gone; nothing was sent", hint=_AGAIN) from problem
