"""Repeated ids: one accomplice counted again and again.

Its advert stands twice in the list of peers, a member twice among the survivors; and, what would
pay, its one signature as often as a quorum needs. Then every honest member could be shown a
survivor set of its own, two of them without the second member and two without the third, and
the other two would stand alone.
"""

from __future__ import annotations

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence, Finding
from secfed.attack.loot import judge_certificates, judge_sums, openable
from secfed.attack.venue import Venue
from secfed.ids import MemberIndex
from secfed.secagg.messages import Adverts, ConfirmRequest, Phase, UnmaskRequest

__all__ = ["run"]


def run(venue: Venue) -> Finding:
    """In the list of adverts, of survivors and of signatures."""
    evidence = Evidence()
    with venue.arena() as arena:
        job, round_ = arena.open_round(evidence)
        early = Course(arena, job, round_, attempt=1)
        early.play(Phase.ENCAPSULATE)
        victim, (accomplice,) = early.victims[0], early.played
        adverts = tuple(sorted(early.adverts.items()))
        twice = Adverts((*adverts, (accomplice, early.adverts[accomplice])))
        evidence.saw(told_of("adverts with one member twice", early.ask({victim: twice})))
        arena.make_ready(job, round_)
        course = Course(arena, job, round_, attempt=2)
        course.play(Phase.CONFIRM)
        again = ConfirmRequest((*course.members, accomplice))
        evidence.saw(told_of("confirm with one survivor twice", course.ask({victim: again})))
        _a_set_each(evidence, course, accomplice)
        judge_certificates(evidence, course, course.params)
        judge_sums(evidence, course, openable(course), course.params)
    return evidence.finding


def _a_set_each(evidence: Evidence, course: Course, accomplice: MemberIndex) -> None:
    """Each honest member signs a set that lacks one other; the accomplice's signature fills the quorum."""
    zero, one, two, three = course.victims
    for member, lost in ((zero, one), (two, one), (one, two), (three, two)):
        survivors = tuple(each for each in course.members if each != lost)
        heard = course.ask({member: ConfirmRequest(survivors)})
        evidence.saw(told_of(f"confirm of a set without {course.site(lost)}", heard))
        signed = {
            key[0]: signatures
            for key, signatures in course.signatures.items()
            if key[1] == survivors and member in signatures
        }
        for transcript, signatures in signed.items():
            filling = course.played[accomplice].certify(transcript, survivors).signature
            repeated = ((accomplice, filling),) * (course.params.quorum - 1)
            request = UnmaskRequest(survivors, ((member, signatures[member]), *repeated))
            what = f"shares, the accomplice's signature {len(repeated)} times"
            evidence.saw(told_of(what, course.ask({member: request})))
