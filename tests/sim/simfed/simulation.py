"""A whole federation in memory, driven by a seed: processes, calls between them, and what goes wrong.

The scheduler picks one thing after another: a client says something, a call arrives, a piece of an
upload is written, a reply comes back, time passes, a process dies or starts. In the chaotic part it
also loses, repeats, replays, cuts and flips messages, and the disks fail before or after a write. In
the calm part that follows nothing goes wrong any more, and everything must come to an end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from simfed.nodes import AggregatorNode, ClientNode, Clock, Crash, Disk, Down, OneSlotContributor
from simfed.people import BOUND, JOB, People, people
from simfed.witness import Witness

from secfed.errors import LedgerError, PeerError, RoundAbortedError, StorageError
from secfed.ids import ClientId, JobId
from secfed.rounds.attempt import Upload as Incoming
from secfed.rounds.client import Upload
from secfed.rounds.exchange import JobCommand, Said, Told
from secfed.rounds.jobs import Ending, JobBook
from secfed.wire import sums

CALM_STEPS = 6000
"""After this many undisturbed steps a federation that has not come to an end is stuck."""

HELD_S = 4.0
"""How long a call with nothing to hear is held, simulated seconds."""


@dataclass(frozen=True)
class Weather:
    """How often things go wrong: probabilities for each message, write and step."""

    lose: float = 0.0
    repeat: float = 0.0
    replay: float = 0.0
    damage: float = 0.0
    kill_client: float = 0.0
    kill_aggregator: float = 0.0
    crash: float = 0.0
    fail: float = 0.0

    @classmethod
    def of(cls, random: Random) -> Weather:
        """Some kinds of trouble, each mild or strong; a third of the seeds know only a single kind."""
        scale = {name: random.choice((0.0, 0.3, 1.0)) for name in cls.__dataclass_fields__}
        if random.random() < 1 / 3:
            only = random.choice(sorted(scale))
            scale = {name: float(name == only) for name in scale}
        most = cls(0.05, 0.05, 0.02, 0.02, 0.01, 0.004, 0.02, 0.01)
        return cls(**{name: factor * getattr(most, name) for name, factor in scale.items()})


CALM = Weather()


@dataclass
class Call:
    """One call of one client, from the moment it is made until its reply is heard."""

    said: Said | Upload
    data: bytes
    incoming: Incoming | None = None
    written: int = 0
    held_since: float | None = None
    reply: bytes | None = None


@dataclass
class Simulation:
    """One federation under one seed.

    Args:
        steps: How many steps the chaotic part has.
        pace: Steps a simulated second: at a slow one sites seem to be away between two calls.
    """

    seed: int
    directory: Path
    clients: int = 0
    rounds: int = 2
    spare_rounds: int = 2
    steps: int = 350
    pace: float = 4.0
    weather: Weather | None = None
    constant: bool | None = None
    trace: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.clients = self.clients or self.random.choice((3, 3, 4, 5, 5, 6, 7))
        self.weather = self.weather or Weather.of(self.random)
        if self.constant is None:
            self.constant = self.random.random() < 0.2
        self.clock = Clock()
        self.people: People = people(self.clients)
        self.witness = Witness(self.people)
        self.calls: dict[ClientId, Call] = {}
        self.heard: dict[ClientId, Told] = {}
        self.old: list[tuple[ClientId, bytes]] = []
        self.nodes = {
            name: ClientNode(
                name,
                self.people,
                self.directory / name,
                self.clock,
                self._disk(),
                OneSlotContributor(place, self.constant),
                self._note,
            )
            for place, name in enumerate(self.people.clients)
        }
        self.center = AggregatorNode(
            self.people,
            self.directory / "center",
            self.clock,
            self._disk(),
            self.people.plan(rounds=self.rounds, spare_rounds=self.spare_rounds),
            self._note,
        )

    def _disk(self) -> Disk:
        assert self.weather is not None
        return Disk(self.random, self.weather.crash, self.weather.fail)

    def _note(self, text: str) -> None:
        self.trace.append(f"{self.clock.seconds:8.1f} {text}")

    # -- the whole course ----------------------------------------------------------------------

    def run(self) -> list[Ending]:
        """Trouble, then calm; returns how the rounds ended.

        Raises:
            AssertionError: An invariant is broken; its name comes first.
        """
        try:
            for _ in range(self.steps):
                self.step()
            self.calm()
            for number in range(CALM_STEPS):
                if number % 10 == 0 and self._over():
                    break
                self.step()
            return self.conclude()
        finally:
            for node in self.nodes.values():
                node.kill()
            self.center.kill()

    def calm(self) -> None:
        """From here on nothing goes wrong, but for a crash that was asked for."""
        self._note("-- calm --")
        self.weather = CALM
        for disk in (self.center.disk, *(node.disk for node in self.nodes.values())):
            disk.calm()

    def _over(self) -> bool:
        if self.center.rounds is None:
            return False
        (job,) = self.center.rounds.status().jobs
        if job.state == "paused" and self.weather is CALM:
            self.center.rounds.control(JobCommand(JobId(JOB), "resume"), ClientId("office"))
        return job.state in ("done", "failed")

    def conclude(self) -> list[Ending]:
        """Check what must hold at the end."""
        if self.center.rounds is None:
            self.center.start()
        assert self.center.rounds is not None
        self.witness.look(self.center)
        job = JobBook(self.center.house.decisions).find(JobId(JOB))
        self.witness.ended(job.endings)
        for ending in job.endings:
            if ending.published:
                self.witness.slots(
                    self.center, ending, lambda number: BOUND if self.constant else BOUND - number / 64
                )
        if not self.constant:
            state = self.center.rounds.status().jobs[0]
            assert job.state in ("done", "failed"), (
                f"liveness: {state.state} {state.phase} {state.waiting_for}"
            )
        return list(job.endings)

    # -- one step ------------------------------------------------------------------------------

    def step(self) -> None:
        """One thing happens somewhere."""
        assert self.weather is not None
        self.clock.seconds += self.random.expovariate(self.pace)
        roll = self.random.random()
        if self.center.rounds is not None and roll < self.weather.kill_aggregator:
            self._kill_center()
        elif roll < 0.15:
            self._center()
        else:
            self._client(self.random.choice(list(self.nodes.values())))

    def _kill_center(self) -> None:
        self._note("center: killed")
        self.center.kill()
        self._drop_calls()

    def _drop_calls(self) -> None:
        """Every call breaks off when the other side dies."""
        for name in list(self.calls):
            self._break(name)

    def _break(self, name: ClientId) -> None:
        """A call is lost: the client's link says the same again, or gives up and begins anew."""
        call = self.calls.pop(name, None)
        if call is None:
            return
        if call.incoming is not None:
            call.incoming.abort()
        if self.center.rounds is not None and call.held_since is not None:
            self.center.rounds.leave(name, broken=True)
        node = self.nodes[name]
        if node.rounds is not None and self.random.random() < 0.2:
            node.saying = node.rounds.standing

    def _center(self) -> None:
        """Time passes for the aggregator, or it does a piece of work."""
        if self.center.rounds is None:
            self.center.start()
            return
        try:
            self.center.guard(lambda rounds: rounds.tick())
            work = self.center.guard(lambda rounds: rounds.work())
            if work is not None:
                done = self.center.guard(lambda _: work())
                self.center.guard(lambda rounds: rounds.worked(done))
        except Down:
            self._drop_calls()
        self.witness.look(self.center)

    # -- one client's turn ---------------------------------------------------------------------

    def _client(self, node: ClientNode) -> None:
        assert self.weather is not None
        if not node.up:
            node.start()
            return
        if self.random.random() < self.weather.kill_client:
            self._note(f"{node.name}: killed")
            self._kill_client(node)
            return
        call = self.calls.get(node.name)
        if call is None:
            self._say(node)
        elif call.reply is not None:
            self._return(node, call)
        elif call.held_since is not None:
            self._reply(node.name, call)
        else:
            self._arrive(node.name, call)

    def lose(self, name: ClientId) -> None:
        """One client dies; it comes back when its turn comes."""
        self._kill_client(self.nodes[name])

    def _kill_client(self, node: ClientNode) -> None:
        node.kill()
        self._break(node.name)

    def _say(self, node: ClientNode) -> None:
        assert node.saying is not None
        if isinstance(node.saying, Upload):
            self.witness.left(node, node.saying)
            self.calls[node.name] = Call(node.saying, node.saying.packed)
            return
        self.witness.said(node.name, node.saying, self.heard.get(node.name))
        data = sums.encode_said(node.saying)
        self.old.append((node.name, data))
        self.calls[node.name] = Call(node.saying, data)

    def _arrive(self, name: ClientId, call: Call) -> None:
        """The aggregator hears what was said, or the next piece of an upload."""
        assert self.weather is not None
        if self.center.rounds is None or self.random.random() < self.weather.lose:
            self._break(name)
            return
        try:
            if isinstance(call.said, Upload):
                self._upload(name, call, call.said)
            else:
                self._hear(name, call)
        except Down:
            self._drop_calls()
        except (PeerError, LedgerError) as refusal:
            self._note(f"center refuses {name}: {refusal}")
            self._setback(name)

    def _hear(self, name: ClientId, call: Call) -> None:
        assert self.weather is not None
        data = call.data
        if self.random.random() < self.weather.damage:
            data = self._damaged(data)
        said = sums.decode_said(data)
        self.center.guard(lambda rounds: rounds.enter(name))
        call.held_since = self.clock.seconds
        for _ in range(2 if self.random.random() < self.weather.repeat else 1):
            self.center.guard(lambda rounds: rounds.hear(name, said))
        if self.old and self.random.random() < self.weather.replay:
            whose, old = self.random.choice(self.old)
            self._note(f"replay of {whose}")
            self.center.guard(lambda rounds: rounds.hear(whose, sums.decode_said(old)))

    def _damaged(self, data: bytes) -> bytes:
        """Cut, or with one bit flipped. TLS would notice; the parser must too, or take it as signed."""
        place = self.random.randrange(len(data) + 1)
        if self.random.random() < 0.5 or place == len(data):
            return data[:place]
        flipped = bytes([data[place] ^ 1 << self.random.randrange(8)])
        return data[:place] + flipped + data[place + 1 :]

    def _upload(self, name: ClientId, call: Call, upload: Upload) -> None:
        """One step of an upload: its first frame, a piece, or the sync of the whole."""
        if call.incoming is None and call.written == 0:
            self.center.guard(lambda rounds: rounds.enter(name))
            begun = self.center.guard(
                lambda rounds: rounds.begin_upload(name, upload.attempt, upload.statement)
            )
            call.incoming = begun
            if begun is None:
                call.held_since = self.clock.seconds  # nothing owed, such as after a lost reply
            return
        incoming = call.incoming
        assert incoming is not None
        if call.written < len(upload.packed):
            size = self.random.randint(1, len(upload.packed))
            incoming.write(upload.packed[call.written : call.written + size])
            call.written += size
            self.center.guard(lambda rounds: rounds.progress(incoming))
            return
        self.center.guard(lambda _: incoming.commit())
        self.center.guard(lambda rounds: rounds.finish_upload(incoming))
        call.incoming, call.held_since = None, self.clock.seconds
        self.witness.acknowledge(name, upload.attempt)

    def _reply(self, name: ClientId, call: Call) -> None:
        """Answer a call that is held, once there is something to hear or it was held long enough."""
        try:
            told = self.center.guard(lambda rounds: rounds.next_for(name))
            if told is None:
                assert call.held_since is not None
                if self.clock.seconds - call.held_since < HELD_S:
                    return
                told = self.center.guard(lambda rounds: rounds.wait_for(name))
        except Down:
            self._drop_calls()
            return
        self.center.guard(lambda rounds: rounds.leave(name, broken=False))
        self.witness.told(told)
        call.held_since, call.reply = None, sums.encode_told(told)

    def _return(self, node: ClientNode, call: Call) -> None:
        """The reply comes back, or is lost after it took effect on the other side."""
        assert self.weather is not None
        assert call.reply is not None
        if self.random.random() < self.weather.lose:
            self._break(node.name)
            return
        del self.calls[node.name]
        told = sums.decode_told(call.reply)
        for _ in range(2 if self.random.random() < self.weather.repeat else 1):
            self._listen(node, told)

    def _listen(self, node: ClientNode, told: Told) -> None:
        if node.rounds is None:
            return
        self.heard[node.name] = told
        try:
            node.saying = node.rounds.hear(told)
        except (PeerError, RoundAbortedError) as refusal:
            self._note(f"{node.name}: setback: {refusal}")
            node.saying = node.rounds.standing
        except (StorageError, Crash) as error:
            self._note(f"{node.name}: died: {error}")
            self._kill_client(node)

    def _setback(self, name: ClientId) -> None:
        """The client hears that it was refused, and says where it stands."""
        self._break(name)
        node = self.nodes[name]
        if node.rounds is not None:
            node.saying = node.rounds.standing
