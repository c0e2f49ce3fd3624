"""The members of a measured sum, with what all of them hold: roster, plans, keys, vectors.

Everything but the TLS certificates follows from one seed, so that each process of a measurement
makes for itself what it needs and nobody sends vectors around. The keys are worth nothing
outside the measurement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from secfed.crypto.signing import SigningKey
from secfed.encoding.contribution import encode_contribution
from secfed.encoding.fixedpoint import FixedPoint
from secfed.identity import certificate, membership, roster
from secfed.identity.enrolment import Enrolment
from secfed.identity.fields import write_time
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import NO_DIGEST, ClientId, JobId, MemberIndex
from secfed.rounds.plan import Deadlines, JobPlan, RoundPlan
from secfed.rounds.proposal import JobProposal, RoundProposal, sign_job_plan, sign_round_plan, vector_words
from secfed.secagg.attempt import Membership
from secfed.secagg.manifest import Terms
from secfed.secagg.record import ClientRecord, Decisions
from secfed.wire.codec import ProtoCodec

__all__ = [
    "ADMIN", "AGGREGATOR", "ARRAY", "BOUND", "JOB", "Cohort", "Setting", "Silent", "Vector", "gather",
    "job_plan", "roles",
]  # fmt: skip

AGGREGATOR, ADMIN = ClientId("center"), ClientId("office")
JOB = JobId("bench")
ARRAY = "x"
BOUND = 1.0

_VALID = timedelta(days=2)

_PATIENT = Deadlines(training_s=7 * 86_400, phase_s=3600, upload_idle_s=3600)
"""Nobody is ever late here: a measurement of a thousand clients takes minutes a phase."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured.

    Attributes:
        clients: n.
        coordinates: d, of the vector; a weight and a counter travel beside it.
        dropouts: How many members share their secrets and then send no vector: the dearest way to be lost.
        bits: b of the grid.
        corrupt: A of the roster; None for its default.
        losses: D that a ring is sized for; None for the aggregator's own choice. On the complete graph
            it follows from the rest.
        repeats: Rounds with fresh keys; of each side the cheapest counts.
        threads: Of the aggregator's unmasking.
    """

    clients: int
    coordinates: int
    dropouts: int = 0
    bits: int = 16
    corrupt: int | None = None
    losses: int | None = None
    repeats: int = 1
    threads: int = 1

    @property
    def sites(self) -> tuple[ClientId, ...]:
        """What the clients are called, sorted."""
        width = len(str(self.clients - 1))
        return tuple(ClientId(f"site-{index:0{width}}") for index in range(self.clients))


class Silent:
    """An observer that keeps nothing."""

    def note(
        self, event: str, *, job: JobId | None = None, site: ClientId | None = None, **facts: object
    ) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Vector:
    """A contribution that was made before, as the secure sum takes it; its ledger is not measured here."""

    made: NDArray[np.uint32] = field(repr=False)

    def words(self) -> NDArray[np.uint32]:
        """A fresh copy of the encoded vector."""
        return self.made.copy()

    def mark_sent(self, attempt: int) -> None:
        """Nothing: the ledger belongs to training."""


@dataclass(frozen=True, slots=True)
class Cohort:
    """All members, as each process of a measurement sees them.

    Attributes:
        sites: The clients: a site's place is its place in the cohort.
        roster_text: As its owner signed it.
        roster_key: The pinned key.
        created: When the roster and the plan were made.
    """

    setting: Setting
    seed: bytes = field(repr=False)
    sites: tuple[ClientId, ...]
    roster_text: bytes = field(repr=False)
    roster_key: bytes
    created: datetime

    def key(self, name: str) -> SigningKey:
        """A member's identity key."""
        return _key(self.seed, name)

    def roster(self) -> Roster:
        """The roster, verified anew."""
        return roster.verify(self.roster_text, self.roster_key)

    # -- plans ---------------------------------------------------------------------------------

    def job(self, roster: Roster) -> JobProposal:
        """The job, signed by its admin."""
        plan = job_plan(self.setting, roster.federation, self.created, _PATIENT)
        return sign_job_plan(self.key(ADMIN), plan)

    def round(self, job: JobProposal, number: int) -> RoundProposal:
        """A round of it, signed by the aggregator."""
        plan = RoundPlan(
            job=JOB, job_plan=job.digest.hex(), round=number, base=NO_DIGEST.hex(), deadlines=_PATIENT
        )
        return sign_round_plan(self.key(AGGREGATOR), plan)

    def terms(self, roster: Roster, job: JobProposal, number: int) -> Terms:
        """What every client knows for itself about a round's sum."""
        plan = job.plan
        return Terms(
            federation=roster.federation,
            roster=roster.digest,
            job=JOB,
            job_plan=job.digest,
            round_plan=self.round(job, number).digest,
            round=number,
            sum_index=0,
            corrupt=roster.corrupt,
            layout=plan.layout.digest,
            length=vector_words(plan),
            bits=plan.bits,
            base=NO_DIGEST,
            min_cohort=max(roster.min_cohort, plan.min_cohort),
            survivors_min=plan.survivors_min,
            difference_key=NO_DIGEST,
        )

    def membership(
        self, member: MemberIndex, members: Mapping[ClientId, bytes], codec: ProtoCodec, decisions: Decisions
    ) -> Membership:
        """A client's seat."""
        site = self.sites[member]
        return Membership(
            site=site,
            key=self.key(site),
            aggregator=(AGGREGATOR, self.key(AGGREGATOR).public),
            members=members,
            codec=codec,
            record=ClientRecord(decisions),
        )

    # -- vectors -------------------------------------------------------------------------------

    def coordinates(self, member: MemberIndex) -> NDArray[np.float64]:
        """A client's vector before rounding, shape (d,)."""
        drawn = np.random.default_rng(self._seed_of(member)).random(self.setting.coordinates)
        drawn *= 2 * BOUND
        drawn -= BOUND
        return drawn

    def encoded(self, member: MemberIndex, vector: NDArray[np.float64]) -> NDArray[np.uint32]:
        """The vector on the grid, with weight and counter before it; the same dice in every process."""
        dice = hashlib.sha256(self._seed_of(member).to_bytes(32, "big")).digest()
        grid = FixedPoint(BOUND, self.setting.bits)
        return encode_contribution(vector, 1, (0,), grid, lambda count: dice[:count])

    def _seed_of(self, member: MemberIndex) -> int:
        drawn = hashlib.sha256(self.seed + member.to_bytes(4, "big")).digest()
        return int.from_bytes(drawn, "big")


def roles(setting: Setting) -> dict[ClientId, Role]:
    """Everybody whom a roster lists: an aggregator, an admin and the clients."""
    return {AGGREGATOR: Role.AGGREGATOR, ADMIN: Role.ADMIN} | dict.fromkeys(setting.sites, Role.CLIENT)


def job_plan(setting: Setting, federation: str, created: datetime, deadlines: Deadlines) -> JobPlan:
    """The job whose rounds are measured."""
    return JobPlan(
        federation=federation,
        job=JOB,
        kind="vector",
        created=write_time(created),
        created_by=ADMIN,
        rounds=setting.repeats,
        shapes={ARRAY: (setting.coordinates,)},
        bound=str(int(BOUND)),
        bits=setting.bits,
        deadlines=deadlines,
    )


def gather(setting: Setting, seed: bytes) -> Cohort:
    """Make so many clients, an aggregator and an admin, and the roster that lists them.

    Raises:
        RosterError: No roster can list so many, or tolerate so many corrupt ones.
    """
    now = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    enrolments = []
    for site, role in roles(setting).items():
        tls_key = ec.generate_private_key(ec.SECP256R1())
        issued = certificate.create(tls_key, site, role, now=now, valid_until=now + _VALID)
        enrolments.append(Enrolment(site, role, _key(seed, site).public, issued, now, now + _VALID))
    owner = _key(seed, "the roster's owner")
    made = membership.create(owner, enrolments, now=now, not_after=now + _VALID, corrupt=setting.corrupt)
    return Cohort(setting, seed, setting.sites, made.text, owner.public, now)


def _key(seed: bytes, name: str) -> SigningKey:
    return SigningKey.from_seed(hashlib.sha256(seed + name.encode()).digest())
