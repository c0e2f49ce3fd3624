"""The members of a federation in memory: roster, keys and certificates, made once for a size."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec

from secfed.crypto.signing import SigningKey
from secfed.identity import certificate, membership
from secfed.identity.enrolment import Enrolment
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import ClientId
from secfed.rounds.plan import Deadlines, JobPlan
from secfed.rounds.proposal import JobProposal, sign_job_plan

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
JOB = "sum"
ARRAY = "v"
BOUND = 4.0
BITS = 16
LENGTH = 40


@dataclass(frozen=True)
class People:
    """Everybody's keys, and the roster that lists them."""

    roster_key: SigningKey
    aggregator: SigningKey
    admin: SigningKey
    clients: dict[ClientId, SigningKey]
    roster: Roster

    def plan(self, *, rounds: int, spare_rounds: int) -> JobProposal:
        """A vector job with one array of `LENGTH` values."""
        plan = JobPlan(
            federation=self.roster.federation,
            job=JOB,
            kind="vector",
            created="2026-03-01T12:00:00Z",
            created_by="office",
            rounds=rounds,
            spare_rounds=spare_rounds,
            shapes={ARRAY: (LENGTH,)},
            bound=str(int(BOUND)),
            bits=BITS,
            deadlines=Deadlines(training_s=600, phase_s=60, upload_idle_s=30),
        )
        return sign_job_plan(self.admin, plan)


def _enrol(name: str, role: Role) -> tuple[SigningKey, Enrolment]:
    key, until = SigningKey.generate(), NOW + timedelta(days=365)
    issued = certificate.create(
        ec.generate_private_key(ec.SECP256R1()), ClientId(name), role, now=NOW, valid_until=until
    )
    return key, Enrolment(ClientId(name), role, key.public, issued, NOW, until)


@cache
def newcomer(name: ClientId, number: int) -> tuple[SigningKey, Enrolment]:
    """Further keys of a client, as many as there are numbers."""
    del number
    return _enrol(name, Role.CLIENT)


@cache
def people(clients: int, corrupt: int | None = None) -> People:
    """A federation of this many sites, of which A may be corrupt; None for the roster's own default."""
    roster_key = SigningKey.generate()
    aggregator, aggregator_file = _enrol("center", Role.AGGREGATOR)
    admin, admin_file = _enrol("office", Role.ADMIN)
    sites = {f"site-{index}": _enrol(f"site-{index}", Role.CLIENT) for index in range(clients)}
    roster = membership.create(
        roster_key,
        [aggregator_file, admin_file, *(item for _, item in sites.values())],
        now=NOW,
        not_after=NOW + timedelta(days=300),
        corrupt=corrupt,
    )
    return People(
        roster_key, aggregator, admin, {ClientId(name): key for name, (key, _) in sites.items()}, roster
    )
