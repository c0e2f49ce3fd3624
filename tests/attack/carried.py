"""One row carried out in a test, and what each of its parts must have come to."""

from __future__ import annotations

from pathlib import Path

import pytest
from gains import GAINS
from weak_session import Weaker

from secfed.attack.catalogue import find
from secfed.attack.clients import Victims
from secfed.attack.finding import Finding, Verdict
from secfed.attack.venue import Venue


def attack(name: str, disk: Path, victims: Victims | None = None, *, processes: bool = False) -> Finding:
    venue = Venue(disk / "venue", victims or Victims(), processes=processes)
    return find(name).run(venue).finding


def attack_weaker(
    name: str, disk: Path, weaker: Weaker, monkeypatch: pytest.MonkeyPatch, *, processes: bool = False
) -> Finding:
    for place, attribute, value in weaker.places:
        monkeypatch.setattr(place, attribute, value)
    return attack(name, disk, weaker.victims, processes=processes)


def assert_every_part_holds(name: str, finding: Finding) -> None:
    """All were carried to their end, and the adversary holds nothing that it must not."""
    expected = Verdict.NOT_BUILT if find(name).missing else Verdict.DEFENDED
    assert {part.verdict for part in finding.parts} == {finding.verdict} == {expected}, told(finding)


def assert_every_part_gains(name: str, finding: Finding) -> None:
    """Each got what it is after, and nothing is reported as held."""
    assert finding.verdict is Verdict.BROKEN
    for part in finding.parts:
        for gain in GAINS[name][part.name]:
            assert any(gain in held for held in part.gains), f"{part.name}: {gain}\n{told(finding)}"


def told(finding: Finding) -> str:
    return "\n".join(finding.evidence)
