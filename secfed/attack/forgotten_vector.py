"""A vector sent, forgotten in a crash and sent again: two sums of one round with the same vector in both.

A site's masked vector leaves in a first attempt; then its process is killed. Restarted, it is
invited to a second attempt with members that were not in the first, while those of the first
still hold the shares of its self mask, and finish without it.
"""

from __future__ import annotations

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence, Report
from secfed.attack.hostile import Received
from secfed.attack.loot import Opened, judge, judge_round
from secfed.attack.venue import Venue
from secfed.rounds.exchange import Answer
from secfed.secagg.messages import ConfirmRequest, Phase

__all__ = ["run"]


def run(venue: Venue, report: Report) -> None:
    """Seven sites: the first attempt with the victim and three others, the second with it and the rest."""
    evidence = report.part("two attempts with one vector")
    with venue.arena(7) as arena:
        job, round_ = arena.open_round(report)
        target, *others = arena.honest
        first = Course(arena, job, round_, attempt=1, cohort=(target, *others[:3], *arena.corrupt))
        first.play(Phase.CONFIRM)
        evidence.saw(f"the vector of {target} left in attempt 1, with {', '.join(others[:3])}")
        arena.kill(target)
        arena.start(target)
        evidence.saw(f"{target} was killed and started again")
        arena.make_ready(job, round_, [target])
        second = Course(arena, job, round_, attempt=2, cohort=(target, *others[3:]))
        opened = [_finish(evidence, second, "attempt 2"), _without(evidence, first)]
        judge_round(evidence, opened)


def _finish(evidence: Evidence, course: Course, name: str) -> list[Opened]:
    """Play the second attempt for as long as the members do."""
    while course.session.phase is not Phase.DONE:
        phase = course.session.phase.value
        heard = course.ask({member: course.request(member) for member in course.members})
        evidence.saw(told_of(f"{phase} of {name}", heard))
        if not all(isinstance(said, Answer | Received) for said in heard.values()):
            break
        course.take(heard)
    return judge(evidence, course)


def _without(evidence: Evidence, course: Course) -> list[Opened]:
    """Finish the first attempt with all members but the first, whose vector is in it."""
    survivors = course.session.survivors
    present = survivors[1:]
    evidence.saw(
        told_of("confirm of attempt 1", course.ask(dict.fromkeys(present, ConfirmRequest(survivors))))
    )
    evidence.saw(told_of("shares for attempt 1", course.unmask(survivors, present)))
    return judge(evidence, course)
