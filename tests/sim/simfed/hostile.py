"""Honest clients before a hostile aggregator, under one seed: real processes with real disks.

After each thing that an honest client says, the witness holds the trust statement against all that
the adversary has collected until then. Nothing has to come to an end here: progress is not promised.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from simfed.adversary import Adversary
from simfed.malice import Malice
from simfed.nodes import (
    UNWILLING,
    ClientNode,
    Clock,
    Crash,
    Disk,
    OneSlotContributor,
    SkewedClock,
)
from simfed.people import People, people
from simfed.pure import remembered
from simfed.weather import CALM, Weather, damaged
from simfed.witness import Witness

from secfed.errors import PeerError, StorageError
from secfed.ids import ClientId
from secfed.rounds.client import Upload
from secfed.rounds.exchange import Said
from secfed.wire import sums

_SKEW_S = 100 * 86_400


@dataclass
class HostileFederation:
    """One federation whose aggregator is the adversary.

    Args:
        steps: How many times a site gets its turn.
        clients: Honest and corrupt ones together.
    """

    seed: int
    directory: Path
    clients: int = 0
    steps: int = 220
    weather: Weather | None = None
    malice: Malice | None = None
    trace: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.clients = self.clients or self.random.choice((3, 4, 5, 5, 6, 7))
        corrupt = 2 if self.clients >= 6 and self.random.random() < 0.3 else 1
        self.people: People = people(self.clients, corrupt)
        names = list(self.people.clients)
        owned = frozenset(self.random.sample(names, self.random.choice((corrupt, corrupt, corrupt, 0))))
        job = self.people.plan(rounds=2, spare_rounds=1)
        self.weather = self.weather or self.random.choice((CALM, Weather.of(self.random)))
        self.clock = Clock()
        self.witness = Witness(self.people, job, owned)
        self.adversary = Adversary(self.random, self.people, job, owned, self.malice)
        self.said: dict[ClientId, Said | Upload] = {}
        constant = self.random.random() < 0.2
        self.nodes = [
            self._node(place, name, constant) for place, name in enumerate(names) if name not in owned
        ]
        if self.random.random() < 0.1:
            self.random.choice(self.nodes).policy = UNWILLING

    def _node(self, place: int, name: ClientId, constant: bool) -> ClientNode:
        assert self.weather is not None
        contributor = OneSlotContributor(place, constant)
        disk = Disk(self.random, self.weather.crash / 2, self.weather.fail / 2)
        clock = SkewedClock(self.clock)
        node = ClientNode(name, self.people, self.directory / name, clock, disk, contributor, self._note)
        contributor.begins = lambda plan, round_plan: self.witness.begins(node, plan, round_plan)
        return node

    def _note(self, text: str) -> None:
        self.trace.append(f"{self.clock.seconds:8.1f} {text}")

    @remembered()
    def run(self) -> None:
        """Play.

        Raises:
            AssertionError: An invariant is broken; its name comes first.
        """
        try:
            for _ in range(self.steps):
                if self.adversary.over:
                    break
                self.step()
            self.witness.at_the_end(self.nodes)
        finally:
            for node in self.nodes:
                node.kill()

    def step(self) -> None:
        """One site says what it has to say and is told something."""
        assert self.weather is not None
        self.clock.seconds += self.random.expovariate(4.0)
        node = self.random.choice(self.nodes)
        if self.random.random() < self.weather.clock:
            node.clock.skew_s = self.random.choice((0.0, self.random.uniform(-_SKEW_S, _SKEW_S)))
        if not node.up:
            node.start()
        elif self.random.random() < self.weather.kill_client:
            self._note(f"{node.name}: killed")
            node.kill()
        else:
            self._say(node)
            self._tell(node)
        self.witness.raise_broken()

    def _say(self, node: ClientNode) -> None:
        saying = node.saying
        assert saying is not None
        if self.said.get(node.name) is saying:
            return  # it waits for what comes of it
        self.said[node.name] = saying
        if isinstance(saying, Upload):
            self.witness.left(node, saying)
        else:
            self.witness.said(node.name, saying, node.heard)
        self.adversary.hear(node.name, saying)

    def _tell(self, node: ClientNode) -> None:
        assert self.weather is not None
        told = self.adversary.tell(node.name)
        if told is None or self.random.random() < self.weather.lose:
            return
        self._note(f"{node.name} is told {type(getattr(told, 'request', told)).__name__}")
        data = sums.encode_told(told)
        if self.random.random() < self.weather.damage:
            data = damaged(self.random, data)
        for _ in range(2 if self.random.random() < self.weather.repeat else 1):
            self._listen(node, data)

    def _listen(self, node: ClientNode, data: bytes) -> None:
        if node.rounds is None:
            return
        try:
            node.hear(sums.decode_told(data))
        except PeerError as refusal:
            self._note(f"{node.name}: cannot be read: {refusal}")
            node.saying = node.rounds.standing
        except (StorageError, Crash) as error:
            self._note(f"{node.name}: died: {error}")
            node.kill()
