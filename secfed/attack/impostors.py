"""An attempt in which the adversary plays everybody whom its one victim hears of, to open its vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from secfed.attack.course import Course, accepted, told_of
from secfed.attack.finding import Evidence
from secfed.attack.loot import judge_sums, openable
from secfed.ids import MemberIndex
from secfed.secagg.messages import Listed, Phase
from secfed.secagg.params import Params

__all__ = ["close_in", "play_alone"]

_ALL = (Phase.ADVERTISE, Phase.ENCAPSULATE, Phase.SHARE, Phase.MASK)


def play_alone(evidence: Evidence, course: Course, promised: Params, phases: Sequence[Phase] = _ALL) -> None:
    """Play on as long as the victim does; then open what there is.

    Args:
        promised: Thresholds that the promise is about.
        phases: Those that are left.
    """
    for phase in phases:
        heard = course.ask(course.relayed(phase))
        victim = {course.site(member): heard[course.site(member)] for member in course.victims}
        evidence.saw(told_of(f"{phase.value}, all others played by the adversary", victim))
        if not accepted(victim):
            break
    judge_sums(evidence, course, openable(course), promised)


def close_in(
    evidence: Evidence,
    course: Course,
    victim: MemberIndex,
    own: Sequence[MemberIndex],
    listed: Listed = (),
) -> None:
    """Go on with one member, which took their adverts, as if the adversary's own were all its neighbours.

    Args:
        own: Seats beside whomever they are told of.
        listed: What stands beside each list on a ring.
    """
    course.ask({member: course.adverts_from((victim,)) for member in own})
    heard = course.ask({victim: replace(course.lists_for(victim, own), listed=listed)})
    evidence.saw(told_of("ciphertexts of the adversary's own members alone", heard))
    if not accepted(heard):
        return
    course.ask({member: course.lists_for(member, (victim,)) for member in own})
    heard = course.ask({victim: replace(course.bundles_for(victim, own), listed=listed)})
    evidence.saw(told_of("a share set of these alone", heard))
    for member in own:
        course.played[member].reply(course.bundles_for(member, (victim,)))  # so it has what was dealt to it
