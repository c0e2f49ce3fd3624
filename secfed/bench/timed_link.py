"""A client's link with a clock: what it was asked and what it said, when, and in how many bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from secfed.bench.roundtrip import OUTCOME, Journey
from secfed.bench.seats import ENCODE
from secfed.identity.signed import Signed
from secfed.ids import Digest
from secfed.rounds.exchange import Ask, Offer, Said, Told
from secfed.secagg.messages import (
    Adverts,
    Bundles,
    Ciphertexts,
    ConfirmRequest,
    OpenAttempt,
    OutcomeNotice,
    Phase,
    UnmaskRequest,
)
from secfed.transport import chunks
from secfed.transport.client import Connection
from secfed.wire import calls, sums

__all__ = ["Listener", "SilentError", "Stay", "Step", "TimedLink", "counted"]

_STAGES: dict[type, str] = {
    OpenAttempt: Phase.ADVERTISE.value,
    Adverts: Phase.ENCAPSULATE.value,
    Ciphertexts: Phase.SHARE.value,
    Bundles: Phase.MASK.value,
    ConfirmRequest: Phase.CONFIRM.value,
    UnmaskRequest: Phase.UNMASK.value,
    OutcomeNotice: OUTCOME,
}


@dataclass(slots=True)
class Step:
    """One request and its answer.

    Attributes:
        asked_s: When it was told.
        said_s: When the call that answers began.
        sent_s: When the last piece of an upload was taken over by gRPC; of any other call `said_s`.
        bytes_up: Of the answer with its hello, as gRPC was given it.
    """

    stage: str
    asked_s: float
    bytes_down: int
    said_s: float = 0.0
    sent_s: float = 0.0
    bytes_up: int = 0

    @property
    def own_s(self) -> float:
        """What it took, without waiting for anybody."""
        return self.sent_s - self.asked_s


@dataclass(slots=True)
class Stay:
    """One client in one round."""

    steps: list[Step] = field(default_factory=list)
    calls: list[tuple[float, float]] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether it heard of the round's end."""
        return any(step.stage == OUTCOME for step in self.steps)

    @property
    def begun(self) -> float:
        """When an attempt was opened."""
        return self._asked(Phase.ADVERTISE.value)

    @property
    def ended(self) -> float:
        """When it heard of the end."""
        return self._asked(OUTCOME)

    def _asked(self, stage: str) -> float:
        return next(step.asked_s for step in self.steps if step.stage == stage)

    def journey(self, empty_s: float) -> Journey:
        """Where the time went, between its first request and the end that it heard of."""
        inside = [(begin, end) for begin, end in self.calls if end > self.begun and begin < self.ended]
        in_calls = sum(end - begin for begin, end in inside)
        upload_s = sum(step.sent_s - step.said_s for step in self.steps)
        return Journey(
            wall_s=self.ended - self.begun,
            protocol_s=self.ended - self.begun - in_calls,
            wire_s=upload_s + sum(min(empty_s, end - begin) for begin, end in inside),
        )


class SilentError(Exception):
    """This member is lost from here on: it says nothing more."""


class Listener(Protocol):
    """Whoever hears what a client is about, in the moment."""

    def asked(self, number: int, stage: str) -> None:
        """A client was told something."""

    def uploading(self, number: int) -> None:
        """A client begins to send its vector."""

    def uploaded(self, number: int) -> None:
        """The call with the vector has ended."""

    def over(self, number: int) -> None:
        """A client has said its last in a round."""


class TimedLink:
    """The Link port over a connection.

    Args:
        lost: It says nothing more once it is asked for its vector.
    """

    def __init__(self, connection: Connection, listener: Listener, *, lost: bool = False) -> None:
        self._connection, self._listener, self._lost = connection, listener, lost
        self._counts = _counts
        self.stays = [Stay()]

    def exchange(self, said: Said) -> Told:
        """As the connection."""
        return self._timed(lambda: self._connection.exchange(said))

    def upload(self, attempt: Digest, statement: Signed, packed: bytes) -> Told:
        """As the connection."""
        self._listener.uploading(self._number)

        def send() -> Told:
            told = self._connection.upload(attempt, statement, packed)
            now = time.perf_counter()
            self._counts.sent_s, self._counts.up = _sent.pop(id(packed), (now, len(packed)))
            return told

        told = self._timed(send)
        self._listener.uploaded(self._number)
        return told

    def download(self, digest: Digest) -> bytes:
        """As the connection."""
        return self._connection.download(digest)

    @property
    def _number(self) -> int:
        return len(self.stays) - 1

    def _timed(self, call: Callable[[], Told]) -> Told:
        counts, stay = self._counts, self.stays[-1]
        begin = counts.sent_s = time.perf_counter()
        counts.up = counts.down = 0
        told = call()
        end = time.perf_counter()
        self._answered(begin)
        if stay.steps and stay.steps[-1].stage != OUTCOME:
            stay.calls.append((begin, end))
        self._note(told, end)
        return told

    def _answered(self, begin: float) -> None:
        """Enter the answer to what was asked last; a repeated one, or a poll, is none."""
        steps, counts = self.stays[-1].steps, self._counts
        if steps and not steps[-1].said_s:
            step = steps[-1]
            step.said_s, step.sent_s, step.bytes_up = begin, counts.sent_s, counts.up
            if step.stage == OUTCOME:
                self._listener.over(self._number)

    def _note(self, told: Told, now: float) -> None:
        match told:
            case Offer():
                stage = ENCODE
            case Ask(_, request) if type(request) in _STAGES:
                stage = _STAGES[type(request)]
            case _:
                return
        if stage == ENCODE and self.stays[-1].steps and self.stays[-1].steps[-1].stage == OUTCOME:
            self.stays.append(Stay())
        self._listener.asked(self._number, stage)
        self.stays[-1].steps.append(Step(stage, now, self._counts.down))
        if self._lost and stage == Phase.MASK.value:
            raise SilentError


# -- bytes -------------------------------------------------------------------------------------


class _Counts(threading.local):
    """Bytes of this thread's call; of an upload's frames on the thread that gRPC takes them on."""

    up = down = frames = 0
    sent_s = 0.0


_counts = _Counts()

_sent: dict[int, tuple[float, int]] = {}
"""When gRPC took over the last piece of a vector, and bytes of its frames, by the vector's identity."""


@contextmanager
def counted() -> Iterator[None]:
    """Count what calls carry in this process, and note when the last piece of each vector has gone."""
    names, split, frame = vars(chunks), chunks.split, calls.encode_upload_frame
    call, told = calls.encode_call, sums.decode_told

    def noted(data: bytes, **sizes: int) -> Iterator[tuple[int, bytes]]:
        yield from split(data, **sizes)
        _sent[id(data)] = time.perf_counter(), _counts.frames

    def framed(value: calls.Call | calls.Piece) -> bytes:
        made = frame(value)
        if isinstance(value, calls.Call):
            _counts.frames = 0
        _counts.frames += len(made)
        return made

    def called(value: calls.Call) -> bytes:
        made = call(value)
        _counts.up = len(made)
        return made

    def heard(data: bytes) -> Told:
        _counts.down = len(data)
        return told(data)

    changed: list[tuple[dict[str, Any], str, Any, Any]] = [
        (names, "split", split, noted),
        (vars(calls), "encode_upload_frame", frame, framed),
        (vars(calls), "encode_call", call, called),
        (vars(sums), "decode_told", told, heard),
    ]
    for module, name, _, wrapped in changed:
        module[name] = wrapped
    try:
        yield
    finally:
        for module, name, original, _ in changed:
            module[name] = original
