"""A round in the middle of floods: it ends with the exact sum, and what the floods took comes back.

The daemon, the flood and the members are processes and threads of their own; how much slower the
round is, `tests/bench/bench_flood.py` measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from besieged import PATIENCE_S, Floods, flood_outcomes, play_round, take_in_hostile
from townhall import Town

GROWTH_MIB = 50

IDLE_S = 5
"""After so long this daemon ends a connection without a call, in the place of two minutes."""

SIZE = 20_000


@pytest.fixture
def town(quiet_town: Town) -> Town:
    """A daemon in a process of its own."""
    take_in_hostile(quiet_town)
    quiet_town.poll_s = 1.0
    quiet_town.spawn(idle_s=IDLE_S, upload_idle_s=30)
    return quiet_town


@pytest.fixture
def before(town: Town) -> tuple[int, float]:
    """Descriptors and memory (MiB) of the daemon after one quiet round, before any flood."""
    play_round(town, "quiet", SIZE)
    assert town.process is not None
    return town.process.descriptors, town.process.rss_mib


@pytest.fixture
def floods(town: Town, before: tuple[int, float]) -> Iterator[Floods]:
    made = Floods(town)
    yield made
    made.kill()


def assert_returned(town: Town, descriptors: int, rss_mib: float, until: Callable[..., None]) -> None:
    """Files, sockets and memory are back where they were before the floods."""
    process = town.process
    assert process is not None
    until(lambda: process.descriptors <= descriptors + 10, PATIENCE_S)
    assert process.rss_mib - rss_mib < GROWTH_MIB
    assert process.running
    assert "Traceback" not in process.output


def test_a_round_in_the_middle_of_floods_is_exact(
    town: Town, before: tuple[int, float], floods: Floods, until: Callable[..., None]
) -> None:
    process = town.process
    assert process is not None
    until(lambda: process.descriptors > before[0] + 500, PATIENCE_S)
    play_round(town, "flooded", SIZE)
    counts = floods.end(wait=True)
    assert counts["silent"] >= 500
    assert counts["preface"] >= 50
    assert counts["upload"] >= 50
    assert counts["length"] > 0
    assert counts["open"] > 0
    left = {what: count for what, count in counts.items() if what.endswith(" left")}
    assert left == dict.fromkeys(
        ("silent left", "preface left", "upload left", "length left", "open left"), 0
    )
    assert_returned(town, *before, until)
    town.shut()
    outcomes = flood_outcomes(town)
    assert outcomes.keys() == {"Upload", "Exchange", "GetStatus"}
    refused = {"PeerError", "NetworkError", "broken off"}  # the last where gRPC itself ended the call
    assert all(set(each) <= refused for each in outcomes.values()), outcomes
    assert outcomes["Upload"]["NetworkError"] + outcomes["Upload"]["broken off"] >= 50
    assert outcomes["GetStatus"]["PeerError"] > 0


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_rounds_go_on_for_as_long_as_the_floods(
    town: Town,
    before: tuple[int, float],
    floods: Floods,
    until: Callable[..., None],
    request: pytest.FixtureRequest,
) -> None:
    """For `--minutes`: whatever runs out with time would run out here. What 600 connections take at one time,
    the allocator keeps; so memory is compared with that of the first flooded round.
    """
    process = town.process
    assert process is not None
    ends = time.monotonic() + 60 * request.config.getoption("--minutes")
    rounds = 0
    while time.monotonic() < ends or not rounds:
        play_round(town, f"flooded-{rounds}", SIZE)
        rounds += 1
        if rounds == 1:
            settled = process.rss_mib
    print(f"{rounds} exact rounds; sent {floods.end()}")
    assert_returned(town, before[0], settled, until)
