"""Fewer survivors than the noise was sized for: each would have added too small a share of it.

Noise shares are not built, so there is nothing to attack yet, and the row says NOT BUILT. What it
shows is that nobody can be talked into a job that needs them: an honest site declines a plan of
that kind, whoever signed it, and gives nothing to it.
"""

from __future__ import annotations

from secfed.attack.course import told_of
from secfed.attack.finding import Report
from secfed.attack.people import ADMIN
from secfed.attack.venue import Venue
from secfed.rounds.exchange import Declined, Offer
from secfed.rounds.plan import JobPlan, NoiseShares
from secfed.rounds.proposal import sign_job_plan

__all__ = ["run"]

_SITES = 5


def run(venue: Venue, report: Report) -> None:
    """Offer a job whose noise is sized for more survivors than an attempt needs."""
    shares = NoiseShares(sigma_total="4", scale="1", honest_min=3)
    with venue.arena(_SITES) as arena:
        modes = dict(zip(arena.honest, ("distributed", "client"), strict=False))
        arena.start(*modes)
        for site, mode in modes.items():
            changes = {"job": f"noise-{mode}", "mode": mode, "noise_shares": shares, "survivors_min": _SITES}
            plan = JobPlan(**(dict(arena.job().plan) | changes))
            job = sign_job_plan(arena.people.keys[ADMIN].signing, plan)
            said = arena.hostile.tell(site, Offer(job.text, arena.round(job).text))
            evidence = report.part(f"a job of mode {mode}")
            evidence.saw(told_of(f"a plan of mode {mode}, for {_SITES} survivors at least", {site: said}))
            if not isinstance(said, Declined):
                evidence.gained(f"a site that takes part in a job of mode {mode}, and makes no noise share")
