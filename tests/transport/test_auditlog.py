"""What a flood leaves in the audit log: one entry a kind, whatever its texts say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from secfed.crypto.signing import SigningKey
from secfed.errors import AuditLogError
from secfed.limits import AUDIT_KINDS_EACH_MAX, AUDIT_KINDS_MAX
from secfed.transport.auditlog import UNHURRIED_S, AuditLog


@pytest.fixture
def path(disk: Path) -> Path:
    return disk / "audit.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[AuditLog]:
    made = AuditLog(path, SigningKey.generate(), lambda: datetime(2026, 3, 1, tzinfo=UTC))
    yield made
    made.close()


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["body"] for line in path.read_text().splitlines()]


def test_refusals_of_one_class_are_one_entry_whatever_they_say(log: AuditLog, path: Path) -> None:
    """A clock that is off by another number of seconds in each call makes no entry of its own."""
    for seconds in range(700, 2700):
        text = f"the clock of hosp-a is {seconds} s off"
        log.add(who="-", what="Exchange", outcome="AuthenticationError", where="ipv4:10.0.0.7", text=text)
    log.flush()
    (entry,) = written(path)
    assert entry["count"] == 2000
    assert entry["outcome"] == "AuthenticationError: the clock of hosp-a is 700 s off"


def test_what_differs_in_who_what_class_or_place_stays_apart(log: AuditLog, path: Path) -> None:
    one = {"who": "a", "what": "Exchange", "outcome": "ok", "where": "ipv4:10.0.0.7"}
    for change in (
        {},
        {"who": "b"},
        {"what": "Upload"},
        {"about": "stop sum-1"},
        {"outcome": "PeerError"},
        {"where": "ipv4:10.0.0.8"},
    ):
        log.add(**(one | change))
    log.flush()
    entries = written(path)
    assert [entry["count"] for entry in entries] == [1] * 6
    assert entries[3]["what"] == "Exchange stop sum-1"


def test_more_kinds_of_one_member_than_the_most_are_counted_together(log: AuditLog, path: Path) -> None:
    """And take nobody else's places."""
    for number in range(AUDIT_KINDS_EACH_MAX + 500):
        log.add(who="a", what="Exchange", outcome="ok", where=f"ipv6:{number:x}::1")
    log.add(who="office", what="ControlJob", about="stop sum-1", outcome="ok", where="ipv4:10.0.0.7")
    log.flush()
    *some, many, office = written(path)
    assert len(some) == AUDIT_KINDS_EACH_MAX
    assert (many["who"], many["what"], many["outcome"], many["count"]) == ("a", "Exchange", "many", 500)
    assert (office["who"], office["what"]) == ("office", "ControlJob stop sum-1")


def test_more_kinds_than_the_most_are_counted_by_member_and_call(log: AuditLog, path: Path) -> None:
    each = AUDIT_KINDS_EACH_MAX // 2
    members = AUDIT_KINDS_MAX // each
    for number in range((members + 2) * each):
        what = f"{number // each} {number}"
        log.add(who=f"site-{number // each}", what="ControlJob", about=what, outcome="ok", where="x")
    log.flush()
    entries = written(path)
    assert [(entry["who"], entry["what"], entry["count"]) for entry in entries[AUDIT_KINDS_MAX:]] == [
        (f"site-{member}", "ControlJob", each) for member in (members, members + 1)
    ]
    log.add(who="site-0", what="Exchange", outcome="ok", where="x")
    log.flush()
    assert written(path)[-1]["outcome"] == "ok", "what is written makes place"


def test_a_log_that_was_cut_off_is_refused_and_left_alone(path: Path) -> None:
    """The chain of what is left is sound: the note beside it tells."""
    key = SigningKey.generate()
    for _ in range(2):
        log = AuditLog(path, key, lambda: datetime(2026, 3, 1, tzinfo=UTC))
        for number in range(3):
            log.add(who=f"site-{number}", what="Exchange", outcome="ok", where="ipv4:10.0.0.7")
        log.close()
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:-1]))
    with pytest.raises(AuditLogError, match="entry 5 is missing: the tail was cut off") as refused:
        AuditLog(path, key, lambda: datetime(2026, 3, 1, tzinfo=UTC))
    assert "move it away" in refused.value.hint
    assert path.read_bytes() == b"".join(whole[:-1])


def enter(log: AuditLog, number: int) -> None:
    log.add(who=f"site-{number}", what="Exchange", outcome="ok", where="ipv4:10.0.0.7")
    log.flush()


def test_a_line_that_nobody_signed_stops_the_log_and_the_next_start(path: Path) -> None:
    """Appended while the daemon runs: it is neither written on nor covered by the note."""
    key = SigningKey.generate()
    log = AuditLog(path, key, lambda: datetime(2026, 3, 1, tzinfo=UTC))
    enter(log, 0)
    with path.open("ab") as file:
        file.write(b'{"seq":1,"forged":"nobody signed this"}\n')
    with pytest.raises(AuditLogError, match="somebody else changed it"):
        enter(log, 1)
    log.close()
    with pytest.raises(AuditLogError, match="entry 1 was changed"):
        AuditLog(path, key, lambda: datetime(2026, 3, 1, tzinfo=UTC))


def test_an_entry_that_was_rewritten_while_the_daemon_ran_is_refused_at_the_next_start(path: Path) -> None:
    """As long as before, and before a note is written: the note is of what the daemon wrote."""
    key = SigningKey.generate()
    log = AuditLog(path, key, lambda: datetime(2026, 3, 1, tzinfo=UTC))
    enter(log, 0)
    path.write_bytes(path.read_bytes().replace(b"site-0", b"site-9"))
    enter(log, 1)
    log.close()
    with pytest.raises(AuditLogError, match="entry 0 was changed"):
        AuditLog(path, key, lambda: datetime(2026, 3, 1, tzinfo=UTC))


def test_what_may_wait_is_written_with_the_next_entry_or_after_a_minute(path: Path) -> None:
    """A stranger who only connects, once a second for ever, costs a line a minute."""
    at = datetime(2026, 3, 1, tzinfo=UTC)
    log = AuditLog(path, SigningKey.generate(), lambda: at)
    for _ in range(UNHURRIED_S):
        log.add(who="-", what="Connect", outcome="begun", where="-", hurried=False)
        log.flush()
        at += timedelta(seconds=1)
    assert not written(path)
    log.flush()
    assert [(entry["what"], entry["count"]) for entry in written(path)] == [("Connect", UNHURRIED_S)]
    log.add(who="-", what="Connect", outcome="begun", where="-", hurried=False)
    log.add(who="a", what="Exchange", outcome="ok", where="-")
    log.flush()
    log.add(who="-", what="Connect", outcome="begun", where="-", hurried=False)
    log.close()
    assert [entry["what"] for entry in written(path)] == ["Connect", "Connect", "Exchange", "Connect"]
