"""`secfed aggregator verify-log`: a reviewer without any secret key sees whether a log is whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from secfed.identity import keyfile
from secfed.transport.auditlog import AuditLog, log_file


@pytest.fixture
def public(tmp_path: Path, secfed: Callable[..., Any]) -> Path:
    """The public half of an aggregator's key."""
    done = secfed("keys", "new", "center", "--role", "aggregator", "--dir", tmp_path, "--no-passphrase")
    assert done.code == 0, done.err
    return tmp_path / "center.pub"


@pytest.fixture
def log(public: Path) -> Path:
    """Two calls that went well and three refusals of one kind, in two batches."""
    key = keyfile.load(public.with_suffix(".key"), None).signing
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    path = log_file(public.parent, key)
    written = AuditLog(path, key, lambda: clock[0])
    for who in ("hosp-a", "hosp-b"):
        written.add(who=who, what="Exchange", outcome="ok", where="127.0.0.1")
    written.flush()
    clock[0] += timedelta(minutes=2)
    for _ in range(3):
        written.add(
            who="-", what="Upload", outcome="RevokedError", where="127.0.0.1", text="hosp-c was revoked"
        )
    written.close()
    return path


def test_a_log_that_is_whole_is_told_by_outcome(log: Path, public: Path, secfed: Callable[..., Any]) -> None:
    before = {path.name: path.read_bytes() for path in log.parent.iterdir() if path.is_file()}
    done = secfed("aggregator", "verify-log", log, "--public", public)
    assert (done.code, done.err) == (0, "")
    assert done.fact("verdict") == "good: 3 entries, every signature by center"
    assert done.fact("from, to") == "2026-01-01T00:00:00Z, 2026-01-01T00:02:00Z"
    counts = [line.split() for line in done.out.splitlines() if line.startswith("  ")]
    assert counts == [["RevokedError", "3"], ["ok", "2"]]
    assert "not noticed" not in done.out
    assert {path.name: path.read_bytes() for path in log.parent.iterdir() if path.is_file()} == before
    again = secfed("aggregator", "verify-log", log, "--public", public, "--head", done.fact("head"))
    assert again.out == done.out
    told = json.loads(secfed("aggregator", "verify-log", log, "--public", public, "--json").out)
    assert (told["kind"], told["schema"]) == ("audit-log-verdict", 1)
    assert told["outcomes"] == {"RevokedError": 3, "ok": 2}
    assert (told["entries"], told["head"], told["compared"]) == (3, done.fact("head"), True)


def last_line_gone(data: bytes) -> bytes:
    return b"".join(data.splitlines(keepends=True)[:-1])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data.replace(b"hosp-b", b"hosp-x"), "entry 1 was changed"),
        (lambda data: b"".join(data.splitlines(keepends=True)[1:]), "entry 0"),
        (last_line_gone, "is missing: the tail was cut off"),
    ],
    ids=["changed", "first gone", "last gone"],
)
def test_a_log_that_is_not_whole_is_refused(
    spoil: Callable[[bytes], bytes], words: str, log: Path, public: Path, secfed: Callable[..., Any]
) -> None:
    log.write_bytes(spoil(log.read_bytes()))
    done = secfed("aggregator", "verify-log", log, "--public", public)
    assert (done.code, bool(done.remedy)) == (64, True)
    assert f"{log}: " in done.error
    assert words in done.error


def test_without_its_note_a_cut_tail_shows_by_a_head_alone(
    log: Path, public: Path, secfed: Callable[..., Any]
) -> None:
    head = secfed("aggregator", "verify-log", log, "--public", public).fact("head")
    log.with_name(f"{log.name}.head").unlink()
    log.write_bytes(last_line_gone(log.read_bytes()))
    done = secfed("aggregator", "verify-log", log, "--public", public)
    assert (done.code, "not noticed" in done.out) == (0, True)
    done = secfed("aggregator", "verify-log", log, "--public", public, "--head", head)
    assert (done.code, "the tail was cut off" in done.error) == (64, True)


def test_another_ones_key_is_refused(log: Path, tmp_path: Path, secfed: Callable[..., Any]) -> None:
    secfed("keys", "new", "other", "--role", "aggregator", "--dir", tmp_path / "other", "--no-passphrase")
    done = secfed("aggregator", "verify-log", log, "--public", tmp_path / "other" / "other.pub")
    assert (done.code, "is not signed by the expected key" in done.error) == (64, True)
    gone = secfed("aggregator", "verify-log", log, "--public", tmp_path / "gone.pub")
    assert (gone.code, "gone.pub" in gone.error) == (30, True)
