"""Every durable effect as a crash point, before and after it, on either side; alone or with another loss.

The quiet course of one round is played once to count the effects of a node, and then once for each of
them with a crash just there. Wherever it was, the federation comes to its end with every invariant
whole: the attempt is void and repeated, or finished, or the round is aborted and never published.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from simfed.nodes import AggregatorNode, ClientNode
from simfed.simulation import CALM, Simulation

from secfed.ids import ClientId
from secfed.rounds.jobs import Ending


def _simulation(directory: Path) -> Simulation:
    """Three sites, so that none may be lost after the freeze; one round and one to spare."""
    directory.mkdir()
    return Simulation(
        3, directory, clients=3, rounds=1, spare_rounds=1, steps=0, weather=CALM, constant=False
    )


def _node(simulation: Simulation, side: str) -> AggregatorNode | ClientNode:
    return simulation.center if side == "center" else simulation.nodes[ClientId(side)]


def _steps(directory: Path, side: str) -> int:
    """How many durable effects the quiet course has on one side."""
    simulation = _simulation(directory)
    (ending,) = simulation.run()
    assert len(ending.included) == 3
    return _node(simulation, side).disk.steps


def _crash(
    directory: Path, side: str, step: int, beside: ClientId | None, *, refused: bool = False
) -> list[Ending]:
    """The course with a crash at one effect, and with another client killed at the same moment.

    Args:
        refused: The disk refuses the write there, and the process ends by itself.
    """
    simulation = _simulation(directory)
    node = _node(simulation, side)
    if refused:
        node.disk.fail_at = step
    else:
        node.disk.crash_at = step
    if beside is not None:
        node.kill = _once_with(node.kill, lambda: simulation.lose(beside))  # type: ignore[method-assign]
    try:
        return simulation.run()
    except AssertionError as error:
        tail = "\n".join(simulation.trace[-40:])
        raise AssertionError(f"crash of {side} at effect {step}: {error}\n{tail}") from error


def _once_with(kill: Callable[[], None], other: Callable[[], None]) -> Callable[[], None]:
    """The first time this dies, the other dies too."""
    waiting = [other]

    def both() -> None:
        kill()
        if waiting:
            waiting.pop()()

    return both


@pytest.mark.parametrize("beside", [None, ClientId("site-2")], ids=["alone", "and a client"])
@pytest.mark.parametrize("side", ["center", "site-0"])
def test_a_crash_at_any_durable_effect_loses_nothing(disk: Path, side: str, beside: ClientId | None) -> None:
    endings = [
        _crash(disk / f"at-{step}", side, step, beside) for step in range(_steps(disk / "quiet", side))
    ]
    assert all(sum(ending.published for ending in course) <= 1 for course in endings)
    published = sum(course[-1].published for course in endings)
    assert published == len(endings)


@pytest.mark.parametrize("side", ["center", "site-0"])
def test_a_disk_that_refuses_any_durable_effect_loses_nothing(disk: Path, side: str) -> None:
    endings = [
        _crash(disk / f"at-{step}", side, step, None, refused=True)
        for step in range(_steps(disk / "quiet", side))
    ]
    assert [sum(ending.published for ending in course) for course in endings] == [1] * len(endings)
