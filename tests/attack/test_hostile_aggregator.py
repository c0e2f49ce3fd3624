"""The rows in which the aggregator is hostile: each attack fails on real clients, and works on weakened ones.

Clients run on threads here, over real sockets, TLS and hellos; `secfed attack` starts processes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from weakened import FORGETFUL, WEAKENED

from secfed.attack.catalogue import find
from secfed.attack.clients import Victims
from secfed.attack.finding import Finding, Verdict
from secfed.attack.venue import Venue

LARGE = "two-survivor-sets-100"
SMALL = sorted(set(WEAKENED) - {LARGE})

ONE_VECTOR = "holds the vector of site-0, true to the last bit, where 3 is the fewest"
TWO_VECTORS = "holds the sum of 2 honest vectors"
GAINS = {
    "two-survivor-sets": (ONE_VECTOR, "2 certified survivor sets of one attempt, of 4 and 4 members"),
    "double-unmask": (ONE_VECTOR,),
    "second-attempt": ("as the difference of two sums the vector of site-0", "in more than one opened sum"),
    "swapped-keys": (ONE_VECTOR,),
    "sybil-cohort": (ONE_VECTOR,),
    "lowered-threshold": (TWO_VECTORS,),
    "repeated-ids": (TWO_VECTORS,),
    "model-per-client": ("the update of site-0: the model of the 3 others let them add nothing",),
    "round-replay": ("the vector of site-0, true to the last bit, from 5 vectors under one mask",),
    "sum-difference": ("as the difference of two sums the vector of site-0, true to the last bit",),
    "members-without-edge": (ONE_VECTOR,),
    "forgotten-vector": ("the vector of site-0 in more than one opened sum of one round",),
    "modulus-wrap": ("words that wrapped",),
    "weak-mask-seeds": (ONE_VECTOR,),
    "split-share-set": ("signers saw 3 different share sets",),
}
"""What each attack gets where its row's defences are gone: a part of the evidence."""


def attack(name: str, disk: Path, victims: Victims | None = None) -> Finding:
    venue = Venue(disk, victims or Victims(), processes=False)
    return find(name).run(venue).finding


@pytest.mark.parametrize("name", SMALL)
def test_unmodified_clients_hold(name: str, disk: Path) -> None:
    """The attack is carried to its end, and the adversary holds nothing that it must not."""
    finding = attack(name, disk)
    assert finding.verdict is Verdict.DEFENDED, "\n".join(finding.evidence)
    assert finding.evidence


@pytest.mark.parametrize("name", SMALL)
def test_the_attack_works_without_the_defences(name: str, disk: Path) -> None:
    """Against clients without what the row names, the same attack gets what it is after."""
    finding = attack(name, disk, WEAKENED[name])
    assert finding.verdict is Verdict.BROKEN, "\n".join(finding.evidence)
    for gain in GAINS[name]:
        assert any("the adversary holds" in line and gain in line for line in finding.evidence), gain


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_two_certified_sets_of_a_hundred(disk: Path) -> None:
    """Ninety honest clients and ten accomplices; without the defences a single vector is read off."""
    finding = attack(LARGE, disk / "real")
    assert finding.verdict is Verdict.DEFENDED, "\n".join(finding.evidence)
    finding = attack(LARGE, disk / "weak", WEAKENED[LARGE])
    assert finding.verdict is Verdict.BROKEN
    assert any("holds the vector of site-00, true to the last bit" in line for line in finding.evidence)


def test_a_client_without_memory_plays_an_ended_round_again(disk: Path) -> None:
    """The second half of the replay: a vector in two sums of one round."""
    finding = attack("round-replay", disk, FORGETFUL)
    assert finding.verdict is Verdict.BROKEN
    assert any("in more than one opened sum of one round" in line for line in finding.evidence)
