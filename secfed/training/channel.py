"""What the ranks of one site say to each other: over the loopback interface, once they have met by a file.

What they say is private data, and is not encrypted. So they are processes of one machine, and the file
lies in the site's private folder. Any process of the machine can reach their sockets; so each first
shows that it has read that file.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import Tensor
from torch.distributed import BroadcastOptions, ProcessGroupGloo, ReduceOptions
from torch.distributed import FileStore as Meeting  # type: ignore[attr-defined]  # missing in its stubs

from secfed.aggregation.strategy import NamedArrays
from secfed.crypto.kdf import KEY_BYTES, derive
from secfed.crypto.labels import Label
from secfed.errors import SecfedError

__all__ = ["START_AGAIN", "Channel"]

START_AGAIN = "Start them again."
"""What is to be done about ranks that are gone or out of step."""

_JOINING = timedelta(seconds=600)
"""How long a rank waits for all others to start: at rank 0 a person may have to type a passphrase."""

_PATIENCE = timedelta(days=3650)
"""How long it waits afterwards: as long as a federation has no job. One that is gone is noticed."""

_ENTRY = "secfed-secret"
"""Where the meeting's file keeps what each rank must know."""


class Channel:
    """What the ranks of one site say to each other.

    Args:
        rank: This process's number, from 0.
        size: How many there are, at least 2.
        meeting: A file that is not there yet, the same for all, in a folder of the site's user alone; it is
            gone once all have met.
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
        if rank == 0:
            meeting.unlink(missing_ok=True)  # all have read it: its secret need not outlive the greeting
        self._group.set_timeout(_PATIENCE)
        self._from_first, self._to_first = BroadcastOptions(), ReduceOptions()
        self._from_first.rootRank = self._to_first.rootRank = 0

    def close(self) -> None:
        """Hang up."""
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


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """A rank that is gone ends the round, and not the client with a traceback."""
    try:
        yield
    except RuntimeError as problem:
        raise SecfedError(
            "another rank of this site is gone; nothing was sent", hint=START_AGAIN
        ) from problem
