"""Members shown in U1 without an edge: a crowd around the victim that shares no mask with it.

Its masks and its shares' holders are its neighbours alone. If others counted as well, a victim
whose only neighbour is the adversary's would feel safe among many, and be opened alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from secfed.attack.course import Course, accepted, told_of
from secfed.attack.finding import Evidence, Report
from secfed.attack.loot import judge_accepted, judge_sums, openable
from secfed.attack.venue import Venue
from secfed.ids import MemberIndex
from secfed.secagg.messages import Bundles, ConfirmRequest, Phase

__all__ = ["run"]


def run(venue: Venue, report: Report) -> None:
    """One neighbour in E; then t in E and one more in U1; then members whose bundles do not list it."""
    with venue.arena() as arena:
        arena.begin(report)
        job = arena.job()
        accomplice = MemberIndex(len(arena.honest))
        few, enough = (accomplice,), (MemberIndex(1), MemberIndex(2), accomplice)
        parts: tuple[tuple[str, Callable[[Evidence, Course], None]], ...] = (
            ("one neighbour in E", partial(_crowd, neighbours=few)),
            ("a member of U1 that is not in E", partial(_crowd, neighbours=enough)),
            ("bundles that do not list the victim", _unlisted),
        )
        for number, (name, play) in enumerate(parts, 1):
            round_ = arena.round(job, number)
            arena.make_ready(job, round_)
            play(report.part(name), Course(arena, job, round_))


def _crowd(evidence: Evidence, course: Course, neighbours: tuple[MemberIndex, ...]) -> None:
    """Let the first member agree on keys with these alone, and show it everybody's bundle."""
    course.play(Phase.SHARE)
    victim, *others = course.victims
    heard = course.ask({victim: course.lists_for(victim, neighbours)})
    evidence.saw(told_of(f"ciphertexts of {len(neighbours)} of the others alone", heard))
    if not accepted(heard):
        judge_sums(evidence, course, openable(course), course.params)
        return
    course.ask({member: course.lists_for(member, course.members) for member in (*others, *course.played)})
    heard = course.ask({victim: course.bundles_for(victim, course.members)})
    evidence.saw(told_of("a share set of all members", heard))
    judge_accepted(evidence, heard, "a share set with members that it shares no mask with")
    if accepted(heard):
        course.shown[victim] = frozenset(neighbours)  # with whom it really masks
        for member, accomplice in course.played.items():
            accomplice.reply(course.bundles_for(member, course.members))
    dealt_to = min(course.params.threshold, len(neighbours))
    judge_sums(evidence, course, openable(course, threshold=dealt_to), course.params)


def _unlisted(evidence: Evidence, course: Course) -> None:
    """Give the first member none of what the honest others dealt to it; then let the attempt end."""
    course.play(Phase.MASK)
    victim, *others = course.victims
    bundles = course.bundles_for(victim, course.members).bundles
    unlisted = Bundles(tuple(replace(item, own=None) if item.sender in others else item for item in bundles))
    heard = course.ask({victim: unlisted})
    evidence.saw(told_of(f"a share set with {len(others)} bundles that do not list it", heard))
    if accepted(heard):
        course.shown[victim] = frozenset(course.played)  # whose items it has to mask by
        everybody = course.members
        course.ask(
            {member: course.bundles_for(member, everybody) for member in everybody if member != victim}
        )
        heard = course.ask(dict.fromkeys(everybody, ConfirmRequest(everybody)))
        evidence.saw(told_of("confirm of all members", heard))
        evidence.saw(told_of("shares for them", course.unmask(everybody, everybody)))
    judge_sums(evidence, course, openable(course), course.params)
