"""Sybil or shrunken cohort: a victim among members that the adversary made up, or nearly alone.

Every member but one is the adversary's, so the sum would show that one's vector, and its shares
would all be dealt to the adversary.
"""

from __future__ import annotations

from secfed.attack.course import Course
from secfed.attack.finding import Report
from secfed.attack.impostors import play_alone
from secfed.attack.venue import Venue
from secfed.crypto.signing import SigningKey
from secfed.ids import ClientId
from secfed.secagg.params import Params

__all__ = ["run"]

_PAIR = Params(clients=2, corrupt=1, neighbours=1, threshold=1, quorum=2, floor=2, losses=0)
"""What two members could do with: no thresholds defend them."""

_STRANGERS = 4


def run(venue: Venue, report: Report) -> None:
    """Two members; then one among strangers, in a cohort of a real one's size."""
    with venue.arena() as arena:
        arena.begin(report)
        job = arena.job()
        target, accomplice = arena.honest[0], arena.corrupt[0]
        strangers = {ClientId(f"sybil-{index}"): SigningKey.generate() for index in range(_STRANGERS)}
        round_ = arena.round(job, 1)
        arena.make_ready(job, round_, [target])
        course = Course(arena, job, round_, cohort=(target, accomplice), params=_PAIR)
        evidence = report.part("a cohort of two")
        evidence.saw(f"a cohort of {target} and one accomplice")
        play_alone(evidence, course, arena.params)
        round_ = arena.round(job, 2)
        arena.make_ready(job, round_, [target])
        course = Course(arena, job, round_, cohort=tuple(sorted((target, *strangers))), invented=strangers)
        evidence = report.part("strangers from no roster")
        evidence.saw(f"a cohort of {target} and {_STRANGERS} sites that no roster has")
        play_alone(evidence, course, arena.params)
