"""Repeated ids: one accomplice counted again and again.

Its advert stands in the list of peers as often as a threshold asks for, so that a member would
believe that it has neighbours, and be alone with it. It stands twice among the survivors, so that
one honest member fewer would be enough for the floor. And its one signature is shown as often as a
quorum needs: then every honest member could be given a survivor set of its own, two of them
without the second member and two without the third, and the other two would stand alone.
"""

from __future__ import annotations

from typing import cast

from secfed.attack.arena import Arena
from secfed.attack.course import Course, accepted, told_of
from secfed.attack.finding import Evidence, Report
from secfed.attack.impostors import close_in
from secfed.attack.loot import judge, judge_sums, openable
from secfed.attack.venue import Venue
from secfed.ids import Digest, MemberIndex
from secfed.rounds.proposal import JobProposal
from secfed.secagg.messages import Adverts, Confirm, ConfirmRequest, Phase, S, UnmaskRequest
from secfed.wire.codec import ProtoCodec
from secfed.wire.pb import statements_pb2

__all__ = ["run"]


_FLOOR = 5
"""Fewest survivors that a member of that roster signs for."""


class _Lenient(ProtoCodec):
    """Reads what an honest party would refuse: a victim's word on members that are not in order."""

    def decode(self, kind: type[S], data: bytes) -> S:
        if kind is not Confirm:
            return super().decode(kind, data)
        message = statements_pb2.Confirm.FromString(data)
        survivors = tuple(map(MemberIndex, message.survivors))
        return cast(S, Confirm(Digest(message.transcript), survivors))


def run(venue: Venue, report: Report) -> None:
    """In the lists of adverts and signatures; then in that of survivors, where the roster wants all five."""
    with venue.arena() as arena:
        arena.begin(report)
        job = arena.job()
        _adverts(report.part("an advert again and again"), _course(arena, job, 1))
        _a_set_each(report.part("a signature again and again"), _course(arena, job, 2))
    with venue.arena(min_cohort=_FLOOR) as arena:
        arena.start()
        _survivors(report.part("a survivor twice"), _course(arena, arena.job(), 1))


def _course(arena: Arena, job: JobProposal, number: int) -> Course:
    round_ = arena.round(job, number)
    arena.make_ready(job, round_)
    return Course(arena, job, round_, codec=_Lenient())


def _adverts(evidence: Evidence, course: Course) -> None:
    """Show one member the accomplice's advert, as many times as it needs neighbours, and no other."""
    course.play(Phase.ENCAPSULATE)
    victim, (accomplice,) = course.victims[0], course.played
    times = course.params.threshold
    adverts = Adverts(((accomplice, course.adverts[accomplice]),) * times)
    heard = course.ask({victim: adverts})
    evidence.saw(told_of(f"adverts: the accomplice's, {times} times", heard))
    if accepted(heard):
        course.played[accomplice] = course.played[accomplice].crony()
        close_in(evidence, course, victim, (accomplice,))
    judge_sums(evidence, course, openable(course, threshold=1), course.params)


def _survivors(evidence: Evidence, course: Course) -> None:
    """All but one honest member, and the accomplice twice, who fills the floor."""
    course.play(Phase.CONFIRM)
    *asked, lost = course.victims
    (accomplice,) = course.played
    survivors = (*asked, accomplice, accomplice)
    heard = course.ask(dict.fromkeys(asked, ConfirmRequest(survivors)))
    what = f"confirm of a set without {course.site(lost)}, the accomplice twice, where {_FLOOR} is the floor"
    evidence.saw(told_of(what, heard))
    _unmask(evidence, course, survivors, tuple(asked))
    judge(evidence, course)


def _a_set_each(evidence: Evidence, course: Course) -> None:
    """Each honest member signs a set that lacks one other; the accomplice's signature fills the quorum."""
    course.play(Phase.CONFIRM)
    zero, one, two, three = course.victims
    for member, lost in ((zero, one), (two, one), (one, two), (three, two)):
        survivors = tuple(each for each in course.members if each != lost)
        heard = course.ask({member: ConfirmRequest(survivors)})
        evidence.saw(told_of(f"confirm of a set without {course.site(lost)}", heard))
        _unmask(evidence, course, survivors, (member,))
    judge(evidence, course)


def _unmask(
    evidence: Evidence, course: Course, survivors: tuple[MemberIndex, ...], asked: tuple[MemberIndex, ...]
) -> None:
    """Ask those who signed for shares, with their signatures and the accomplice's as often as it takes."""
    (accomplice,) = course.played
    for (transcript, signed), signatures in tuple(course.signatures.items()):
        own = tuple((member, signatures[member]) for member in asked if member in signatures)
        if signed != survivors or not own:
            continue
        filling = course.played[accomplice].certify(transcript, survivors).signature
        repeated = ((accomplice, filling),) * (course.params.quorum - len(own))
        request = UnmaskRequest(survivors, (*own, *repeated))
        what = f"shares, the accomplice's signature {len(repeated)} times"
        evidence.saw(told_of(what, course.ask(dict.fromkeys((member for member, _ in own), request))))
