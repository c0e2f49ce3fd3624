"""Disks that are full, cannot be written, or gave back something else, under processes that are in a round.

The full disk is a file system of its own, of a few hundred kilobytes, and the one that cannot be written
is mounted so, both in a namespace of the one process that they are for. Where the system allows no such
namespaces, these tests are left out and say so.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from loopback import PATIENCE_S, VALUE, Loopback, Process, assert_exact, secfed

SITES = ("hosp-a", "hosp-b", "hosp-c")
LARGE = 600_000
"""Coordinates: 1.35 MB on its way, 2.4 MB as it is stored at its site."""

FREE_KB = 2_000
"""Left on a disk that will be full: enough to begin with, and not for what a round needs."""

MOVED = ("--state-moved",)
"""Another file system is another place, on the way there and back."""

_PHASE_S = 120

_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")

_RUN = 'shift 2; trap "kill \\$pid" TERM; "$@" & pid=$!; wait $pid; code=$?'

_FULL = (
    'small=$1.small; mkdir "$small" && mount -t tmpfs -o mode=0700,size="$2"k none "$small" && '
    'cp -a "$1/." "$small/" && mount --bind "$small" "$1" || exit 125; directory=$1; ' + _RUN + "; "
    'umount "$directory" && find "$directory" -mindepth 1 -delete && cp -a "$small/." "$directory/"; '
    "exit $code"
)
"""A file system of so many kilobytes in the place of a directory; what lies there at the end is kept."""

_READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 125; ' + _RUN + "; exit $code"


def _allowed() -> bool:
    command = [*_UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(0),
    pytest.mark.skipif(not _allowed(), reason="this system gives a process no mounts of its own"),
]


def used_kb(directory: Path) -> int:
    return sum(path.stat().st_size // 1024 + 4 for path in directory.rglob("*"))


def full(directory: Path, free_kb: int = FREE_KB) -> Sequence[str]:
    return (*_UNSHARE, "sh", "-c", _FULL, "sh", str(directory), str(used_kb(directory) + free_kb))


def read_only(directory: Path) -> Sequence[str]:
    return (*_UNSHARE, "sh", "-c", _READ_ONLY, "sh", str(directory), "-")


def aggregator(play: Loopback, within: Sequence[str]) -> Process:
    play.processes[0].stop()
    words = (
        "aggregator",
        "run",
        "--config",
        str(play.federation / "aggregator.toml"),
        *(MOVED if within else ()),
    )
    return play.spawn("aggregator", *words, within=within)


def push(play: Loopback, name: str, within: Sequence[str]) -> Process:
    update = str(play.site(name) / "update.safetensors")
    words = ("client", "push", "--config", str(play.config(name)), "--update", update, *MOVED)
    return play.spawn(name, *words, within=within)


def updates(play: Loopback, size: int) -> list[Path]:
    return [play.update(name, index, size) for index, name in enumerate(SITES)]


def said(process: Process) -> tuple[str, str]:
    """The one line of cause and the one of remedy that a process ended with."""
    lines = process.output.splitlines()
    (cause,) = [line for line in lines if line.startswith("error: ")]
    (remedy,) = [line for line in lines if line.startswith("remedy: ")]
    assert "Traceback" not in process.output
    return cause, remedy


def exact(play: Loopback, job: str) -> None:
    found = play.published(job)
    assert found.manifest["included"] == list(SITES)
    assert_exact(found.total, dict.fromkeys(range(len(SITES)), VALUE), sites=len(SITES))


def test_the_aggregators_disk_is_full_as_vectors_come_in(build: Callable[..., Loopback]) -> None:
    """It stops with the file's name, and acknowledges nothing; with room again, the round is made good."""
    play = build(*SITES)
    state = play.federation / "state"
    daemon = aggregator(play, full(state))
    play.until(play.is_ready, "the aggregator", PATIENCE_S)
    play.job("sum", LARGE, phase_s=_PHASE_S)
    pushes = [play.push(name, path) for name, path in zip(SITES, updates(play, LARGE), strict=True)]
    _ended_full(play, daemon, state)
    assert not play.round_folder("sum").exists()
    play.start_aggregator(*MOVED)
    for each in pushes:
        play.ends(each, 0)
    exact(play, "sum")
    for name in SITES:
        assert len(play.ledger(name, "sum", "reserve")) == 1
        assert len({entry["contribution"] for entry in play.ledger(name, "sum", "sent")}) == 1


def test_the_aggregators_disk_is_full_as_it_decides(build: Callable[..., Loopback]) -> None:
    play = build(*SITES)
    state = play.federation / "state"
    daemon = aggregator(play, full(state, free_kb=300))
    play.until(play.is_ready, "the aggregator", PATIENCE_S)
    started = 0
    for number in range(60):  # each job is a decision, and one of them finds no room
        path = play.job_file(f"job-{number}", 100_000)
        if secfed("job", "start", path, "--config", play.federation / "admin.toml").code != 0:
            break
        started += 1
    _ended_full(play, daemon, state)
    play.start_aggregator(*MOVED)
    assert len(play.overview()["jobs"]) >= started > 0  # all that was acknowledged


def _ended_full(play: Loopback, daemon: Process, state: Path) -> None:
    """By the first file that found no room: the round's own, or the audit log that goes along."""
    play.until(lambda: not daemon.running, "the end of the aggregator", PATIENCE_S)
    cause, _ = said(daemon)
    assert daemon.popen.returncode == (64 if "audit-" in cause else 60)
    assert str(state) in cause
    assert "full" in cause or "No space left" in cause


def test_a_sites_disk_is_full_as_its_contribution_is_stored(build: Callable[..., Loopback]) -> None:
    """It says so and stops before it was ready; with room again it takes part, and is charged once more."""
    play = build(*SITES)
    play.job("sum", LARGE, phase_s=_PHASE_S)
    paths, state = updates(play, LARGE), play.site(SITES[0]) / "state"
    others = [play.push(name, path) for name, path in zip(SITES[1:], paths[1:], strict=True)]
    small = push(play, SITES[0], full(state))
    play.ends(small, 60)
    cause, _ = said(small)
    assert str(state / "contributions" / "sum.") in cause
    assert "No space left on device" in cause
    assert all(each.running for each in others)
    assert play.ledger(SITES[0], "sum", "sent") == []
    for each in [*others, push(play, SITES[0], ())]:
        play.ends(each, 0)
    exact(play, "sum")
    assert len(play.ledger(SITES[0], "sum", "reserve")) == 2


def test_the_disk_of_the_results_is_full_as_a_round_is_published(build: Callable[..., Loopback]) -> None:
    """The sum stands decided in the state; the folder is written whole once there is room, and not before."""
    play = build(*SITES)
    out = play.federation / "out"
    daemon = aggregator(play, full(out, free_kb=300))
    play.until(play.is_ready, "the aggregator", PATIENCE_S)
    play.job("sum", LARGE, phase_s=_PHASE_S)
    pushes = [play.push(name, path) for name, path in zip(SITES, updates(play, LARGE), strict=True)]
    _ended_full(play, daemon, out)
    assert not play.round_folder("sum").exists()
    play.start_aggregator(*MOVED)
    for each in pushes:
        play.ends(each, 0)
    exact(play, "sum")


def test_a_sites_ledger_cannot_be_written(build: Callable[..., Loopback]) -> None:
    """No charge, no vector; with a ledger that takes the charge it takes part."""
    play = build(*SITES)
    play.job("sum", 2000, phase_s=_PHASE_S)
    updates(play, 2000)
    ledger = play.site(SITES[0]) / "ledger"
    before = {path: path.read_bytes() for path in ledger.rglob("*") if path.is_file()}
    blocked = push(play, SITES[0], read_only(ledger))
    play.ends(blocked, 61)
    cause, remedy = said(blocked)
    assert str(ledger) in cause
    assert "read-only" in cause.lower()
    assert "Check the disk" in remedy
    assert {path: path.read_bytes() for path in ledger.rglob("*") if path.is_file()} == before
    pushes = [push(play, name, ()) for name in SITES]
    for each in pushes:
        play.ends(each, 0)
    exact(play, "sum")


def test_directories_that_cannot_be_written(build: Callable[..., Loopback]) -> None:
    """Either side refuses to start, names the file, and changes nothing."""
    play = build(*SITES)
    play.processes[0].stop()
    sides = {
        "aggregator": (play.federation / "aggregator.toml", play.federation / "state"),
        "client": (play.config(SITES[0]), play.site(SITES[0]) / "state"),
    }
    for command, (config, directory) in sides.items():
        before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        words = (command, "run", "--config", str(config))
        process = play.spawn(f"{command}-read-only", *words, within=read_only(directory))
        play.ends(process, 60)
        cause, _ = said(process)
        assert str(directory) in cause
        assert "read-only" in cause.lower()
        assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


# -- what a round in progress reads back -------------------------------------------------------


def flip(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return bytes(data)


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_contribution_that_was_changed_is_never_sent(build: Callable[..., Loopback], damage: str) -> None:
    """Its site stops with the file's name; the others hear why they wait, and nothing is published."""
    play = build(*SITES)
    play.job("sum", 2000, phase_s=_PHASE_S)
    paths = updates(play, 2000)
    play.ends(play.doomed_push(SITES[0], paths[0], "say:Ready"), -9)
    (stored,) = (play.site(SITES[0]) / "state" / "contributions").glob("sum.*")
    if damage == "flipped":
        left = flip(stored)
    else:
        left = stored.read_bytes()[: stored.stat().st_size // 2]
        stored.write_bytes(left)
    others = [play.push(name, path) for name, path in zip(SITES[1:], paths[1:], strict=True)]
    spoilt = play.push(SITES[0], paths[0])
    play.ends(spoilt, 60)
    cause, _ = said(spoilt)
    assert f"{stored} was changed" in cause
    assert stored.read_bytes() == left
    assert play.ledger(SITES[0], "sum", "sent") == []
    assert all(each.running for each in others)
    assert not play.round_folder("sum").exists()


def test_a_result_that_was_changed_is_not_published(build: Callable[..., Loopback]) -> None:
    """Killed before its folder stood, the aggregator finds another adapter than it decided on."""
    play = build(*SITES)
    play.processes[0].stop()
    daemon = play.doomed_aggregator("after:decide ending/")
    play.job("sum", 2000, phase_s=_PHASE_S)
    pushes = [play.push(name, path) for name, path in zip(SITES, updates(play, 2000), strict=True)]
    play.ends(daemon, -9)
    (result,) = (play.federation / "state" / "adapters").glob("*.safetensors")
    whole = result.read_bytes()
    left = flip(result)
    daemon = aggregator(play, ())
    play.ends(daemon, 60)
    assert f"{result} was changed" in said(daemon)[0]
    assert result.read_bytes() == left
    assert not play.round_folder("sum").exists()
    result.write_bytes(whole)  # from the backup
    play.start_aggregator()
    for each in pushes:
        play.ends(each, 0)
    exact(play, "sum")


def test_an_upload_that_was_changed_ends_the_round_alone(build: Callable[..., Loopback]) -> None:
    """It was acknowledged and cannot be summed any more: the round is over for all to see, nobody stops."""
    play = build(*SITES)
    play.processes[0].stop()
    daemon = play.doomed_aggregator("after:decide signatures/")
    play.job("sum", 2000, phase_s=_PHASE_S)
    pushes = [play.push(name, path) for name, path in zip(SITES, updates(play, 2000), strict=True)]
    play.ends(daemon, -9)
    flip(min((play.federation / "state" / "spool").iterdir()))
    daemon = play.start_aggregator()
    for each in pushes:
        play.ends(each, 41)
    (ended,) = play.status("sum")["history"]
    assert ended["state"].startswith("aborted: ")
    assert "masked" in ended["state"] or "upload" in ended["state"]
    assert not play.round_folder("sum").exists()
    assert daemon.running


def test_a_published_folder_that_was_changed_is_refused_by_whoever_fetches_it(
    build: Callable[..., Loopback],
) -> None:
    play = build(*SITES)
    play.job("sum", 2000, phase_s=_PHASE_S)
    for each in [play.push(name, path) for name, path in zip(SITES, updates(play, 2000), strict=True)]:
        play.ends(each, 0)
    target = play.published("sum").folder / "sum.safetensors"
    flip(target)
    fetched = play.site(SITES[0]) / "fetched"
    words = ("adapter", "fetch", "--job", "sum", "--config", play.config(SITES[0]), "-o", fetched)
    outcome = play.call(*words)
    assert outcome.code == 40
    assert "sum.safetensors in the fetched folder is not the one" in outcome.error
    assert not fetched.exists()
    assert np.isfinite(play.arrays(target.parent)["weighted_sum.x"]).all()
