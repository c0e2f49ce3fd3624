"""A second attempt beside a live first one: two sums over the same vectors, of which one lacks a member.

The first attempt is brought to the point where only shares are missing. Then a second one is
opened with the same members and brought there as well, without the first member; now the shares
of both are asked for.
"""

from __future__ import annotations

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Report
from secfed.attack.loot import judge, judge_difference, judge_round
from secfed.attack.venue import Venue
from secfed.secagg.messages import Phase

__all__ = ["run"]


def run(venue: Venue, report: Report) -> None:
    """Two attempts of one round at once."""
    evidence = report.part("two attempts at once")
    with venue.arena() as arena:
        job, round_ = arena.open_round(report)
        first = Course(arena, job, round_, attempt=1)
        first.play(Phase.UNMASK)
        second = Course(arena, job, round_, attempt=2)
        second.play(Phase.MASK)
        target = second.victims[0]
        second.session.drop(target, "left out by the adversary")
        second.play(Phase.UNMASK)
        evidence.saw(
            f"two attempts wait for shares, the second without {second.site(target)}: "
            "every member opened it and sent its vector again"
        )
        opened = []
        for name, course in (("first", first), ("second", second)):
            survivors = course.session.survivors
            heard = course.unmask(survivors, survivors)
            evidence.saw(told_of(f"shares for the {name} attempt", heard))
            opened.append(judge(evidence, course))
        judge_round(evidence, opened)
        judge_difference(evidence, first, opened[0], opened[1], arena.promised(first.params))
