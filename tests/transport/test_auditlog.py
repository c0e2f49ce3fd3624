"""What a flood leaves in the audit log: one entry a kind, whatever its texts say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from secfed.crypto.signing import SigningKey
from secfed.transport.auditlog import KINDS_MAX, AuditLog


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
        {"outcome": "PeerError"},
        {"where": "ipv4:10.0.0.8"},
    ):
        log.add(**(one | change))
    log.flush()
    assert [entry["count"] for entry in written(path)] == [1] * 5


def test_more_kinds_than_the_most_are_counted_together(log: AuditLog, path: Path) -> None:
    for number in range(KINDS_MAX + 500):
        log.add(who="a", what="Exchange", outcome="ok", where=f"ipv6:{number:x}::1")
    log.flush()
    entries = written(path)
    assert len(entries) == KINDS_MAX + 1
    assert (entries[-1]["outcome"], entries[-1]["count"]) == ("many", 500)
