"""From an offered round to a contribution that is ready: authorize, reserve, contribute, encode.

The order is the promise. Both plans are verified and compared with this site's policy before its
ledger is touched; the reservation is durable before the first private row is drawn; the encoded
contribution is durable before the site says that it is ready. A restart in between finds either
the contribution, and goes on with it, or only the charge, which stands: training again is then a
new reservation, within the number of rounds that the plan and the policy agreed on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from secfed.config import PolicyConfig
from secfed.crypto.signing import SigningKey
from secfed.errors import (
    BudgetExceededError,
    DecisionConflictError,
    LedgerError,
    PeerError,
    RoundAbortedError,
    SecfedError,
)
from secfed.ids import NO_DIGEST, ClientId, Digest, JobId, RoundId
from secfed.privacy import budget
from secfed.privacy.entries import Reserved
from secfed.privacy.events import Event, NonPrivate, declared
from secfed.privacy.ledger import Ledger
from secfed.rounds import policy, proposal
from secfed.rounds.contribution import Contribution, ContributionStore, Sending, encode
from secfed.rounds.exchange import Offer
from secfed.rounds.plan import JobPlan
from secfed.rounds.ports import Contributor, NamedArrays, Observer
from secfed.rounds.proposal import JobProposal, RoundProposal
from secfed.rounds.rosters import RosterKeeper
from secfed.secagg.manifest import Terms
from secfed.secagg.messages import Codec
from secfed.secagg.record import ClientRecord, Decisions

__all__ = ["Admission", "Held", "Site"]


@dataclass(frozen=True, slots=True)
class Site:
    """What one client is, holds and believes; wired once.

    Attributes:
        only: The one job it takes part in; None for any.
        ledger: The ledger that a plan is charged to, opened on first use.
        policy_digest: Digest of the policy's text, in hexadecimal.
        contributor: What makes this site's update for a plan.
        base: The adapter behind a digest, fetched where it is not at hand yet.
    """

    name: ClientId
    key: SigningKey = field(repr=False)
    only: JobId | None
    codec: Codec
    rosters: RosterKeeper
    decisions: Decisions
    contributions: ContributionStore
    policy: PolicyConfig
    policy_digest: str
    ledger: Callable[[JobPlan], Ledger]
    contributor: Callable[[JobPlan], Contributor]
    base: Callable[[Digest], NamedArrays]
    observer: Observer
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    entropy: Callable[[int], bytes] = os.urandom


@dataclass(frozen=True, slots=True)
class Held:
    """A round that this site is ready for: its plans, and the contribution that was made for it."""

    job: JobProposal
    round: RoundProposal
    contribution: Contribution
    ledger: Ledger

    @property
    def round_id(self) -> RoundId:
        """The sum it is for."""
        return self.contribution.round_id

    @property
    def sending(self) -> Sending:
        """The contribution as the secure sum takes it."""
        return Sending(self.contribution, self.ledger)

    def terms(self, site: Site) -> Terms:
        """What this site holds a manifest against, under the roster in force now."""
        plan, roster = self.job.plan, site.rosters.current
        return Terms(
            federation=roster.federation,
            roster=roster.digest,
            job=self.round_id.job,
            job_plan=self.job.digest,
            round_plan=self.round.digest,
            round=self.round_id.round,
            sum_index=self.round_id.sum_index,
            corrupt=roster.corrupt,
            layout=plan.layout.digest,
            length=self.contribution.length,
            bits=plan.bits,
            base=self.round.base,
            min_cohort=max(roster.min_cohort, plan.min_cohort, site.policy.job.min_cohort),
            survivors_min=plan.survivors_min,
            difference_key=self._difference_key(),
        )

    def _difference_key(self) -> bytes | None:
        """What sums are compared under: nothing where each release is charged as private."""
        plan = self.job.plan
        if plan.dp is not None:
            return None
        return self.contribution.unrounded if plan.kind == "vector" else self.round.base


class Admission:
    """Decides offered rounds for one site, and makes its contributions."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._record = ClientRecord(site.decisions)
        self._accepted: set[Digest] = set()
        for round_id in site.contributions.rounds():
            if self._record.is_closed(round_id):  # closed in the moment before a crash
                site.contributions.discard(round_id.job, up_to=round_id.round)

    def open(self, offer: Offer) -> tuple[JobProposal, RoundProposal]:
        """Verify both plans: who signed them, and that they belong together.

        Raises:
            PeerError: A plan is forged, malformed, or not for this federation or job.
            RosterError: The job plan's author is no active admin.
        """
        roster = self._site.rosters.current
        job = proposal.open_job_plan(offer.job_plan, roster, self._site.now())
        return job, proposal.open_round_plan(offer.round_plan, roster.aggregator.identity_key, job)

    def admit(self, job: JobProposal, round_: RoundProposal) -> Held:
        """Get ready for a round: find the contribution that was made for it, or make it.

        Raises:
            PolicyRefusedError, BudgetExceededError: Refused before anything was charged.
            PeerError: The offer contradicts what was offered before.
            StorageError: Something could not be made durable; the process should end.
            SecfedError: The contributor cannot carry out the plan, or failed; a charge that was made stands.
        """
        round_id = RoundId(job.job, round_.plan.round)
        self._check_place(job, round_, round_id)
        stored = self._site.contributions.load(round_id)
        if stored is not None:
            return self._resume(job, round_, stored)
        if self._record.is_closed(round_id):
            raise RoundAbortedError(f"round {round_id} is over for this site")
        if self._record.left(round_id):  # two vectors of one round could be told from each other
            raise RoundAbortedError(
                f"the contribution to round {round_id} was sent and is lost here; it is never made again"
            )
        contributor = self._site.contributor(job.plan)
        self._accept(job, contributor.planned_event(job.plan))
        with _contained(f"getting ready for job {job.job}"):
            contributor.check(job.plan)
        self._bind(job, round_)
        base = self._base(job, round_)
        ledger = self._reserve(job, round_, contributor)
        with _contained(f"the contribution to round {round_id}, which stays charged,"):
            update = contributor.contribute(job.plan, round_.plan, base)
        if update.event != contributor.planned_event(job.plan):
            raise SecfedError("what was done to the data is not what was charged; nothing was sent")
        encoded = encode(job.plan, update, self._site.entropy)
        self._site.contributions.discard(round_id.job, up_to=round_id.round - 1)
        return Held(job, round_, self._site.contributions.save(round_id, round_.digest, encoded), ledger)

    def _check_place(self, job: JobProposal, round_: RoundProposal, round_id: RoundId) -> None:
        """The job is ours, and the round has a place in it."""
        only = self._site.only
        if only is not None and only != job.job:
            raise PeerError(f"a round of job {job.job} was offered; this client takes part in {only} alone")
        last = job.plan.rounds + job.plan.spare_rounds
        if round_id.round > last:
            raise PeerError(f"round {round_id} is beyond the {last} rounds of the job plan")
        if (job.plan.kind == "vector") != (round_.base == NO_DIGEST):
            raise PeerError(f"round {round_id}: a trained job has a base adapter, a vector job none")

    def _resume(self, job: JobProposal, round_: RoundProposal, stored: Contribution) -> Held:
        """Go on with a contribution that survived; it was charged when it was made.

        The policy is asked again: its owner may have changed it meanwhile.
        """
        if stored.round_plan != round_.digest:
            raise PeerError(f"round {stored.round_id} was offered before with another plan")
        ledger, number = self._site.ledger(job.plan), round_.plan.round
        charged = [charge for charge in _charges(ledger, job.job) if charge.round == number]
        if not charged:
            raise LedgerError(f"the contribution to round {stored.round_id} exists, but was never charged")
        self._accept(job, charged[-1].event)
        ledger.resume(job.job, number, job.digest, charged[-1].event)
        return Held(job, round_, stored, ledger)

    def _accept(self, job: JobProposal, event: Event) -> None:
        """Hold the plan against the policy, once; every round of it is the same plan."""
        if job.digest in self._accepted:
            return
        site, plan = self._site, job.plan
        floor = site.rosters.current.min_cohort
        terms = site.ledger(plan).state.opening.budget if declared(event) else None
        cost = policy.accept(
            site.policy,
            plan,
            event,
            min_cohort=floor,
            policy_digest=site.policy_digest,
            ledger_delta=None if terms is None else terms.delta,
        )
        fitting = plan.rounds
        if not isinstance(event, NonPrivate):
            ledger = site.ledger(plan)
            policy.check_ledger(ledger.state.opening, plan, event)
            left = max(0, plan.rounds - len(_charges(ledger, job.job)))
            fitting = plan.rounds - left + budget.rounds_that_fit(ledger.state, event, left)
        site.observer.note(
            "accepted",
            job=job.job,
            rounds=plan.rounds,
            epsilon_by_plan="infinite" if math.isinf(cost) else f"{cost:.3f}",
            rounds_within_budget=fitting,
            declared=declared(event),
        )
        self._accepted.add(job.digest)

    def _bind(self, job: JobProposal, round_: RoundProposal) -> None:
        """One plan for a job's name, and one for each of its rounds, for good."""
        put = self._site.decisions.put
        try:
            put(f"job-plan/{job.job}", job.digest)
            put(f"round-plan/{job.job}/{round_.plan.round:08}", round_.digest)
        except DecisionConflictError as conflict:
            raise PeerError(
                f"job {job.job} or its round {round_.plan.round} was accepted before with another plan",
                hint="A new plan is a new job: its admin gives it a new name.",
            ) from conflict

    def _base(self, job: JobProposal, round_: RoundProposal) -> NamedArrays:
        """The round's base adapter, held against the plan: what cannot be trained is not charged."""
        training = job.plan.training
        if training is None:
            return {}
        base = self._site.base(round_.base)
        if {name: value.shape for name, value in base.items()} != training.adapter:
            raise PeerError(
                f"the base adapter of round {round_.plan.round} has other arrays than the job plan"
            )
        for name, value in base.items():
            if value.dtype != np.float32 or not np.isfinite(value).all():
                raise PeerError(f"{name!r} of the base adapter is not all finite float32")
        return base

    def _reserve(self, job: JobProposal, round_: RoundProposal, contributor: Contributor) -> Ledger:
        """Charge the round; durable on return, and only now may data be touched."""
        site, plan, number = self._site, job.plan, round_.plan.round
        event = contributor.planned_event(plan)
        ledger = site.ledger(plan)
        charges = _charges(ledger, job.job)
        if any(charge.round > number for charge in charges):
            raise PeerError(f"round {number} of {job.job} was offered after a later one")
        most = plan.rounds + plan.spare_rounds
        if not isinstance(event, NonPrivate) and len(charges) >= most:
            raise BudgetExceededError(
                f"job {job.job} was accepted for {most} charges, and all of them are made",
                hint="A run that was cut short is charged too; plan spare_rounds for that.",
            )
        if any(charge.round == number for charge in charges):
            site.observer.note("charged_again", job=job.job, round=number, why="a run left no contribution")
        allowed = site.policy.job.allow_non_private
        leave = budget.authorize(ledger.state, event, allow_non_private=allowed)
        ledger.reserve(job.job, number, job.digest, leave)
        return ledger


@contextmanager
def _contained(what: str) -> Iterator[None]:
    """Let a contributor's failure end a round and not the process.

    Raises:
        SecfedError: As the contributor; for any other failure one without its text, since a library's
            may show a value of a row.
    """
    try:
        yield
    except SecfedError:
        raise
    except Exception as failure:  # noqa: BLE001 - of libraries that meet private rows
        raise SecfedError(f"{what} failed ({type(failure).__name__})") from None


def _charges(ledger: Ledger, job: JobId) -> list[Reserved]:
    """What stands charged for a job, oldest first."""
    return [
        charge.reserved
        for charge in ledger.state.charges
        if charge.reserved.job == job and charge.voided is None
    ]
