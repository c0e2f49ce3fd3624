"""Double unmask: one member reported alive to some and lost to others, or both to one.

All members sign one survivor set. Then the adversary asks one of them for shares under it, and
the others under a set without the first member (split lists); or all of them for both
(overlapping lists). Shares of both kinds would open both of that member's secrets.
"""

from __future__ import annotations

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence, Report
from secfed.attack.loot import judge
from secfed.attack.venue import Venue
from secfed.ids import MemberIndex
from secfed.secagg.messages import Phase, UnmaskRequest

__all__ = ["run"]


def run(venue: Venue, report: Report) -> None:
    """Both lists over one certificate, in a round each."""
    with venue.arena() as arena:
        arena.begin(report)
        job = arena.job()
        for number, name in enumerate(("split lists", "overlapping lists"), 1):
            round_ = arena.round(job, number)
            arena.make_ready(job, round_)
            course = Course(arena, job, round_)
            course.play(Phase.UNMASK)
            others = course.victims[1:]
            if name == "split lists":
                _ask(report.part(name), course, others[:1], others[1:])
            else:
                _ask(report.part(name), course, others, others)


def _ask(
    evidence: Evidence, course: Course, alive: tuple[MemberIndex, ...], lost: tuple[MemberIndex, ...]
) -> None:
    """Ask some for shares with all members alive, and some with the first one lost."""
    signatures = tuple(sorted(course.signatures[next(iter(course.signatures))].items()))
    target = course.victims[0]
    without = tuple(member for member in course.members if member != target)
    for what, survivors, asked in (
        ("shares, all members alive", course.members, alive),
        (f"shares, {course.site(target)} lost", without, lost),
    ):
        request = UnmaskRequest(survivors, signatures)
        evidence.saw(told_of(what, course.ask(dict.fromkeys(asked, request))))
    fewest = min(len(alive), len(lost)) + len(course.played)
    judge(evidence, course, threshold=min(fewest, course.params.threshold))
