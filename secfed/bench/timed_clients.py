"""Clients on threads that time themselves: what each waits for, and what the aggregator uses meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from secfed.bench.daemon import PATIENCE_S, Daemon
from secfed.bench.federation import Federation
from secfed.bench.roundtrip import Journey
from secfed.errors import NetworkError
from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest
from secfed.rounds.client import RoundEnd
from secfed.rounds.conversation import take_part
from secfed.rounds.exchange import Ask, Said, Told
from secfed.secagg.messages import OpenAttempt, OutcomeNotice
from secfed.transport import chunks
from secfed.transport.client import Connection

__all__ = ["TimedRound", "play"]

_PAUSE_S = 0.05
"""What a client waits after a setback."""


def play(federation: Federation, daemon: Daemon, begin: Callable[[], object]) -> list[TimedRound]:
    """All rounds of the job.

    Args:
        begin: Starts the job, once all clients are there.

    Raises:
        NetworkError: A client or the aggregator came to no end.
    """
    book = _Book(daemon, federation.setting.repeats)
    with _noted_pieces():
        clients = [_Client(federation, site, daemon.address, book) for site in federation.sites]
        begin()
        for client in clients:
            client.finish()
    return book.rounds


@dataclass(slots=True)
class _Stay:
    """One client in one round: its calls, and when the last piece of its upload was taken over."""

    begun: float = 0.0
    ended: float = 0.0
    calls: list[tuple[float, float]] = field(default_factory=list)
    upload: tuple[float, float] = (0.0, 0.0)

    def journey(self, empty_s: float) -> Journey:
        """Where the time went, between its first request and the end that it heard of."""
        inside = [
            (max(begin, self.begun), min(end, self.ended))
            for begin, end in self.calls
            if end > self.begun and begin < self.ended
        ]
        in_calls = sum(end - begin for begin, end in inside)
        upload_s = self.upload[1] - self.upload[0]
        return Journey(
            wall_s=self.ended - self.begun,
            protocol_s=self.ended - self.begun - in_calls,
            wire_s=upload_s + sum(min(empty_s, end - begin) for begin, end in inside),
        )


@dataclass(slots=True)
class TimedRound:
    """One round, over all clients; processor seconds are the aggregator's."""

    stays: list[_Stay] = field(default_factory=list)
    first_cpu_s: float | None = None
    upload_from_s: float | None = None
    upload_to_s: float = 0.0
    last_cpu_s: float = 0.0

    @property
    def wall_s(self) -> float:
        """From the first request to the last client that heard of the end."""
        return max(stay.ended for stay in self.stays) - min(stay.begun for stay in self.stays)

    @property
    def cpu_s(self) -> float:
        """In all that time."""
        return self.last_cpu_s - (self.first_cpu_s or 0.0)

    @property
    def upload_cpu_s(self) -> float:
        """From the first upload's begin to the last one's end."""
        return self.upload_to_s - (self.upload_from_s or 0.0)

    def journeys(self, empty_s: float) -> tuple[Journey, ...]:
        """Where each client's time went, if a call that asks for nothing takes `empty_s`."""
        return tuple(stay.journey(empty_s) for stay in self.stays)


class _Book:
    """Where all clients enter what they see; also asks for the aggregator's processor time as they do."""

    def __init__(self, daemon: Daemon, rounds: int) -> None:
        self._daemon, self._lock = daemon, threading.Lock()
        self.rounds = [TimedRound() for _ in range(rounds)]

    def opened(self, number: int, stay: _Stay) -> None:
        """A client hears of an attempt."""
        with self._lock:
            whole = self.rounds[number]
            whole.stays.append(stay)
            if whole.first_cpu_s is None:
                whole.first_cpu_s = self._daemon.cpu_s

    def uploading(self, number: int) -> None:
        """A client begins to send."""
        with self._lock:
            whole = self.rounds[number]
            if whole.upload_from_s is None:
                whole.upload_from_s = self._daemon.cpu_s

    def uploaded(self, number: int) -> None:
        """A client's upload was acknowledged, and all others were too, or its wait has ended."""
        with self._lock:
            self.rounds[number].upload_to_s = self._daemon.cpu_s

    def over(self, number: int) -> None:
        """A client has heard of the end."""
        with self._lock:
            self.rounds[number].last_cpu_s = self._daemon.cpu_s


class _TimedLink:
    """A client's link, with a clock."""

    def __init__(self, connection: Connection, book: _Book) -> None:
        self._connection, self._book = connection, book
        self._number = 0
        self._stay = _Stay()

    def exchange(self, said: Said) -> Told:
        """As the connection."""
        return self._timed(lambda: self._connection.exchange(said))

    def upload(self, attempt: Digest, statement: Signed, packed: bytes) -> Told:
        """As the connection."""
        begin = time.perf_counter()
        self._book.uploading(self._number)
        told = self._timed(lambda: self._connection.upload(attempt, statement, packed))
        self._stay.upload = begin, _last_pieces.pop(id(packed))
        self._book.uploaded(self._number)
        return told

    def download(self, digest: Digest) -> bytes:
        """As the connection."""
        return self._connection.download(digest)

    def _timed(self, call: Callable[[], Told]) -> Told:
        begin = time.perf_counter()
        told = call()
        end = time.perf_counter()
        match told:
            case Ask(_, OpenAttempt()):
                self._stay = _Stay(begun=end)
                self._book.opened(self._number, self._stay)
            case Ask(_, OutcomeNotice()):
                self._stay.calls.append((begin, end))
                self._stay.ended = end
                self._book.over(self._number)
                self._number += 1
            case _:
                self._stay.calls.append((begin, end))
        return told


_last_pieces: dict[int, float] = {}
"""When the last piece of a vector was taken over by gRPC, by the vector's identity while it is sent."""


@contextmanager
def _noted_pieces() -> Iterator[None]:
    """Note when the last piece of each vector has gone; gRPC asks for pieces on threads of its own."""
    names, split = vars(chunks), chunks.split

    def noted(data: bytes, **sizes: int) -> Iterator[tuple[int, bytes]]:
        yield from split(data, **sizes)
        _last_pieces[id(data)] = time.perf_counter()

    names["split"] = noted
    try:
        yield
    finally:
        names["split"] = split


class _Client:
    """One client on a thread, for all rounds of the job."""

    def __init__(self, federation: Federation, site: ClientId, address: str, book: _Book) -> None:
        self._federation, self._site, self._address, self._book = federation, site, address, book
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=site, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until it has heard of the last round's end.

        Raises:
            Exception: What ended it before.
        """
        self._thread.join(PATIENCE_S)
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise NetworkError(f"{self._site} has not ended within {PATIENCE_S:.0f} s")

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                rounds = self._federation.client(self._site, stack)
                connection = stack.enter_context(self._federation.connection(self._site, self._address))
                left = self._federation.setting.repeats
                link = _TimedLink(connection, self._book)
                for fact in take_part(rounds, link, lambda _pause: time.sleep(_PAUSE_S)):
                    left -= isinstance(fact, RoundEnd)
                    if not left:
                        return
        except Exception as error:  # noqa: BLE001 - it is raised again on the main thread
            self._error = error
