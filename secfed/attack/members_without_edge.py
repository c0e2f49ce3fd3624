"""Members shown in U1 without an edge: a crowd around the victim that shares no mask with it.

Its masks and its shares' holders are its neighbours alone. If others counted as well, a victim
whose only neighbour is the adversary's would feel safe among many, and be opened alone.
"""

from __future__ import annotations

from dataclasses import replace

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence, Finding
from secfed.attack.hostile import Received
from secfed.attack.loot import judge_sums, openable
from secfed.attack.venue import Venue
from secfed.ids import MemberIndex
from secfed.rounds.exchange import Answer
from secfed.secagg.messages import Bundles, Phase

__all__ = ["run"]


def run(venue: Venue) -> Finding:
    """One neighbour in E; then t in E and one more in U1; then members whose bundle does not list it."""
    evidence = Evidence()
    with venue.arena() as arena:
        arena.begin(evidence)
        job = arena.job()
        round_ = arena.round(job)
        accomplice = MemberIndex(len(arena.honest))
        few, enough = (accomplice,), (MemberIndex(1), MemberIndex(2), accomplice)
        for number, neighbours in enumerate((few, enough), 1):
            arena.make_ready(job, round_)
            course = Course(arena, job, round_, attempt=number)
            course.play(Phase.SHARE)
            _crowd(evidence, course, neighbours)
            if evidence.gains:
                return evidence.finding
        arena.make_ready(job, round_)
        course = Course(arena, job, round_, attempt=3)
        course.play(Phase.MASK)
        victim, stranger, *_ = course.victims
        unlisted = tuple(
            replace(item, own=None) if item.sender == stranger else item
            for item in course.bundles_for(victim, course.members).bundles
        )
        heard = course.ask({victim: Bundles(unlisted)})
        evidence.saw(
            told_of(f"a share set with a bundle of {course.site(stranger)} that lists it not", heard)
        )
        judge_sums(evidence, course, openable(course), course.params)
    return evidence.finding


def _crowd(evidence: Evidence, course: Course, neighbours: tuple[MemberIndex, ...]) -> None:
    """Let the first member agree on keys with these alone, and show it everybody's bundle."""
    victim, *others = course.victims
    heard = course.ask({victim: course.lists_for(victim, neighbours)})
    evidence.saw(told_of(f"ciphertexts of {len(neighbours)} of the others alone", heard))
    if not isinstance(heard[course.site(victim)], Answer):
        judge_sums(evidence, course, openable(course), course.params)
        return
    course.ask({member: course.lists_for(member, course.members) for member in (*others, *course.played)})
    heard = course.ask({victim: course.bundles_for(victim, course.members)})
    evidence.saw(told_of("a share set of all members", heard))
    if isinstance(heard[course.site(victim)], Received):
        course.shown[victim] = frozenset(neighbours)  # with whom it really masks
        for member, accomplice in course.played.items():
            accomplice.reply(course.bundles_for(member, course.members))
    dealt_to = min(course.params.threshold, len(neighbours))
    judge_sums(evidence, course, openable(course, threshold=dealt_to), course.params)
