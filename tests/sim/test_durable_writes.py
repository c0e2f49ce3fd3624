"""Every durable decision is needed: lose one kind of them in a crash, and a named invariant breaks.

Each scenario runs twice. With all writes in place the invariant holds; with one kind of write
undone, as if it had not been synced before it was acted on, the same course breaks it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from simfed.cast import MemoryDecisions, digest_of, expected_total
from simfed.stage import Stage

from secfed.errors import RoundAbortedError, SecfedError
from secfed.ids import NO_DIGEST, ClientId, MemberIndex
from secfed.secagg.messages import OpenAttempt, Outcome, Phase
from secfed.secagg.record import AggregatorRecord


@dataclass
class Crashes:
    """Restarts, after which decisions under `lost` were never on the disk."""

    stage: Stage
    lost: str | None

    def _undo(self, decisions: MemoryDecisions) -> None:
        if self.lost is not None:
            for key in [key for key in decisions.pairs if key.startswith(self.lost)]:
                del decisions.pairs[key]

    def client(self, member: int) -> None:
        self._undo(self.stage.decisions[member])
        self.stage.restart(MemberIndex(member))

    def all_clients(self) -> None:
        for member in self.stage.members:
            self.client(member)

    def aggregator(self) -> None:
        self._undo(self.stage.aggregator_decisions)


@dataclass(frozen=True)
class Case:
    """One kind of write, the invariant that it carries, and a course that shows it.

    `broken` plays the course and says whether the invariant is broken at its end.
    """

    write: str
    side: str
    invariant: str
    broken: Callable[[Crashes], bool]
    clients: int = 3


CASES: list[Case] = []


def case(
    write: str, side: str, invariant: str, clients: int = 3
) -> Callable[[Callable[[Crashes], bool]], Callable[[Crashes], bool]]:
    """Enter a course into the list."""

    def enter(broken: Callable[[Crashes], bool]) -> Callable[[Crashes], bool]:
        CASES.append(Case(write, side, invariant, broken, clients))
        return broken

    return enter


def _attempt(stage: Stage, number: int, cohort: tuple[ClientId, ...] | None = None) -> None:
    stage.session = stage.open_session(
        stage.cast.manifest(stage.terms, attempt=number, cohort=cohort or stage.cast.sites)
    )


def _sums_with_the_first_member(stage: Stage, number: int, cohort: tuple[ClientId, ...]) -> int:
    """Try one attempt more; 1 if it opens a sum with member 0's vector in it."""
    _attempt(stage, number, cohort)
    try:
        stage.play()
    except SecfedError:
        return 0
    return int(stage.session.sum_up().total[0] != 0)


# -- a client's ---------------------------------------------------------------------------------


@case("attempt/", "client", "I5: the keys of an attempt are made once")
def _two_adverts_in_one_attempt(crashes: Crashes) -> bool:
    stage = crashes.stage
    request = stage.ask(0)
    first = stage.tell(0, request)
    crashes.client(0)
    try:
        second = stage.tell(0, request)
    except SecfedError:
        return False
    return first != second


@case("left/", "client", "at most one: a vector enters one sum of a round", clients=7)
def _a_vector_that_left_and_was_forgotten(crashes: Crashes) -> bool:
    """0 and 6 crash once their vectors are out; 5 is corrupt and has no memory.

    Attempt 1 is finished without their help by 1 to 4 and 5. If they masked again with 5 alone,
    a second sum of two honest vectors would open.
    """
    stage = crashes.stage
    stage.play(Phase.CONFIRM)
    crashes.client(0)
    crashes.client(6)
    stage.session.drop(MemberIndex(0), "crashed")
    stage.session.drop(MemberIndex(6), "crashed")
    stage.play()
    assert (stage.session.sum_up().total == expected_total(40, stage.members)).all()
    stage.decisions[5].pairs.clear()
    stage.restart(MemberIndex(5))
    sites = stage.cast.sites
    return _sums_with_the_first_member(stage, 2, (sites[0], sites[5], sites[6])) == 1


@case("answered/", "client", "at most one: after an answer the client is out of the round")
def _a_round_answered_and_forgotten(crashes: Crashes) -> bool:
    stage = crashes.stage
    stage.play()
    crashes.all_clients()
    return _sums_with_the_first_member(stage, 2, stage.cast.sites) == 1


@case(
    "answered/",
    "client",
    "difference rule: sums of the same vectors differ by min_cohort at least",
    clients=5,
)
def _two_sums_that_differ_by_one(crashes: Crashes) -> bool:
    stage = crashes.stage
    stage.play()
    crashes.all_clients()
    for member in stage.members:
        stage.offer(member, round=2)
    stage.terms = stage.cast.terms(round=2)
    return _sums_with_the_first_member(stage, 1, stage.cast.sites[:-1]) == 1


@case("confirm/", "client", "I6: a client countersigns only the set that it signed")
def _an_outcome_over_another_set(crashes: Crashes) -> bool:
    stage = crashes.stage
    stage.play()
    crashes.client(0)
    closed = stage.session.sum_up()
    lie = Outcome(
        stage.terms.round_id,
        True,
        stage.cast.sites[:-1],
        (),
        closed.digest,
        digest_of("another"),
        digest_of("result"),
    )
    try:
        stage.tell(0, stage.outcome(lie))
    except SecfedError:
        return False
    return True


@case("closed/", "client", "an aborted round's contribution is never sent again")
def _an_aborted_round_tried_again(crashes: Crashes) -> bool:
    stage = crashes.stage
    stage.play(Phase.CONFIRM)
    aborted = stage.outcome(Outcome(stage.terms.round_id, False, (), (), NO_DIGEST, NO_DIGEST, NO_DIGEST))
    for member in stage.members:
        stage.tell(member, aborted)
    crashes.all_clients()
    return _sums_with_the_first_member(stage, 2, stage.cast.sites) == 1


@case("transcript/", "client", "I6: the job's history does not fork")
def _a_forked_history(crashes: Crashes) -> bool:
    stage = crashes.stage
    stage.play()
    closed = stage.session.sum_up()
    result = digest_of("result")
    stage.tell(
        0,
        stage.outcome(
            Outcome(
                stage.terms.round_id, True, stage.cast.sites, (), closed.digest, closed.transcript, result
            )
        ),
    )
    crashes.client(0)
    stage.offer(MemberIndex(0), round=2)
    terms = stage.cast.terms(round=2)
    manifest = stage.cast.manifest(terms, previous_round=1, previous=digest_of("fork"))
    try:
        stage.tell(0, OpenAttempt(stage.cast.sign_manifest(terms, manifest)))
    except SecfedError:
        return False
    return True


# -- the aggregator's --------------------------------------------------------------------------


@case("attempt/", "aggregator", "liveness: an attempt's number is used once")
def _an_attempt_number_used_again(crashes: Crashes) -> bool:
    stage = crashes.stage
    record = AggregatorRecord(stage.aggregator_decisions)
    record.open_attempt(stage.terms.round_id, 1, stage.session.signed_manifest.statement)
    stage.play(Phase.SHARE)
    crashes.aggregator()
    attempts = record.attempts(stage.terms.round_id)
    _attempt(stage, max((number for number, _ in attempts), default=0) + 1)
    try:
        stage.play()
    except SecfedError:
        return True
    return False


@case("frozen/", "aggregator", "I2: a frozen attempt is finished or its round is aborted")
def _a_freeze_forgotten(crashes: Crashes) -> bool:
    """One client has answered: no other attempt at this round can have it, so this one must go on."""
    stage = crashes.stage
    stage.play(Phase.UNMASK)
    stage.deliver(MemberIndex(0), stage.tell(0, stage.ask(0)))
    crashes.aggregator()
    stage.session = stage.open_session(stage.session.manifest)
    if not stage.session.resume():
        _attempt(stage, 2)
    try:
        stage.play()
    except SecfedError:
        return True
    return bool((stage.session.sum_up().total != expected_total(40, stage.members)).any())


@case("signatures/", "aggregator", "with at most D losses a frozen attempt finishes")
def _signatures_forgotten(crashes: Crashes) -> bool:
    """One client has answered and is asked to confirm again: to it that is another course of events."""
    stage = crashes.stage
    stage.play(Phase.UNMASK)
    stage.deliver(MemberIndex(0), stage.tell(0, stage.ask(0)))
    crashes.aggregator()
    stage.session = stage.open_session(stage.session.manifest)
    assert stage.session.resume()
    try:
        for member in stage.members:
            request = stage.session.ask(member)
            if request is None:
                continue
            try:
                stage.deliver(member, stage.tell(member, request))
            except RoundAbortedError:
                raise
            except SecfedError as error:
                stage.session.drop(member, str(error))
        stage.play()
    except RoundAbortedError:
        return True
    return bool((stage.session.sum_up().total != expected_total(40, stage.members)).any())


# -- the tests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("each", CASES, ids=lambda each: f"{each.side}-{each.write}-{each.invariant[:20]}")
def test_with_every_write_in_place_the_invariant_holds(each: Case) -> None:
    assert not each.broken(Crashes(Stage(each.clients), None))


@pytest.mark.parametrize("each", CASES, ids=lambda each: f"{each.side}-{each.write}-{each.invariant[:20]}")
def test_with_one_kind_of_write_lost_the_invariant_breaks(each: Case) -> None:
    assert each.broken(Crashes(Stage(each.clients), each.write))


def test_every_kind_of_write_has_a_case() -> None:
    """What the sessions write in a round; the aggregator's word on a void is `rounds`' business."""
    stage = Stage(3).play()
    closed = stage.session.sum_up()
    notice = stage.outcome(
        Outcome(
            stage.terms.round_id,
            True,
            stage.cast.sites,
            (),
            closed.digest,
            closed.transcript,
            digest_of("result"),
        )
    )
    for member in stage.members:
        stage.tell(member, notice)
    client = {key.split("/")[0] + "/" for key in stage.decisions[0].pairs}
    aggregator = {key.split("/")[0] + "/" for key in stage.aggregator_decisions.pairs}
    assert client == {each.write for each in CASES if each.side == "client"}
    assert aggregator <= {each.write for each in CASES if each.side == "aggregator"}
