"""An old backup of one side comes back: the other side, which is honest, notices and refuses.

Keys and ledgers are what a backup is for; the state of attempts must never come from one. Each test
sets back all of a side's files where they lie, as a machine's snapshot does, so that this side itself
cannot tell: what it could tell by itself, and that files copied back are other files, is shown where its
parts are (tests/cli/test_ledgers.py, tests/cli/test_key_state.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import VALUE, Loopback, Process, assert_exact

SITES = ("hosp-a", "hosp-b", "hosp-c")
SIZE = 500

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]


def play_round(play: Loopback, number: int) -> dict[str, bytes]:
    """One round of job `sum` by pushes; the published folder."""
    value = VALUE - number / 32
    pushes = [play.push(name, path) for name, path in zip(SITES, _updates(play, value), strict=True)]
    for push in pushes:
        play.ends(push, 0)
    found = play.published("sum", number)
    assert_exact(found.total, dict.fromkeys(range(len(SITES)), value), sites=len(SITES))
    return found.bytes


def _updates(play: Loopback, value: float) -> list[Path]:
    return [play.update(name, index, SIZE, value=value) for index, name in enumerate(SITES)]


def restore(backup: Path, folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if not (backup / path.relative_to(folder)).exists():
            path.rmdir() if path.is_dir() else path.unlink()
    shutil.copytree(backup, folder, dirs_exist_ok=True)  # into the files that are there


def cause(process: Process) -> str:
    """The last line of cause that was printed."""
    return [line for line in process.output.splitlines() if line.startswith("error: ")][-1]


def test_a_site_that_came_back_from_a_backup_is_refused_by_the_aggregator(
    build: Callable[..., Loopback], tmp_path: Path
) -> None:
    """State and ledger fit each other, and both forgot a round: the aggregator saw a later ledger."""
    play = build(*SITES)
    play.job("sum", SIZE, rounds=3, phase_s=120)
    play_round(play, 1)
    shutil.copytree(play.site(SITES[0]), tmp_path / "backup")
    play_round(play, 2)
    restore(tmp_path / "backup", play.site(SITES[0]))
    pushes = [play.push(name, path) for name, path in zip(SITES, _updates(play, VALUE), strict=True)]
    play.ends(pushes[0], 61)
    assert f"the ledger of {SITES[0]} has 4 entries and is not the one seen before with" in cause(pushes[0])
    assert all(push.running for push in pushes[1:])
    assert play.ledger(SITES[0], "sum", "sent")[-1]["round"] == 1  # nothing left
    assert play.status("sum")["round"] == 3
    assert not play.round_folder("sum", 3).exists()


def test_an_aggregator_that_came_back_from_a_backup_is_refused_by_the_sites(
    build: Callable[..., Loopback], tmp_path: Path
) -> None:
    """It offers a round again that was published: for the sites it is over, and nothing is sent twice."""
    play = build(*SITES)
    play.job("sum", SIZE, rounds=2, phase_s=120)
    play_round(play, 1)
    play.processes[0].stop()
    state = play.federation / "state"
    shutil.copytree(state, tmp_path / "backup")
    play.start_aggregator()
    published = play_round(play, 2)
    [each for each in play.processes if each.name == "aggregator"][-1].stop()
    restore(tmp_path / "backup", state)
    play.start_aggregator()
    assert play.status("sum")["round"] == 2
    sent = {name: play.ledger(name, "sum", "sent") for name in SITES}
    pushes = [play.push(name, path) for name, path in zip(SITES, _updates(play, -VALUE), strict=True)]
    for push in pushes:
        play.ends(push, 41)
        assert "is over for this site" in cause(push)
    assert "3 sites: hosp-a, hosp-b, hosp-c" in play.status("sum")["waiting_for"]
    assert {name: play.ledger(name, "sum", "sent") for name in SITES} == sent
    assert play.published("sum", 2).bytes == published
