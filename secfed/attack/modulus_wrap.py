"""Modulus wrap: words too narrow for the sum, so that a wrong result is published in silence."""

from __future__ import annotations

import numpy as np

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence, Finding
from secfed.attack.loot import openable
from secfed.attack.venue import Venue
from secfed.encoding.fixedpoint import word_bits
from secfed.rounds.exchange import Answer
from secfed.secagg.messages import Phase

__all__ = ["run"]


def run(venue: Venue) -> Finding:
    """Words of one vector's width; then of one bit less than the sum's."""
    evidence = Evidence()
    with venue.arena() as arena:
        arena.begin(evidence)
        job = arena.job()
        round_ = arena.round(job)
        right = word_bits(len(arena.people.sites), job.plan.bits)
        for number, bits in enumerate((job.plan.bits, right - 1), 1):
            arena.make_ready(job, round_)
            course = Course(arena, job, round_, attempt=number, word_bits=bits)
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
    return evidence.finding
