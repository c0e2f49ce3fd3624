"""The rows in which members, thieves or their data are hostile: each attack fails on the real parties,
and each of its parts works on weakened ones.

The aggregator is the real daemon on a thread here, and so are the clients; `secfed attack` starts processes.
"""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import pytest
from carried import assert_every_part_gains, assert_every_part_holds, attack, attack_weaker
from weaker import CARELESS, HOARD, REAL, WEAKER

from secfed.attack import hostile_bytes, weight_over_cap
from secfed.attack.town import Town
from secfed.errors import NetworkError
from secfed.identity import pkcs8
from secfed.identity.signed import Signed
from secfed.rounds.contribution import ContributionStore
from secfed.transport import client, daemon
from secfed.transport.hello import GREETING


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at often, a late roster is given up soon, and passphrases are stretched little."""
    monkeypatch.setattr(daemon, "ROSTER_POLL_S", 0.1)
    monkeypatch.setattr(client, "ROSTER_LAG_S", 0.5)
    monkeypatch.setattr(pkcs8, "_SCRYPT_N", 16)


@pytest.mark.parametrize("name", sorted([*WEAKER, "leaked-secrets"]))
def test_the_real_parties_hold(name: str, disk: Path) -> None:
    """The attack is carried to its end, and the adversary holds nothing that it must not."""
    assert_every_part_holds(name, attack(name, disk, REAL))


@pytest.mark.parametrize("name", sorted(WEAKER))
def test_the_attack_works_without_the_defences(
    name: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against parties without what the row names, every part of the same attack gets what it is after."""
    try:
        assert_every_part_gains(name, attack_weaker(name, disk, WEAKER[name], monkeypatch))
    finally:
        HOARD.clear()


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 or not Path("/proc/self/environ").exists(),
    reason="this system shows no process, or lets none dump its memory",
)
def test_careless_programs_leak(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, where the victims are processes: `/proc` and dumps are theirs."""
    finding = attack_weaker("leaked-secrets", disk, CARELESS, monkeypatch, processes=True)
    assert_every_part_gains("leaked-secrets", finding)


# -- attacks that do not reach what they aim at ------------------------------------------------


def test_a_weight_that_never_came_proves_nothing(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corrupt site weighs what it should: no abort to speak of, and no verdict."""
    monkeypatch.setattr(weight_over_cap._Heavy, "save", ContributionStore.save)
    with pytest.raises(NetworkError, match="without the weight of site-2: this proves nothing"):
        attack("weight-over-cap", disk, REAL)


def test_bodies_that_are_refused_at_the_door_prove_nothing(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hellos that nobody signed: no body comes to its parser, and there is no verdict."""

    class Unsigned(Town):
        def hello(self, keys, method, body, *, roster=None):
            call = super().hello(keys, method, body, roster=roster)
            return (
                replace(call, hello=Signed(call.hello.statement, bytes(64))) if method != GREETING else call
            )

    monkeypatch.setattr(hostile_bytes, "Town", Unsigned)
    with pytest.raises(NetworkError, match="in Exchange never came to its parser"):
        attack("hostile-bytes", disk, REAL)
