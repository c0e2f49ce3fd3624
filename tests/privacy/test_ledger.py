"""The ledger: what counts, what is refused, what a crash leaves, what tampering shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secfed.crypto.kdf import digest, lengthed
from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.crypto.signing import verify as verify_signature
from secfed.errors import LedgerError, LockedError
from secfed.ids import ClientId, Digest, JobId, RoundId
from secfed.privacy.book import Charge
from secfed.privacy.budget import authorize
from secfed.privacy.entries import Budget
from secfed.privacy.events import NonPrivate, PoissonGaussian
from secfed.privacy.ledger import Authorization, Ledger, verify
from secfed.store.journal import Head, Journal

JOB = JobId("reviews")
ROUND = RoundId(JOB, 1)
PLAN, OTHER_PLAN = Digest(b"\x01" * 32), Digest(b"\x02" * 32)
FIRST, SECOND = Digest(b"\x0a" * 32), Digest(b"\x0b" * 32)

Make = Callable[..., Ledger]
Event = Callable[..., PoissonGaussian]
Reserve = Callable[..., Charge]


def reopened(ledger: Ledger, path: Path, key: SigningKey, expect: Head | None = None) -> Ledger:
    ledger.close()
    return Ledger.open(path, key=key, expect=expect)


def test_a_charge_counts_from_the_moment_it_stands_there(
    make: Make, event: Event, charge: Reserve, tmp_path: Path, key: SigningKey
) -> None:
    ledger = make()
    charge(ledger, event())
    with reopened(ledger, tmp_path / "hosp-a.ledger", key) as again:
        assert again.state.spent == (event(),)
        assert again.state.charges[0].sent == ()


def test_the_first_entry_fixes_the_budget_and_a_second_ledger_is_refused(
    make: Make, tmp_path: Path, key: SigningKey
) -> None:
    ledger = make()
    ledger.close()
    with pytest.raises(LedgerError, match="already"):
        make(budget=Budget("100", "0.00001", 10_000))
    with Ledger.open(tmp_path / "hosp-a.ledger", key=key) as again:
        assert again.state.opening.budget == Budget("3", "0.00001", 10_000)


def test_two_ledgers_never_share_an_identity(make: Make) -> None:
    assert make("a").state.opening.ledger != make("b").state.opening.ledger


def test_a_missing_ledger_is_not_made_silently(tmp_path: Path, key: SigningKey) -> None:
    with pytest.raises(LedgerError, match="no ledger"):
        Ledger.open(tmp_path / "gone.ledger", key=key)
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time(make: Make, tmp_path: Path, key: SigningKey) -> None:
    make()
    with pytest.raises(LockedError):
        Ledger.open(tmp_path / "hosp-a.ledger", key=key)


@pytest.mark.parametrize(("delta", "public_n"), [("0.0001", 10_000), ("0.5", 10), ("0", 10), ("0.00001", 0)])
def test_a_delta_that_allows_publishing_somebody_is_refused(delta: str, public_n: int) -> None:
    with pytest.raises(LedgerError):
        Budget("3", delta, public_n)


def test_an_authorization_serves_once(make: Make, event: Event) -> None:
    ledger = make()
    leave = authorize(ledger.state, event())
    ledger.reserve(JOB, 1, PLAN, leave)
    with pytest.raises(LedgerError, match="moved on"):
        ledger.reserve(JOB, 2, PLAN, leave)
    assert len(ledger.state.charges) == 1


def test_training_again_is_charged_again(make: Make, event: Event, charge: Reserve) -> None:
    ledger = make()
    charge(ledger, event())
    charge(ledger, event())
    assert ledger.state.spent == (event(), event())


def test_a_contribution_that_still_exists_goes_on_under_its_reservation(
    make: Make, event: Event, charge: Reserve, tmp_path: Path, key: SigningKey
) -> None:
    ledger = make()
    reserved = charge(ledger, event())
    with reopened(ledger, tmp_path / "hosp-a.ledger", key) as again:
        assert again.resume(JOB, 1, PLAN, event()) == reserved
        assert len(again.state.charges) == 1
        for job, number, plan, what in (
            (JOB, 2, PLAN, event()),
            (JobId("other"), 1, PLAN, event()),
            (JOB, 1, OTHER_PLAN, event()),
            (JOB, 1, PLAN, event(51)),
        ):
            with pytest.raises(LedgerError):
                again.resume(job, number, plan, what)


def test_nothing_is_sent_without_a_reservation(make: Make, event: Event, charge: Reserve) -> None:
    ledger = make()
    with pytest.raises(LedgerError, match="nothing is reserved"):
        ledger.mark_sent(ROUND, 1, FIRST)
    charge(ledger, event())
    with pytest.raises(LedgerError, match="nothing is reserved"):
        ledger.mark_sent(RoundId(JOB, 2), 1, FIRST)


def test_a_reservation_carries_one_contribution_however_often_it_is_sent(
    make: Make, event: Event, charge: Reserve
) -> None:
    ledger = make()
    charge(ledger, event())
    ledger.mark_sent(ROUND, 1, FIRST)
    head = ledger.head
    ledger.mark_sent(ROUND, 1, FIRST)
    assert ledger.head == head  # said again, written once
    ledger.mark_sent(ROUND, 2, FIRST)
    ledger.mark_sent(RoundId(JOB, 1, 1), 2, SECOND)  # a second sum of the round has its own
    with pytest.raises(LedgerError, match="another contribution"):
        ledger.mark_sent(ROUND, 3, SECOND)
    charge(ledger, event())
    ledger.mark_sent(ROUND, 3, SECOND)
    assert [len(each.sent) for each in ledger.state.charges] == [3, 1]


def test_only_what_never_left_can_be_voided(
    make: Make, event: Event, charge: Reserve, void: Callable[..., None]
) -> None:
    ledger = make()
    kept, sent = charge(ledger, event(1), 1), charge(ledger, event(2), 2)
    ledger.mark_sent(RoundId(JOB, 2), 1, FIRST)
    with pytest.raises(LedgerError, match="cannot be voided"):
        void(ledger, sent, "changed my mind")
    void(ledger, kept, "the round was called off before training")
    assert ledger.state.spent == (event(2),)
    with pytest.raises(LedgerError, match="voided"):
        void(ledger, kept, "again")
    with pytest.raises(LedgerError, match="nothing is reserved"):
        ledger.mark_sent(ROUND, 1, FIRST)


def test_what_is_refused_leaves_no_trace(
    make: Make, event: Event, charge: Reserve, void: Callable[..., None]
) -> None:
    ledger = make()
    sent = charge(ledger, event())
    ledger.mark_sent(ROUND, 1, FIRST)
    head, state = ledger.head, ledger.state
    for refused in (
        lambda: void(ledger, sent, "x"),
        lambda: ledger.mark_sent(ROUND, 2, SECOND),
        lambda: ledger.reserve(JobId("Not A Name"), 1, PLAN, Authorization(event(), head, 0)),
    ):
        with pytest.raises(LedgerError):
            refused()
    assert (ledger.head, ledger.state) == (head, state)


@pytest.mark.parametrize(
    "foreign",
    [
        PoissonGaussian(2**57, "1", 50, "add-remove", "person", 1),
        PoissonGaussian(2**57, "1", 50, "replace-one", "record"),
    ],
    ids=["unit", "relation"],
)
def test_an_event_that_promises_something_else_is_refused(make: Make, foreign: PoissonGaussian) -> None:
    ledger = make()
    with pytest.raises(LedgerError, match="protects a record"):
        ledger.reserve(JOB, 1, PLAN, Authorization(foreign, ledger.head, 0))


def test_more_records_of_a_person_than_the_data_set_counts_on_are_refused(make: Make) -> None:
    ledger = make(unit="person", records_per_unit=4, unit_column="patient")
    assert ledger.state.opening.unit_column == "patient"
    with pytest.raises(LedgerError, match="unit_column"):
        make("other", unit_column="patient")
    for k, accepted in ((4, True), (5, False)):
        event = PoissonGaussian(2**57, "1", 50, "add-remove", "person", k)
        if accepted:
            ledger.reserve(JOB, 1, PLAN, authorize(ledger.state, event))
        else:
            with pytest.raises(LedgerError, match="5 records"):
                ledger.reserve(JOB, 1, PLAN, authorize(ledger.state, event))


def test_a_scratch_ledger_takes_non_private_releases_only(make: Make, event: Event, charge: Reserve) -> None:
    ledger = make(budget=None)
    charge(ledger, NonPrivate("a vector trained elsewhere"))
    with pytest.raises(LedgerError, match="non-private releases only"):
        ledger.reserve(JOB, 2, PLAN, Authorization(event(), ledger.head, 0))


# -- crashes -----------------------------------------------------------------------------------


class Crash(BaseException):
    """The process dies here: nothing below it is caught by anybody."""


def test_no_crash_ever_under_counts(make: Make, event: Event, tmp_path: Path, key: SigningKey) -> None:
    """Die at every point of every durable write, in turn; whoever was told that it counts, counts."""
    for place in count():
        path = tmp_path / f"crash-{place}.ledger"
        reached: list[str] = []

        def barrier(point: str, reached: list[str] = reached, place: int = place) -> None:
            reached.append(point)
            if len(reached) > place:
                raise Crash

        acknowledged: list[str] = []
        ledger = None
        try:
            ledger = Ledger.create(
                path,
                key=key,
                site=ClientId("hosp-a"),
                unit="record",
                records_per_unit=1,
                relation="add-remove",
                budget=Budget("3", "0.00001", 10_000),
                barrier=barrier,
            )
            acknowledged.append("open")
            ledger.reserve(JOB, 1, PLAN, authorize(ledger.state, event()))
            acknowledged.append("reserve")
            ledger.mark_sent(ROUND, 1, FIRST)
            acknowledged.append("sent")
            finished = True
        except Crash:
            finished = False
        if ledger is not None:
            ledger.close()
        try:
            with Ledger.open(path, key=key) as again:
                charges = again.state.charges
        except LedgerError:
            assert not acknowledged
            continue
        assert len(charges) >= ("reserve" in acknowledged)
        assert len([sent for each in charges for sent in each.sent]) >= ("sent" in acknowledged)
        assert verify(path, key.public).fault is None
        if finished:
            break
    assert place >= 9  # three writes, each with at least three points


def test_a_write_that_failed_stops_the_ledger(
    make: Make, event: Event, tmp_path: Path, key: SigningKey
) -> None:
    """Whether the entry stands is unknown: nothing more is charged, nothing sent, until it is read again."""
    armed = []

    def barrier(point: str) -> None:
        if armed and point == "before:sync":
            raise OSError(28, "No space left on device")

    make().close()
    path = tmp_path / "hosp-a.ledger"
    with Ledger.open(path, key=key, barrier=barrier) as ledger:
        armed.append(True)
        with pytest.raises(LedgerError):
            ledger.reserve(JOB, 1, PLAN, authorize(ledger.state, event()))
        armed.clear()
        with pytest.raises(LedgerError):
            ledger.reserve(JOB, 1, PLAN, authorize(ledger.state, event()))
        with pytest.raises(LedgerError):
            ledger.mark_sent(ROUND, 1, FIRST)
    with Ledger.open(path, key=key) as again:
        assert len(again.state.charges) == 1  # over-counted rather than under-counted


# -- tampering ---------------------------------------------------------------------------------


@pytest.fixture
def written(make: Make, event: Event, charge: Reserve, tmp_path: Path) -> tuple[Path, Head]:
    """A ledger with five entries, closed, and its head."""
    ledger = make()
    for number in (1, 2):
        charge(ledger, event(number), number)
        ledger.mark_sent(RoundId(JOB, number), 1, FIRST)
    ledger.close()
    return tmp_path / "hosp-a.ledger", ledger.head


def test_an_honest_ledger_verifies_while_it_is_in_use(
    make: Make, event: Event, charge: Reserve, key: SigningKey, tmp_path: Path
) -> None:
    ledger = make()
    charge(ledger, event())
    verdict = verify(tmp_path / "hosp-a.ledger", key.public, expect=ledger.head)
    assert (verdict.fault, verdict.head, verdict.state) == (None, ledger.head, ledger.state)
    assert verdict.compared


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(
    written: tuple[Path, Head], key: SigningKey, place: float, bit: int
) -> None:
    path, head = written
    honest = path.read_bytes()
    broken = bytearray(honest)
    at = int(place * len(broken))
    broken[at] ^= 1 << bit
    try:
        path.write_bytes(broken)
        verdict = verify(path, key.public, expect=head)
        assert verdict.fault is not None
        number = honest[:at].count(b"\n")
        assert f"entry {number}" in verdict.fault
        with pytest.raises(LedgerError):
            Ledger.open(path, key=key, expect=head)
        assert path.read_bytes() == broken  # a damaged file is left alone
    finally:
        path.write_bytes(honest)


def test_a_cut_tail_is_found_against_a_head_known_elsewhere(
    written: tuple[Path, Head], key: SigningKey
) -> None:
    path, head = written
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    assert verify(path, key.public).fault is None  # it cannot be seen from the file alone
    verdict = verify(path, key.public, expect=head)
    assert "entry 3" in str(verdict.fault)
    assert "cut off" in str(verdict.fault)
    with pytest.raises(LedgerError, match="cut off"):
        Ledger.open(path, key=key, expect=head)


def test_a_restored_backup_that_went_on_is_found(
    written: tuple[Path, Head], key: SigningKey, event: Event
) -> None:
    """Same length, other history."""
    path, head = written
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    with Ledger.open(path, key=key) as ledger:
        ledger.mark_sent(RoundId(JOB, 2), 1, SECOND)
        assert ledger.head.count == head.count
    assert "not the one that was known" in str(verify(path, key.public, expect=head).fault)


def test_swapped_entries_are_found(written: tuple[Path, Head], key: SigningKey) -> None:
    path, head = written
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1], lines[3] = lines[3], lines[1]
    path.write_bytes(b"".join(lines))
    fault = str(verify(path, key.public, expect=head).fault)
    assert "entry 1" in fault
    assert "out of order" in fault


def test_a_foreign_signature_is_found(written: tuple[Path, Head], key: SigningKey) -> None:
    path, _ = written
    other = SigningKey.from_seed(bytes(32))
    fault = str(verify(path, other.public).fault)
    assert "entry 0" in fault
    assert "not signed by the expected key" in fault


def test_a_history_against_the_rules_is_found_though_its_chain_is_sound(
    written: tuple[Path, Head], key: SigningKey
) -> None:
    """Signed by the right key, chained without a gap, and impossible."""
    path, _ = written
    good = [json.loads(line)["body"] for line in path.read_bytes().splitlines()]
    opening, reserve, sent = good[:3]
    bad: list[list[dict[str, Any]]] = [
        [reserve],
        [opening, opening],
        [opening, sent],
        [opening, reserve, sent | {"reservation": 0}],
        [opening, reserve, sent | {"round": 2}],
        [opening, reserve, sent, sent],
        [opening, reserve, sent, sent | {"attempt": 2, "contribution": "0b" * 32}],
        [opening, reserve, sent, void(reserve)],
        [opening, reserve, void(reserve), sent],
        [opening, reserve | {"type": "refund"}],
        [opening, reserve | {"amount": 1}],
        [opening, {name: value for name, value in reserve.items() if name != "plan"}],
        [opening, reserve | {"round": True}],
        [opening, reserve | {"round": 0}],
        [opening, reserve | {"plan": "AB" * 32}],
        [opening, reserve | {"at": "yesterday"}],
        [opening, reserve | {"event": reserve["event"] | {"kind": "shuffled"}}],
        [opening, reserve | {"event": reserve["event"] | {"unit": "person"}}],
        [opening | {"budget": opening["budget"] | {"epsilon": "0"}}],
        [opening | {"filter_orders": [8, 2]}],
        [opening | {"filter_orders": [True, 2]}],
        [opening | {"filter_orders": []}],
    ]
    for number, bodies in enumerate(bad):
        forged = path.with_name(f"forged-{number}.ledger")
        write_chain(forged, key, bodies)
        verdict = verify(forged, key.public)
        assert verdict.fault is not None, bodies[-1]
        assert f"entry {len(bodies) - 1}" in verdict.fault
        with pytest.raises(LedgerError):
            Ledger.open(forged, key=key)


def void(reserve: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "void",
        "reservation": 1,
        "job": reserve["job"],
        "round": reserve["round"],
        "reason": "called off",
        "at": reserve["at"],
    }


def write_chain(path: Path, key: SigningKey, bodies: list[dict[str, Any]]) -> None:
    """A journal as the ledger writes it, without the ledger's rules."""

    def framed(line: bytes) -> bytes:
        return lengthed(Label.SIGN_LEDGER.value, line)

    with Journal(
        path,
        digest=lambda line: digest(Label.JOURNAL_ENTRY, line),
        signer=lambda line: key.sign(framed(line)),
        verifier=lambda line, signature: verify_signature(key.public, framed(line), signature),
    ) as journal:
        for body in bodies:
            journal.append(body)


def test_an_empty_ledger_is_reported_as_such(tmp_path: Path, key: SigningKey) -> None:
    path = tmp_path / "empty.ledger"
    path.touch()
    verdict = verify(path, key.public)
    assert verdict.state is None
    assert "never opened" in str(verdict.fault)
    with pytest.raises(LedgerError, match="never opened"):
        Ledger.open(path, key=key)
