"""Metadata that varies with the data: sizes and counts of messages are to tell what is in them.

The adversary reads everything about a client's messages but their content, in pairs of rounds that
differ in that client's data alone: once a vector of zeros that counts once, once one that reaches
the bound everywhere and counts as often as the plan allows. What one kind of round alone has, and
not by chance, is a gain: it tells the two apart.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from secfed.attack.clients import UPDATE_FILE
from secfed.attack.finding import Evidence, Report
from secfed.attack.tape import Tape, compare, taped
from secfed.attack.town import ARRAY, BOUND, LENGTH, Town
from secfed.attack.venue import Venue
from secfed.ids import ClientId
from secfed.rounds.vector import VectorContributor

__all__ = ["run"]

_CAP = 200


def run(venue: Venue, report: Report) -> None:
    """The same round, in pairs, with other data at one site."""
    evidence = report.part("zeros, and a vector at the bound")
    signs = np.random.default_rng().choice([-1.0, 1.0], LENGTH)
    evidence.saw(f"the one: zeros of weight 1; the other: at the bound everywhere, of weight {_CAP}")
    compare(
        evidence,
        lambda: _round(venue, np.zeros(LENGTH), 1, evidence),
        lambda: _round(venue, signs * BOUND / _CAP, _CAP, evidence),
    )


def _round(venue: Venue, values: NDArray[np.float64], weight: int, evidence: Evidence) -> Tape:
    tape = Tape()
    with Town(venue) as town:
        watched, *others = town.people.sites
        for site in others:
            town.vector(site)
        save_file({ARRAY: values}, town.people.home(watched) / UPDATE_FILE)
        job = town.start_job("sum", weights="declared", weight_cap=_CAP)

        def contributor(_site: ClientId, update: Path) -> VectorContributor:
            return VectorContributor(update, weight=weight)

        connect = taped(town.victims.connect, tape)
        town.client(watched, replace(town.victims, connect=connect, contributor=contributor))
        for site in others:
            town.client(site)
        town.ended(job)
        found = town.published(job)
        if found is None or watched not in found.manifest["included"]:
            evidence.gained("a round that does not take such a vector, which tells about it")
        else:
            town.until(lambda: tape.over, "the last word of the watched site")
            tape.judge(found.manifest, len(town.people.sites))
    return tape
