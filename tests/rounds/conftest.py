"""A small federation for the client's side: real keys, roster, stores, codec and sums; no wire."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from secfed.config import BudgetPolicy, JobPolicy, PolicyConfig
from secfed.crypto.labels import PROTOCOL_VERSION, SUITE, Label
from secfed.crypto.signing import SigningKey
from secfed.encoding.contribution import ContributionSum, decode_contribution_sum
from secfed.encoding.fixedpoint import FixedPoint, word_bits
from secfed.errors import RoundAbortedError
from secfed.identity import certificate, membership, signed
from secfed.identity.enrolment import Enrolment
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import NO_DIGEST, ClientId, Digest, JobId
from secfed.privacy.entries import Budget
from secfed.privacy.ledger import Ledger
from secfed.rounds.admission import Site
from secfed.rounds.client import ClientRounds, RoundEnd, Upload
from secfed.rounds.contribution import ContributionStore, site_key
from secfed.rounds.exchange import Answer, Ask, Offer, Refused
from secfed.rounds.plan import Deadlines, JobPlan, RoundPlan
from secfed.rounds.ports import Contributor
from secfed.rounds.proposal import (
    COUNTERS,
    JobProposal,
    RoundProposal,
    sign_job_plan,
    sign_round_plan,
    vector_words,
)
from secfed.rounds.rosters import RosterKeeper
from secfed.rounds.vector import VectorContributor
from secfed.secagg.aggregator import AggregatorSession
from secfed.secagg.manifest import Manifest, manifest_context
from secfed.secagg.messages import Outcome, OutcomeNotice, Request, Void, VoidNotice
from secfed.secagg.params import Params
from secfed.secagg.record import AggregatorRecord, ClientRecord
from secfed.store.decisions import DecisionStore
from secfed.wire import sums
from secfed.wire.codec import ProtoCodec

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
POLICY = PolicyConfig(budget=BudgetPolicy(epsilon=8.0), job=JobPolicy(allow_non_private=True))


class Notes:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, object]]] = []

    def note(
        self, event: str, *, job: JobId | None = None, site: ClientId | None = None, **facts: object
    ) -> None:
        self.heard.append((event, facts))

    def words(self) -> list[str]:
        return [event for event, _ in self.heard]


class Crash(BaseException):
    """The process ends here, at once."""


@dataclass
class Machine:
    """One site's disk and process: `start` opens what lies there, `stop` lets go of it."""

    name: ClientId
    key: SigningKey
    directory: Path
    roster: Roster
    roster_key: bytes
    policy: PolicyConfig = POLICY
    only: JobId | None = None
    budget: Budget | None = None
    make: Callable[[JobPlan], Contributor] | None = None
    bases: dict[Digest, Mapping[str, NDArray[np.float32]]] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    fail_at: str = ""
    _open: list[Any] = field(default_factory=list)

    @property
    def update(self) -> Path:
        return self.directory / "update.safetensors"

    @property
    def ledger_path(self) -> Path:
        return self.directory / "ledger.jsonl"

    def write(self, **arrays: NDArray[Any]) -> None:
        save_file(arrays, self.update)

    def barrier(self, step: str) -> None:
        if self.fail_at and step.startswith(self.fail_at):
            raise Crash(step)

    def ledger(self, _plan: JobPlan) -> Ledger:
        if not self.ledger_path.exists():
            ledger = Ledger.create(
                self.ledger_path, key=self.key, site=self.name, unit="record", records_per_unit=1,
                relation="add-remove", budget=self.budget, barrier=self.barrier,
            )  # fmt: skip
        else:
            opened = [item for item in self._open if isinstance(item, Ledger)]
            if opened:
                return opened[0]
            ledger = Ledger.open(self.ledger_path, key=self.key, barrier=self.barrier)
        self._open.append(ledger)
        return ledger

    def start(self) -> ClientRounds:
        decisions = DecisionStore(self.directory / "decisions.sqlite", barrier=self.barrier)
        self._open.append(decisions)
        roster_file = self.directory / "roster.txt"
        if not roster_file.exists():
            roster_file.write_bytes(self.roster.text)
        key = site_key(self.directory / "site.key")
        vector = VectorContributor(self.update)
        site = Site(
            name=self.name,
            key=self.key,
            only=self.only,
            codec=ProtoCodec(),
            rosters=RosterKeeper(roster_file, self.roster_key, decisions),
            decisions=decisions,
            contributions=ContributionStore(self.directory / "contributions", key, barrier=self.barrier),
            policy=self.policy,
            policy_digest="00" * 32,
            ledger=self.ledger,
            contributor=self.make or (lambda _plan: vector),
            base=lambda digest: self.bases[digest],
            observer=self.notes,
            now=lambda: NOW,
            monotonic=lambda: 0.0,
        )
        self.rounds = ClientRounds(site)
        self.site = site
        return self.rounds

    def stop(self) -> None:
        """The process is gone, cleanly or not; what was durable stays."""
        for item in self._open:
            item.close()
        self._open.clear()

    @property
    def record(self) -> ClientRecord:
        return ClientRecord(self.site.decisions)


@dataclass
class Federation:
    """Who is there, and an aggregator that runs one attempt at a time."""

    directory: Path
    roster_key: SigningKey
    aggregator: SigningKey
    admin: SigningKey
    roster: Roster
    machines: dict[ClientId, Machine]
    now: datetime = NOW
    attempts: int = 0
    hosts: list[Host] = field(default_factory=list)
    previous: tuple[int, Digest] = (0, NO_DIGEST)

    def plan(self, **changes: Any) -> JobPlan:
        fields: dict[str, Any] = {
            "federation": self.roster.federation,
            "job": "sum-1",
            "kind": "vector",
            "created": "2026-03-01T12:00:00Z",
            "created_by": "office",
            "rounds": 3,
            "shapes": {"a": (2, 2), "b": (3,)},
            "bound": "4",
            "bits": 16,
        }
        return JobPlan(**(fields | changes))

    def propose(
        self, plan: JobPlan, number: int = 1, base: Digest = NO_DIGEST
    ) -> tuple[JobProposal, RoundProposal]:
        job = sign_job_plan(self.admin, plan)
        round_plan = RoundPlan(
            job=plan.job, job_plan=job.digest.hex(), round=number, base=base.hex(), deadlines=Deadlines()
        )
        return job, sign_round_plan(self.aggregator, round_plan)

    def offer(self, plan: JobPlan, number: int = 1, base: Digest = NO_DIGEST) -> Offer:
        job, round_ = self.propose(plan, number, base)
        return Offer(job.text, round_.text)

    def begin(self, plan: JobPlan, number: int, cohort: list[Machine], base: Digest = NO_DIGEST) -> Host:
        self.attempts += 1
        job, round_ = self.propose(plan, number, base)
        sites = tuple(sorted(machine.name for machine in cohort))
        manifest = Manifest(
            protocol=PROTOCOL_VERSION,
            suite=SUITE,
            federation=self.roster.federation,
            roster=self.roster.digest,
            job=job.job,
            job_plan=job.digest,
            round_plan=round_.digest,
            round=number,
            sum_index=0,
            attempt=self.attempts,
            cohort=sites,
            corrupt=self.roster.corrupt,
            layout=plan.layout.digest,
            length=vector_words(plan),
            word_bits=word_bits(len(sites), plan.bits),
            base=base,
            previous_round=self.previous[0],
            previous=self.previous[1],
        )
        self.hosts.append(Host(self, plan, manifest))
        return self.hosts[-1]

    def close(self) -> None:
        for each in (*self.machines.values(), *self.hosts):
            each.stop()


class Host:
    """The aggregator's side of one attempt, straight over its session; every message is serialised."""

    def __init__(self, federation: Federation, plan: JobPlan, manifest: Manifest) -> None:
        self.federation, self.plan, self.manifest = federation, plan, manifest
        self.vectors: dict[int, bytes] = {}
        context = manifest_context(manifest)
        signed_manifest = self._sign(Label.SIGN_MANIFEST, ProtoCodec().encode(manifest), context)
        store = DecisionStore(federation.directory / f"aggregator-{manifest.attempt}.sqlite")
        roster = federation.roster
        self.session = AggregatorSession(
            signed_manifest,
            Params.complete(len(manifest.cohort), roster.corrupt, min_cohort=3),
            members={m.site: m.identity_key for m in roster.active(Role.CLIENT)},
            codec=ProtoCodec(),
            record=AggregatorRecord(store),
            uploads=self,
        )
        self.store = store

    def open(self, _h: Digest, member: int) -> io.BytesIO:
        return io.BytesIO(self.vectors[member])

    def ask(self, machine: Machine) -> Request | None:
        return self.session.ask(self.manifest.index_of(machine.name))

    def pass_on(self, machine: Machine) -> object:
        """One request to one client, and its answer back, both over their exact bytes; what it said."""
        request = self.ask(machine)
        assert request is not None
        return self.give(machine, request)

    def give(self, machine: Machine, request: Request) -> object:
        told = sums.decode_told(sums.encode_told(Ask(self.session.h, request)))
        said = machine.rounds.hear(told)
        member = self.manifest.index_of(machine.name)
        if isinstance(said, Upload):
            self.session.check_upload(member, said.statement)
            self.vectors[member] = said.packed
            self.session.receive_upload(member, said.statement, hashlib.sha256(said.packed).digest())
        else:
            said = sums.decode_said(sums.encode_said(said))
            if isinstance(said, Answer):
                self.session.receive(member, said.reply)
        return said

    def run(self, machines: list[Machine], *, until: str = "done") -> None:
        """Phase after phase, all who owe something, until the phase of this name begins."""
        while self.session.phase.value != until:
            waiting = [machine for machine in machines if self.ask(machine) is not None]
            assert waiting, f"nobody owes anything in {self.session.phase}"
            for machine in waiting:
                if self.ask(machine) is not None:
                    said = self.pass_on(machine)
                    if isinstance(said, Refused):
                        raise RoundAbortedError(said.rule)

    def void(self, machine: Machine) -> object:
        statement = self._sign(Label.SIGN_VOID, ProtoCodec().encode(Void("a test")), self.session.h)
        return machine.rounds.hear(Ask(self.session.h, VoidNotice(self.session.h, statement)))

    def outcome(self, *, published: bool = True) -> OutcomeNotice:
        """Open the sum, and say so."""
        blank = Outcome(
            self.manifest.round_id, False, (), self.session.dropped, NO_DIGEST, NO_DIGEST, NO_DIGEST
        )
        outcome = blank
        if published:
            ring_sum = self.session.sum_up()
            grid = FixedPoint(float(self.plan.bound), self.plan.bits)
            self.sum: ContributionSum = decode_contribution_sum(
                ring_sum.total, len(ring_sum.survivors), COUNTERS, grid
            )
            survivors = tuple(self.session.site(member) for member in ring_sum.survivors)
            outcome = replace(
                blank,
                published=True,
                survivors=survivors,
                sum=ring_sum.digest,
                transcript=ring_sum.transcript,
            )
            self.federation.previous = (self.manifest.round, ring_sum.transcript)
        statement = self._sign(Label.SIGN_OUTCOME, ProtoCodec().encode(outcome), self.session.h)
        return OutcomeNotice(self.session.h, statement)

    def stop(self) -> None:
        self.store.close()

    def finish(self, machines: list[Machine], *, published: bool = True) -> list[RoundEnd]:
        notice = self.outcome(published=published)
        ends = []
        for machine in machines:
            machine.rounds.hear(Ask(self.session.h, notice))
            assert machine.rounds.ended is not None
            ends.append(machine.rounds.ended)
        return ends

    def _sign(self, label: Label, statement: bytes, context: bytes) -> signed.Signed:
        return signed.sign(
            self.federation.aggregator,
            label,
            context=context,
            sender="center",
            recipient=None,
            statement=statement,
        )


def _enrol(name: str, role: Role) -> tuple[SigningKey, Enrolment]:
    from cryptography.hazmat.primitives.asymmetric import ec

    key = SigningKey.generate()
    tls = ec.generate_private_key(ec.SECP256R1())
    until = NOW + timedelta(days=365)
    issued = certificate.create(tls, ClientId(name), role, now=NOW, valid_until=until)
    return key, Enrolment(ClientId(name), role, key.public, issued, NOW, until)


def make_federation(directory: Path, sites: int = 3, corrupt: int | None = None) -> Federation:
    roster_key = SigningKey.generate()
    aggregator, aggregator_file = _enrol("center", Role.AGGREGATOR)
    admin, admin_file = _enrol("office", Role.ADMIN)
    names = [f"hosp-{chr(97 + i)}" if sites <= 26 else f"hosp-{i:03}" for i in range(sites)]
    clients = {name: _enrol(name, Role.CLIENT) for name in names}
    enrolments = [aggregator_file, admin_file, *(item for _, item in clients.values())]
    roster = membership.create(
        roster_key, enrolments, now=NOW, not_after=NOW + timedelta(days=300), corrupt=corrupt
    )
    machines = {}
    for index, (name, (key, _)) in enumerate(clients.items()):
        home = directory / name
        home.mkdir(mode=0o700)
        machine = Machine(ClientId(name), key, home, roster, roster_key.public)
        first = (index % 31 + 1) / 8  # within the bound, however many there are
        machine.write(a=np.full((2, 2), first, np.float32), b=np.arange(3, dtype=np.float32) / (index + 1))
        machines[machine.name] = machine
    return Federation(directory, roster_key, aggregator, admin, roster, machines)


@pytest.fixture
def federation(disk: Path) -> Iterator[Federation]:
    """Three sites with vectors on their disks, none started."""
    made = make_federation(disk)
    yield made
    made.close()


@pytest.fixture
def build_federation(disk: Path) -> Iterator[Callable[..., Federation]]:
    """As `federation`, of another size."""
    made: list[Federation] = []

    def build(sites: int, corrupt: int | None = None) -> Federation:
        made.append(make_federation(disk, sites, corrupt))
        return made[-1]

    yield build
    for each in made:
        each.close()
