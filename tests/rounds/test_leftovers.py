"""A round that ended while its site was away is closed by its signed end, and leaves no contribution."""

from __future__ import annotations

from dataclasses import replace

import pytest

from secfed.crypto.labels import Label
from secfed.errors import PeerError
from secfed.identity import signed
from secfed.ids import Digest, JobId, RoundId
from secfed.rounds.exchange import Ask, Declined, Ready, Refused
from secfed.secagg.messages import Outcome, OutcomeNotice

ROUND = RoundId(JobId("sum-1"), 1)


@pytest.fixture
def ended(federation):
    """A site that was killed after it had given its shares, started again, and its round's signed end."""
    plan = federation.plan()
    machines = list(federation.machines.values())
    for machine in machines:
        assert isinstance(machine.start().hear(federation.offer(plan)), Ready)
    assert machines[0].rounds.leftovers == ()  # it is the round in hand
    host = federation.begin(plan, 1, machines)
    host.run(machines)
    machines[0].stop()
    machines[0].start()
    return machines[0], host


def test_the_end_of_a_round_deletes_what_was_kept_for_it(federation, ended):
    machine, host = ended
    assert machine.rounds.leftovers == (ROUND,)
    assert machine.rounds.bury(ROUND, host.outcome()) is True
    assert machine.rounds.leftovers == ()
    assert machine.site.contributions.rounds() == []
    assert machine.record.transcript(ROUND.job, ROUND.round) == federation.previous[1]
    assert isinstance(machine.rounds.hear(federation.offer(federation.plan())), Declined)  # it is over here


def test_an_aborted_round_is_closed_too(ended):
    machine, host = ended
    assert machine.rounds.bury(ROUND, host.outcome(published=False)) is False
    assert machine.site.contributions.rounds() == []


def test_only_the_signed_end_of_that_very_round_deletes_anything(ended):
    """The site may yet be needed to finish the round."""
    machine, host = ended
    notice = host.outcome()
    forged = replace(notice, statement=replace(notice.statement, signature=bytes(64)))
    for leftover, told in ((ROUND, forged), (RoundId(JobId("sum-1"), 2), notice)):
        with pytest.raises(PeerError):
            machine.rounds.bury(leftover, told)
    assert machine.rounds.leftovers == (ROUND,)


# -- an end that the aggregator signed, and that is not what was signed here -----------------------


def told_otherwise(federation, machine, notice, **changes):
    """The notice with other facts in it, signed by the aggregator itself."""
    codec = machine.site.codec
    outcome = replace(codec.decode(Outcome, notice.statement.statement), **changes)
    statement = signed.sign(
        federation.aggregator,
        Label.SIGN_OUTCOME,
        context=notice.attempt,
        sender=federation.roster.aggregator.site,
        recipient=None,
        statement=codec.encode(outcome),
    )
    return OutcomeNotice(notice.attempt, statement)


def refused(machine, notice, match):
    """A site that started again believes no more than one that stayed, and keeps what it has."""
    with pytest.raises(PeerError, match=match):
        machine.rounds.bury(ROUND, notice)
    assert machine.rounds.leftovers == (ROUND,)
    assert not machine.record.is_closed(ROUND)
    assert machine.record.transcript(ROUND.job, ROUND.round) is None


@pytest.mark.parametrize("what", ["survivors", "without this site", "sum", "transcript"])
def test_an_end_other_than_signed_here_is_refused(federation, ended, what):
    machine, host = ended
    notice = host.outcome()
    sites = machine.site.codec.decode(Outcome, notice.statement.statement).survivors
    other = Digest(b"\x42" * 32)
    changes = {
        "survivors": {"survivors": (machine.name,), "transcript": other},
        "without this site": {"survivors": tuple(site for site in sites if site != machine.name)},
        "sum": {"sum": other},
        "transcript": {"transcript": other},
    }[what]
    lie = told_otherwise(federation, machine, notice, **changes)
    refused(machine, lie, "other survivors" if "survivors" in changes else "transcript is not over")
    stayed = list(federation.machines.values())[1]
    assert isinstance(stayed.rounds.hear(Ask(notice.attempt, lie)), Refused)
    assert machine.rounds.bury(ROUND, notice) is True  # the true one is heard still


def test_an_end_in_an_attempt_that_was_never_opened_here_cannot_include_this_site(federation, ended):
    machine, host = ended
    notice = replace(host.outcome(), attempt=Digest(b"\x17" * 32))
    refused(machine, told_otherwise(federation, machine, notice), "never opened")
    others = tuple(site for site in federation.machines if site != machine.name)
    assert machine.rounds.bury(ROUND, told_otherwise(federation, machine, notice, survivors=others)) is False
    assert machine.rounds.leftovers == ()


def test_the_end_of_another_round_that_went_without_this_site_closes_nothing(federation, ended):
    """By itself such an end is sound; under this round's number it would delete what may yet be needed."""
    machine, host = ended
    notice = replace(host.outcome(), attempt=Digest(b"\x17" * 32))
    others = tuple(site for site in federation.machines if site != machine.name)
    for elsewhere in (RoundId(ROUND.job, 2), RoundId(JobId("sum-2"), 1), RoundId(ROUND.job, 1, sum_index=1)):
        told = told_otherwise(federation, machine, notice, survivors=others, round_id=elsewhere)
        refused(machine, told, "the end of round sum-1/1 was asked for")


def test_an_end_that_contradicts_a_transcript_kept_here_is_refused(federation, ended):
    """It was learned from the manifest of a later round."""
    machine, host = ended
    machine.record.store_transcript(ROUND.job, ROUND.round, Digest(b"\x42" * 32))
    with pytest.raises(PeerError, match="decided before"):
        machine.rounds.bury(ROUND, host.outcome())
    assert machine.rounds.leftovers == (ROUND,)
