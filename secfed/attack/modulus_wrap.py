"""Modulus wrap: words too narrow for the sum, so that a wrong result is published in silence.

All vectors are near the bound, where even one bit too few is not enough for their sum.
"""

from __future__ import annotations

import numpy as np

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Report
from secfed.attack.loot import openable
from secfed.attack.venue import Venue
from secfed.encoding.fixedpoint import word_bits
from secfed.rounds.exchange import Answer
from secfed.secagg.messages import Phase

__all__ = ["run"]

_SITES = 6
"""The sum of the five honest vectors does not fit in one bit less than that of six."""


def run(venue: Venue, report: Report) -> None:
    """Words of one vector's width; then of one bit less than the sum's; in a round each."""
    with venue.arena(_SITES, near_bound=True) as arena:
        arena.begin(report)
        job = arena.job()
        right = word_bits(len(arena.people.sites), job.plan.bits)
        for number, name, bits in (
            (1, "words of one vector's width", job.plan.bits),
            (2, "words of one bit too few", right - 1),
        ):
            evidence, round_ = report.part(name), arena.round(job, number)
            arena.make_ready(job, round_)
            course = Course(arena, job, round_, word_bits=bits)
            heard = course.ask({member: course.request(member) for member in course.members})
            honest = {site: said for site, said in heard.items() if site in arena.honest}
            evidence.saw(told_of(f"a manifest with words of {bits} bits, where {right} hold the sum", honest))
            if not all(isinstance(said, Answer) for said in heard.values()):
                continue
            course.take(heard)
            course.play(Phase.DONE)
            for each in openable(course):
                wrong = int(np.count_nonzero(each.words != arena.words(each.honest)))
                if wrong:
                    evidence.gained(f"a sum of {len(each.honest)} vectors with {wrong} words that wrapped")
