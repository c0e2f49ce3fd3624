"""A round over loopback with mutual TLS: where its wall time goes, and what a byte costs the aggregator.

Each client's time, from the request that opens the attempt to the news of its end, is split in
three. *Protocol* is its own computing and its own disk. *Wire* is an upload until its last piece
was taken over by gRPC, which holds back no more than a window, and for every other call as much
as an empty one takes. The rest is *waiting*: for other members, and for the aggregator's work.
All parties share this machine's cores, so protocol and wire hold what they wait for each other.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secfed.bench.bare import Sink, Stream
from secfed.bench.cohort import AGGREGATOR, BOUND, Setting
from secfed.bench.figures import Figure
from secfed.bench.town import ADMIN, PATIENCE_S, Town
from secfed.encoding import ring
from secfed.encoding.contribution import contribution_words
from secfed.encoding.fixedpoint import FixedPoint, word_bits
from secfed.errors import NetworkError
from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest
from secfed.rounds.client import RoundEnd
from secfed.rounds.conversation import take_part
from secfed.rounds.exchange import Ask, Said, Told
from secfed.rounds.proposal import COUNTERS
from secfed.secagg.messages import OpenAttempt, OutcomeNotice
from secfed.transport import chunks
from secfed.transport.client import Connection

__all__ = ["RoundTrip", "measure"]

_ROUND = "round"

_EMPTY_CALLS = 20
"""Their median is what a call takes that asks for nothing."""

_PAUSE_S = 0.05

_SHOWN_FROM_S = 0.2
"""Processor seconds of all uploads from which on their ratio says something."""


@dataclass(frozen=True, slots=True)
class Journey:
    """One client's wall time in one round, seconds."""

    wall_s: float
    protocol_s: float
    wire_s: float

    @property
    def waiting_s(self) -> float:
        """What neither it nor its bytes took."""
        return max(0.0, self.wall_s - self.protocol_s - self.wire_s)


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """What rounds over the network cost.

    Attributes:
        journeys: Of every client in the quickest round.
        wall_s: Of that round, from the first request to the last member that heard of its end.
        aggregator_cpu_s: Its processor seconds in that round.
        upload_cpu_s: Its processor seconds from the first upload's begin to the last one's end; the least
            of all rounds.
        peak_mib: Most memory that it held above its idle process, in all rounds.
        empty_call_s: What a call takes that asks for nothing.
        bare: The bare stream of the same bytes, the cheaper of before and after.
        exact: Whether every published sum is the true one, to the last step of the grid.
    """

    journeys: tuple[Journey, ...] = field(repr=False)
    wall_s: float
    aggregator_cpu_s: float
    uploaded_bytes: int
    upload_cpu_s: float
    peak_mib: float
    empty_call_s: float
    bare: Stream
    exact: bool

    @property
    def cpu_s_per_gb(self) -> float:
        """Server processor seconds for each uploaded 1e9 bytes."""
        return self.upload_cpu_s / self.uploaded_bytes * 1e9

    @property
    def ratio(self) -> float:
        """The same as a multiple of the bare stream's."""
        return self.cpu_s_per_gb / self.bare.cpu_s_per_gb

    @property
    def ratio_shown(self) -> float | None:
        """The ratio; None where uploads were so little work that what else the daemon does shows in it."""
        return self.ratio if self.upload_cpu_s >= _SHOWN_FROM_S else None

    def shares(self) -> dict[str, float]:
        """Which part of a client's time was protocol, wire and waiting, over all clients."""
        whole = sum(journey.wall_s for journey in self.journeys)
        parts = {
            "protocol": sum(journey.protocol_s for journey in self.journeys),
            "wire": sum(journey.wire_s for journey in self.journeys),
            "waiting": sum(journey.waiting_s for journey in self.journeys),
        }
        return {name: spent / whole for name, spent in parts.items()}

    def figures(self) -> Iterator[Figure]:
        """The round and its three parts for the clients (medians), and two lines of the aggregator."""
        walls = {
            None: [journey.wall_s for journey in self.journeys],
            "protocol": [journey.protocol_s for journey in self.journeys],
            "wire": [journey.wire_s for journey in self.journeys],
            "waiting": [journey.waiting_s for journey in self.journeys],
        }
        for part, taken in walls.items():
            yield Figure(_ROUND, "client", part, wall_s=statistics.median(taken))
        yield Figure(
            _ROUND, "aggregator", cpu_s=self.aggregator_cpu_s, wall_s=self.wall_s, peak_mib=self.peak_mib
        )
        floor = self.bare.cpu_s_per_gb * self.uploaded_bytes / 1e9
        yield Figure(
            "upload", "aggregator", cpu_s=self.upload_cpu_s, bytes_up=self.uploaded_bytes, floor_s=floor,
            ratio=self.ratio_shown,
        )  # fmt: skip


def measure(setting: Setting, folder: Path, tell: Callable[[str], None] = lambda _: None) -> RoundTrip:
    """Run a job's rounds over loopback.

    Args:
        setting: Dropouts, losses and threads do not count: nobody is lost, and the daemon chooses the rest.
        folder: An empty folder for all files.
        tell: Hears where the measurement stands.

    Raises:
        NetworkError: A member or the aggregator came to no end.
    """
    size = _upload_bytes(setting)
    with ExitStack() as stack:
        town = stack.enter_context(Town(setting, folder))
        tell("vectors")
        steps = np.zeros(setting.coordinates, np.int64)
        for site in town.sites:
            steps += town.write_vector(site)
        tell("bare streams")
        sink = stack.enter_context(Sink(town.keys[AGGREGATOR], town.keys[town.sites[0]]))
        bare = [sink.take(size, setting.clients)]
        empty_s = _empty_call_s(town)
        rounds = _play(town, tell)
        bare.append(sink.take(size, setting.clients))
        numbers = range(1, setting.repeats + 1)
        exact = all(_is_true(setting, town.published(number), steps) for number in numbers)
        peak = town.peak_mib
    quickest = min(rounds, key=lambda each: each.wall_s)
    return RoundTrip(
        journeys=tuple(link.journey(empty_s) for link in quickest.parts),
        wall_s=quickest.wall_s,
        aggregator_cpu_s=quickest.cpu_s,
        uploaded_bytes=size * setting.clients,
        upload_cpu_s=min(each.upload_cpu_s for each in rounds),
        peak_mib=peak,
        empty_call_s=empty_s,
        bare=min(bare, key=lambda stream: stream.server_cpu_s),
        exact=exact,
    )


def _upload_bytes(setting: Setting) -> int:
    words = contribution_words(setting.coordinates, COUNTERS)
    return ring.packed_bytes(words, word_bits(setting.clients, setting.bits))


def _empty_call_s(town: Town) -> float:
    """The median of some calls that ask how a federation without a job stands."""
    taken = []
    with town.connection(ADMIN) as admin:
        admin.status()
        for _ in range(_EMPTY_CALLS):
            begin = time.perf_counter()
            admin.status()
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def _is_true(setting: Setting, published: NDArray[np.float64], steps: NDArray[np.int64]) -> bool:
    """Whether a published sum is the true one, as integers of the grid."""
    grid = FixedPoint(BOUND, setting.bits)
    found = np.rint((published + setting.clients * grid.bound) / grid.step).astype(np.int64)
    return bool(np.array_equal(found, steps))


# -- rounds ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Part:
    """One client in one round: its calls, and when the last piece of its upload was taken over."""

    begun: float = 0.0
    ended: float = 0.0
    calls: list[tuple[float, float]] = field(default_factory=list)
    upload: tuple[float, float] = (0.0, 0.0)

    def journey(self, empty_s: float) -> Journey:
        """Where the time went."""
        inside = [(max(begin, self.begun), end) for begin, end in self.calls if end > self.begun]
        in_calls = sum(end - begin for begin, end in inside)
        upload_s = self.upload[1] - self.upload[0]
        return Journey(
            wall_s=self.ended - self.begun,
            protocol_s=self.ended - self.begun - in_calls,
            wire_s=upload_s + sum(min(empty_s, end - begin) for begin, end in inside),
        )


@dataclass(slots=True)
class _Whole:
    """One round, over all clients."""

    parts: list[_Part] = field(default_factory=list)
    first_cpu_s: float | None = None
    upload_from_s: float | None = None
    upload_to_s: float = 0.0
    last_cpu_s: float = 0.0

    @property
    def wall_s(self) -> float:
        return max(part.ended for part in self.parts) - min(part.begun for part in self.parts)

    @property
    def cpu_s(self) -> float:
        return self.last_cpu_s - (self.first_cpu_s or 0.0)

    @property
    def upload_cpu_s(self) -> float:
        return self.upload_to_s - (self.upload_from_s or 0.0)


class _Book:
    """Where all clients enter what they see; also asks for the aggregator's processor time as they do."""

    def __init__(self, town: Town) -> None:
        self._town, self._lock = town, threading.Lock()
        self.rounds: list[_Whole] = [_Whole() for _ in range(town.setting.repeats)]

    def opened(self, number: int, part: _Part) -> None:
        """A client hears of an attempt."""
        with self._lock:
            whole = self.rounds[number]
            whole.parts.append(part)
            if whole.first_cpu_s is None:
                whole.first_cpu_s = self._town.cpu_s

    def uploading(self, number: int) -> None:
        """A client begins to send."""
        with self._lock:
            whole = self.rounds[number]
            if whole.upload_from_s is None:
                whole.upload_from_s = self._town.cpu_s

    def uploaded(self, number: int) -> None:
        """A client's upload was acknowledged, and all others were too, or its wait has ended."""
        with self._lock:
            self.rounds[number].upload_to_s = self._town.cpu_s

    def over(self, number: int) -> None:
        """A client has heard of the end."""
        with self._lock:
            self.rounds[number].last_cpu_s = self._town.cpu_s


class _TimedLink:
    """A client's link, with a clock."""

    def __init__(self, connection: Connection, book: _Book) -> None:
        self._connection, self._book = connection, book
        self._number = 0
        self._part = _Part()

    def exchange(self, said: Said) -> Told:
        """As the connection."""
        return self._timed(lambda: self._connection.exchange(said))

    def upload(self, attempt: Digest, statement: Signed, packed: bytes) -> Told:
        """As the connection."""
        begin = time.perf_counter()
        self._book.uploading(self._number)
        told = self._timed(lambda: self._connection.upload(attempt, statement, packed))
        self._part.upload = begin, _last_pieces.pop(id(packed))
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
                self._part = _Part(begun=end)
                self._book.opened(self._number, self._part)
            case Ask(_, OutcomeNotice()):
                self._part.calls.append((begin, end))
                self._part.ended = end
                self._book.over(self._number)
                self._number += 1
            case _:
                self._part.calls.append((begin, end))
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

    def __init__(self, town: Town, site: ClientId, book: _Book) -> None:
        self._town, self._site, self._book = town, site, book
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
                rounds = self._town.client(self._site, stack)
                connection = stack.enter_context(self._town.connection(self._site))
                left = self._town.setting.repeats
                link = _TimedLink(connection, self._book)
                for fact in take_part(rounds, link, lambda _pause: time.sleep(_PAUSE_S)):
                    left -= isinstance(fact, RoundEnd)
                    if not left:
                        return
        except Exception as error:  # noqa: BLE001 - it is raised again on the main thread
            self._error = error


def _play(town: Town, tell: Callable[[str], None]) -> list[_Whole]:
    """All rounds of the job."""
    book = _Book(town)
    with _noted_pieces():
        clients = [_Client(town, site, book) for site in town.sites]
        town.start_job()
        tell("rounds")
        for client in clients:
            client.finish()
    return book.rounds
