"""Attempts on the ring: the exact sum, whoever is lost; and nobody does work for more than its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from simfed.cast import Cast, expected_total
from simfed.pure import remembered
from simfed.stage import Stage

from secfed.errors import InfeasibleCohortError, StaleAttemptError
from secfed.ids import MemberIndex
from secfed.limits import COHORT_MAX
from secfed.secagg import opening
from secfed.secagg.aggregator import AggregatorSession, AttemptVoidError
from secfed.secagg.messages import OpenAttempt, Phase, SelfMaskShare, ShareAnswers
from secfed.secagg.params import Params
from secfed.secagg.record import ClientRecord

CLIENTS = 130
PHASES = (Phase.ADVERTISE, Phase.ENCAPSULATE, Phase.SHARE, Phase.MASK, Phase.CONFIRM, Phase.UNMASK)


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    """130 clients verify what one of them verified; each rule's need is shown elsewhere."""
    with remembered():
        yield


@pytest.fixture(scope="module")
def ring() -> Stage:
    """D = 4: one member may be lost in each phase but the first and the last."""
    with remembered():
        return Stage(CLIENTS, cast=Cast(CLIENTS, length=CLIENTS, losses=4)).at(Phase.DONE)


def step(stage: Stage, gone: set[int]) -> None:
    """One phase in which these members are lost."""
    phase = stage.session.phase
    for member in stage.members:
        if stage.session.phase is not phase:
            return
        if member in gone:
            stage.session.drop(member, "gone")
        elif (request := stage.session.ask(member)) is not None:
            stage.deliver(member, stage.clients[member].receive(request))


def test_the_sum_is_that_of_the_survivors_whoever_is_lost(ring: Stage) -> None:
    """One is lost in each of four phases, two of them next to each other on the ring."""
    ring.at(Phase.ENCAPSULATE)
    order = ring.session.graph.order
    lost = [order[10], order[20], order[21], order[70]]
    for member in lost:
        step(ring, {member})
    assert ring.session.phase is Phase.UNMASK
    while ring.session.phase is not Phase.DONE:
        step(ring, set())
    total = ring.session.sum_up()
    survivors = tuple(member for member in ring.members if member not in lost[:3])
    assert total.survivors == survivors
    assert np.array_equal(total.total, expected_total(CLIENTS, survivors))
    assert [item.site for item in ring.session.lost] == [ring.session.site(lost[3])]


def test_masks_between_two_dropouts_are_left_alone(ring: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    ring.at(Phase.MASK)
    order = ring.session.graph.order
    step(ring, {order[3], order[4]})
    while ring.session.phase is not Phase.DONE:
        step(ring, set())
    found = []
    real = opening.open_sum

    def spy(*args: object) -> opening.OpenedMasks:
        found.append(real(*args))  # type: ignore[arg-type]
        return found[0]

    monkeypatch.setattr("secfed.secagg.aggregator.open_sum", spy)
    total = ring.session.sum_up()
    assert np.array_equal(total.total, expected_total(CLIENTS, total.survivors))
    edges = {(survivor, dropout) for survivor, dropout, _ in found[0].dropped_edges}
    neighbours = ring.session.graph.neighbours
    pair = {order[3], order[4]}
    assert edges == {(near, gone) for gone in pair for near in neighbours(gone) if near not in pair}
    assert len(found[0].self_seeds) == CLIENTS - 2


def test_a_member_is_asked_about_its_neighbours_alone(ring: Stage) -> None:
    """Of everybody else come digests; signatures are a quorum's, and shares the neighbours'."""
    k, me = ring.session.params.neighbours, MemberIndex(5)
    near = ring.session.graph.neighbours(me)
    assert k == len(near) < 20
    adverts, lists, bundles = (ring.at(phase).ask(me) for phase in PHASES[1:4])
    assert [member for member, _ in adverts.adverts] == list(near)
    assert [item.sender for item in lists.lists] == [item.sender for item in bundles.bundles] == list(near)
    assert all(len(each.listed) == CLIENTS for each in (adverts, lists, bundles))
    assert lists.listed is ring.at(Phase.SHARE).ask(6).listed
    request = ring.at(Phase.UNMASK).ask(me)
    assert len(request.signatures) == ring.session.params.quorum
    reply = ring.tell(me, request)
    answers = ring.cast.codec.decode(ShareAnswers, reply.statement.statement)  # type: ignore[union-attr]
    assert tuple(answers.shares) == near
    assert all(isinstance(share, SelfMaskShare) for share in answers.shares.values())


def test_more_losses_than_the_ring_was_made_for_void_the_attempt(ring: Stage) -> None:
    """D before the freeze, not the floor: a new attempt costs less than a round that cannot finish."""
    ring.at(Phase.MASK)
    assert ring.session.params.losses == 4
    assert ring.session.params.floor < CLIENTS - 4
    for member in range(4):
        ring.session.drop(MemberIndex(member), "gone")
    with pytest.raises(AttemptVoidError, match="125 of 130 members are left, 126 are needed"):
        ring.session.drop(MemberIndex(4), "gone")


def test_a_reason_names_a_few_of_those_that_were_lost(ring: Stage) -> None:
    ring.at(Phase.MASK)
    ring.session.params = replace(ring.session.params, losses=11)
    for member in range(11):
        ring.session.drop(MemberIndex(member), "gone")
    with pytest.raises(AttemptVoidError, match=r"site-\d+ \(mask: gone\), and 4 more$") as caught:
        ring.session.drop(MemberIndex(11), "gone")
    assert str(caught.value).count("gone") == 8


@pytest.mark.parametrize("phase", [Phase.ADVERTISE, Phase.CONFIRM, Phase.UNMASK])
def test_what_all_are_asked_alike_is_one_object(ring: Stage, phase: Phase) -> None:
    """So it is serialised once, not once a member; on the ring adverts differ, but for a retry."""
    session = ring.at(phase)
    assert session.ask(MemberIndex(5)) is session.ask(MemberIndex(6)) is not None


def test_an_owner_with_too_few_neighbours_left_voids_the_attempt(ring: Stage) -> None:
    """Its secrets could not be opened after the freeze, which would end the round."""
    ring.at(Phase.MASK)
    collected, k = ring.session._collected, ring.session.params.neighbours
    collected._params = replace(collected._params, threshold=k)
    gone = ring.session.graph.order[40]
    with pytest.raises(AttemptVoidError, match=rf"{k - 1} neighbours of site-\d+ are left, {k} are needed"):
        step(ring, {gone})


def test_a_restarted_aggregator_finishes_the_same_ring(ring: Stage) -> None:
    ring.at(Phase.CONFIRM)
    restarted = ring.open_session(ring.session.manifest)
    assert restarted.resume()
    ring.session = restarted
    while ring.session.phase is not Phase.DONE:
        step(ring, set())
    assert np.array_equal(ring.session.sum_up().total, expected_total(CLIENTS, ring.members))


def second(stage: Stage, gone: set[int]) -> AggregatorSession:
    """A second attempt at the point where all adverts are in; these members stay away."""
    manifest = stage.cast.manifest(stage.terms, attempt=2)
    stage.session = stage.open_session(manifest)
    step(stage, gone)
    assert stage.session.phase is Phase.ENCAPSULATE
    return stage.session


def test_a_retry_counts_former_neighbours_wherever_they_stand_now(ring: Stage) -> None:
    """Whose vector left masks again once enough of its old neighbours, seen by their adverts, are back."""
    ring.at(Phase.CONFIRM)
    me = MemberIndex(7)
    (left,) = ClientRecord(ring.decisions[me]).left(ring.terms.round_id)
    params = ring.session.params
    former = ring.session.graph.neighbours(me)
    assert left.neighbours.keys() == {ring.session.site(member) for member in former}
    needed = params.neighbours + 1 - params.threshold + 1  # one corrupt member may be near
    assert left.needed_back(corrupt=1) == needed <= params.neighbours - 3
    session = second(ring, set(former[:3]))
    assert session.graph.neighbours(me) != former
    request = session.ask(me)
    assert len(request.adverts) == CLIENTS - 3  # type: ignore[union-attr]
    assert session.ask(former[3]) is request
    assert ring.tell(me, request) is not None  # type: ignore[arg-type]


def test_a_retry_with_too_few_former_neighbours_is_refused(ring: Stage) -> None:
    """Three of them are somebody else now: back under the same name with another key."""
    ring.at(Phase.CONFIRM)
    me = MemberIndex(7)
    (left,) = ClientRecord(ring.decisions[me]).left(ring.terms.round_id)
    needed = left.needed_back(corrupt=1)
    replaced = dict.fromkeys(list(left.neighbours)[: len(left.neighbours) - needed + 1], bytes(32))
    request = second(ring, set()).ask(me)
    ring.decisions[me].pairs = {
        k: v for k, v in ring.decisions[me].pairs.items() if not k.startswith("left/")
    }
    changed = replace(left, neighbours={**left.neighbours, **replaced})
    ClientRecord(ring.decisions[me]).mark_left(ring.terms.round_id, changed)
    with pytest.raises(StaleAttemptError, match=f"fewer than {needed} of its neighbours there are back"):
        ring.tell(me, request)  # type: ignore[arg-type]


@pytest.mark.parametrize(("losses", "words"), [(65, "64 may be lost at most, not 65"), (200, "not 200")])
def test_a_manifest_with_impossible_losses_is_refused(ring: Stage, losses: int, words: str) -> None:
    terms = ring.at(Phase.ADVERTISE).terms
    manifest = replace(ring.cast.manifest(terms), losses=losses)
    with pytest.raises(InfeasibleCohortError, match=words):
        ring.tell(0, OpenAttempt(ring.cast.sign_manifest(terms, manifest)))


def test_a_small_cohort_names_no_losses() -> None:
    five = Stage(5)
    manifest = replace(five.cast.manifest(five.terms), losses=1)
    with pytest.raises(InfeasibleCohortError, match="follows from their number; 1 are named"):
        five.tell(0, OpenAttempt(five.cast.sign_manifest(five.terms, manifest)))


def test_the_ring_in_words() -> None:
    assert Params.of(1000, 50, min_cohort=3, losses=50).in_words() == (
        "1000 sites: any 50 may collude with the aggregator; each masks with 70 neighbours that nobody "
        "chose, of whom at most 32 are such; 53 shares open a secret, 526 signatures certify the survivors, "
        "50 may be lost in an attempt"
    )


def test_a_tenth_may_be_lost_unless_the_floors_leave_fewer() -> None:
    assert Params.of(1000, 50, min_cohort=3).losses == 100
    assert Params.of(1000, 50, min_cohort=3, survivors_min=970).losses == 30
    assert Params.of(1000, 50, min_cohort=1000).losses == 0
    assert Params.of(COHORT_MAX, 103, min_cohort=3).neighbours == 132


def test_a_cohort_above_the_largest_is_refused() -> None:
    with pytest.raises(InfeasibleCohortError, match="at most 1024 sites may take part"):
        Params.of(COHORT_MAX + 1, 1, min_cohort=3)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_thousand_members_of_whom_a_twentieth_is_lost() -> None:
    """The size that the ring is for, with A = D = 50; some minutes on a quiet core."""
    stage = Stage(1000, cast=Cast(1000, corrupt=50, length=1000, losses=50))
    lost = set(Random(3).sample(range(1000), 50))
    for phase in PHASES:
        assert stage.session.phase is phase
        step(stage, lost if phase is Phase.MASK else set())
    survivors = tuple(member for member in stage.members if member not in lost)
    total = stage.session.sum_up()
    assert total.survivors == survivors
    assert np.array_equal(total.total, expected_total(1000, survivors))
