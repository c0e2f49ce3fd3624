"""Whole federations under seeded trouble: every invariant at every step, and an end once it is calm.

One seed again, with its trace: `python -m pytest tests/sim --seed N`. The slow run goes on from the
seed after the last one it finished, for `--minutes`.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from simfed.nodes import Crash, Disk
from simfed.simulation import CALM, Simulation, Weather

from secfed.privacy.ledger import Ledger
from secfed.rounds.round import OpenRound
from secfed.secagg.aggregator import AggregatorSession
from secfed.secagg.opening import RingSum

SEEDS = 150
"""Seeds of the ordinary run: about 40 s on one core."""

_SECRET = re.compile(r"[0-9a-f]{16,}|/dev/shm/\S+|/tmp/\S+")
"""What differs between two runs: digests of what was drawn at random, and places."""

_GROUP = 10
_LAST = "secfed/simulator-last-seed"


def _run(seed: int, directory: Path) -> Simulation:
    """One seed; a broken invariant comes with the seed, the command and the end of the trace."""
    simulation = Simulation(seed, directory / f"seed-{seed}")
    simulation.directory.mkdir()
    try:
        simulation.run()
    except AssertionError as error:
        tail = "\n".join(simulation.trace[-60:])
        raise AssertionError(f"{error}\n{tail}\nreplay: python -m pytest tests/sim --seed {seed}") from error
    return simulation


@pytest.mark.parametrize("first", range(0, SEEDS, _GROUP))
def test_every_invariant_holds_under_trouble(first: int, disk: Path, request: pytest.FixtureRequest) -> None:
    """Loss, repetition, replay, damage, kills, failing disks: alone and together."""
    only = request.config.getoption("--seed")
    if only is not None:
        pytest.skip("one seed is replayed")
    for seed in range(first, first + _GROUP):
        _run(seed, disk)


def test_replay_of_one_seed(disk: Path, request: pytest.FixtureRequest) -> None:
    """`--seed N` runs this one, and prints what happened."""
    only = request.config.getoption("--seed")
    simulation = _run(only if only is not None else 0, disk)
    print("\n".join(simulation.trace))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_more_seeds_for_some_minutes(
    disk: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Goes on where the last run ended, and says how far it came."""
    cache = request.config.cache
    assert cache is not None
    seed = first = cache.get(_LAST, SEEDS - 1) + 1
    ends = time.monotonic() + 60 * request.config.getoption("--minutes")
    while time.monotonic() < ends:
        _run(seed, disk)
        cache.set(_LAST, seed)
        seed += 1
    with capsys.disabled():
        print(f"\nseeds {first} to {seed - 1}: no invariant broken")


def test_a_quiet_federation_publishes_every_round_with_everybody_in_it(disk: Path) -> None:
    """Without trouble nothing is dropped, voided or repeated: the simulator itself loses nothing."""
    simulation = Simulation(1, disk, clients=5, rounds=3, steps=0, weather=CALM, pace=20.0)
    endings = simulation.run()
    assert [ending.published for ending in endings] == [True, True, True]
    assert all(len(ending.included) == 5 for ending in endings)
    assert len(simulation.witness.manifests) == 3


def test_a_seed_is_replayed_exactly(disk: Path) -> None:
    """The same seed gives the same course, or a failure could not be looked at again."""
    traces = []
    for name in ("one", "two"):
        (disk / name).mkdir()
        simulation = Simulation(17, disk / name)
        simulation.run()
        traces.append([_SECRET.sub("*", line) for line in simulation.trace])
    assert traces[0] == traces[1]


def test_trouble_reaches_every_kind_of_end(disk: Path) -> None:
    """Among some seeds are full rounds, rounds with dropouts, void attempts and aborted rounds."""
    full = fewer = aborted = voided = 0
    for seed in range(200, 210):
        (disk / str(seed)).mkdir()
        simulation = Simulation(seed, disk / str(seed))
        endings = simulation.run()
        full += sum(len(ending.included) == simulation.clients for ending in endings)
        fewer += sum(0 < len(ending.included) < simulation.clients for ending in endings)
        aborted += sum(not ending.published for ending in endings)
        voided += len(simulation.witness.manifests) - len(endings)
    assert min(full, fewer, aborted, voided) > 0


def test_a_disk_fails_where_it_is_told_to() -> None:
    disk = Disk(Random(0), crash_at=1)
    disk.barrier("before")
    with pytest.raises(Crash):
        disk.barrier("after")
    disk.barrier("later")


# -- the witness notices -----------------------------------------------------------------------


def _uncharged(self: Ledger, *arguments: Any) -> None:
    """A client that forgets to write SENT."""


def _shifted(self: AggregatorSession, *, threads: int = 1) -> RingSum:
    """An aggregator that mixes up coordinates."""
    honest = _SUM_UP(self, threads=threads)
    return replace(honest, total=np.concatenate([honest.total[:2], np.roll(honest.total[2:], 1)]))


def _silent(self: OpenRound, *arguments: Any) -> list[Any]:
    """An aggregator that does not say who is missing."""
    return []


_SUM_UP = AggregatorSession.sum_up


@pytest.mark.parametrize(
    ("place", "name", "sabotage", "invariant"),
    [
        (Ledger, "mark_sent", _uncharged, "I1"),
        (OpenRound, "absent", _silent, "I2"),
        (AggregatorSession, "sum_up", _shifted, "I3"),
    ],
)
def test_a_broken_part_breaks_its_invariant(
    place: type, name: str, sabotage: Any, invariant: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulator can fail: a fault put into the program is found under its name."""
    monkeypatch.setattr(place, name, sabotage)
    weather = Weather(kill_client=0.02)
    with pytest.raises(AssertionError, match=f"^{invariant}"):  # noqa: PT012 - one of some seeds
        for seed in range(6):
            (disk / str(seed)).mkdir()
            Simulation(seed, disk / str(seed), clients=5, weather=weather, constant=False).run()
