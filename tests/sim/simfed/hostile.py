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
from simfed.owner import Owner
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

_CHANGES = 0.01
"""Probability of a new roster in a step."""


@dataclass
class HostileFederation:
    """One federation whose aggregator is the adversary.

    Args:
        steps: How many times a site gets its turn.
        clients: Honest and corrupt ones together.
        changing: The roster changes, and who hears of that is the adversary's choice.
    """

    seed: int
    directory: Path
    clients: int = 0
    steps: int = 220
    weather: Weather | None = None
    malice: Malice | None = None
    changing: bool = False
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
        dice = Random(f"owner {self.seed}")
        self.owner = Owner(self.people, dice, _CHANGES if self.changing else 0.0, owned)
        self.witness = Witness(self.owner, job, owned)
        self.adversary = Adversary(self.random, self.owner, job, owned, self.malice)
        self.said: dict[ClientId, Said | Upload] = {}
        self.constant = self.random.random() < 0.2
        self.nodes = [self._node(name) for name in names if name not in owned]
        if self.random.random() < 0.1:
            self.random.choice(self.nodes).policy = UNWILLING

    def _node(self, name: ClientId) -> ClientNode:
        assert self.weather is not None
        contributor = OneSlotContributor(int(name.removeprefix("site-")), self.constant)
        disk = Disk(self.random, self.weather.crash / 2, self.weather.fail / 2)
        clock = SkewedClock(self.clock)
        node = ClientNode(
            name,
            self.people,
            self.owner.keys[name],
            self.owner.newest,
            self.directory / name,
            clock,
            disk,
            contributor,
            self._note,
        )
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
        if self.changing:
            self._change_roster()
        node = self.random.choice(self.nodes)
        if self.random.random() < self.weather.clock:
            node.clock.skew_s = self.random.choice((0.0, self.random.uniform(-_SKEW_S, _SKEW_S)))
        if not node.up:
            node.start()
            if node.up:
                self.witness.took(node)
        elif self.random.random() < self.weather.kill_client:
            self._note(f"{node.name}: killed")
            node.kill()
        else:
            if self.changing:
                self._hand_roster(node)
            if node.up and node.is_listed(node.site.rosters.current):
                self._say(node)
                self._tell(node)
        self.witness.raise_broken()

    def _change_roster(self) -> None:
        """Perhaps the owner publishes a version, or a site goes over to its new key."""
        site = self.owner.act()
        if site is not None:
            self._note(f"owner: roster version {self.owner.newest.version} is about {site}")
            if site not in self.people.clients and site not in self.adversary.seats:
                self.nodes.append(self._node(site))
                self.adversary.meet(site)
        for node in self.nodes:
            if node.key is not self.owner.keys[node.name] and self.owner.random.random() < 0.1:
                self._note(f"{node.name}: goes over to its new key")
                node.change_key(self.owner.keys[node.name])

    def _hand_roster(self, node: ClientNode) -> None:
        """The adversary may hand a site any roster that there is, or none."""
        roster = self.adversary.roster_for(node.name)
        if roster is None:
            return
        self._note(f"{node.name} is shown roster version {roster.version}")
        try:
            node.learn(roster.text)
        except (StorageError, Crash) as error:
            self._note(f"{node.name}: died: {error}")
            node.kill()
        else:
            self.witness.took(node)
            self.adversary.held[node.name] = node.site.rosters.current

    def _say(self, node: ClientNode) -> None:
        saying = node.saying
        assert saying is not None
        if self.said.get(node.name) is saying:
            return  # it waits for what comes of it
        self.said[node.name] = saying
        if isinstance(saying, Upload):
            self.witness.left(node, saying)
        else:
            self.witness.said(node, saying)
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
