"""The loop: what it says after what, and what makes it pause, go on, or end."""

from __future__ import annotations

import itertools

import pytest

from secfed.errors import LedgerError, NetworkError, PeerError, PolicyRefusedError, RevokedError
from secfed.identity import membership
from secfed.identity.roles import Role
from secfed.rounds.conversation import PAUSE_MOST_S, Awaited, DeclinedRound, Setback, take_part
from secfed.rounds.exchange import Answer, Ask, Declined, Offer, Present, Ready, Wait


class Script:
    """A link that answers from a list; an exception in it is raised."""

    def __init__(self, *answers):
        self.answers, self.heard = list(answers), []

    def exchange(self, said):
        self.heard.append(said)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def facts(machine, link, count, pauses=None):
    rounds = machine.start()
    sleep = (pauses if pauses is not None else []).append
    return list(itertools.islice(take_part(rounds, link, sleep), count))


@pytest.fixture
def machine(federation):
    return next(iter(federation.machines.values()))


def test_it_says_where_it_stands_after_every_wait(federation, machine):
    link = Script(
        Wait("one site", 7), federation.offer(federation.plan()), Wait("the next attempt", 0), Wait("x", 0)
    )
    assert facts(machine, link, 3)[0] == Awaited("one site", 7)
    assert [type(said) for said in link.heard] == [Present, Present, Ready, Ready]


def test_a_declined_round_is_a_fact_with_its_reason(federation, machine):
    link = Script(
        federation.offer(federation.plan(kind="vector", min_cohort=3, weight_cap=1, rounds=1)), Wait("", 0)
    )
    machine.update.unlink()
    declined, waited = facts(machine, link, 2)
    assert isinstance(declined, DeclinedRound)
    assert "No such file" in str(declined.reason)
    assert isinstance(waited, Awaited)
    assert isinstance(link.heard[1], Declined)


@pytest.mark.parametrize("answer", [Wait("", 0), NetworkError("gone")], ids=["told", "away"])
def test_a_decision_against_a_round_is_a_fact_once_it_was_said(federation, machine, answer):
    """Whoever ends on it leaves nobody waiting, and ends on it even where it could not be said."""
    job = machine.policy.job.model_copy(update={"allow_non_private": False})
    machine.policy = machine.policy.model_copy(update={"job": job})
    link = Script(federation.offer(federation.plan()), answer)
    told = take_part(machine.start(), link, lambda _: None)
    declined = next(told)
    assert (type(declined.reason), declined.job) == (PolicyRefusedError, "sum-1")
    assert [type(said) for said in link.heard] == [Present, Declined]


def test_what_can_be_mended_is_reported_before_anything_is_said(federation, machine):
    """Whoever ends on it, mends it and comes back is offered the round again."""
    link = Script(federation.offer(federation.plan()))
    machine.update.unlink()
    assert isinstance(facts(machine, link, 1)[0], DeclinedRound)
    assert [type(said) for said in link.heard] == [Present]


def test_a_peer_that_errs_every_time_is_met_with_longer_pauses(machine):
    pauses: list[float] = []
    link = Script(*[Offer(b"no plan", b"none")] * 8)
    assert all(isinstance(fact, Setback) for fact in facts(machine, link, 8, pauses))
    assert pauses == [1, 2, 4, 8, 16, PAUSE_MOST_S, PAUSE_MOST_S]


def test_an_answer_that_was_refused_there_is_no_end(machine):
    link = Script(PeerError("too late"), Wait("", 0))
    setback, waited = facts(machine, link, 2)
    assert isinstance(setback, Setback)
    assert isinstance(waited, Awaited)


@pytest.mark.parametrize("end", [NetworkError("away"), RevokedError("revoked"), LedgerError("behind")])
def test_what_should_end_the_process_is_raised(machine, end):
    with pytest.raises(type(end)):
        facts(machine, Script(end), 1)


def test_a_round_is_reported_once_its_countersignature_was_said(federation):
    """What `push` ends on has reached the other side, and is reported even if that failed."""
    plan = federation.plan()
    machines = list(federation.machines.values())
    for machine in machines:
        machine.start().hear(federation.offer(plan))
    host = federation.begin(plan, 1, machines)
    host.run(machines)
    notice = Ask(host.session.h, host.outcome())
    for answer in (Wait("", 0), NetworkError("gone")):
        machine = machines.pop()
        link = Script(notice, answer)
        told = take_part(machine.rounds, link, lambda _: None)
        assert next(told).included
        assert [type(said) for said in link.heard] == [Ready, Answer]


def test_a_plan_that_cannot_be_believed_is_no_end(federation, machine):
    """An admin that was revoked meanwhile: this site goes on, and takes nothing from that plan."""
    machine.start()
    admin = federation.roster.active(Role.ADMIN)[0].site
    machine.site.rosters.accept(membership.revoke(federation.roster, federation.roster_key, admin).text)
    machine.stop()
    setback = facts(machine, Script(federation.offer(federation.plan())), 1)[0]
    assert isinstance(setback.reason, RevokedError)
