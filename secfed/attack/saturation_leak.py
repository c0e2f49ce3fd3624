"""Saturation as a leak: that one site's trained update reaches beyond the bound is to show.

Rounds of a training job, in pairs, differ in one site's update alone: in the first it stays within the
bound, in the second it goes beyond it in several coordinates. The adversary compares all that it
sees of that site. What is published is the number of clamped coordinates of all sites together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secfed.attack.clients import Victims
from secfed.attack.finding import Evidence, Report
from secfed.attack.tape import Tape, compare, taped
from secfed.attack.town import BOUND, Town
from secfed.attack.venue import Venue
from secfed.errors import NetworkError
from secfed.ids import ClientId
from secfed.privacy.events import Event, NonPrivate
from secfed.rounds.plan import JobPlan, RoundPlan
from secfed.rounds.ports import Contributor, NamedArrays, Update

__all__ = ["run"]

_LAYER = "base_model.model.layers.0.q_proj.lora_"
_SHAPE = (4, 2)
_TRAINED = f"{_LAYER}B.weight"
_PLAN: dict[str, Any] = {
    "kind": "train",
    "shapes": {_TRAINED: _SHAPE},
    "training": {
        "trainer": "sft",
        "strategy": "ffa",
        "base": {"id": "none/none", "weights_sha256": "00" * 32},
        "lora": {"r": 2, "alpha": 4, "target_modules": ("q_proj",)},
        "steps": 1,
        "learning_rate": "0.1",
        "adapter": {f"{_LAYER}A.weight": (2, 4), _TRAINED: _SHAPE},
        "seed": "07" * 32,
    },
}
"""A training job whose trainer is `_Trained`; the bound, and what is done beyond it, are as ever."""

_SITES = 5

_BEYOND, _ELSEWHERE = 5, 2
"""Coordinates beyond the bound: at the watched site in the second round, and at another site in both."""


class _Trained:
    """A trainer that came to this change of the adapter."""

    def __init__(self, change: NDArray[np.float32]) -> None:
        self._change = change

    def planned_event(self, plan: JobPlan) -> Event:
        """A release without a bound, as every job without noise makes."""
        del plan
        return NonPrivate("a job without noise")

    def check(self, plan: JobPlan) -> None:
        """Any plan will do."""
        del plan

    def contribute(self, plan: JobPlan, round_plan: RoundPlan, base: NamedArrays) -> Update:
        """The change."""
        del round_plan, base
        return Update({_TRAINED: self._change}, 1, 0, self.planned_event(plan))


def run(venue: Venue, report: Report) -> None:
    """The same round, in pairs, the second time beyond the bound at one site."""
    evidence = report.part("an update within the bound, and one beyond")
    evidence.saw(f"the one: within the bound; the other: beyond it in {_BEYOND} coordinates")
    compare(evidence, lambda: _round(venue, 0, evidence), lambda: _round(venue, _BEYOND, evidence))


def _change(beyond: int) -> NDArray[np.float32]:
    values = np.random.default_rng().uniform(-BOUND / 2, BOUND / 2, _SHAPE).astype(np.float32)
    values.flat[:beyond] = 2 * BOUND
    return values


def _round(venue: Venue, beyond: int, evidence: Evidence) -> Tape:
    tape = Tape()
    with Town(venue, _SITES) as town:
        watched, *others = town.people.sites
        changes = {site: _change(_ELSEWHERE if site == others[0] else 0) for site in others}
        changes[watched] = _change(beyond)
        job = town.start_job("sum", **_PLAN)
        own = _victims(town.victims, changes)
        town.client(watched, replace(own, connect=taped(own.connect, tape)))
        for site in others:
            town.client(site, own)
        town.ended(job)
        found = town.published(job)
        if found is None or watched not in found.manifest["included"]:
            if not beyond:
                raise NetworkError(
                    f"{watched} stayed out with an update within the bound: this proves nothing"
                )
            evidence.gained(f"that {watched} stays out where its update goes beyond the bound")
        else:
            town.until(lambda: tape.over, "the last word of the watched site")
            tape.judge(found.manifest, _SITES)
            clamped = found.manifest["saturated_coordinates"]
            evidence.saw(f"published: {clamped} clamped coordinates of {len(changes)} sites together")
            if clamped != beyond + _ELSEWHERE and not tape.disturbed:
                raise NetworkError(
                    f"{clamped} coordinates were clamped, not {beyond + _ELSEWHERE}: this proves nothing"
                )
    return tape


def _victims(victims: Victims, changes: Mapping[ClientId, NDArray[np.float32]]) -> Victims:
    """Sites that trained."""

    def contributor(site: ClientId, update: Path) -> Contributor:
        del update
        return _Trained(changes[site])

    return replace(victims, contributor=contributor)
