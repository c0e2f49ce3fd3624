"""The rows in which the aggregator is hostile: each attack fails on real clients, and each of its parts
works on weakened ones.

Clients run on threads here, over real sockets, TLS and hellos; `secfed attack` starts processes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from carried import assert_every_part_gains, assert_every_part_holds, attack, attack_weaker
from weakened import WEAKENED

LARGE = "two-survivor-sets-100"
SMALL = sorted(set(WEAKENED) - {LARGE})


@pytest.mark.parametrize("name", SMALL)
def test_unmodified_clients_hold(name: str, disk: Path) -> None:
    """The attack is carried to its end, and the adversary holds nothing that it must not."""
    assert_every_part_holds(name, attack(name, disk))


@pytest.mark.parametrize("name", SMALL)
def test_the_attack_works_without_the_defences(
    name: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against clients without what the row names, every part of the same attack gets what it is after."""
    assert_every_part_gains(name, attack_weaker(name, disk, WEAKENED[name], monkeypatch))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_two_certified_sets_of_a_hundred(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ninety honest clients and ten accomplices; without the defences a single vector is read off."""
    assert_every_part_holds(LARGE, attack(LARGE, disk / "real"))
    assert_every_part_gains(LARGE, attack_weaker(LARGE, disk / "weak", WEAKENED[LARGE], monkeypatch))
