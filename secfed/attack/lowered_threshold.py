"""Lowered threshold or A: a manifest that tolerates fewer corrupt members than there are.

No message carries a threshold: every client computes t and q from the cohort and the roster's A.
So the adversary, which plays two of five sites, names a smaller A. With A = 0, three shares
would open a secret and three signatures certify a set, and two honest parts of the cohort could
each be given a set of its own.
"""

from __future__ import annotations

from dataclasses import replace

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence, Report
from secfed.attack.loot import judge
from secfed.attack.venue import Venue
from secfed.rounds.exchange import Answer
from secfed.secagg.messages import ConfirmRequest, Phase
from secfed.secagg.params import Params

__all__ = ["run"]


def run(venue: Venue, report: Report) -> None:
    """A = 1, then A = 0, where the roster says 2; in a round each."""
    with venue.arena(corrupt=2) as arena:
        arena.begin(report)
        job = arena.job()
        for number, corrupt in enumerate((1, 0), 1):
            evidence = report.part(f"A of {corrupt}")
            round_ = arena.round(job, number)
            arena.make_ready(job, round_)
            course = Course(arena, job, round_, corrupt=corrupt, params=_params(arena.params, corrupt))
            heard = course.ask({member: course.request(member) for member in course.members})
            honest = {site: said for site, said in heard.items() if site in arena.honest}
            evidence.saw(told_of(f"a manifest with A = {corrupt}", honest))
            if all(isinstance(said, Answer) for said in heard.values()):
                course.take(heard)
                _split(evidence, course)
            judge(evidence, course, promised=arena.params)


def _params(real: Params, corrupt: int) -> Params:
    """The thresholds that follow from another A."""
    threshold = (real.neighbours + corrupt) // 2 + 1
    quorum = (real.clients + corrupt) // 2 + 1
    floor = max(threshold + 1, quorum)
    return replace(
        real,
        corrupt=corrupt,
        threshold=threshold,
        quorum=quorum,
        floor=floor,
        losses=real.clients - floor,
    )


def _split(evidence: Evidence, course: Course) -> None:
    """One set with the first member for itself and a second, one without it for the third."""
    course.play(Phase.CONFIRM)
    first, second, third = course.victims
    with_first = tuple(member for member in course.members if member != third)
    without = tuple(member for member in course.members if member != first)
    for survivors, asked in ((with_first, (first, second)), (without, (third,))):
        heard = course.ask({member: ConfirmRequest(survivors) for member in (*asked, *course.played)})
        evidence.saw(told_of("confirm of one set", heard))
    for survivors, asked in ((with_first, (first, second)), (without, (third,))):
        evidence.saw(told_of("shares for it", course.unmask(survivors, asked)))
