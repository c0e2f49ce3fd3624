"""Double unmask: one member reported alive to some and lost to others, or both to one.

All members sign one survivor set. Then the adversary asks one part of them for shares under it,
another part under a set without the first member, and at last the first part under that set too.
"""

from __future__ import annotations

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence, Finding
from secfed.attack.loot import judge
from secfed.attack.venue import Venue
from secfed.secagg.messages import Phase, UnmaskRequest

__all__ = ["run"]


def run(venue: Venue) -> Finding:
    """Both lists over one certificate."""
    evidence = Evidence()
    with venue.arena() as arena:
        job, round_ = arena.open_round(evidence)
        course = Course(arena, job, round_)
        course.play(Phase.UNMASK)
        signatures = tuple(sorted(course.signatures[next(iter(course.signatures))].items()))
        target, *others = course.victims
        asked, split = others[:1], others[1:]
        whole = UnmaskRequest(course.members, signatures)
        without = UnmaskRequest(tuple(member for member in course.members if member != target), signatures)
        for what, request, members in (
            ("shares, all members alive", whole, asked),
            (f"shares, {course.site(target)} lost (split lists)", without, split),
            (f"shares, {course.site(target)} lost, from who gave some (overlapping)", without, asked),
            ("shares, all members alive, from who was asked for others", whole, split),
        ):
            evidence.saw(told_of(what, course.ask(dict.fromkeys(members, request))))
        judge(evidence, course)
    return evidence.finding
