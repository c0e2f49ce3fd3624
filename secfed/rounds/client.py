"""A client in its rounds, told as a story: get ready, take part in the sum, hear how it ended.

Sans-IO: `hear` takes what the aggregator told and returns what to say next. A refusal ends the
live attempt for this site, never the conversation; what the aggregator reads of it is the rule
that was broken, and of a declined round not even that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from secfed.crypto.labels import Label
from secfed.errors import DecisionConflictError, NetworkError, PeerError, SecfedError, StorageError
from secfed.identity import signed
from secfed.identity.roles import Role
from secfed.identity.signed import Signed
from secfed.ids import Digest, JobId, RoundId
from secfed.rounds.admission import Admission, Held, Site
from secfed.rounds.exchange import Answer, Ask, Declined, Offer, Present, Ready, Refused, Said, Told, Wait
from secfed.secagg.client import ClientSession, accept_outcome
from secfed.secagg.messages import MaskedUpdate, OpenAttempt, Outcome, OutcomeNotice
from secfed.secagg.record import ClientRecord
from secfed.secagg.states import Membership
from secfed.store.journal import EMPTY, Head

__all__ = ["ClientRounds", "RoundEnd", "Upload"]

_DECIDED_OTHERWISE = "it contradicts what this site decided before"
"""All that the aggregator learns of a durable decision that stands against its request."""


@dataclass(frozen=True, slots=True)
class Upload:
    """To be sent in frames instead of an answer: a masked vector and its signed statement."""

    attempt: Digest
    statement: Signed
    packed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RoundEnd:
    """How a round ended for this site.

    Attributes:
        included: Its vector is in a published sum.
        members: How many vectors are in it; 0 if nothing was published.
        reason: Why it is not included; empty if it is.
    """

    job: JobId
    round: int
    rounds: int
    included: bool
    members: int
    reason: str
    seconds: int


class ClientRounds:
    """One site's part in all rounds, one at a time.

    Attributes:
        refusal: Why the last offered round was declined, for this site's own eyes; None if it was not.
        ended: How a round ended, if the last thing heard ended one.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._admission = Admission(site)
        self._record = ClientRecord(site.decisions)
        self._session = ClientSession()
        self._held: Held | None = None
        self._since = site.monotonic()
        self.refusal: SecfedError | None = None
        self.ended: RoundEnd | None = None

    @property
    def ledger_head(self) -> Head:
        """Head of the ledger of the job in hand, for the hello; empty if there is none."""
        return EMPTY if self._held is None else self._held.ledger.head

    @property
    def standing(self) -> Said:
        """Where this site stands: ready for the round whose contribution it holds, else present."""
        if self._held is None:
            return Present(self._site.only or "")
        return Ready(self._held.job.job, self._held.round_id.round, self._held.round.digest)

    def hear(self, told: Told) -> Said | Upload:
        """Take what the aggregator told; return what to say next.

        Raises:
            NetworkError: The base adapter could not be fetched; nothing was charged.
            PeerError, RosterError: The offer is not what an admin and the aggregator signed.
            StorageError: A decision, charge or contribution cannot be made durable or read back.
        """
        self.refusal, self.ended = None, None
        match told:
            case Wait():
                return self.standing
            case Offer():
                return self._consider(told)
            case Ask():
                return self._answer(told)

    # -- rounds that ended while this site was away --------------------------------------------

    @property
    def leftovers(self) -> tuple[RoundId, ...]:
        """Rounds, other than the one in hand, whose contribution lies here and whose end was not heard."""
        held = None if self._held is None else self._held.round_id
        return tuple(each for each in self._site.contributions.rounds() if each != held)

    def bury(self, leftover: RoundId, notice: OutcomeNotice) -> bool:
        """Close such a round by its signed end, held to what was signed here, and delete its contribution.

        Returns:
            Whether this site's vector is in a published sum.

        Raises:
            PeerError: The outcome is not the aggregator's, is of another round, or contradicts what was
                signed or decided here; nothing is closed or deleted then.
            StorageError: It cannot be made durable.
        """
        outcome = self._verified(notice)
        if outcome.round_id != leftover:
            raise PeerError(
                f"the end of round {leftover} was asked for, and that of {outcome.round_id} was told"
            )
        try:
            if self._without_us(leftover, notice, outcome):
                self._record.close(leftover, published=outcome.published)
            else:
                accept_outcome(self._membership(None), leftover, notice.attempt, outcome)
        except DecisionConflictError as conflict:
            raise PeerError(_DECIDED_OTHERWISE) from conflict
        self._site.contributions.discard(leftover.job, up_to=leftover.round)
        return outcome.published and self._site.name in outcome.survivors

    # -- an offered round ----------------------------------------------------------------------

    def _consider(self, offer: Offer) -> Said:
        job, round_ = self._admission.open(offer)
        if self._held is not None and self._held.round.digest != round_.digest:
            self._let_go()
        self._since = self._site.monotonic()
        try:
            self._held = self._admission.admit(job, round_)
        except (NetworkError, StorageError):
            raise
        except SecfedError as refusal:
            self.refusal = refusal
            self._site.observer.note("declined", job=job.job, round=round_.plan.round, why=str(refusal))
            return Declined(job.job, round_.plan.round)
        self._site.observer.note("ready", job=job.job, round=round_.plan.round)
        return self.standing

    def _let_go(self) -> None:
        """Forget the round in hand; its contribution stays on disk until it closes or is overtaken."""
        self._session.withdraw()
        self._held = None

    # -- the secure sum ------------------------------------------------------------------------

    def _answer(self, ask: Ask) -> Said | Upload:
        request = ask.request
        try:
            if self._held is not None and isinstance(request, OutcomeNotice):
                return self._hear_outcome(self._held, request)
            if self._held is not None and isinstance(request, OpenAttempt):
                self._on_offer(self._held, self._site.now())
            reply = self._session.receive(request)
        except DecisionConflictError as conflict:
            return self._refuse(ask, conflict, _DECIDED_OTHERWISE)
        except StorageError:
            raise
        except SecfedError as refusal:
            return self._refuse(ask, refusal, str(refusal))
        match reply:
            case None:
                return self.standing
            case MaskedUpdate():
                return Upload(ask.attempt, reply.statement, reply.packed)
            case _:
                return Answer(ask.attempt, reply)

    def _on_offer(self, held: Held, now: datetime | None = None) -> None:
        """The session goes by the roster that is in force now.

        Args:
            now: For a new attempt, which nobody may join whose entry has run out; None for the end of one
                that was joined before.
        """
        self._session.offer(self._membership(now), held.terms(self._site), held.sending)

    def _refuse(self, ask: Ask, refusal: SecfedError, said: str) -> Refused:
        """Say no; `said` leaves this site, the refusal's own text may name its files."""
        kind = type(ask.request).__name__
        self._site.observer.note("refused", request=kind, rule=str(refusal), error=type(refusal).__name__)
        return Refused(ask.attempt, said)

    def _membership(self, now: datetime | None) -> Membership:
        site, roster = self._site, self._site.rosters.current
        aggregator = roster.aggregator
        return Membership(
            site=site.name,
            key=site.key,
            aggregator=(aggregator.site, aggregator.identity_key),
            members={member.site: member.identity_key for member in roster.active(Role.CLIENT, now)},
            codec=site.codec,
            record=self._record,
            entropy=site.entropy,
        )

    # -- the end of a round --------------------------------------------------------------------

    def _hear_outcome(self, held: Held, notice: OutcomeNotice) -> Said:
        """Countersign the end of the round in hand; one that ended without this site is only closed.

        Raises:
            PeerError: The outcome is not the aggregator's, is of another round, or contradicts what was
                signed here.
        """
        outcome, ours = self._verified(notice), held.round_id
        if outcome.round_id != ours:
            return self._countersign(notice)  # of an earlier round, come twice; or refused there
        if self._without_us(ours, notice, outcome):
            self._session.withdraw()
            self._record.close(ours, published=outcome.published)
            said: Said = Present(self._site.only or "")
        else:
            self._on_offer(held)
            said = self._countersign(notice)
        self._site.contributions.discard(ours.job, up_to=ours.round)
        self._conclude(held, outcome)
        return said

    def _without_us(self, round_id: RoundId, notice: OutcomeNotice, outcome: Outcome) -> bool:
        """Whether a round ended in an attempt that this site was not in, nor is said to have been."""
        opened = self._record.opened(round_id, notice.attempt) is not None
        return not opened and self._site.name not in outcome.survivors

    def _countersign(self, notice: OutcomeNotice) -> Said:
        reply = self._session.receive(notice)
        return self.standing if reply is None else Answer(notice.attempt, reply)

    def _verified(self, notice: OutcomeNotice) -> Outcome:
        aggregator = self._site.rosters.current.aggregator
        statement = signed.open_(
            notice.statement,
            aggregator.identity_key,
            Label.SIGN_OUTCOME,
            context=notice.attempt,
            sender=aggregator.site,
            recipient=None,
        )
        return self._site.codec.decode(Outcome, statement)

    def _conclude(self, held: Held, outcome: Outcome) -> None:
        """This site is done with the round."""
        self._held = None
        included = outcome.published and self._site.name in outcome.survivors
        self.ended = RoundEnd(
            job=held.round_id.job,
            round=held.round_id.round,
            rounds=held.job.plan.rounds,
            included=included,
            members=len(outcome.survivors) if outcome.published else 0,
            reason="" if included else self._reason(outcome),
            seconds=round(self._site.monotonic() - self._since),
        )

    def _reason(self, outcome: Outcome) -> str:
        if not outcome.published:
            lost = "; ".join(f"{item.site}: {item.phase}: {item.reason}" for item in outcome.dropped)
            return f"the round was aborted ({lost})" if lost else "the round was aborted"
        for item in outcome.dropped:
            if item.site == self._site.name:
                return f"dropped in {item.phase}: {item.reason}"
        return "not in the round's cohort"
