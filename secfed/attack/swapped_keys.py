"""Swapped or invented peer keys: the adversary puts itself between a member and all others.

It shows two members' adverts in each other's name. In an attempt that all joined it gives one
member keys of its own in the names of all others, and goes on with that one alone. Then it
plays every other member from the beginning, under identity keys that it made up. Either way
it would know every mask and hold every share of its one victim.
"""

from __future__ import annotations

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence, Report
from secfed.attack.impostors import play_alone
from secfed.attack.loot import judge_accepted
from secfed.attack.venue import Venue
from secfed.crypto.signing import SigningKey
from secfed.secagg.messages import Adverts, OpenAttempt, Phase

__all__ = ["run"]


def run(venue: Venue, report: Report) -> None:
    """Swapped, exchanged, invented."""
    with venue.arena() as arena:
        job, round_ = arena.open_round(report)
        _swap(report.part("two members' keys swapped"), Course(arena, job, round_, attempt=1))
        arena.make_ready(job, round_)
        _exchange(report.part("the peers' keys exchanged"), Course(arena, job, round_, attempt=2))
        target = arena.honest[0]
        arena.make_ready(job, round_, [target])
        invented = {site: SigningKey.generate() for site in arena.people.sites if site != target}
        course = Course(arena, job, round_, attempt=3, invented=invented)
        play_alone(report.part("members with invented keys"), course, arena.params)


def _swap(evidence: Evidence, course: Course) -> None:
    """Two honest adverts, each as it was signed, in each other's name."""
    course.play(Phase.ENCAPSULATE)
    adverts, (victim, one, other, *_) = dict(course.adverts), course.victims
    adverts[one], adverts[other] = adverts[other], adverts[one]
    heard = course.ask({victim: Adverts(tuple(sorted(adverts.items())))})
    evidence.saw(told_of("adverts, two members' keys swapped", heard))
    judge_accepted(evidence, heard, "one member's keys in another's name")


def _exchange(evidence: Evidence, course: Course) -> None:
    """Be in the middle between the first member and all others."""
    course.play(Phase.ENCAPSULATE)
    for member in course.victims[1:]:
        course.played[member] = course.accomplice(member, SigningKey.generate())
    course.ask(dict.fromkeys(course.played, OpenAttempt(course.session.signed_manifest)))
    play_alone(evidence, course, course.params, (Phase.ENCAPSULATE, Phase.SHARE, Phase.MASK))
