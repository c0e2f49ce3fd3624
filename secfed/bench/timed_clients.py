"""Clients that time themselves over real connections: one in a process of its own, the others on threads.

The threads also mark what the aggregator has used whenever the first of them hears of a new stage.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from secfed.bench.cohort import Setting
from secfed.bench.daemon import PATIENCE_S, Daemon
from secfed.bench.federation import Federation
from secfed.bench.member import Member
from secfed.bench.meter import Reading
from secfed.bench.processes import Apart
from secfed.bench.roundtrip import UNMASK_AND_SUM, Journey
from secfed.bench.seats import ENCODE, OPEN, Seat
from secfed.bench.timed_link import Listener, SilentError, Stay, TimedLink, counted
from secfed.bench.work import OF_CLIENT
from secfed.errors import NetworkError
from secfed.ids import ClientId
from secfed.rounds.client import RoundEnd
from secfed.rounds.conversation import take_part
from secfed.secagg.messages import Phase

__all__ = ["Mark", "TimedRound", "TimedSeat", "lost_of", "play"]

_PAUSE_S = 0.05
"""What a client waits after a setback."""

_OVER = "over"

_THERE = {ENCODE: OPEN, Phase.UNMASK.value: UNMASK_AND_SUM}
"""What the aggregator does in a client's stage: gather everybody and freeze the cohort; open the sum."""

_LOOK_S = 0.005
"""How often the spool is looked at."""


def lost_of(sites: tuple[ClientId, ...], count: int) -> frozenset[ClientId]:
    """Who is lost: spread over all but the first, who is measured."""
    others = sites[1:]
    return frozenset(others[index * len(others) // count] for index in range(count))


def play(
    federation: Federation, daemon: Daemon, seat: Apart, begin: Callable[[], object]
) -> list[TimedRound]:
    """All rounds of the job.

    Args:
        seat: The first site's, a `TimedSeat`.
        begin: Starts the job, once all clients are there.

    Raises:
        NetworkError: A client or the aggregator came to no end.
    """
    setting, sites = federation.setting, federation.sites
    book = _Book(daemon, setting.repeats)
    lost = lost_of(sites, setting.dropouts)
    with counted():
        seat.call("start", daemon.address)
        clients = [
            _Client(federation.member(site), daemon.address, book, setting.repeats, lost=site in lost)
            for site in sites[1:]
        ]
        begin()
        book.watch(federation.uploads, len(sites) - len(lost), clients)
        stays = [client.finish() for client in clients]
        stays = [seat.call("finish"), *stays]
    for number, whole in enumerate(book.rounds):
        whole.stays = [stay[number] for stay in stays]
    return book.rounds


# -- what is entered ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mark:
    """The aggregator when the first client heard of a stage; its peak is of the stage before."""

    stage: str
    wall_s: float
    cpu_s: float
    peak_mib: float


@dataclass(slots=True)
class TimedRound:
    """One round, over all clients; processor seconds are the aggregator's.

    Attributes:
        stays: Of all clients, the lost ones up to there.
        marks: When each stage began; the last is of the end.
    """

    stays: list[Stay] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    upload_from_s: float | None = None
    upload_to_s: float | None = None

    @property
    def wall_s(self) -> float:
        """From the first request to the last client that heard of the end."""
        return max(stay.ended for stay in self._whole) - min(stay.begun for stay in self._whole)

    @property
    def cpu_s(self) -> float:
        """From the first request on, to the end."""
        return self.marks[-1].cpu_s - self.marks[1].cpu_s

    @property
    def upload_cpu_s(self) -> float:
        """From the first upload's begin until all stood in the spool."""
        return (self.upload_to_s or 0.0) - (self.upload_from_s or 0.0)

    def journeys(self, empty_s: float) -> tuple[Journey, ...]:
        """Where each client's time went, if a call that asks for nothing takes `empty_s`."""
        return tuple(stay.journey(empty_s) for stay in self._whole)

    @property
    def _whole(self) -> list[Stay]:
        return [stay for stay in self.stays if stay.whole]

    def readings(self) -> dict[str, Reading]:
        """The aggregator's, by stage, with the bytes of all clients."""
        found = {
            _THERE.get(mark.stage, mark.stage): Reading(
                after.cpu_s - mark.cpu_s, after.wall_s - mark.wall_s, peak_mib=after.peak_mib
            )
            for mark, after in zip(self.marks, self.marks[1:], strict=False)
        }
        for stay in self.stays:
            for step in stay.steps:
                reading = found[_THERE.get(step.stage, step.stage)]
                reading.bytes_up += step.bytes_up
                reading.bytes_down += step.bytes_down
        return found


class _Book:
    """Where the clients of this process enter what they see; marks what the aggregator has used."""

    def __init__(self, daemon: Daemon, rounds: int) -> None:
        self._daemon, self._lock = daemon, threading.Lock()
        self.rounds = [TimedRound() for _ in range(rounds)]

    def asked(self, number: int, stage: str) -> None:
        """The first to hear of a stage marks it."""
        with self._lock:
            marks = self.rounds[number].marks
            if stage not in (mark.stage for mark in marks):
                marks.append(self._mark(stage))

    def over(self, number: int) -> None:
        """The last to say all in a round marks its end."""
        with self._lock:
            marks, last = self.rounds[number].marks, self._mark(_OVER)
            if marks[-1].stage == _OVER:
                last = replace(last, peak_mib=max(last.peak_mib, marks.pop().peak_mib))
            marks.append(last)

    def _mark(self, stage: str) -> Mark:
        daemon = self._daemon
        return Mark(stage, time.perf_counter(), daemon.cpu_s, daemon.take_peak_mib())

    def uploading(self, number: int) -> None:
        """A client begins to send."""
        with self._lock:
            whole = self.rounds[number]
            if whole.upload_from_s is None:
                whole.upload_from_s = self._daemon.cpu_s

    def uploaded(self, number: int) -> None:
        """A client's upload was acknowledged: so all are whole, or their time is over."""
        self._whole(number)

    def _whole(self, number: int) -> None:
        with self._lock:
            whole = self.rounds[number]
            if whole.upload_to_s is None:
                whole.upload_to_s = self._daemon.cpu_s

    def watch(self, uploads: Callable[[], int], count: int, clients: list[_Client]) -> None:
        """See the last upload arrive: the calls end only when nobody is waited for any more."""
        for number, whole in enumerate(self.rounds):
            while whole.upload_to_s is None and not any(client.failed for client in clients):
                if whole.upload_from_s is not None and uploads() >= count:
                    self._whole(number)
                time.sleep(_LOOK_S)


# -- clients -----------------------------------------------------------------------------------


class _Client:
    """One client on a thread, for all rounds of the job."""

    def __init__(
        self, member: Member, address: str, listener: Listener, rounds: int, *, lost: bool = False
    ) -> None:
        self._member, self._address, self._listener, self._left = member, address, listener, rounds
        self._lost, self._stays = lost, list[Stay]()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=member.name, daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether it came to an end that was not foreseen."""
        return self._error is not None

    def finish(self) -> list[Stay]:
        """Wait until it has heard of the last round's end, or was lost.

        Raises:
            Exception: What ended it before.
        """
        self._thread.join(PATIENCE_S)
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise NetworkError(f"{self._member.name} has not ended within {PATIENCE_S:.0f} s")
        return self._stays

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                rounds = self._member.client(stack)
                connection = stack.enter_context(self._member.connection(self._address))
                link = TimedLink(connection, self._listener, lost=self._lost)
                self._stays = link.stays
                for fact in take_part(rounds, link, lambda _pause: time.sleep(_PAUSE_S)):
                    self._left -= isinstance(fact, RoundEnd)
                    if not self._left:
                        break
        except SilentError:
            return
        except Exception as error:  # noqa: BLE001 - it is raised again on the main thread
            self._error = error


class TimedSeat(Seat):
    """One client in a process of its own, which tells its stages apart; the last round is profiled.

    Args:
        root: The federation's folder.
    """

    def __init__(self, setting: Setting, root: Path, name: ClientId, roster_key: bytes) -> None:
        super().__init__(root / name, OF_CLIENT)
        self._member, self._rounds = Member(root, name, roster_key), setting.repeats
        self._readings: list[dict[str, Reading]] = []
        self._counting = ExitStack()
        self._stays: list[Stay] = []
        self._client: _Client | None = None

    def start(self, address: str) -> None:
        """Take part, on a thread."""
        self._counting.enter_context(counted())
        self._client = _Client(self._member, address, self, self._rounds)

    def asked(self, number: int, stage: str) -> None:
        """A stage begins."""
        if stage == ENCODE and number == self._rounds - 1:
            self.profile()
        if stage == ENCODE and number:
            self._close_round()
        self._meter.enter(stage)

    def uploading(self, number: int) -> None:
        """That is in its stage."""

    def uploaded(self, number: int) -> None:
        """Likewise."""

    def _close_round(self) -> None:
        self._meter.leave()
        self._readings.append(self.readings())

    def finish(self) -> list[Stay]:
        """Wait for the end of the last round."""
        if self._client is None:
            raise ValueError("nobody was started")
        self._stays = self._client.finish()
        self._close_round()
        return self._stays

    def over(self, number: int) -> None:
        """Likewise."""

    def costs(self) -> list[dict[str, Reading]]:
        """Round by round; bytes and wall time are the link's, without waiting."""
        for stay, cost in zip(self._stays, self._readings, strict=True):
            for reading in cost.values():
                reading.wall_s = 0.0
            for step in stay.steps:
                reading = cost[step.stage]
                reading.wall_s += step.own_s
                reading.bytes_up += step.bytes_up
                reading.bytes_down += step.bytes_down
        return self._readings

    def close(self) -> None:
        """Count nothing more."""
        self._counting.close()
