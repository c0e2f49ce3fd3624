"""When a client is done: what it waits for, what it stays for, and with which refusal it ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from secfed.cli import attending
from secfed.cli.site_lines import Lines
from secfed.errors import (
    BudgetExceededError,
    ConfigError,
    DataError,
    PeerError,
    PolicyRefusedError,
    RoundAbortedError,
    SecfedError,
)
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, JobId, RoundId
from secfed.rounds.client import RoundEnd
from secfed.rounds.conversation import Awaited, DeclinedRound, Fact, Setback
from secfed.rounds.exchange import Ask, JobState, Ready, RoundState, Said, StatusReply, Wait
from secfed.secagg.messages import OutcomeNotice

FIRST, SECOND = JobId("first"), JobId("second")
BUDGET, POLICY = BudgetExceededError("above the cap"), PolicyRefusedError("not this model")


def job(name: JobId, state: str) -> JobState:
    return JobState(name, "train", state, "", 1, 3, 0, "no spare round is left", 0, (), ())


def end(name: JobId) -> RoundEnd:
    return RoundEnd(name, 1, 3, included=True, members=3, reason="", seconds=7)


class Told:
    """A client that hears these facts; beside each stands what the aggregator would say of its jobs then."""

    def __init__(self, *told: tuple[Fact, Iterable[JobState]], first: Iterable[JobState] = ()) -> None:
        self.facts = [fact for fact, _ in told]
        self.jobs = [tuple(first), *(tuple(jobs) for _, jobs in told)]
        self.now, self.asked, self.prepared = 0, 0, 0
        self.link = self
        self.leftovers: tuple[RoundId, ...] = ()
        self.said: list[Said] = []
        self.answer: Wait | Ask = Wait("nothing", 0)
        self.buried: list[tuple[RoundId, OutcomeNotice]] = []

    def __iter__(self) -> Iterator[Fact]:
        for fact in self.facts:
            self.now += 1
            yield fact

    def status(self, only: JobId | None = None) -> StatusReply:
        self.asked += 1
        jobs = [each for each in self.jobs[self.now] if only in (None, each.job)]
        return StatusReply("0", "f" * 32, 1, (), tuple(jobs))

    def prepare(self) -> None:
        self.prepared += 1

    def exchange(self, said: Said) -> Wait | Ask:
        self.said.append(said)
        return self.answer

    def bury(self, leftover: RoundId, notice: OutcomeNotice) -> bool:
        self.buried.append((leftover, notice))
        return True


def attend(
    client: Told,
    monkeypatch: pytest.MonkeyPatch,
    *,
    only: JobId | None = None,
    one_round: bool = False,
    wait_s: float = 60.0,
) -> None:
    monkeypatch.setattr(attending, "take_part", lambda *_: iter(client))
    monkeypatch.setattr(attending, "_round_line", lambda _client, told: f"round {told.round} of {told.job}")
    both: Any = SimpleNamespace(
        rounds=SimpleNamespace(leftovers=client.leftovers, bury=client.bury),
        link=client,
        prepare=client.prepare,
    )
    attending.attend(both, Lines(), only=only, one_round=one_round, job_wait_s=wait_s)


# -- without a job's name ------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [BUDGET, POLICY])
def test_a_refusal_ends_the_client_once_no_job_is_left(
    refusal: SecfedError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Declined and logged; another job keeps it; with that over, it ends by the refusal's own code."""
    both = job(FIRST, "running"), job(SECOND, "queued")
    client = Told(
        (DeclinedRound(refusal, FIRST), both),
        (Awaited("others", 9), (both[0], job(SECOND, "paused"))),
        (end(SECOND), (both[0], job(SECOND, "running"))),
        (Awaited("no job is running", 0), (both[0], job(SECOND, "done"))),
        (Awaited("never heard", 0), ()),
    )
    with pytest.raises(type(refusal)) as ended:
        attend(client, monkeypatch)
    assert ended.value is refusal
    assert client.now == 4
    assert f"declined: {refusal}\n" in capsys.readouterr().out


def test_the_only_job_refused_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Told((DeclinedRound(BUDGET, FIRST), [job(FIRST, "running")]), (Awaited("never heard", 0), ()))
    with pytest.raises(BudgetExceededError):
        attend(client, monkeypatch)
    assert client.now == 1


def test_the_last_refusal_is_the_one_it_ends_with(monkeypatch: pytest.MonkeyPatch) -> None:
    both = job(FIRST, "running"), job(SECOND, "queued")
    client = Told((DeclinedRound(BUDGET, FIRST), both), (DeclinedRound(POLICY, SECOND), both))
    with pytest.raises(PolicyRefusedError):
        attend(client, monkeypatch)


def test_what_can_be_mended_and_what_went_well_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing column is no decision; and a client that refused nothing waits for the next job."""
    over = [job(FIRST, "done")]
    client = Told(
        (DeclinedRound(DataError("no column"), FIRST), over), (end(FIRST), over), (Awaited("none", 0), over)
    )
    attend(client, monkeypatch)
    assert client.now == 3
    assert client.asked == 0


# -- with a job's name ---------------------------------------------------------------------------


def test_a_job_that_is_not_there_yet_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says for what and until when, and uses the time to load what training takes."""
    client = Told(
        (Awaited("no job is running", 0), [job(FIRST, "running")]),
        (Awaited("job first round 1: waiting for 2 sites", 0), [job(SECOND, "running")]),
        (end(SECOND), [job(SECOND, "done")]),
        (Awaited("never heard", 0), ()),
    )
    attend(client, monkeypatch, only=SECOND)
    said = capsys.readouterr().out
    assert "waiting: job second, which is not started yet, for 60 s at most\n" in said
    assert "no job is running" not in said
    assert "job second is done\n" in said
    assert (client.prepared, client.now) == (1, 3)


def test_a_job_that_is_there_is_not_prepared_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that comes back in the middle of a round must not load libraries first."""
    running = [job(FIRST, "running")]
    client = Told((Setback(SecfedError("x")), running), (end(FIRST), [job(FIRST, "stopped")]), first=running)
    attend(client, monkeypatch, only=FIRST)
    assert client.prepared == 0


def test_nobody_waits_for_ever_for_a_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However long a call may be kept, the time that was said is the time that is waited."""
    with pytest.raises(ConfigError, match="there is no job first") as told:
        attend(Told(), monkeypatch, only=FIRST, wait_s=0)
    assert "--wait" in told.value.hint
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(attending, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    client = Told((Awaited("never heard", 0), ()))
    with pytest.raises(ConfigError):
        attend(client, monkeypatch, only=FIRST, wait_s=12.5)
    assert "for 13 s at most" in capsys.readouterr().out
    assert (clock[0], client.now, client.prepared) == (12.5, 0, 0)


def test_a_push_waits_for_some_job_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job that is over is none; one that is paused is one. Without any it ends and says how to wait."""
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(attending, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    over = [job(FIRST, "done")]
    with pytest.raises(ConfigError, match="no job that is not over") as told:
        attend(Told((Awaited("x", 0), ()), first=over), monkeypatch, one_round=True, wait_s=12.5)
    assert ("--wait" in told.value.hint, clock[0]) == (True, 12.5)
    assert "waiting: no job is started yet, for 13 s at most\n" in capsys.readouterr().out
    paused = [*over, job(SECOND, "paused")]
    client = Told((Awaited("job second is paused", 0), paused), (end(SECOND), paused), first=over)
    attend(client, monkeypatch, one_round=True)
    assert client.now == 2
    assert f"round 1 of {SECOND}" in capsys.readouterr().out


def test_a_push_whose_job_went_away_waits_no_longer_than_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    running = [job(FIRST, "running")]
    client = Told(
        (Awaited("others", 9), running), (Awaited("none", 0), [job(FIRST, "stopped")]), first=running
    )
    with pytest.raises(ConfigError, match="none was started in time"):
        attend(client, monkeypatch, one_round=True, wait_s=0)
    assert client.now == 2


def test_a_push_to_a_job_that_is_over_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vector is in no sum, unless an earlier start of it left it in a round that has ended since."""
    over = [past(FIRST, "done", 1)]
    client = Told((Awaited("no job is running", 0), over), first=over)
    with pytest.raises(ConfigError, match="job first came to its end without this vector"):
        attend(client, monkeypatch, only=FIRST, one_round=True)
    again = Told((Awaited("no job is running", 0), over), first=over)
    again.leftovers = (RoundId(FIRST, 1),)
    again.answer = Ask(NO_DIGEST, OutcomeNotice(NO_DIGEST, Signed(b"", b"")))
    attend(again, monkeypatch, only=FIRST, one_round=True)
    assert (again.now, len(again.buried)) == (1, 1)


@pytest.mark.parametrize("refusal", [BUDGET, POLICY, DataError("no column")])
def test_a_refusal_of_the_one_job_ends_it(refusal: SecfedError, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Told((DeclinedRound(refusal, FIRST), ()), first=[job(FIRST, "running")])
    with pytest.raises(type(refusal)):
        attend(client, monkeypatch, only=FIRST)
    some = [job(FIRST, "running")]
    with pytest.raises(type(refusal)):
        attend(Told((DeclinedRound(refusal, FIRST), some), first=some), monkeypatch, one_round=True)


def test_a_job_that_failed_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Told((Awaited("none", 0), [job(FIRST, "failed")]), first=[job(FIRST, "running")])
    with pytest.raises(RoundAbortedError, match="no spare round is left"):
        attend(client, monkeypatch, only=FIRST)


# -- rounds that ended in its absence ------------------------------------------------------------


def past(name: JobId, state: str, *rounds: int) -> JobState:
    ended = tuple(RoundState(each, 1, "published", 3, (), (), (), "", 7, "") for each in rounds)
    return replace(job(name, state), history=ended)


def test_a_round_that_ended_in_its_absence_is_heard_of_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked for only where it has ended: who is ready for an open round must have its offer in hand."""
    client = Told(first=[past(FIRST, "done", 1, 2, 3), past(SECOND, "running", 1)])
    gone, open_ = RoundId(FIRST, 3), RoundId(SECOND, 2)
    client.leftovers = (gone, open_)
    notice = OutcomeNotice(NO_DIGEST, Signed(b"", b""))
    client.answer = Ask(NO_DIGEST, notice)
    attend(client, monkeypatch)
    assert client.said == [Ready(FIRST, 3, NO_DIGEST)]
    assert client.buried == [(gone, notice)]
    assert "round 3/3  of job first ended in this client's absence: included\n" in capsys.readouterr().out


def test_an_end_that_is_not_told_or_not_believed_is_no_end_of_the_client(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Told(first=[past(FIRST, "done", 1)])
    client.leftovers = (RoundId(FIRST, 1),)
    attend(client, monkeypatch)
    assert client.buried == []

    def disbelieve(*_: object) -> bool:
        raise PeerError("not the aggregator's")

    client.answer = Ask(NO_DIGEST, OutcomeNotice(NO_DIGEST, Signed(b"", b"")))
    monkeypatch.setattr(client, "bury", disbelieve)
    attend(client, monkeypatch)
    assert (
        "setback: the end of round first/1 cannot be heard: not the aggregator's" in capsys.readouterr().out
    )


@pytest.mark.parametrize("listed", [(), (FIRST, SECOND)])
def test_an_aggregator_that_lists_other_jobs_than_asked_ends_no_client(
    listed: tuple[JobId, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is taken from its list is the job of that name, however many it tells of."""
    client = Told()
    client.leftovers = (RoundId(FIRST, 1),)
    jobs = tuple(past(name, "done", 1) for name in listed)
    monkeypatch.setattr(client, "status", lambda *_: StatusReply("0", "f" * 32, 1, (), jobs))
    attend(client, monkeypatch)
    assert client.said == ([Ready(FIRST, 1, NO_DIGEST)] if listed else [])
