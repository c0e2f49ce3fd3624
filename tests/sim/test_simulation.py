"""Whole federations under seeded trouble: every invariant at every step, and an end once it is calm.

One seed again, with its trace: `python -m pytest -s tests/sim/test_simulation.py::test_replay_of_one_seed
--seed N`. The slow run goes on from the seed after the last one it finished, for `--minutes`; with `-n 2`
its lanes run side by side.
"""

from __future__ import annotations

import gc
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from simfed import pure, seeds
from simfed.hostile import HostileFederation
from simfed.nodes import Crash, Disk
from simfed.simulation import Simulation
from simfed.weather import CALM

from secfed.crypto import signing
from secfed.crypto.signing import SigningKey
from secfed.errors import StorageError
from secfed.ids import ClientId
from secfed.rounds.jobs import Command, Job, JobBook

SEEDS = 300
"""Seeds of the ordinary run: about 30 s on one quiet core."""

LANES = 2
"""The slow run's seeds are shared among so many tests."""

_SECRET = re.compile(r"[0-9a-f]{16,}|/dev/shm/\S+|/tmp/\S+")
"""What differs between two runs: digests of what was drawn at random, and places."""

_GROUP = 10


@pytest.mark.parametrize("first", range(0, SEEDS, _GROUP))
def test_every_invariant_holds_under_trouble(first: int, disk: Path, request: pytest.FixtureRequest) -> None:
    """Loss, delay, replay, damage, kills, failing disks, liars, a hostile aggregator: alone and together."""
    only = request.config.getoption("--seed")
    if only is not None:
        pytest.skip("one seed is replayed")
    for seed in range(first, first + _GROUP):
        seeds.run(seed, disk)


def test_replay_of_one_seed(disk: Path, request: pytest.FixtureRequest) -> None:
    """`--seed N` runs this one, and prints what happened."""
    only = request.config.getoption("--seed")
    seeds.run(only if only is not None else 0, disk, whole=True)


@pytest.fixture
def seldom_searched() -> Iterator[None]:
    """Garbage is searched for less often, and not in what was loaded before: a seed leaves little."""
    threshold = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("seldom_searched")
@pytest.mark.parametrize("lane", range(LANES))
def test_more_seeds_for_some_minutes(disk: Path, stint: Callable[..., Iterator[int]], lane: int) -> None:
    """Goes on where the last run ended, and says how far all lanes came: the aim is 100 000."""
    for seed in stint("simulator seeds", SEEDS, lane, LANES):
        seeds.run(seed, disk)


def test_a_quiet_federation_publishes_every_round_with_everybody_in_it(disk: Path) -> None:
    """Without trouble nothing is dropped, voided or repeated: the simulator itself loses nothing."""
    simulation = Simulation(1, disk, clients=5, rounds=3, steps=0, weather=CALM, pace=20.0, constant=False)
    endings = simulation.run()
    assert [ending.published for ending in endings] == [True, True, True]
    assert all(len(ending.included) == 5 for ending in endings)
    assert len(simulation.witness.manifests) == 3


@pytest.mark.parametrize(
    "seed",
    [17, 18, 20, 24, 26],
    ids=["liars", "hostile aggregator", "honest", "rosters", "hostile aggregator and rosters"],
)
def test_a_seed_is_replayed_exactly(seed: int, disk: Path) -> None:
    """The same seed gives the same course, or a failure could not be looked at again."""
    traces = []
    for name in ("one", "two"):
        (disk / name).mkdir()
        traces.append([_SECRET.sub("*", line) for line in seeds.run(seed, disk / name).trace])
    assert traces[0] == traces[1]


def test_a_command_that_a_crash_forgets_breaks_a_seed(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The admin's stop was acknowledged; with the decision left out, a restarted aggregator goes on."""

    def command(self: JobBook, job: Job, verb: str, *, by: ClientId, reason: str) -> None:
        if job.state not in ("done", "failed", "stopped"):
            job.commands.append(Command(verb, by, reason))

    monkeypatch.setattr(JobBook, "command", command)
    with pytest.raises(AssertionError, match="a stop that was acknowledged does not stand"):
        seeds.run(52, disk)


def test_trouble_reaches_every_kind_of_end(disk: Path) -> None:
    """Among some seeds are full rounds, rounds with dropouts, void attempts and aborted rounds."""
    full = fewer = aborted = voided = 0
    for seed in range(200, 210):
        (disk / str(seed)).mkdir()
        simulation = Simulation(seed, disk / str(seed), liars=seed % 2)
        endings = simulation.run()
        full += sum(len(ending.included) == simulation.clients for ending in endings)
        fewer += sum(0 < len(ending.included) < simulation.clients for ending in endings)
        aborted += sum(not ending.published for ending in endings)
        voided += len(simulation.witness.manifests) - len(endings)
    assert min(full, fewer, aborted, voided) > 0


def test_a_hostile_aggregator_gets_far(disk: Path) -> None:
    """It is no scarecrow: it opens sums, has sites mask twice in a round and sign sets that differ."""
    reached: Counter[str] = Counter()
    for seed in range(12):
        (disk / str(seed)).mkdir()
        played = HostileFederation(seed, disk / str(seed))
        played.run()
        witness = played.witness
        sets = defaultdict(set)
        for (h, _), signed in witness.confirms.items():
            sets[h].add(signed)
        rounds = Counter((witness.manifests[h].round, site) for h, site in witness.packed)
        known = witness.known.values()
        reached["opened"] += sum(bool(each.sums(each.places(witness.owned))) for each in known)
        reached["masked twice"] += sum(count > 1 for count in rounds.values())
        reached["two sets signed"] += sum(len(signed) > 1 for signed in sets.values())
        reached["two share sets shown"] += sum(len(set(each.masked.values())) > 1 for each in known)
    assert min(reached[what] for what in reached) > 0
    assert len(reached) == 4


def test_rosters_change_in_the_middle_of_rounds(disk: Path) -> None:
    """Among some seeds: attempts of one round under several rosters, exchanged keys, downgrades refused."""
    reached: Counter[str] = Counter()
    for seed in (8, 9, 10, 11, 24, 25, 26, 27):
        played = seeds.run(seed, disk)
        witness = played.witness
        under: dict[int, set[bytes]] = defaultdict(set)
        for manifest in witness.manifests.values():
            under[manifest.round].add(manifest.roster)
        first = played.owner.versions[0].digest
        reached["several rosters in a round"] += sum(len(named) > 1 for named in under.values())
        reached["masked under a newer roster"] += sum(
            witness.manifests[h].roster != first for h, _ in witness.packed
        )
        reached["downgrade refused"] += sum("is older than version" in line for line in played.trace)
        reached["a key exchanged"] += sum("goes over to its new key" in line for line in played.trace)
    assert len(reached) == 4
    assert min(reached.values()) > 0, reached


def test_a_disk_fails_where_it_is_told_to() -> None:
    disk = Disk(Random(0), crash_at=1)
    disk.barrier("before")
    with pytest.raises(Crash):
        disk.barrier("after")
    disk.barrier("later")


def test_a_disk_refuses_where_it_is_told_to() -> None:
    disk = Disk(Random(0), fail_at=1)
    disk.barrier("before")
    with pytest.raises(StorageError):
        disk.barrier("after")
    disk.barrier("later")


def test_what_is_remembered_is_what_is_computed() -> None:
    """A good signature is computed once; a bad one is never taken for it, and nothing stays behind."""
    key, before = SigningKey.generate(), signing.verify
    good = key.sign(b"this")
    with pure.remembered():
        assert signing.verify is not before
        assert [signing.verify(key.public, b"this", good) for _ in range(2)] == [True, True]
        assert not signing.verify(key.public, b"that", good)
        assert not signing.verify(key.public, b"this", bytes(64))
    assert signing.verify is before
