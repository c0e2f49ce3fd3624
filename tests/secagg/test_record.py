"""The records over real durable stores: what was decided is what a restart finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from secfed.errors import DecisionConflictError
from secfed.ids import ClientId, Digest, JobId, RoundId
from secfed.secagg.record import AggregatorRecord, ClientRecord, Left
from secfed.store.decisions import DecisionStore

JOB = JobId("job")
ROUND, NEXT = RoundId(JOB, 1), RoundId(JOB, 2)
H, OTHER = Digest(b"h" * 32), Digest(b"o" * 32)


def test_a_client_finds_its_decisions_after_a_restart(disk: Path) -> None:
    left = Left(3, (ClientId("a"), ClientId("b")), 1, 2, {ClientId("b"): bytes(range(32))})
    with DecisionStore(disk / "state.db") as store:
        record = ClientRecord(store)
        record.open_attempt(ROUND, 3, H)
        record.mark_left(ROUND, left)
        record.confirm(H, b"confirm")
        record.answer(ROUND, 3, H, [ClientId("a"), ClientId("b")], b"key")
        record.close(ROUND, published=True)
        record.store_transcript(JOB, 1, OTHER)
    with DecisionStore(disk / "state.db") as store:
        record = ClientRecord(store)
        assert record.highest_attempt(JOB) == (1, 0, 3)
        assert (record.opened(ROUND, H), record.opened(ROUND, OTHER), record.opened(NEXT, H)) == (
            3,
            None,
            None,
        )
        assert record.left(ROUND) == (left,)
        assert record.left(NEXT) == ()
        assert record.confirmed(H) == b"confirm"
        assert record.has_answered(ROUND)
        assert not record.has_answered(NEXT)
        assert record.is_closed(ROUND)
        assert not record.is_closed(NEXT)
        assert (record.transcript(JOB, 1), record.last_published(JOB)) == (OTHER, 1)
        (answered,) = record.answered_under(b"key")
        assert answered.survivors == {"a", "b"}
        assert record.answered_under(b"other key") == ()


def test_a_decision_stands(disk: Path) -> None:
    with DecisionStore(disk / "state.db") as store:
        record = ClientRecord(store)
        record.confirm(H, b"one")
        record.confirm(H, b"one")
        with pytest.raises(DecisionConflictError):
            record.confirm(H, b"two")
        record.close(ROUND, published=False)
        with pytest.raises(DecisionConflictError):
            record.close(ROUND, published=True)
        record.store_transcript(JOB, 1, H)
        with pytest.raises(DecisionConflictError):
            record.store_transcript(JOB, 1, OTHER)


def test_attempts_are_compared_as_numbers(disk: Path) -> None:
    """Numbers longer than the key's padding sort wrongly as text; an aggregator could choose such ones."""
    with DecisionStore(disk / "state.db") as store:
        record = ClientRecord(store)
        for attempt in (200_000_000, 1_000_000_000):
            record.open_attempt(ROUND, attempt, H)
        assert record.highest_attempt(JOB) == (1, 0, 1_000_000_000)


def test_jobs_do_not_see_each_other(disk: Path) -> None:
    with DecisionStore(disk / "state.db") as store:
        record = ClientRecord(store)
        record.open_attempt(RoundId(JobId("job-2"), 7), 1, H)
        assert record.highest_attempt(JOB) == (0, 0, 0)
        assert record.last_published(JOB) == 0


def test_an_aggregator_finds_its_decisions_after_a_restart(disk: Path) -> None:
    with DecisionStore(disk / "state.db") as store:
        record = AggregatorRecord(store)
        record.open_attempt(ROUND, 1, b"first")
        record.void(H, "why")
        record.open_attempt(ROUND, 2, b"second")
        record.freeze(OTHER, b"frozen")
        record.certify(OTHER, b"signatures")
    with DecisionStore(disk / "state.db") as store:
        record = AggregatorRecord(store)
        assert record.attempts(ROUND) == ((1, b"first"), (2, b"second"))
        assert record.attempts(NEXT) == ()
        assert (record.voided(H), record.voided(OTHER)) == ("why", None)
        assert (record.frozen(OTHER), record.frozen(H)) == (b"frozen", None)
        assert (record.certified(OTHER), record.certified(H)) == (b"signatures", None)
