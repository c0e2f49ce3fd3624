"""Many long ledgers are verified side by side, and the verdicts are those of one process."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor, Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from secfed.cli import provers
from secfed.cli.provers import Wanted, verified
from secfed.crypto.signing import SigningKey
from secfed.errors import StorageError
from secfed.ids import ClientId, Digest, JobId
from secfed.privacy.entries import Budget
from secfed.privacy.events import PoissonGaussian
from secfed.privacy.ledger import Authorization, Ledger, verify

EVENT = PoissonGaussian(2**60, "1.1", 5, "add-remove", "record")


@pytest.fixture
def ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Wanted]:
    """Four short ledgers, each under a key of its own, on a machine that thinks them long; the third one is
    damaged, and the last one was cut off behind the head that is known."""
    monkeypatch.setattr(provers, "WORTH_BYTES", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    wanted: list[Wanted] = []
    for number in range(4):
        key, path = SigningKey.from_seed(bytes([number]) * 32), tmp_path / f"{number}.ledger"
        with Ledger.create(
            path, key=key, site=ClientId(f"site-{number}"), unit="record", records_per_unit=1,
            relation="add-remove", budget=Budget("9", "0.000001", 1000),
            now=lambda: datetime(2026, 1, 2, tzinfo=UTC),
        ) as ledger:  # fmt: skip
            for round_number in (1, 2, 3):
                ledger.reserve(
                    JobId("job"), round_number, Digest(bytes(32)), Authorization(EVENT, ledger.head, 0.0)
                )
            wanted.append((path, key.public, ledger.head))
    damaged, cut = wanted[2][0], wanted[3][0]
    damaged.write_bytes(damaged.read_bytes().replace(b'"round":2', b'"round":7'))
    cut.write_bytes(b"".join(cut.read_bytes().splitlines(keepends=True)[:-1]))
    return wanted


def test_side_by_side_the_verdicts_are_the_same(ledgers: list[Wanted]) -> None:
    alone = [verify(path, public, expect=head) for path, public, head in ledgers]
    busy, told = mock.Mock(), []
    assert verified(ledgers, meanwhile=busy, each=told.append) == told == alone
    busy.assert_called_once_with()
    faults = [verdict.fault for verdict in alone]
    assert faults[:2] == [None, None]
    assert faults[2] == "entry 2 was changed after it was written"
    assert faults[3] == "entry 3 is missing: the tail was cut off"


def test_one_long_ledger_among_short_ones_is_not_left_to_one_helper(ledgers: list[Wanted]) -> None:
    """Then its pieces are what helpers take, and this process has no time for anything else."""
    with ledgers[0][0].open("ab") as file:
        file.write(b" " * 10**5)
    busy = mock.Mock()
    assert [verdict.path for verdict in verified(ledgers, meanwhile=busy)] == [path for path, _, _ in ledgers]
    busy.assert_not_called()


def test_what_a_lost_helper_had_is_verified_here(
    ledgers: list[Wanted], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: Future[Any] = Future()
    lost.set_exception(BrokenExecutor())
    pool = mock.MagicMock()
    pool.__enter__.return_value.submit.return_value = lost
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", lambda *_, **__: pool)
    assert verified(ledgers) == [verify(path, public, expect=head) for path, public, head in ledgers]


def test_a_file_that_cannot_be_read_is_the_same_error(ledgers: list[Wanted], tmp_path: Path) -> None:
    (tmp_path / "folder.ledger").mkdir()
    with pytest.raises(StorageError, match=r"folder\.ledger"):
        verified([*ledgers, (tmp_path / "folder.ledger", bytes(32), None)])


def test_few_short_ledgers_start_no_process(ledgers: list[Wanted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provers, "WORTH_BYTES", 1 << 30)
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", mock.Mock(side_effect=AssertionError))
    assert len(verified(ledgers)) == 4
    assert verified([]) == []
