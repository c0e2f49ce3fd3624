"""The processes of a federation in memory: each with a disk of its own that may fail at any write.

A node runs the very classes that the daemon and the client run. `kill` takes its memory away at
once; what it had made durable is there when it starts again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from simfed.people import ARRAY, BOUND, LENGTH, NOW, People

from secfed.config import BudgetPolicy, JobPolicy, PolicyConfig
from secfed.crypto.signing import SigningKey
from secfed.errors import AuthenticationError, CertificateExpiredError, RosterError, SecfedError, StorageError
from secfed.identity.roster import Roster
from secfed.ids import ClientId, JobId
from secfed.privacy.events import Event, NonPrivate
from secfed.privacy.ledger import Ledger
from secfed.rounds.admission import Site
from secfed.rounds.aggregator import AggregatorRounds
from secfed.rounds.client import ClientRounds, Upload
from secfed.rounds.contribution import ContributionStore, site_key
from secfed.rounds.exchange import Answer, Ask, Said, Told
from secfed.rounds.house import House, adapter_digest
from secfed.rounds.plan import JobPlan, RoundPlan
from secfed.rounds.ports import NamedArrays, Update
from secfed.rounds.proposal import JobProposal
from secfed.rounds.rosters import RosterKeeper
from secfed.secagg.messages import OpenAttempt, SignedReply
from secfed.store.adapters import AdapterStore
from secfed.store.decisions import DecisionStore
from secfed.store.spool import Spool
from secfed.wire.codec import ProtoCodec

WILLING = PolicyConfig(budget=BudgetPolicy(epsilon=8.0), job=JobPolicy(allow_non_private=True))
UNWILLING = PolicyConfig(budget=BudgetPolicy(epsilon=8.0))
"""A policy that the simulated job breaks: it is released without differential privacy."""


class Crash(BaseException):
    """The process ends here, at once, whatever it was doing."""


@dataclass
class Clock:
    """Seconds that pass only when the scheduler says so."""

    seconds: float = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now_ns(self) -> int:
        return int((NOW.timestamp() + self.seconds) * 1e9)


@dataclass
class SkewedClock:
    """One node's clocks: what people set may jump either way, the monotonic one cannot."""

    common: Clock
    skew_s: float = 0.0

    def monotonic(self) -> float:
        return self.common.monotonic()

    def now_ns(self) -> int:
        return self.common.now_ns() + int(self.skew_s * 1e9)


@dataclass
class Disk:
    """What happens at each durable effect of one node, before it and after it.

    Attributes:
        crash: Probability that the process dies there.
        fail: Probability that the disk refuses; the process cannot know whether it took the write.
        crash_at: The one step, counted from 0, at which the process dies for certain; -1 for none.
        fail_at: The one step at which the disk refuses for certain.
    """

    random: Random
    crash: float = 0.0
    fail: float = 0.0
    crash_at: int = -1
    fail_at: int = -1
    steps: int = 0

    def barrier(self, step: str) -> None:
        here, self.steps = self.steps, self.steps + 1
        if here == self.crash_at:
            raise Crash(step)
        if here == self.fail_at:
            raise StorageError(f"{step}: the simulated disk refused")
        if not (self.crash or self.fail):
            return
        roll = self.random.random()
        if roll < self.crash:
            raise Crash(step)
        if roll < self.crash + self.fail:
            raise StorageError(f"{step}: no space left on the simulated disk")

    def calm(self) -> None:
        self.crash = self.fail = 0.0


class Silent:
    """An observer that keeps what it hears, for the trace of a failing seed."""

    def __init__(self, trace: Callable[[str], None], name: str) -> None:
        self._trace, self._name = trace, name

    def note(
        self, event: str, *, job: JobId | None = None, site: ClientId | None = None, **facts: object
    ) -> None:
        text = " ".join(f"{name}={value}" for name, value in facts.items())
        self._trace(f"{self._name}: {event} {site or ''} {text}")


@dataclass
class OneSlotContributor:
    """The oracle's vector: one value at the site's own coordinate, zero elsewhere.

    The value changes with the round unless `constant`, which brings the difference rule into play.
    `begins` is called where training would begin.
    """

    place: int
    constant: bool = False
    begins: Callable[[JobPlan, RoundPlan], None] = lambda _plan, _round: None

    def planned_event(self, plan: JobPlan) -> Event:
        return NonPrivate("a test")

    def check(self, plan: JobPlan) -> None:
        return None

    def contribute(self, plan: JobPlan, round_plan: RoundPlan, base: NamedArrays) -> Update:
        self.begins(plan, round_plan)
        vector = np.zeros(LENGTH, np.float32)
        vector[self.place] = BOUND if self.constant else BOUND - round_plan.round / 64
        return Update({ARRAY: vector}, 1, 0, self.planned_event(plan))


@dataclass
class ClientNode:
    """One site's process and disk.

    Attributes:
        key: Its identity key in use.
        invited: The roster that it began with.
        taken: The roster that lay on its disk when it was started, or was handed one, last.
        joins: For each advert that it made, the one that lay there then.
    """

    name: ClientId
    people: People
    key: SigningKey
    invited: Roster
    directory: Path
    clock: SkewedClock
    disk: Disk
    contributor: OneSlotContributor
    trace: Callable[[str], None]
    policy: PolicyConfig = WILLING
    rounds: ClientRounds | None = None
    saying: Said | Upload | None = None
    heard: Told | None = None
    taken: bytes = b""
    joins: dict[bytes, bytes] = field(default_factory=dict)
    _open: list[Any] = field(default_factory=list)

    @property
    def up(self) -> bool:
        return self.rounds is not None

    @property
    def roster_path(self) -> Path:
        return self.directory / "roster.txt"

    @property
    def ledger_path(self) -> Path:
        return self.directory / "scratch.ledger"

    def start(self) -> None:
        """Open what lies on the disk; a crash on the way leaves the process down."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        if not self.roster_path.exists():
            self.roster_path.write_bytes(self.invited.text)
        try:
            self._start()
        except (Crash, StorageError) as error:
            self.trace(f"{self.name}: did not start: {error}")
            self.kill()

    def _start(self) -> None:
        decisions = DecisionStore(self.directory / "decisions.sqlite", barrier=self.disk.barrier)
        self._open.append(decisions)
        site = Site(
            name=self.name,
            key=self.key,
            only=None,
            codec=ProtoCodec(),
            rosters=RosterKeeper(self.roster_path, self.people.roster_key.public, decisions),
            decisions=decisions,
            contributions=ContributionStore(
                self.directory / "contributions",
                site_key(self.directory / "site.key"),
                barrier=self.disk.barrier,
            ),
            policy=self.policy,
            policy_digest="00" * 32,
            ledger=self._ledger,
            contributor=lambda _plan: self.contributor,
            base=lambda _digest: {},
            observer=Silent(self.trace, self.name),
            now=self._now,
            monotonic=self.clock.monotonic,
        )
        self.site = site
        self.rounds = ClientRounds(site)
        self.saying, self.heard = self.rounds.standing, None
        self.taken = self.roster_path.read_bytes()

    def hear(self, told: Told) -> None:
        """Take what was told, and have the next thing to say.

        A refusal is borne, as the conversation bears it.

        Raises:
            Crash, StorageError: The process ends.
        """
        if self.rounds is None:
            return
        self.heard = told
        try:
            self.saying = self.rounds.hear(told)
        except StorageError:
            raise
        except SecfedError as refusal:
            self.trace(f"{self.name}: setback: {refusal}")
            self.saying = self.rounds.standing
        match told, self.saying:
            case Ask(_, OpenAttempt()), Answer(_, SignedReply(advert)):
                self.joins.setdefault(advert.statement, self.taken)

    # -- rosters and keys ----------------------------------------------------------------------

    def is_listed(self, roster: Roster) -> bool:
        """Whether the key that this site uses counts in a roster."""
        try:
            member = roster.member(self.name)
        except AuthenticationError:
            return False
        return member.active and member.identity_key == self.key.public

    def learn(self, text: bytes) -> None:
        """Take a roster from the aggregator, as the link does; an older one is refused.

        Raises:
            Crash, StorageError: The process ends.
        """
        try:
            roster = self.site.rosters.accept(text)
            self.taken = self.roster_path.read_bytes()
        except StorageError:
            raise
        except RosterError as refusal:
            self.trace(f"{self.name}: {refusal}")
        else:
            self.trace(f"{self.name}: goes by roster version {roster.version}")

    def change_key(self, key: SigningKey) -> None:
        """The site's people stop the client, hand its ledger over, and go on with the new key file."""
        self.kill()
        if self.ledger_path.exists() and self.ledger_path.stat().st_size:
            Ledger.open(self.ledger_path, key=self.key, now=self._now).hand_over(self.key, key)
        self.key = key

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now_ns() / 1e9, NOW.tzinfo)

    def _ledger(self, _plan: JobPlan) -> Ledger:
        opened = [item for item in self._open if isinstance(item, Ledger)]
        if opened:
            return opened[0]
        key = self.key
        if self.ledger_path.exists() and self.ledger_path.stat().st_size:
            ledger = Ledger.open(self.ledger_path, key=key, now=self._now, barrier=self.disk.barrier)
        else:
            ledger = Ledger.create(
                self.ledger_path,
                key=key,
                site=self.name,
                unit="record",
                records_per_unit=1,
                relation="add-remove",
                budget=None,
                now=self._now,
                barrier=self.disk.barrier,
            )
        self._open.append(ledger)
        return ledger

    def kill(self) -> None:
        """The process is gone; what was durable stays."""
        self.rounds, self.saying = None, None
        for item in self._open:
            item.close()
        self._open.clear()


@dataclass
class AggregatorNode:
    """The aggregator's process and disk."""

    people: People
    directory: Path
    clock: SkewedClock
    disk: Disk
    job: JobProposal
    trace: Callable[[str], None]
    rounds: AggregatorRounds | None = None
    _store: DecisionStore | None = None

    @property
    def roster_path(self) -> Path:
        return self.directory / "roster.txt"

    @property
    def output(self) -> Path:
        return self.directory / "out"

    def start(self) -> None:
        """Take up what lies on the disk, and see that the job is entered.

        While a clock says that nobody is enrolled yet, or any more, the job is refused: that is tried again.
        """
        self.directory.mkdir(mode=0o700, exist_ok=True)
        if not self.roster_path.exists():
            self.roster_path.write_bytes(self.people.roster.text)
        try:
            self._store = DecisionStore(self.directory / "decisions.sqlite", barrier=self.disk.barrier)
            rosters = RosterKeeper(self.roster_path, self.people.roster_key.public, self._store)
            house = House(
                site=ClientId("center"),
                key=self.people.aggregator,
                roster=lambda: rosters.current,
                roster_key=self.people.roster_key.public,
                codec=ProtoCodec(),
                decisions=self._store,
                spool=Spool(self.directory / "spool", barrier=self.disk.barrier),
                adapters=AdapterStore(
                    self.directory / "adapters", digest=adapter_digest, barrier=self.disk.barrier
                ),
                output=self.output,
                clock=self.clock,
                observer=Silent(self.trace, "center"),
            )
            rounds = AggregatorRounds(house)
            if not rounds.status().jobs:
                rounds.start_job(self.job.text)
            self.rounds, self.house, self.rosters = rounds, house, rosters
        except (Crash, StorageError, CertificateExpiredError) as error:
            self.trace(f"center: did not start: {error}")
            self.kill()

    def kill(self) -> None:
        """The process is gone; what was durable stays."""
        self.rounds = None
        if self._store is not None:
            self._store.close()
            self._store = None

    def look_at_the_file(self) -> bool:
        """Go by the roster that lies in its file, if it is another one; whether it is.

        A disk that refuses the pin is tried again, as the daemon does.
        """
        text = self.roster_path.read_bytes()
        if text == self.rosters.current.text:
            return False
        try:
            roster = self.rosters.follow(text)
        except StorageError as error:
            self.trace(f"center: roster not taken up: {error}")
            return False
        self.trace(f"center: goes by roster version {roster.version}")
        return True

    def guard(self, step: Callable[[AggregatorRounds], Any]) -> Any:
        """Run one step of the core; a failing disk ends the process, a refusal is passed on."""
        assert self.rounds is not None
        try:
            return step(self.rounds)
        except (Crash, StorageError) as error:
            self.trace(f"center: died: {type(error).__name__} {error}")
            self.kill()
            raise Down from None


class Down(Exception):
    """The other side went away in the middle of a call."""
