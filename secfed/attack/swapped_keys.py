"""Swapped or invented peer keys: the adversary puts itself between a member and all others.

It shows two members' adverts in each other's name; then it plays every other member of the
cohort itself, under identity keys that it made up, so that it would know every mask and hold
every share of its one victim.
"""

from __future__ import annotations

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence, Finding
from secfed.attack.impostors import play_alone
from secfed.attack.venue import Venue
from secfed.crypto.signing import SigningKey
from secfed.ids import MemberIndex
from secfed.secagg.messages import Adverts, Phase

__all__ = ["run"]


def run(venue: Venue) -> Finding:
    """Swapped, then invented."""
    evidence = Evidence()
    with venue.arena() as arena:
        job, round_ = arena.open_round(evidence)
        swapped = Course(arena, job, round_, attempt=1)
        swapped.play(Phase.ENCAPSULATE)
        adverts, victim = dict(swapped.adverts), swapped.victims[0]
        one, other = MemberIndex(1), MemberIndex(2)
        adverts[one], adverts[other] = adverts[other], adverts[one]
        heard = swapped.ask({victim: Adverts(tuple(sorted(adverts.items())))})
        evidence.saw(told_of("adverts, two members' keys swapped", heard))
        target = arena.honest[0]
        arena.make_ready(job, round_, [target])
        invented = {site: SigningKey.generate() for site in arena.people.sites if site != target}
        course = Course(arena, job, round_, attempt=2, invented=invented)
        play_alone(evidence, course, arena.params)
    return evidence.finding
