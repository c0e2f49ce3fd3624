"""Signed plans as they travel and lie on disk: write, and verify before anything is believed.

A job plan is signed by an admin, a round plan by the aggregator; both are JSON text with the
signature in the last line (`identity.signed`). Each plan has one text: the one that its fields
are written as, so that a duplicate name or a second spelling is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.encoding.contribution import contribution_words
from secfed.errors import EncodingError, PeerError
from secfed.identity import signed
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import ClientId, Digest, JobId
from secfed.limits import JOB_PLAN_BYTES_MAX
from secfed.rounds.plan import JobPlan, RoundPlan, job_plan_digest, round_plan_digest
from secfed.store import jsontext

__all__ = [
    "COUNTERS", "JobProposal", "RoundProposal", "open_job_plan", "open_round_plan",
    "sign_job_plan", "sign_round_plan", "vector_words",
]  # fmt: skip

COUNTERS = 1
"""Counters beside the weight in every contribution: coordinates that were clamped to the bound."""

_Plan = TypeVar("_Plan", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class JobProposal:
    """A verified job plan: what it says, its exact signed bytes, and their digest."""

    plan: JobPlan
    text: bytes = field(repr=False)
    digest: Digest

    @property
    def job(self) -> JobId:
        """The job's name."""
        return JobId(self.plan.job)


@dataclass(frozen=True, slots=True)
class RoundProposal:
    """A verified round plan: what it says, its exact signed bytes, and their digest."""

    plan: RoundPlan
    text: bytes = field(repr=False)
    digest: Digest

    @property
    def base(self) -> Digest:
        """Digest of the adapter that updates are relative to; zeros in a vector job."""
        return Digest(bytes.fromhex(self.plan.base))


def vector_words(plan: JobPlan) -> int:
    """Words of one contribution: the weight, the counters, and every coordinate."""
    return contribution_words(plan.layout.size, COUNTERS)


# -- job plans: by an admin --------------------------------------------------------------------


def sign_job_plan(key: SigningKey, plan: JobPlan) -> JobProposal:
    """Write and sign a job plan; `plan.created_by` names the admin whose key this is."""
    text = _write(plan)
    return JobProposal(plan, signed.sign_text(key, Label.SIGN_JOB_PLAN, text), job_plan_digest(text))


def open_job_plan(data: bytes, roster: Roster, now: datetime) -> JobProposal:
    """Verify a job plan against the roster: signed by the active admin that it names.

    Raises:
        PeerError: No such text, changed, malformed, or another federation's.
        RosterError: `created_by` is unknown, revoked, expired, or no admin.
    """
    plan = _read(JobPlan, signed.unverified_text(_bounded(data), what=_JOB, error=PeerError), _JOB)
    author = roster.require(ClientId(plan.created_by), Role.ADMIN, now)
    text = signed.open_text(data, author.identity_key, Label.SIGN_JOB_PLAN, what=_JOB, error=PeerError)
    if plan.federation != roster.federation:
        raise PeerError("the job plan is another federation's")
    try:
        vector_words(plan)
    except EncodingError as problem:
        raise PeerError(f"{_JOB}: {problem}") from problem
    return JobProposal(plan, data, job_plan_digest(text))


# -- round plans: by the aggregator ------------------------------------------------------------


def sign_round_plan(key: SigningKey, plan: RoundPlan) -> RoundProposal:
    """Write and sign a round plan with the aggregator's key."""
    text = _write(plan)
    return RoundProposal(plan, signed.sign_text(key, Label.SIGN_ROUND_PLAN, text), round_plan_digest(text))


def open_round_plan(data: bytes, aggregator: bytes, job: JobProposal) -> RoundProposal:
    """Verify a round plan: signed by the aggregator, for just this job plan.

    Args:
        aggregator: The aggregator's identity key, from the roster.

    Raises:
        PeerError: No such text, signed by another key, malformed, or for another job.
    """
    text = signed.open_text(_bounded(data), aggregator, Label.SIGN_ROUND_PLAN, what=_ROUND, error=PeerError)
    plan = _read(RoundPlan, text, _ROUND)
    if (plan.job, plan.job_plan) != (job.plan.job, job.digest.hex()):
        raise PeerError("the round plan belongs to another job plan than the one beside it")
    return RoundProposal(plan, data, round_plan_digest(text))


_JOB, _ROUND = "the job plan", "the round plan"


def _write(plan: BaseModel) -> bytes:
    return jsontext.pretty(plan.model_dump(mode="json"))


def _read(kind: type[_Plan], text: bytes, what: str) -> _Plan:
    """Parse strictly: the text must be the one that the plan is written as."""
    try:
        plan = kind.model_validate_json(text)
    except ValidationError as problem:
        raise PeerError(f"{what} is malformed: {_first(problem.errors(include_url=False))}") from problem
    if _write(plan) != text:
        raise PeerError(f"{what} is not in its one form")
    return plan


def _first(errors: Collection[object]) -> str:
    """Where the first error is and what it says, without the value."""
    error = next(iter(errors))
    if not isinstance(error, dict):
        raise TypeError("pydantic lists errors as dicts")
    where = ".".join(str(part) for part in error["loc"])
    return f"{where or 'as a whole'}: {error['msg']}"


def _bounded(data: bytes) -> bytes:
    if len(data) > JOB_PLAN_BYTES_MAX:
        raise PeerError(f"a plan of {len(data)} bytes is longer than {JOB_PLAN_BYTES_MAX}")
    return data
