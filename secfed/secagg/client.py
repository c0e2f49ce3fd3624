"""The client's seat in the secure sum: at most one live attempt, in at most one round.

The state is taken out before each step (secrets serve once), and the last reply is repeated
for the identical request, so that a lost answer costs nothing. What each step checks stands
in `states`; what this client must remember across crashes stands in `record`.
"""

from __future__ import annotations

from dataclasses import dataclass

from secfed.crypto import agreement
from secfed.crypto.labels import Label
from secfed.errors import PeerError, StaleAttemptError, UnexpectedMessageError
from secfed.identity import signed
from secfed.identity.signed import Signed
from secfed.ids import Digest, RoundId
from secfed.secagg import derive, transcript
from secfed.secagg.attempt import Attempt, Contribution, Membership
from secfed.secagg.manifest import Manifest, Terms, attempt_digest, manifest_context
from secfed.secagg.messages import (
    Advert,
    Adverts,
    Bundles,
    Ciphertexts,
    Confirm,
    ConfirmRequest,
    Countersignature,
    OpenAttempt,
    Outcome,
    OutcomeNotice,
    Reply,
    Request,
    SignedReply,
    UnmaskRequest,
    Void,
    VoidNotice,
)
from secfed.secagg.record import ClientRecord
from secfed.secagg.states import (
    Advertised,
    Confirmed,
    Encapsulated,
    Finished,
    Idle,
    Masked,
    Shared,
    State,
    attempt_of,
)

__all__ = ["ClientSession", "accept_outcome"]


@dataclass(frozen=True, slots=True)
class _Answered:
    request: Request
    reply: Reply


class ClientSession:
    """One client's seat: at most one live attempt, in at most one round.

    `offer` says which sum this client is ready for; `receive` advances by one request. An error
    in a phase ends the live attempt for good; the round itself may be tried again under a new
    one. An opening, a void or an outcome that is refused leaves the live attempt as it was.
    """

    def __init__(self) -> None:
        self._state: State = Idle()
        self._offer: tuple[Membership, Terms, Contribution] | None = None
        self._answered: _Answered | None = None

    def offer(self, us: Membership, terms: Terms, contribution: Contribution) -> None:
        """Be ready for one sum, under the roster and plans held now."""
        self._offer = (us, terms, contribution)

    def withdraw(self) -> None:
        """Forget the sum on offer and any live attempt: a deadline passed, or the round closed."""
        self._offer = None
        self._forget()

    @property
    def live(self) -> Digest | None:
        """h of the live attempt, or None."""
        attempt = attempt_of(self._state)
        return None if attempt is None else attempt.h

    def receive(self, request: Request) -> Reply | None:
        """Advance by one request.

        Returns:
            The reply; None where none is owed (a void).

        Raises:
            PeerError: The request breaks a rule; its text names the rule.
            SecfedError: A durable write failed. Nothing left, and the attempt is over here.
        """
        if self._answered is not None and request == self._answered.request:
            return self._answered.reply  # its reply was lost: the same bytes again
        match request:
            case VoidNotice():
                self._void(request)
                return None
            case OutcomeNotice():
                return self._conclude(request)
            case OpenAttempt():
                following, reply = self._open(request)
            case _:
                state = self._state
                self._forget()  # taken out first: secrets serve once
                following, reply = _advance(state, request)
        self._state, self._answered = following, _Answered(request, reply)
        return reply

    def _forget(self) -> None:
        self._state, self._answered = Idle(), None

    def _open(self, request: OpenAttempt) -> tuple[State, Reply]:
        if self._offer is None:
            raise UnexpectedMessageError("an attempt was opened, and this site has no contribution ready")
        us, terms, contribution = self._offer
        statement = _from_aggregator(
            us, request.manifest, Label.SIGN_MANIFEST, context=manifest_context(terms)
        )
        manifest = us.codec.decode(Manifest, statement)
        params = terms.check(manifest)
        me = manifest.index_of(us.site)
        strangers = [site for site in manifest.cohort if site not in us.members]
        if strangers:
            raise PeerError(f"{strangers[0]} is in the cohort but is no active client of the roster")
        _refuse_stale(us.record, manifest)
        live = attempt_of(self._state)
        if live is not None and not isinstance(self._state, Finished) and live.manifest.job != manifest.job:
            raise StaleAttemptError(f"an attempt of job {live.manifest.job} is still live here")
        _check_history(us.record, manifest)
        h = attempt_digest(statement)
        self._forget()  # an older attempt's secrets are gone before the new number stands
        us.record.open_attempt(manifest.round_id, manifest.attempt, h)
        attempt = Attempt(us, terms, contribution, manifest, h, params, me)
        keys = agreement.KeyPair.generate(us.entropy)
        advert = us.codec.encode(Advert(keys.public.x25519, keys.public.mlkem))
        return Advertised(attempt, keys, advert), SignedReply(attempt.sign(Label.SIGN_ADVERT, advert))

    def _void(self, request: VoidNotice) -> None:
        """Drop the live attempt if it is the one that the aggregator's signature voids."""
        live = attempt_of(self._state)
        if live is None or live.h != request.attempt:
            return
        statement = _from_aggregator(live.us, request.statement, Label.SIGN_VOID, context=live.h)
        live.us.codec.decode(Void, statement)
        self._forget()

    def _conclude(self, request: OutcomeNotice) -> SignedReply:
        """Accept the end of the round on offer, and countersign it."""
        if self._offer is None:
            raise UnexpectedMessageError("an outcome came for a round that this site did not offer for")
        us, terms, _ = self._offer
        round_id, h = terms.round_id, request.attempt
        statement = _from_aggregator(us, request.statement, Label.SIGN_OUTCOME, context=h)
        outcome = us.codec.decode(Outcome, statement)
        if outcome.round_id != round_id:
            raise PeerError("the outcome is of another round than the one on offer here")
        accept_outcome(us, round_id, h, outcome)
        live = attempt_of(self._state)
        if live is not None and live.manifest.round_id == round_id:
            self._forget()
        body = us.codec.encode(Countersignature(outcome.sum, outcome.transcript))
        return SignedReply(
            signed.sign(
                us.key, Label.SIGN_COUNTERSIGN, context=h, sender=us.site, recipient=None, statement=body
            )
        )


def accept_outcome(us: Membership, round_id: RoundId, h: Digest, outcome: Outcome) -> None:
    """Check a round's end against what was signed here, restarts included, and make it durable.

    Args:
        h: Of the attempt in which it ended.
        outcome: What the aggregator signed for it; the signature is the caller's to check.

    Raises:
        PeerError: It contradicts what was signed here, or this site never opened that attempt.
        DecisionConflictError: Another end or transcript of the round is stored here.
        StorageError: It cannot be made durable.
    """
    attempt = us.record.opened(round_id, h)
    if attempt is None:
        raise UnexpectedMessageError(
            "an outcome came for an attempt that this site never opened in the round"
        )
    if outcome.published:
        _check_outcome(us, round_id, attempt, h, outcome)
        us.record.store_transcript(round_id.job, round_id.round, outcome.transcript)
    us.record.close(round_id, published=outcome.published)


def _advance(state: State, request: Request) -> tuple[State, Reply]:
    match state, request:
        case Advertised(), Adverts():
            return state.encapsulate(request)
        case Encapsulated(), Ciphertexts():
            return state.share(request)
        case Shared(), Bundles():
            return state.mask(request)
        case Masked(), ConfirmRequest():
            return state.confirm(request)
        case Confirmed(), UnmaskRequest():
            return state.answer(request)
        case Finished(), UnmaskRequest():
            return state.repeat(request)
        case _:
            raise UnexpectedMessageError(f"{type(request).__name__} came while {type(state).__name__}")


def _from_aggregator(us: Membership, item: Signed, label: Label, *, context: bytes) -> bytes:
    name, public = us.aggregator
    return signed.open_(item, public, label, context=context, sender=name, recipient=None)


def _refuse_stale(record: ClientRecord, manifest: Manifest) -> None:
    """Attempt numbers only grow, and a round that was answered or closed is over."""
    wanted = (manifest.round, manifest.sum_index, manifest.attempt)
    highest = record.highest_attempt(manifest.job)
    if wanted <= highest:
        raise StaleAttemptError(f"attempt {wanted} of job {manifest.job} is not newer than {highest}")
    if record.has_answered(manifest.round_id) or record.is_closed(manifest.round_id):
        raise StaleAttemptError(f"round {manifest.round_id} is over for this site")


def _check_history(record: ClientRecord, manifest: Manifest) -> None:
    """The manifest's predecessor must be the one that this client stored, if it stored one."""
    job, number = manifest.job, manifest.previous_round
    if number >= manifest.round or number < record.last_published(job):
        raise PeerError("the manifest's previous round contradicts the rounds published here")
    if number:
        record.store_transcript(job, number, _agreed(record.transcript(job, number), manifest.previous))


def _agreed(stored: Digest | None, claimed: Digest) -> Digest:
    if stored is not None and not derive.same(stored, claimed):
        raise PeerError("the manifest's previous transcript is not the one that this site stored")
    return claimed


def _check_outcome(us: Membership, round_id: RoundId, attempt: int, h: Digest, outcome: Outcome) -> None:
    """A published outcome must be over the survivors and the transcript signed here."""
    left = next((left for left in us.record.left(round_id) if left.attempt == attempt), None)
    if left is None:
        if us.site in outcome.survivors:
            raise PeerError("the outcome lists this site, whose vector never left")
        return
    statement = us.record.confirmed(h)
    if statement is None:
        return
    confirm = us.codec.decode(Confirm, statement)
    if outcome.survivors != tuple(left.cohort[member] for member in confirm.survivors):
        raise PeerError("the outcome lists other survivors than the set signed here")
    expected = transcript.outcome_transcript(h, confirm.transcript, confirm.survivors, outcome.sum)
    if not derive.same(outcome.transcript, expected):
        raise PeerError("the outcome's transcript is not over what was signed here")
