"""A member never goes back to an older roster, and takes one text a version."""

from __future__ import annotations

import pytest

from secfed.crypto.signing import SigningKey
from secfed.errors import RosterError
from secfed.identity import membership
from secfed.rounds.rosters import RosterKeeper
from secfed.store.decisions import DecisionStore


@pytest.fixture
def decisions(disk):
    with DecisionStore(disk / "decisions.sqlite") as store:
        yield store


@pytest.fixture
def path(federation, disk):
    path = disk / "roster.txt"
    path.write_bytes(federation.roster.text)
    return path


def later(federation, name):
    return membership.revoke(federation.roster, federation.roster_key, name)


def test_a_newer_roster_is_taken_and_stays(federation, path, decisions):
    keeper = RosterKeeper(path, federation.roster_key.public, decisions)
    newer = later(federation, "hosp-c")
    assert keeper.accept(newer.text).version == 2
    assert RosterKeeper(path, federation.roster_key.public, decisions).current.digest == newer.digest
    assert keeper.accept(newer.text).version == 2  # again: nothing changes


def test_an_older_roster_is_refused_from_elsewhere_and_from_the_file(federation, path, decisions):
    keeper = RosterKeeper(path, federation.roster_key.public, decisions)
    keeper.accept(later(federation, "hosp-c").text)
    with pytest.raises(RosterError, match="older"):
        keeper.accept(federation.roster.text)
    path.write_bytes(federation.roster.text)  # the file came back from a backup
    with pytest.raises(RosterError, match="older"):
        RosterKeeper(path, federation.roster_key.public, decisions)


def test_a_roster_that_came_by_the_file_is_gone_by_and_never_written_back(federation, path, decisions):
    """What lies there may be newer already; older ones and forks are refused as from elsewhere."""
    keeper = RosterKeeper(path, federation.roster_key.public, decisions)
    second, third = later(federation, "hosp-c"), b"what was put there since"
    path.write_bytes(third)
    assert keeper.follow(second.text).digest == keeper.current.digest == second.digest
    assert path.read_bytes() == third
    for refused in (federation.roster, later(federation, "hosp-b")):
        with pytest.raises(RosterError, match=r"older|fork"):
            keeper.follow(refused.text)
    assert keeper.current.digest == second.digest


def test_two_rosters_of_one_version_are_a_fork(federation, path, decisions):
    keeper = RosterKeeper(path, federation.roster_key.public, decisions)
    keeper.accept(later(federation, "hosp-c").text)
    with pytest.raises(RosterError, match="fork"):
        keeper.accept(later(federation, "hosp-b").text)
    assert keeper.current.version == 2


def test_a_roster_of_another_key_is_refused(federation, path, decisions):
    keeper = RosterKeeper(path, federation.roster_key.public, decisions)
    other = membership.create(
        SigningKey.generate(), [], now=federation.now, not_after=federation.roster.not_after
    )
    with pytest.raises(RosterError):
        keeper.accept(other.text)


def test_killed_between_file_and_pin_the_next_start_pins_what_lies_there(federation, path, decisions):
    """The file is written first, so a crash never leaves a pin without its roster."""
    RosterKeeper(path, federation.roster_key.public, decisions)
    newer = later(federation, "hosp-c")
    path.write_bytes(newer.text)
    assert RosterKeeper(path, federation.roster_key.public, decisions).current.version == 2
    path.write_bytes(federation.roster.text)
    with pytest.raises(RosterError):
        RosterKeeper(path, federation.roster_key.public, decisions)


def test_without_decisions_the_file_is_the_pin(federation, path):
    keeper = RosterKeeper(path, federation.roster_key.public)
    keeper.accept(later(federation, "hosp-c").text)
    with pytest.raises(RosterError):
        keeper.accept(federation.roster.text)
