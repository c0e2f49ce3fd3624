"""A share set shown differently to different clients: members that mask with others than they believe.

Two members are each shown a share set without the other. The adversary asks all for their
signature on the whole cohort, and, in a second attempt, on the members that all were shown.
Were shown sets not compared, a quorum would certify a sum in which masks do not cancel.
"""

from __future__ import annotations

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence, Report
from secfed.attack.loot import judge
from secfed.attack.venue import Venue
from secfed.ids import Digest, MemberIndex
from secfed.secagg.messages import ConfirmRequest, Phase

__all__ = ["run"]


def run(venue: Venue, report: Report) -> None:
    """Under the whole cohort; then under the members that everybody saw; in a round each."""
    with venue.arena() as arena:
        arena.begin(report)
        job = arena.job()
        for number, name, everybody in (
            (1, "two members hidden from each other", True),
            (2, "one member hidden from another", False),
        ):
            evidence, round_ = report.part(name), arena.round(job, number)
            arena.make_ready(job, round_)
            course = Course(arena, job, round_)
            course.play(Phase.MASK)
            _split(evidence, course, everybody=everybody)
            judge(evidence, course)
            _judge_views(evidence, course)


def _split(evidence: Evidence, course: Course, *, everybody: bool) -> None:
    one, other = course.victims[0], course.victims[-1]
    hidden = {one: other, other: one} if everybody else {one: other}
    shown = {
        member: course.bundles_for(member, [each for each in course.members if each != hidden.get(member)])
        for member in course.members
    }
    names = " and ".join(f"{course.site(gone)} from {course.site(member)}" for member, gone in hidden.items())
    evidence.saw(told_of(f"share sets that hide {names}", course.ask(shown)))
    survivors = course.members if everybody else tuple(each for each in course.members if each != other)
    heard = course.ask(dict.fromkeys(survivors, ConfirmRequest(survivors)))
    evidence.saw(told_of(f"confirm of {len(survivors)} members", heard))
    for transcript in _transcripts(course, survivors):
        for member, accomplice in course.played.items():
            signed = accomplice.certify(transcript, survivors).signature
            course.signatures[transcript, survivors][member] = signed
        holders = [member for member, view in _views(course, survivors).items() if view == transcript]
        heard = course.unmask(survivors, holders, transcript)
        evidence.saw(told_of("shares, with the signatures under one view", heard))


def _transcripts(course: Course, survivors: tuple[MemberIndex, ...]) -> list[Digest]:
    return [transcript for transcript, signed in course.signatures if signed == survivors]


def _views(course: Course, survivors: tuple[MemberIndex, ...]) -> dict[MemberIndex, Digest]:
    """What each signer said it had seen."""
    return {
        member: transcript
        for (transcript, signed), signatures in course.signatures.items()
        if signed == survivors
        for member in signatures
    }


def _judge_views(evidence: Evidence, course: Course) -> None:
    """A quorum under one transcript whose honest members were shown different sets."""
    for (_, survivors), signatures in course.signatures.items():
        signers = signatures.keys() & set(survivors)
        views = {course.shown[member] | {member} for member in signers - course.played.keys()}
        if len(signers) >= course.params.quorum and len(views) > 1:
            evidence.gained(
                f"a certified survivor set whose {len(signers)} signers saw {len(views)} different share sets"
            )
