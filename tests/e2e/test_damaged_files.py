"""Every durable file, damaged in every way: one line that names it, the right exit code, the file untouched.

A table: what lies on disk, who reads it, and the exit code that says what is wrong. A flipped bit, a file
cut in half, an empty one, and one that is gone. The commands run in this process, as people give them;
what only a round in progress reads is in test_failing_disks.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from loopback import Loopback, Outcome, secfed

from secfed.cli.build_client import open_client
from secfed.cli.passphrase import source

SITE = "hosp-a"

GUARD_S = 180.0
"""A daemon that takes a damaged file would run for good: then it is stopped, and the test fails."""

Words = tuple[object, ...]


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        path: Below the root of the federation on this machine.
        words: The command that reads it, given that root.
        flipped, cut, emptied, gone: Exit code after this damage; 0 where the program rightly goes on.
        flip: What the flipped bit begins, and what a cut leaves four bytes of: a text whose half may be a
            whole one is damaged at a place that counts. Empty for the middle of the file.
    """

    path: str
    words: Callable[[Path], Words]
    flipped: int
    cut: int
    emptied: int
    gone: int
    flip: bytes = b""


def aggregator(root: Path) -> Words:
    return ("aggregator", "run", "--config", root / "federation" / "aggregator.toml", "--state-moved")


def status(root: Path) -> Words:
    return ("status", "--config", root / "federation" / "admin.toml")


def revoke(root: Path) -> Words:
    return ("revoke", SITE, "--dir", root / "federation")


def client(root: Path) -> Words:
    return ("client", "run", "--config", root / SITE / "client.toml", "--state-moved")


def report(root: Path) -> Words:
    return ("report", "--config", root / SITE / "client.toml")


def verify(root: Path) -> Words:
    ledger, config = root / SITE / "ledger" / "dataset.ledger", root / SITE / "client.toml"
    return ("ledger", "verify", ledger, "--config", config)


def join(root: Path) -> Words:
    invite, key = root / "federation" / "invites" / f"{SITE}.invite", root / SITE / f"{SITE}.key"
    return ("client", "join", invite, "--key", key, "--dir", root / "new")


def start(root: Path) -> Words:
    return ("job", "start", root / "job.toml", "--config", root / "federation" / "admin.toml")


KINDS = {
    "roster": Kind("federation/roster.txt", aggregator, 20, 20, 20, 60),
    "aggregator's key": Kind("federation/aggregator.key", aggregator, 30, 30, 30, 30),
    "aggregator's configuration": Kind(
        "federation/aggregator.toml", aggregator, 2, 2, 2, 2, flip=b"roster_key"
    ),
    "aggregator's decisions": Kind("federation/state/decisions.sqlite", aggregator, 60, 60, 60, 21),
    "audit log": Kind("federation/state/audit-*.jsonl", aggregator, 64, 64, 64, 64),
    "audit log's note": Kind("federation/state/audit-*.jsonl.head", aggregator, 64, 64, 64, 0),
    "roster key": Kind("federation/roster.key", revoke, 30, 30, 30, 30),
    "admin's key": Kind("federation/admin.key", status, 30, 30, 30, 30),
    "admin's configuration": Kind("federation/admin.toml", status, 2, 2, 2, 2, flip=b"roster_key"),
    "job file": Kind("job.toml", start, 2, 2, 2, 2, flip=b"rounds"),
    "invite": Kind(f"federation/invites/{SITE}.invite", join, 20, 20, 20, 2),
    "site's configuration": Kind(f"{SITE}/client.toml", client, 2, 2, 2, 2, flip=b"roster_key"),
    "site's policy": Kind(f"{SITE}/policy.toml", client, 2, 2, 2, 2, flip=b"allow_non_private"),
    "site's key": Kind(f"{SITE}/{SITE}.key", client, 30, 30, 30, 30),
    "site's roster": Kind(f"{SITE}/roster.txt", client, 20, 20, 20, 60),
    "site's decisions": Kind(f"{SITE}/state/decisions.sqlite", client, 60, 60, 60, 21),
    "site's digest key": Kind(f"{SITE}/state/site.key", client, 0, 60, 60, 0),
    "ledger": Kind(f"{SITE}/ledger/dataset.ledger", verify, 61, 61, 61, 60),
    "ledger in a report": Kind(f"{SITE}/ledger/dataset.ledger", report, 61, 61, 61, 60),
    "ledger's noted head": Kind(
        f"{SITE}/state/ledger-heads/dataset.ledger", report, 60, 60, 60, 0, flip=b":"
    ),
}


def flipped(kind: Kind, data: bytes) -> bytes:
    at = data.index(kind.flip) if kind.flip else len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGE: dict[str, Callable[[Kind, bytes], bytes | None]] = {
    "flipped": flipped,
    "cut": lambda kind, data: data[: data.index(kind.flip) + 4 if kind.flip else len(data) // 2],
    "emptied": lambda _kind, _data: b"",
    "gone": lambda _kind, _data: None,
}


@pytest.fixture(scope="module")
def origin(build_shared: Callable[..., Loopback]) -> Path:
    """A federation whose aggregator served, and a site that has a ledger and was started once."""
    play = build_shared(SITE, kind=WithData)
    play.job_file("job", 8)
    for process in play.processes:
        process.stop()
    with open_client(play.config(SITE), source(None, None), observer=Deaf()) as made:
        made.ledgers.data_set()
    return play.root


class WithData(Loopback):
    """A federation of one site, with data and so with a ledger."""

    def open(self, names: Sequence[str]) -> None:
        (name,) = names
        self.found()
        self.enroll(names)
        self.start_aggregator()
        rows = self.site(name) / "rows.jsonl"
        rows.write_text('{"text": "a", "label": "b"}\n' * 8)
        self.join(name, "--data", str(rows), "--unit", "record", "--public-n", "1000")


class Deaf:
    """An observer."""

    def note(self, event: str, **facts: object) -> None:
        pass


@pytest.fixture
def root(origin: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    target = tmp_path / "root"
    shutil.copytree(origin, target)
    return target


@contextmanager
def stopped_in_time() -> Iterator[None]:
    guard = threading.Timer(GUARD_S, os.kill, (os.getpid(), signal.SIGTERM))
    guard.start()
    try:
        yield
    finally:
        guard.cancel()


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        pytest.param(kind, damage, id=f"{name}-{damage}")
        for name, kind in KINDS.items()
        for damage in DAMAGE
        if getattr(kind, damage)
    ],
)
def test_damage_is_named_and_nothing_is_touched(root: Path, kind: Kind, damage: str) -> None:
    (path,) = root.glob(kind.path)
    spoilt = DAMAGE[damage](kind, path.read_bytes())
    if spoilt is None:
        path.unlink()
    else:
        path.write_bytes(spoilt)
    with stopped_in_time():
        outcome = secfed(*kind.words(root))
    _refused(outcome, getattr(kind, damage))
    assert str(path if damage != "gone" else path.parent) in outcome.error
    assert spoilt is None or path.read_bytes() == spoilt


def _refused(outcome: Outcome, code: int) -> None:
    assert outcome.code == code, outcome.out + outcome.err
    assert outcome.error
    assert outcome.remedy
    assert "Traceback" not in outcome.out + outcome.err
