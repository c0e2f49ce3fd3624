"""An attempt in which the adversary plays everybody but its one victim, and so would open its vector."""

from __future__ import annotations

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence
from secfed.attack.hostile import Received
from secfed.attack.loot import judge_sums, openable
from secfed.rounds.exchange import Answer
from secfed.secagg.messages import Phase
from secfed.secagg.params import Params

__all__ = ["play_alone"]


def play_alone(evidence: Evidence, course: Course, promised: Params) -> None:
    """Play on as long as the victim does; then open what there is.

    Args:
        promised: Thresholds that the promise is about.
    """
    for phase in (Phase.ADVERTISE, Phase.ENCAPSULATE, Phase.SHARE, Phase.MASK):
        heard = course.ask({member: course.request(member) for member in course.members})
        victim = {course.site(member): heard[course.site(member)] for member in course.victims}
        evidence.saw(told_of(f"{phase.value}, all others played by the adversary", victim))
        if not all(isinstance(said, Answer | Received) for said in victim.values()):
            break
        course.take(heard)
    judge_sums(evidence, course, openable(course), promised)
