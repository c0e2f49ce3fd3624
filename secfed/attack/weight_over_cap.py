"""Weight over its cap: one vector is to count for more than a plan lets it.

A corrupt client puts a weight beyond the plan's cap into its masked vector, where nobody sees it
alone, and would so decide the published mean. A corrupt admin, with the aggregator's help, plans
a cap that the grid cannot carry, so that an honest weight would wrap. And an honest site's own
operator gives it a weight beyond the cap.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from safetensors.numpy import save_file

from secfed.attack.clients import UPDATE_FILE, Victims
from secfed.attack.course import told_of
from secfed.attack.finding import Evidence, Report
from secfed.attack.people import ADMIN, AGGREGATOR
from secfed.attack.town import ARRAY, BITS, Town
from secfed.attack.venue import Venue
from secfed.crypto.labels import Label
from secfed.errors import NetworkError
from secfed.identity import signed
from secfed.ids import NO_DIGEST, ClientId, Digest, JobId, RoundId
from secfed.rounds.admission import Site
from secfed.rounds.contribution import Contribution, ContributionStore, Encoded
from secfed.rounds.exchange import JobState, Offer, Ready
from secfed.rounds.plan import JobPlan, RoundPlan, job_plan_digest
from secfed.rounds.proposal import sign_job_plan, sign_round_plan
from secfed.rounds.vector import VectorContributor

__all__ = ["run"]

_CAP = 10
_OVER = (1 << BITS) - 1
"""The most that a word of the grid carries."""

_WEIGHT = re.compile(r"the sum's weight ([0-9]+) is not between")
"""How a round ends whose sum weighs too much."""

_IN_THE_SUM = "the sum could not be opened"
"""What becomes of every member of the cohort of such a round."""


def run(venue: Venue, report: Report) -> None:
    """A client's weight, an honest site's own, and an admin's cap."""
    with Town(venue, sites=4) as town:
        _claim(town, report.part("a corrupt site's weight"), report.part("an honest site's weight"))
    _plan_beyond_the_grid(venue, report.part("a cap beyond the grid"))


# -- weights -----------------------------------------------------------------------------------


class _Heavy(ContributionStore):
    """Keeps a contribution with the weight of thousands."""

    def save(self, round_id: RoundId, round_plan: Digest, encoded: Encoded) -> Contribution:
        """The same vector under another weight."""
        words = encoded.words.copy()
        words[0] = _OVER
        return super().save(round_id, round_plan, replace(encoded, words=words))


def _claim(town: Town, evidence: Evidence, own: Evidence) -> None:
    """Three sites make the cohort, one of them corrupt; the fourth was given too much weight."""
    *honest, corrupt, misled = town.people.sites
    vectors = {site: town.vector(site) for site in town.people.sites}
    small = vectors[misled] / (2 * _CAP)  # within the bound when it is weighted
    save_file({ARRAY: small}, town.people.home(misled) / UPDATE_FILE)
    job = town.start_job("sum", weights="declared", weight_cap=_CAP)
    folder = town.people.home(corrupt) / "heavy"

    def heavy(site: Site) -> Site:
        return replace(site, contributions=_Heavy(folder, os.urandom(32)))

    def overweight(_site: ClientId, update: Path) -> VectorContributor:
        return VectorContributor(update, weight=_CAP + 1)

    town.client(misled, replace(town.victims, contributor=overweight))
    town.until(lambda: _answered(town, misled), f"an answer of {misled} to the offer")
    for site in honest:
        town.client(site)
    town.client(corrupt, Victims(site=heavy))
    state = town.ended(job)
    found = town.published(job)
    if found is None:
        evidence.saw(f"{corrupt} claims the weight {_OVER}, of {_CAP} at most: {_abort(state, corrupt)}")
    elif corrupt in found.manifest["included"] and found.manifest["weight_sum"] >= _OVER:
        evidence.saw(f"{corrupt} claims the weight {_OVER}, of {_CAP} at most: the mean is published")
        evidence.gained(
            f"a published mean over {found.manifest['included']} in which its own weight is {_OVER} of "
            f"{found.manifest['weight_sum']}"
        )
    else:
        raise NetworkError(f"a sum was published without the weight of {corrupt}: this proves nothing")
    for ended in state.history:
        if misled in ended.included:
            own.saw(f"{misled}, which its operator gave the weight {_CAP + 1}, is in the sum")
            own.gained(f"the weight {_CAP + 1} of an honest site in a published sum")
            continue
        why = dict(ended.dropped).get(misled, "it was not asked")
        own.saw(f"{misled}, which its operator gave the weight {_CAP + 1}, is not in the sum: {why}")


def _answered(town: Town, site: ClientId) -> bool:
    """Whether it is ready for the round, or has declined it."""
    return any(
        member.site == site and member.state in ("ready", "declined")
        for member in town.job_state(JobId("sum")).members
    )


def _abort(state: JobState, corrupt: ClientId) -> str:
    """Why nothing was published.

    Raises:
        NetworkError: It was not the weight, or the corrupt site's vector was not in the sum.
    """
    for ended in state.history:
        weight = _WEIGHT.search(ended.state)
        if weight and int(weight[1]) >= _OVER and dict(ended.dropped).get(corrupt) == _IN_THE_SUM:
            return f"nothing is published: {ended.state}"
    how = state.history[0].state if state.history else state.waiting_for
    raise NetworkError(
        f"no round was ended by the weight of {corrupt} ({how}), so this attack came to no end",
        hint="Is this machine very busy? Try again.",
    )


# -- caps --------------------------------------------------------------------------------------


def _plan_beyond_the_grid(venue: Venue, evidence: Evidence) -> None:
    """A plan that no honest program writes, signed by a corrupt admin, its round by the aggregator."""
    with venue.arena(sites=3) as arena:
        site = arena.honest[0]
        arena.start(site)
        keys = arena.people.keys
        allowed = JobPlan(**(dict(arena.job().plan) | {"weights": "declared", "weight_cap": _OVER}))
        honest = sign_job_plan(keys[ADMIN].signing, allowed)
        text = signed.unverified_text(honest.text, what="the plan")
        forged = text.replace(str(_OVER).encode(), str(_OVER + 1).encode())
        plan = RoundPlan(
            job=honest.job,
            job_plan=job_plan_digest(forged).hex(),
            round=1,
            base=NO_DIGEST.hex(),
            deadlines=honest.plan.deadlines,
        )
        round_ = sign_round_plan(keys[AGGREGATOR].signing, plan)
        offer = Offer(signed.sign_text(keys[ADMIN].signing, Label.SIGN_JOB_PLAN, forged), round_.text)
        said = arena.hostile.tell(site, offer)
        words = f"a cap of {_OVER + 1} on a grid of {BITS} bits"
        evidence.saw(told_of(f"a plan with {words}", {site: said}))
        if isinstance(said, Ready):
            evidence.gained(f"a site that is ready for a job with {words}")
