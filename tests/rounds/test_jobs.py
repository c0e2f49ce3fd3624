"""The aggregator's book: states follow from facts, facts are read back, nothing is repaired."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secfed.errors import ConfigError, LedgerError, StorageError
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, ClientId, Digest, JobId
from secfed.rounds.exchange import RoundState
from secfed.rounds.jobs import Ending, Job, JobBook
from secfed.rounds.lines import round_line
from secfed.rounds.plan import BaseModelSpec, DpSpec, LoraSpec, TrainSpec
from secfed.rounds.presence import GRACE_S, Presence
from secfed.rounds.proposal import sign_job_plan
from secfed.store.decisions import DecisionStore

ADMIN = ClientId("office")
DP = DpSpec(
    unit="record", sampling_num=2**60, noise_multiplier="1", clip="1", nominal_units=1000, delta="0.000001"
)
SHAPES = {"x.lora_B.weight": (2, 2)}
TRAIN = TrainSpec(
    trainer="sft",
    strategy="ffa",
    base=BaseModelSpec(id="public/model", weights_sha256="ab" * 32),
    lora=LoraSpec(r=2, alpha=4, target_modules=("x",)),
    adapter=SHAPES,
    steps=50,
    learning_rate="0.01",
    seed="cd" * 32,
)


@pytest.fixture
def store(disk: Path) -> Iterator[DecisionStore]:
    with DecisionStore(disk / "book.sqlite") as opened:
        yield opened


def start(book: JobBook, federation: Any, **changes: Any) -> Job:
    return book.start(sign_job_plan(federation.admin, federation.plan(**changes)))


def end(book: JobBook, job: Job, *, published: bool) -> Ending:
    number = job.next_round
    ending = Ending(
        round=number, attempt=2, h=Digest(bytes([number]) * 32), statement=Signed(b"said", bytes(64)),
        published=published, included=(ClientId("a"), ClientId("b")) if published else (),
        dropped=((ClientId("c"), "mask: upload timeout 30 s"),), lost=((ClientId("b"), "confirm: revoked"),),
        sum=Digest(bytes([1]) * 32), transcript=Digest(bytes([2]) * 32), result=Digest(bytes([3]) * 32),
        weight_sum=7, saturated=1,
        asked=3, seconds=41, reason="" if published else "too few",
    )  # fmt: skip
    book.close_round(job, ending)
    return ending


def test_a_job_runs_until_its_rounds_are_published(federation: Any, store: DecisionStore) -> None:
    book = JobBook(store)
    job = start(book, federation, rounds=2, spare_rounds=1)
    states = [job.state]
    for published in (True, False, True):
        end(book, job, published=published)
        states.append(job.state)
    assert states == ["running", "running", "running", "done"]
    assert (job.published, job.next_round) == (2, 4)
    assert job.last_published is not None
    assert job.last_published.round == 3


def test_a_job_fails_once_its_spare_rounds_are_used_up(federation: Any, store: DecisionStore) -> None:
    book = JobBook(store)
    job = start(book, federation, rounds=2, spare_rounds=1)
    for _ in range(2):
        end(book, job, published=False)
    assert job.state == "running"
    end(book, job, published=False)
    assert (job.state, job.reason) == ("failed", "round 3 was aborted, and no spare round is left")


def test_everything_is_read_back_as_it_was(federation: Any, store: DecisionStore) -> None:
    """Plan, commands, endings, folders: a second book over the same store is the same book."""
    book = JobBook(store)
    first = start(book, federation, job="first", rounds=3)
    start(book, federation, job="second")
    book.command(first, "pause", by=ADMIN, reason="a holiday")
    endings = [end(book, first, published=True), end(book, first, published=False)]
    book.folder_written(first, 1)
    again = JobBook(store)
    assert list(again.jobs) == ["first", "second"]
    found = again.find(JobId("first"))
    assert found.proposal == first.proposal
    assert found.endings == endings
    assert (found.state, found.reason) == ("paused", "a holiday")
    assert again.folders() == {(JobId("first"), 1)}


def test_commands_take_turns_and_end_with_stop(federation: Any, store: DecisionStore) -> None:
    book = JobBook(store)
    job = start(book, federation)
    for verb, state in (
        ("resume", "running"), ("pause", "paused"), ("pause", "paused"), ("resume", "running"),
        ("stop", "stopped"), ("stop", "stopped"),
    ):  # fmt: skip
        book.command(job, verb, by=ADMIN, reason="because")
        assert job.state == state
    assert [command.verb for command in job.commands] == ["pause", "resume", "stop"]
    with pytest.raises(ConfigError, match="is stopped"):
        book.command(job, "resume", by=ADMIN, reason="because")


def test_a_name_belongs_to_one_plan(federation: Any, store: DecisionStore) -> None:
    book = JobBook(store)
    job = start(book, federation)
    assert start(book, federation) is job
    with pytest.raises(ConfigError, match="with another plan"):
        start(book, federation, rounds=9)
    with pytest.raises(ConfigError, match="no job other"):
        book.find(JobId("other"))


def test_a_round_ends_once_and_in_its_turn(federation: Any, store: DecisionStore) -> None:
    book = JobBook(store)
    job = start(book, federation)
    ending = end(book, job, published=True)
    with pytest.raises(ValueError, match="where 2 was open"):
        book.close_round(job, ending)


def test_a_damaged_record_is_named_and_nothing_is_guessed(federation: Any, store: DecisionStore) -> None:
    book = JobBook(store)
    job = start(book, federation)
    store.put(f"ending/{job.id}/00000001", b'{"round": 1}')
    with pytest.raises(StorageError, match="ended round is damaged"):
        JobBook(store)


def test_a_ledger_only_grows(federation: Any, store: DecisionStore) -> None:
    """Per site: neither behind nor beside what was seen, across restarts."""
    one, other = Digest(b"1" * 32), Digest(b"2" * 32)
    site, book = ClientId("a"), JobBook(store)
    job = start(book, federation)
    book.ledger_head(job, site, 5, one)
    book = JobBook(store)
    book.ledger_head(job, site, 5, one)
    for entries, head in ((4, one), (5, other), (0, NO_DIGEST)):
        with pytest.raises(LedgerError):
            book.ledger_head(job, site, entries, head)
    book.ledger_head(job, site, 6, other)
    book.ledger_head(job, ClientId("b"), 1, other)


def test_a_data_sets_ledger_is_one_for_all_private_jobs(federation: Any, store: DecisionStore) -> None:
    """Rolled back between two jobs, it is behind; what a job without a bound goes by is apart."""
    private = {"kind": "train", "shapes": SHAPES, "training": TRAIN, "dp": DP}
    book, site, head = JobBook(store), ClientId("a"), Digest(b"1" * 32)
    first, second = (start(book, federation, job=name, **private) for name in ("train-1", "train-2"))
    book.ledger_head(first, site, 5, head)
    with pytest.raises(LedgerError, match="not the one seen before with 5"):
        book.ledger_head(second, site, 4, head)
    book.ledger_head(start(book, federation, job="sum-1"), site, 1, head)


def test_the_round_line_reads_as_documented() -> None:
    state = RoundState(
        12, 1, "published", 8, tuple(map(ClientId, "abdefgh")),
        ((ClientId("hosp-c"), "upload timeout 180 s"),), (), "1.840", 41, "00",
    )  # fmt: skip
    assert round_line(state, 50, "0.000001") == (
        "round 12/50  asked 8  in 7  dropped 1 (hosp-c: upload timeout 180 s)  "
        "eps by plan 1.840 (delta 1e-6)  41 s"
    )
    late = replace(state, dropped=(), lost=((ClientId("h"), "confirm: revoked"),))
    assert "in 7  lost after the freeze 1 (h: confirm: revoked)  eps" in round_line(late, 50, "0.000001")
    aborted = RoundState(1, 2, "aborted: two are gone", 3, (), (), (), "", 5, "")
    assert round_line(aborted, 1, None) == "round 1/1  asked 3  in 0  aborted: two are gone  not private  5 s"


def test_a_site_is_here_in_a_call_and_shortly_between_two() -> None:
    """Broken off, it may return for a moment; never heard of, it is neither."""
    presence, site = Presence(), ClientId("a")
    assert not presence.here(site, 0)
    presence.enter(site, 0)
    assert presence.here(site, 1000)
    presence.leave(site, 1000, broken=False)
    assert presence.here(site, 1000 + GRACE_S - 0.1)
    assert not presence.here(site, 1000 + GRACE_S)
    presence.enter(site, 2000)
    presence.leave(site, 2000, broken=True)
    assert not presence.here(site, 2000)
    assert presence.may_return(site, 2000 + GRACE_S - 0.1)
    assert not presence.may_return(site, 2000 + GRACE_S)
    assert presence.all_here(2000) == ()


def test_a_second_signature_under_the_same_end_is_no_contradiction(
    federation: Any, store: DecisionStore
) -> None:
    """A key can sign one text in many ways: the first is kept, and nothing fails."""
    book, site = JobBook(store), ClientId("a")
    ending = end(book, start(book, federation), published=True)
    book.countersigned(ending, site, Signed(b"seen", bytes(64)))
    kept = store.scan("countersign/")
    book.countersigned(ending, site, Signed(b"seen", b"1" * 64))
    assert store.scan("countersign/") == kept


def test_invented_ledger_heads_cost_one_row_a_round(federation: Any, store: DecisionStore) -> None:
    book, site = JobBook(store), ClientId("a")
    job = start(book, federation, rounds=2)
    for entries in range(1, 51):
        book.ledger_head(job, site, entries, Digest(bytes([entries]) * 32))
    assert len(store.scan("ledger/")) == 1
    with pytest.raises(LedgerError, match="seen before with 50"):
        book.ledger_head(job, site, 49, Digest(bytes([49]) * 32))
    end(book, job, published=True)
    book.ledger_head(job, site, 51, Digest(bytes(32)))
    assert len(store.scan("ledger/")) == 2
    with pytest.raises(LedgerError, match="seen before with 51"):
        JobBook(store).ledger_head(job, site, 50, Digest(bytes([50]) * 32))
