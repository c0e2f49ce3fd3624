"""Helpers check signatures ahead: the verdict is the same as without them, whatever they do."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from secfed.cli import provers as starting
from secfed.crypto import signing
from secfed.crypto.signing import SigningKey
from secfed.ids import Digest, JobId, RoundId
from secfed.privacy import proving
from secfed.privacy.budget import authorize
from secfed.privacy.events import PoissonGaussian
from secfed.privacy.ledger import Ledger, verify
from secfed.privacy.proving import proven, signed

Make = Callable[..., Ledger]
Event = Callable[..., PoissonGaussian]

JOB = JobId("reviews")


@pytest.fixture
def path(make: Make, event: Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger of 13 entries, each longer than a piece."""
    monkeypatch.setattr(proving, "PIECE_BYTES", 200)
    ledger = make()
    for number in range(1, 7):
        ledger.reserve(JOB, number, Digest(bytes(32)), authorize(ledger.state, event(1)))
        ledger.mark_sent(RoundId(JOB, number), 1, Digest(bytes(32)))
    return tmp_path / "hosp-a.ledger"


@pytest.fixture
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.mark.parametrize("step", [1, 2, 97, 640, 10**6])
def test_every_line_is_checked_once_wherever_pieces_end(path: Path, key: SigningKey, step: int) -> None:
    data = path.read_bytes()
    places = range(0, len(data), step) if step > 1 else range(1500)
    found = b"".join(proven(path, key.public, start, start + step) for start in places)
    keys = [found[place : place + 32] for place in range(0, len(found), 32)]
    assert len(set(keys)) == len(keys) == (13 if step > 1 else data[:1500].count(b"\n") + 1)


def test_helpers_spare_the_check_of_what_they_proved(path: Path, key: SigningKey, threads: Executor) -> None:
    for start in range(0, path.stat().st_size, 200):
        proven(path, key.public, start, start + 200)
    ahead = proving.verifier(path, key.public, threads)
    lines = [parted(line) for line in path.read_bytes().splitlines()]
    assert ahead(*lines[-1])  # waits for all pieces
    with mock.patch.object(signing, "verify", return_value=False):
        assert all(ahead(line, signature) for line, signature in lines)
        line, signature = lines[3]
        assert not ahead(line, lines[4][1])
        assert not ahead(line + b" ", signature)


def parted(line: bytes) -> tuple[bytes, bytes]:
    unsigned, _, rest = line.rpartition(b',"sig":"')
    return unsigned + b"}", base64.b64decode(rest[:-2])


@pytest.mark.parametrize("entry", range(13))
def test_a_flipped_byte_is_found_with_helpers_too(
    path: Path, key: SigningKey, threads: Executor, entry: int
) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    middle = len(lines[entry]) // 2
    lines[entry] = lines[entry][:middle] + bytes([lines[entry][middle] ^ 1]) + lines[entry][middle + 1 :]
    path.write_bytes(b"".join(lines))
    alone, helped = verify(path, key.public), verify(path, key.public, helpers=threads)
    assert helped == alone
    assert helped.fault is not None
    assert f"entry {entry} " in helped.fault


def test_a_foreign_key_is_refused_with_helpers_too(path: Path, threads: Executor) -> None:
    other = SigningKey.from_seed(bytes(32))
    verdict = verify(path, other.public, helpers=threads)
    assert verdict == verify(path, other.public)
    assert "entry 0 is not signed by the expected key" in str(verdict.fault)


class Broken(Executor):
    """Helpers that die, or find nothing."""

    def __init__(self, outcome: bytes | Exception) -> None:
        self._outcome = outcome

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if isinstance(self._outcome, Exception):
            future.set_exception(self._outcome)
        else:
            future.set_result(self._outcome)
        return future


@pytest.mark.parametrize("outcome", [BrokenExecutor(), OSError(), b"", bytes(64)])
def test_without_their_help_every_signature_is_checked_here(
    path: Path, key: SigningKey, outcome: bytes | Exception
) -> None:
    verdict = verify(path, key.public, helpers=Broken(outcome))
    assert (verdict.fault, verdict.head.count) == (None, 13)
    with mock.patch.object(signing, "verify", return_value=False):
        assert verify(path, key.public, helpers=Broken(outcome)).fault is not None


def test_a_ledger_that_was_handed_over_is_verified_without_helpers(path: Path, key: SigningKey) -> None:
    new = SigningKey.from_seed(bytes(32))
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    with Ledger.open(path, key=key) as ledger:
        ledger.hand_over(key, new)
    asked = mock.Mock(spec=Executor)
    assert verify(path, new.public, helpers=asked).fault is None
    asked.submit.assert_not_called()


def test_a_long_ledger_is_verified_by_real_processes(
    path: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's own helpers, started although this ledger is short."""
    monkeypatch.setattr(starting, "WORTH_BYTES", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(proving, "PIECE_BYTES", 10**6)
    with starting.provers([path]) as pool:
        assert pool is not None
        held = pool.submit(proven, path, key.public, 0, 10**6).result(timeout=250)
        verdict = verify(path, key.public, helpers=pool)
    assert len(held) == 13 * 32
    assert (verdict.fault, verdict.head.count) == (None, 13)


def test_short_ledgers_and_single_cores_start_no_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with starting.provers([path, path.with_name("none.ledger")]) as pool:
        assert pool is None
    monkeypatch.setattr(starting, "WORTH_BYTES", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    with starting.provers([path]) as pool:
        assert pool is None


def test_what_is_signed_names_a_ledger() -> None:
    assert signed(b"x") != b"x"
    assert signed(b"x") != signed(b"y")
