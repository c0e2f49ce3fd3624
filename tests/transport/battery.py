"""Hostile messages thrown at a running aggregator: each answer judged, the whole weighed and looked up.

An answer is due within a second. Two things show a late one, and a busy machine cannot:
- the daemon's own processor seconds for the message, of which other processes take none; some 3 ms are
  usual;
- waiting: in each of `TRIES` tries the answer took more than a second, and a plain call right after it
  did not. A try after which that was late too says nothing, and is made again. Were one call in a hundred
  held up by chance, five in a row with none of the five between them are one in 10^10.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import hypothesis
from hypothesis import HealthCheck, given, settings
from mutants import Tape, batches
from townhall import Town

from secfed.identity.signed import Signed
from secfed.transport import status
from secfed.wire import service
from secfed.wire.pb import service_pb2, statements_pb2

__all__ = ["BATCH", "DEADLINE_S", "Battery", "Shot", "fire"]

BATCH = 50
"""Messages in one of hypothesis' examples, of which each costs as much as some ten messages."""

SHRINK_S = 30

LATE_S = 1.0
"""Processor seconds for one message, and seconds until its answer."""

LOOK_EVERY, LOOK_S = 10, 0.2
"""So many messages together are held to the same processor seconds, or fewer after one that takes time: a
look costs a part of a message."""

TRIES = 5

DEADLINE_S = 60
"""No answer by then: it hangs, however busy the machine."""

GROWTH_MIB = 50

_Code = grpc.StatusCode

CODES = {
    _Code.OK,  # what was changed means something else, and nothing is wrong with that
    _Code.INVALID_ARGUMENT,
    _Code.UNAUTHENTICATED,
    _Code.FAILED_PRECONDITION,
    _Code.RESOURCE_EXHAUSTED,  # gRPC's own: over the largest message
}
"""Never INTERNAL or UNKNOWN: those are bugs; nor UNAVAILABLE: that is tried again."""


def fire(count: int, each: Callable[[Tape], None], seed: int | None = None) -> None:
    """Let hypothesis find so many tapes, the same ones in every run, or those of a seed.

    After a failure it looks for a milder one, for half a minute. What failed is not sent again: by then the
    daemon may be another one.
    """
    failed: dict[tuple[bytes, ...], BaseException] = {}
    since: list[float] = []

    @settings(
        max_examples=count // BATCH,
        derandomize=seed is None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],  # by the clock of a machine that may be busy
    )
    @given(batches(BATCH))
    def volley(batch: list[Tape]) -> None:
        known = tuple(tape.data for tape in batch)
        if known in failed:
            raise failed[known]
        if since and time.monotonic() > since[0] + SHRINK_S:
            return
        try:
            for tape in batch:
                each(tape)
        except Exception as failure:
            failed[known] = failure
            since.append(time.monotonic())
            raise

    (volley if seed is None else hypothesis.seed(seed)(volley))()


@dataclass(frozen=True)
class Shot:
    """One call: by whom, to what, its one message or an upload's frames, and what was done to it."""

    sender: str
    method: str
    frames: list[bytes]
    kind: str


class Battery:
    """Throws messages. `codes` has how each kind was answered, `refused` how often each call of a member."""

    def __init__(self, town: Town) -> None:
        self.town = town
        process: Any = town.process
        self.process = process
        self.codes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.refused: Counter[tuple[str, str]] = Counter()
        self.longest_s, self._used_s, self._unlooked = 0.0, self.process.cpu_s, 0
        self._channels: dict[str, grpc.Channel] = {}
        self._stubs: dict[tuple[str, str], Callable[[list[bytes]], object]] = {}

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    # -- making --------------------------------------------------------------------------------

    def frame(
        self, sender: str, method: str, body: bytes, change: Callable[[Signed], Signed] = lambda hello: hello
    ) -> bytes:
        """The first message of a call, with a hello that is in order unless `change` spoils it."""
        hello = change(
            self.town.maker(sender).make(method, body, roster=self.town.roster.digest, start=self.town.begun)
        )
        signed = statements_pb2.Signed(statement=hello.statement, signature=hello.signature)
        call = service_pb2.Call(hello=signed, body=body)
        first = service_pb2.UploadFrame(call=call) if method == "Upload" else call
        data: bytes = first.SerializeToString()
        return data

    # -- throwing ------------------------------------------------------------------------------

    def throw(self, make: Callable[[], Shot], name: str) -> None:
        """Send a message and judge its answer.

        Args:
            make: The message, each time with a hello of its own.
            name: Which it is, for people.
        """
        late = 0
        while late < TRIES:
            if self._answer(make(), name) <= LATE_S:
                return
            late += self._plain_s() <= LATE_S
        raise AssertionError(f"{name}: an answer after more than {LATE_S:g} s, {TRIES} times")

    def _answer(self, shot: Shot, name: str) -> float:
        """Seconds until the answer, which is one of the daemon's own."""
        begin = time.monotonic()
        code, detailed, details = _Code.OK, True, ""
        try:
            self._stub(shot.sender, shot.method)(shot.frames)
        except grpc.RpcError as failure:
            code, details = failure.code(), failure.details()
            detailed = any(key == status.DETAIL_KEY for key, _ in failure.trailing_metadata() or ())
        took = time.monotonic() - begin
        used = self._used(look=took > LOOK_S)
        assert code in CODES, f"{name}: {code} {details}"
        assert detailed or code is _Code.RESOURCE_EXHAUSTED, f"{name}: {code} without a reason"
        assert used <= LATE_S, f"{name}: {used:.1f} processor seconds"
        self.longest_s = max(self.longest_s, used)
        self.codes[shot.kind][code.name] += 1
        if code is not _Code.OK:
            self.refused[shot.sender, shot.method] += 1
        return took

    def _used(self, *, look: bool) -> float:
        """Processor seconds since the last look, which was at most `LOOK_EVERY` messages ago."""
        self._unlooked += 1
        if not look and self._unlooked < LOOK_EVERY:
            return 0.0
        before, self._used_s, self._unlooked = self._used_s, self.process.cpu_s, 0
        return self._used_s - before

    def _plain_s(self) -> float:
        """Seconds until the answer to a call that nothing is wrong with."""
        data = self.frame("reviewer", "GetRoster", b"")
        begin = time.monotonic()
        self._stub("reviewer", "GetRoster")([data])
        return time.monotonic() - begin

    def _stub(self, sender: str, method: str) -> Callable[[list[bytes]], object]:
        if sender not in self._channels:
            self._channels[sender] = self.town.channel(sender)
        if (sender, method) not in self._stubs:
            channel, path = self._channels[sender], service.path(method)
            if method == "Upload":
                up, first = channel.stream_unary(path), channel.unary_unary(path)
                self._stubs[sender, method] = lambda frames: (
                    # One message is the same on the wire, and made without a thread.
                    up(iter(frames), timeout=DEADLINE_S)
                    if len(frames) > 1
                    else first(frames[0], timeout=DEADLINE_S)
                )
            elif method == "Download":
                down = channel.unary_stream(path)
                self._stubs[sender, method] = lambda frames: list(down(frames[0], timeout=DEADLINE_S))
            else:
                one = channel.unary_unary(path)
                self._stubs[sender, method] = lambda frames: one(frames[0], timeout=DEADLINE_S)
        return self._stubs[sender, method]

    # -- what is left of it --------------------------------------------------------------------

    @contextmanager
    def weighed(self) -> Iterator[None]:
        """What is thrown meanwhile leaves no memory behind; all kinds of it were thrown before."""
        before = self.process.rss_mib
        yield
        grown = self.process.rss_mib - before
        assert grown < GROWTH_MIB, f"the messages left {grown:.0f} MiB"

    def check_entered(self) -> None:
        """Each refusal stands in the audit log, under the name of who was refused; after the daemon's end."""
        entered = Counter[tuple[str, str]]()
        for entry in self.town.audit():
            if entry["outcome"] not in ("ok", "broken off"):
                entered[entry["who"], entry["what"].split()[0]] += entry["count"]
        missing = {key: (count, entered[key]) for key, count in self.refused.items() if entered[key] < count}
        assert not missing, f"refused, and entered: {missing}"

    def report(self) -> str:
        """How each kind was answered."""
        lines = [f"{kind:44} {dict(sorted(codes.items()))}" for kind, codes in sorted(self.codes.items())]
        return "\n".join([*lines, f"most processor seconds for one message: {self.longest_s:.2f}"])
