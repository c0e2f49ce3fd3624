"""Difference of two sums: the same vectors summed twice, once without one member.

The rule that is attacked guards sums that the same clients see; what it cannot guard, pairs of
sums over different clients, only differential privacy answers, and the threat model says so.
"""

from __future__ import annotations

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Report
from secfed.attack.loot import judge, judge_difference, openable
from secfed.attack.venue import Venue
from secfed.rounds.exchange import Answer, Ask
from secfed.secagg.messages import ConfirmRequest, Phase

__all__ = ["run"]


def run(venue: Venue, report: Report) -> None:
    """Two jobs, one after the other; the second leaves the first site out."""
    evidence = report.part("the same vectors without one")
    with venue.arena() as arena:
        arena.begin(report)
        first, second = (
            (job, arena.round(job)) for job in (arena.job("sum-of-all"), arena.job("sum-without-one"))
        )
        arena.make_ready(*first)
        whole = Course(arena, *first)
        whole.play(Phase.DONE)
        larger = judge(evidence, whole)
        arena.hostile.tell_all(dict.fromkeys(arena.honest, Ask(whole.h, whole.outcome())))
        arena.make_ready(*second, arena.honest[1:])
        course = Course(arena, *second, cohort=arena.people.sites[1:])
        course.play(Phase.CONFIRM)
        heard = course.ask(dict.fromkeys(course.members, ConfirmRequest(course.members)))
        evidence.saw(told_of(f"confirm of the same vectors without {arena.honest[0]}", heard))
        if all(isinstance(said, Answer) for said in heard.values()):
            course.take(heard)
            course.play(Phase.DONE)
        smaller = [each for each in openable(course) if each.true]
        evidence.saw(f"opened without {arena.honest[0]}: {'a sum' if smaller else 'nothing'}")
        judge_difference(evidence, course, larger, smaller, arena.people.roster.min_cohort)
