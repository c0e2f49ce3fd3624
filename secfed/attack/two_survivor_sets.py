"""Two certified survivor sets: who stands in one and not in the other has both secrets opened.

The adversary splits the honest members and asks each half to sign a set of its own, which its
accomplices sign as well: one signature short of a quorum. So it asks one member of each half for
the other set too. With both certified, the second member of the first half and the other half
would open the first member's self mask and its recovery key.

Source: Bonawitz et al. 2017, section 6.2 (consistency check), doi:10.1145/3133956.3133982.
"""

from __future__ import annotations

from secfed.attack.arena import Arena
from secfed.attack.course import Course, told_of
from secfed.attack.finding import Report
from secfed.attack.loot import judge
from secfed.attack.venue import Venue
from secfed.ids import MemberIndex
from secfed.secagg.messages import ConfirmRequest, Phase

__all__ = ["attack", "run"]


def run(venue: Venue, report: Report) -> None:
    """At n = 5, where one accomplice is tolerated."""
    with venue.arena(5) as arena:
        attack(arena, report)


def attack(arena: Arena, report: Report) -> None:
    """At any n."""
    evidence = report.part("a set for each half")
    job, round_ = arena.open_round(report)
    course = Course(arena, job, round_)
    course.play(Phase.CONFIRM)
    half = len(course.victims) // 2
    one, other = course.victims[:half], course.victims[half:]
    with_first = tuple(member for member in course.members if member != other[-1])
    without = tuple(member for member in course.members if member != one[0])
    for what, survivors, asked in (
        ("one half and the accomplices", with_first, (*one, *course.played)),
        ("the other half and the accomplices", without, (*other, *course.played)),
        ("one of the other half, again", with_first, other[:1]),
        ("one of the first half, again", without, one[1:2]),
    ):
        heard = course.ask(dict.fromkeys(asked, ConfirmRequest(survivors)))
        evidence.saw(told_of(f"confirm of {_named(course, survivors)}, {what}", heard))
    for survivors, asked in ((with_first, (*one, *other[:1])), (without, (*other, *one[1:2]))):
        heard = course.unmask(survivors, asked)
        evidence.saw(told_of(f"shares for {_named(course, survivors)}", heard))
    judge(evidence, course)


def _named(course: Course, survivors: tuple[MemberIndex, ...]) -> str:
    (gone,) = (course.site(member) for member in course.members if member not in survivors)
    return f"all but {gone}"
