"""The other end of hostile serialisation: a client is told malformed things by its own aggregator.

Each is an invitation to an attempt that would be answered, were it not spoilt. The client that
answers to one has read it; one that answers to none, and to the right one afterwards, has not.
"""

from __future__ import annotations

import os
from pathlib import Path

from secfed.attack.course import Course, accepted, told_of
from secfed.attack.finding import Evidence
from secfed.attack.loot import judge_accepted
from secfed.attack.malformed import ENDLESS, NESTED, UNKNOWN_FIELD, field, pickled
from secfed.attack.venue import Venue
from secfed.limits import TOLD_BYTES_MAX
from secfed.rounds.exchange import Ask, Wait
from secfed.secagg.messages import OpenAttempt
from secfed.wire import sums

__all__ = ["tell_client"]


def tell_client(venue: Venue, evidence: Evidence) -> None:
    """Spoil an invitation in every way; then give it as it should be."""
    with venue.arena() as arena:
        site = arena.honest[0]
        arena.start(site)
        job = arena.job()
        round_ = arena.round(job)
        arena.make_ready(job, round_, [site])
        course, trap = Course(arena, job, round_), arena.root / "unpickled"
        right = Ask(course.h, OpenAttempt(course.session.signed_manifest))
        for name, data in _spoilt(sums.encode_told(right), trap).items():
            heard = {site: arena.hostile.tell(site, data)}
            evidence.saw(told_of(f"an invitation, {name}", heard))
            judge_accepted(evidence, heard, f"an invitation, {name}")
            arena.hostile.tell(site, Wait("the next round", 0))  # or its pauses grow
        if trap.exists():
            evidence.gained("code that ran inside a client")
        heard = {site: arena.hostile.tell(site, right)}
        evidence.saw(told_of("the invitation as it should be", heard))
        if not accepted(heard):
            evidence.gained("the silence of a client, which answers nothing any more")


def _spoilt(right: bytes, trap: Path) -> dict[str, bytes]:
    """The longest begins with something else to be told, in whose place the invitation then comes."""
    before = field(1, field(1, bytes(TOLD_BYTES_MAX)))
    return {
        "as random bytes": os.urandom(200),
        "as a pickle": pickled(trap),
        "cut": right[:-7],
        "with an unknown field": right + UNKNOWN_FIELD,
        "twice": right + right,
        "and an endless field": right + ENDLESS,
        "and nested groups": right + NESTED,
        "behind more bytes than are allowed": before + right,
    }
