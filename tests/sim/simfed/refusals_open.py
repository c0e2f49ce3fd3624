"""What a client refuses before it makes a key, and what it refuses to believe at the end."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from simfed.cast import AGGREGATOR, digest_of
from simfed.refusals import enter_one, refused
from simfed.stage import Stage

from secfed.crypto.labels import Label
from secfed.errors import (
    InfeasibleCohortError,
    PeerError,
    StaleAttemptError,
    UnexpectedMessageError,
    VersionMismatchError,
)
from secfed.ids import NO_DIGEST, ClientId, Digest, FederationId, JobId, MemberIndex, RoundId
from secfed.secagg.client import ClientSession
from secfed.secagg.manifest import manifest_context
from secfed.secagg.messages import ConfirmRequest, OpenAttempt, Outcome, Phase, Void, VoidNotice
from secfed.secagg.record import ClientRecord, Left

VICTIM = MemberIndex(1)


def record(stage: Stage) -> ClientRecord:
    """The victim's decisions."""
    return ClientRecord(stage.decisions[VICTIM])


# -- the manifest ------------------------------------------------------------------------------


@refused("this site has no contribution ready", UnexpectedMessageError)
def an_attempt_without_an_offer(stage: Stage) -> object:
    stage.at(Phase.ADVERTISE).clients[VICTIM] = ClientSession()
    return stage.open(VICTIM)


@refused("does not verify (sign_manifest)", PeerError)
def a_manifest_that_a_member_signed(stage: Stage) -> object:
    stage.at(Phase.ADVERTISE)
    statement = stage.cast.codec.encode(stage.cast.manifest(stage.terms))
    forged = stage.cast.sign(
        stage.cast.sites[0], Label.SIGN_MANIFEST, manifest_context(stage.terms), statement
    )
    return stage.tell(VICTIM, OpenAttempt(forged))


@refused("the aggregator speaks protocol", VersionMismatchError)
def another_protocol_version(stage: Stage) -> object:
    return stage.at(Phase.ADVERTISE).open(VICTIM, protocol=2)


@refused("the aggregator speaks protocol", VersionMismatchError)
def another_suite(stage: Stage) -> object:
    return stage.at(Phase.ADVERTISE).open(VICTIM, suite="NONE")


_FIELDS = {
    "federation": FederationId("f" * 32),
    "roster": digest_of("another roster"),
    "job": JobId("another-job"),
    "job_plan": digest_of("another job plan"),
    "round_plan": digest_of("another round plan"),
    "round": 2,
    "sum_index": 1,
    "corrupt": 2,
    "layout": digest_of("another layout"),
    "length": 41,
    "base": digest_of("another base"),
}


def _another_field(stage: Stage, name: str) -> object:
    return stage.at(Phase.ADVERTISE).open(VICTIM, **{name: _FIELDS[name]})


for _name in _FIELDS:
    enter_one(
        f"another_{_name}",
        "is not the one of the plan and roster held here",
        PeerError,
        partial(_another_field, name=_name),
    )


@refused("attempt number is below 1", PeerError)
def attempt_zero(stage: Stage) -> object:
    stage.at(Phase.ADVERTISE)
    manifest = stage.cast.manifest(stage.terms)
    stage.terms.check(replace(manifest, attempt=1))
    return stage.terms.check(replace(manifest, attempt=0))


@refused("cohort is not strictly sorted", PeerError)
def a_member_twice_in_the_cohort(stage: Stage) -> object:
    """The schema refuses it on the wire, the terms refuse it again."""
    stage.at(Phase.ADVERTISE)
    cohort = (stage.cast.sites[0], *stage.cast.sites)
    return stage.terms.check(stage.cast.manifest(stage.terms, cohort=cohort))


@refused("word width does not follow", PeerError)
def a_modulus_that_wraps(stage: Stage) -> object:
    stage.at(Phase.ADVERTISE)
    return stage.open(VICTIM, word_bits=stage.session.manifest.word_bits - 1)


@refused("is below the floor of", InfeasibleCohortError)
def a_shrunken_cohort(stage: Stage) -> object:
    return stage.at(Phase.ADVERTISE).open(VICTIM, cohort=stage.cast.sites[:2])


@refused("is not in the cohort of", PeerError)
def a_cohort_without_this_site(stage: Stage) -> object:
    cohort = tuple(site for site in stage.cast.sites if site != stage.cast.sites[VICTIM])
    return stage.at(Phase.ADVERTISE).open(VICTIM, cohort=cohort)


@refused("is no active client of the roster", PeerError)
def a_sybil_in_the_cohort(stage: Stage) -> object:
    cohort = (*stage.cast.sites, ClientId("sybil"))
    return stage.at(Phase.ADVERTISE).open(VICTIM, cohort=tuple(sorted(cohort)))


@refused("is not newer than", StaleAttemptError)
def the_same_attempt_after_a_restart(stage: Stage) -> object:
    stage.at(Phase.ENCAPSULATE).restart(VICTIM)
    return stage.open(VICTIM)


@refused("is not newer than", StaleAttemptError)
def an_older_attempt(stage: Stage) -> object:
    stage.at(Phase.ADVERTISE).open(VICTIM, attempt=1_000_000_000)
    stage.restart(VICTIM)
    return stage.open(VICTIM, attempt=200_000_000)


@refused("is over for this site", StaleAttemptError)
def a_round_that_was_answered(stage: Stage) -> object:
    stage.at(Phase.DONE).restart(VICTIM)
    return stage.open(VICTIM, attempt=2)


@refused("is over for this site", StaleAttemptError)
def a_round_that_was_closed(stage: Stage) -> object:
    stage.at(Phase.CONFIRM)
    stage.tell(
        VICTIM, stage.outcome(Outcome(stage.terms.round_id, False, (), (), NO_DIGEST, NO_DIGEST, NO_DIGEST))
    )
    return stage.open(VICTIM, attempt=2)


@refused("is still live here", StaleAttemptError)
def another_job_beside_a_live_attempt(stage: Stage) -> object:
    stage.at(Phase.MASK)
    terms = stage.cast.terms(job=JobId("other"))
    stage.offer(VICTIM, job=JobId("other"))
    manifest = stage.cast.sign_manifest(terms, stage.cast.manifest(terms))
    return stage.tell(VICTIM, OpenAttempt(manifest))


# -- the job's history -------------------------------------------------------------------------


def _third_round(stage: Stage, previous_round: int, previous: Digest) -> object:
    """Open round 3 for a victim that stored the transcript of round 1."""
    stage.at(Phase.ADVERTISE)
    record(stage).store_transcript(stage.terms.job, 1, digest_of("transcript"))
    stage.offer(VICTIM, round=3)
    terms = stage.cast.terms(round=3)
    manifest = stage.cast.manifest(terms, previous_round=previous_round, previous=previous)
    return stage.tell(VICTIM, OpenAttempt(stage.cast.sign_manifest(terms, manifest)))


@refused("contradicts the rounds published here", PeerError)
def a_published_round_forgotten(stage: Stage) -> object:
    return _third_round(stage, 0, NO_DIGEST)


@refused("contradicts the rounds published here", PeerError)
def a_predecessor_from_the_future(stage: Stage) -> object:
    return _third_round(stage, 3, digest_of("transcript"))


@refused("is not the one that this site stored", PeerError)
def another_transcript_of_the_last_round(stage: Stage) -> object:
    return _third_round(stage, 1, digest_of("forked transcript"))


# -- void and outcome --------------------------------------------------------------------------


@refused("does not verify (sign_void)", PeerError)
def a_void_that_a_member_signed(stage: Stage) -> object:
    stage.at(Phase.MASK)
    return stage.tell(VICTIM, VoidNotice(stage.session.h, stage.by(0, Label.SIGN_VOID, Void("bye"))))


def _published(stage: Stage, **changes: object) -> Outcome:
    """The true outcome of the finished attempt, then changed."""
    closed = stage.session.sum_up()
    outcome = Outcome(
        stage.terms.round_id,
        True,
        stage.cast.sites,
        (),
        closed.digest,
        closed.transcript,
        digest_of("result"),
    )
    return replace(outcome, **changes)  # type: ignore[arg-type]


@refused("that this site did not offer for", UnexpectedMessageError)
def an_outcome_without_an_offer(stage: Stage) -> object:
    notice = stage.at(Phase.DONE).outcome(_published(stage))
    stage.clients[VICTIM] = ClientSession()
    return stage.tell(VICTIM, notice)


@refused("does not verify (sign_outcome)", PeerError)
def an_outcome_that_a_member_signed(stage: Stage) -> object:
    stage.at(Phase.DONE)
    notice = stage.outcome(_published(stage))
    forged = stage.by(0, Label.SIGN_OUTCOME, notice.statement.statement)
    return stage.tell(VICTIM, replace(notice, statement=forged))


@refused("of another round than the one on offer", PeerError)
def the_outcome_of_an_earlier_round_replayed(stage: Stage) -> object:
    notice = stage.at(Phase.DONE).outcome(_published(stage))
    stage.offer(VICTIM, round=2)
    return stage.tell(VICTIM, notice)


@refused("of another round than the one on offer", PeerError)
def the_outcome_of_another_round_under_this_attempt(stage: Stage) -> object:
    stage.at(Phase.DONE)
    return stage.tell(VICTIM, stage.outcome(_published(stage, round_id=RoundId(stage.terms.job, 2))))


@refused("of another round than the one on offer", PeerError)
def the_outcome_of_another_job_under_this_attempt(stage: Stage) -> object:
    stage.at(Phase.DONE)
    return stage.tell(VICTIM, stage.outcome(_published(stage, round_id=RoundId(JobId("other"), 1))))


@refused("never opened in the round", UnexpectedMessageError)
def the_outcome_of_an_attempt_that_this_site_never_joined(stage: Stage) -> object:
    stage.at(Phase.DONE)
    return stage.tell(VICTIM, stage.outcome(_published(stage), digest_of("another attempt")))


@refused("whose vector never left", PeerError)
def an_outcome_with_a_vector_that_never_left(stage: Stage) -> object:
    stage.at(Phase.MASK)
    outcome = Outcome(
        stage.terms.round_id, True, stage.cast.sites, (), digest_of("s"), digest_of("t"), digest_of("r")
    )
    return stage.tell(VICTIM, stage.outcome(outcome))


@refused("other survivors than the set signed here", PeerError)
def an_outcome_over_other_survivors(stage: Stage) -> object:
    stage.at(Phase.DONE)
    return stage.tell(VICTIM, stage.outcome(_published(stage, survivors=stage.cast.sites[:-1])))


@refused("other survivors than the set signed here", PeerError)
def an_outcome_over_other_survivors_after_a_restart(stage: Stage) -> object:
    stage.at(Phase.DONE).restart(VICTIM)
    return stage.tell(VICTIM, stage.outcome(_published(stage, survivors=stage.cast.sites[:-1])))


@refused("is not over what was signed here", PeerError)
def an_outcome_with_another_sum(stage: Stage) -> object:
    stage.at(Phase.DONE)
    return stage.tell(VICTIM, stage.outcome(_published(stage, sum=digest_of("another sum"))))


# -- order -------------------------------------------------------------------------------------


@refused("ConfirmRequest came while", UnexpectedMessageError)
def a_confirm_after_a_crash(stage: Stage) -> object:
    """No live session: what was masked before the crash is never confirmed after it."""
    stage.at(Phase.CONFIRM).restart(VICTIM)
    return stage.tell(VICTIM, ConfirmRequest(stage.members))


@refused("came while Idle", UnexpectedMessageError)
def a_confirm_after_a_void(stage: Stage) -> object:
    stage.at(Phase.CONFIRM)
    body = stage.cast.codec.encode(Void("a reason"))
    statement = stage.cast.sign(AGGREGATOR, Label.SIGN_VOID, stage.session.h, body)
    stage.tell(VICTIM, VoidNotice(stage.session.h, statement))
    return stage.tell(VICTIM, ConfirmRequest(stage.members))


@refused("neighbours there are back", StaleAttemptError)
def a_retry_with_too_few_old_neighbours(stage: Stage) -> object:
    """The vector left in an attempt whose other members are still able to open it."""
    stage.at(Phase.ADVERTISE)
    strangers = tuple(ClientId(f"old-{index:03}") for index in range(len(stage.members)))
    threshold = stage.session.params.threshold
    record(stage).mark_left(
        stage.terms.round_id, Left(1, strangers, 1, threshold, dict.fromkeys(strangers[:-1], b"key"))
    )
    stage.session = stage.open_session(stage.cast.manifest(stage.terms, attempt=2))
    stage.step()
    return stage.tell(VICTIM, stage.ask(VICTIM))
