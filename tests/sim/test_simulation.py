"""Whole federations under seeded trouble: every invariant at every step, and an end once it is calm.

One seed again, with its trace: `python -m pytest tests/sim --seed N`. The slow run goes on from the
seed after the last one it finished, for `--minutes`.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from simfed.nodes import Disk
from simfed.simulation import CALM, Simulation

SEEDS = 120
"""Seeds of the ordinary run: about 40 s on one core."""

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
def test_more_seeds_for_some_minutes(disk: Path, request: pytest.FixtureRequest) -> None:
    """Goes on where the last run ended, and says how far it came."""
    cache = request.config.cache
    assert cache is not None
    seed = first = cache.get(_LAST, SEEDS - 1) + 1
    ends = time.monotonic() + 60 * request.config.getoption("--minutes")
    while time.monotonic() < ends:
        _run(seed, disk)
        cache.set(_LAST, seed)
        seed += 1
    print(f"seeds {first} to {seed - 1}: no invariant broken")


def test_a_quiet_federation_publishes_every_round_with_everybody_in_it(disk: Path) -> None:
    """Without trouble nothing is dropped, voided or repeated: the simulator itself loses nothing."""
    simulation = Simulation(1, disk, clients=5, rounds=3, steps=0, weather=CALM)
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
        traces.append([line for line in simulation.trace if "/" not in line])
    assert traces[0] == traces[1]


def test_trouble_reaches_every_kind_of_end(disk: Path) -> None:
    """Among some seeds are full rounds, rounds with dropouts, void attempts and aborted rounds."""
    full = fewer = aborted = voided = 0
    for seed in range(200, 216):
        (disk / str(seed)).mkdir()
        simulation = Simulation(seed, disk / str(seed))
        endings = simulation.run()
        full += sum(len(ending.included) == simulation.clients for ending in endings)
        fewer += sum(0 < len(ending.included) < simulation.clients for ending in endings)
        aborted += sum(not ending.published for ending in endings)
        voided += len(simulation.witness.manifests) - len(endings)
    assert min(full, fewer, aborted, voided) > 0


def test_a_disk_fails_where_it_is_told_to() -> None:
    from random import Random

    from simfed.nodes import Crash

    disk = Disk(Random(0), crash_at=1)
    disk.barrier("before")
    with pytest.raises(Crash):
        disk.barrier("after")
    disk.barrier("later")
