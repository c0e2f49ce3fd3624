"""Replay of a round, and a retry under the same masks.

Masks serve once: a second vector under them would show the masks themselves. So the adversary
asks for the masked vector again and again within one attempt, each time with another neighbour
left out of the share set: two such vectors differ by exactly one edge's mask. Later it lets an
honest round end, and opens the very same attempt once more, also to clients that were restarted.
"""

from __future__ import annotations

import numpy as np

from secfed.attack.arena import Arena
from secfed.attack.course import Course, Heard, accepted, told_of
from secfed.attack.finding import Evidence, Report
from secfed.attack.loot import Opened, judge, judge_round, secret_of
from secfed.attack.venue import Venue
from secfed.crypto.prg import combine_masks
from secfed.encoding import ring
from secfed.ids import ClientId, MemberIndex
from secfed.rounds.exchange import Ask, Offer
from secfed.rounds.proposal import JobProposal, RoundProposal
from secfed.secagg import derive
from secfed.secagg.messages import Phase

__all__ = ["run"]


def run(venue: Venue, report: Report) -> None:
    """Within an attempt; then after a round's end."""
    with venue.arena() as arena:
        job, round_ = arena.open_round(report)
        _mask_again(report.part("a vector again under the same masks"), Course(arena, job, round_))
        round_ = arena.round(job, 2)
        arena.make_ready(job, round_)
        _play_again(report.part("an ended round again"), arena, job, round_)


def _play_again(evidence: Evidence, arena: Arena, job: JobProposal, round_: RoundProposal) -> None:
    """Let a round end; then open its attempt once more."""
    whole = Course(arena, job, round_)
    whole.play(Phase.DONE)
    opened = judge(evidence, whole)
    notice = Ask(whole.h, whole.outcome())
    evidence.saw(told_of("the outcome", arena.hostile.tell_all(dict.fromkeys(arena.honest, notice))))
    for site in arena.honest[: len(arena.honest) // 2]:
        arena.kill(site)
        arena.start(site)
    again = Course(arena, job, round_)
    offer = Offer(job.text, round_.text)
    offered = arena.hostile.tell_all(dict.fromkeys(arena.honest, offer))
    evidence.saw(told_of("the ended round offered again (half of the sites restarted)", offered))
    heard = again.ask({member: again.request(member) for member in again.members})
    evidence.saw(told_of("its attempt opened again", heard))
    replayed: list[Opened] = []
    if accepted(heard):
        again.take(heard)
        again.play(Phase.DONE)
        replayed = judge(evidence, again)
    judge_round(evidence, [opened, replayed])


def _mask_again(evidence: Evidence, course: Course) -> None:
    """Ask one member for its vector, each time with another neighbour left out; at last with all of them."""
    course.play(Phase.MASK)
    victim = course.victims[0]
    others = [member for member in course.members if member != victim]
    heard: dict[ClientId, Heard] = {}
    for left_out in (*others, None):
        shown = [member for member in others if member != left_out]
        heard = course.ask({victim: course.bundles_for(victim, shown)})
        what = "whole" if left_out is None else f"without {course.site(left_out)}"
        evidence.saw(told_of(f"the share set {what}", heard))
    if len(course.vectors[victim]) <= len(others):
        return
    course.take(heard)
    course.play(Phase.DONE)
    _strip(evidence, course, victim)


def _strip(evidence: Evidence, course: Course, victim: MemberIndex) -> None:
    """Take off the edge masks that the differences show, and the self mask that the round opened."""
    length, bits = course.manifest.length, course.manifest.word_bits
    *without, whole = (ring.unpack(packed, bits, length) for packed in course.vectors[victim])
    plain = whole.copy()
    for vector in without:
        plain -= whole - vector
    secret = secret_of(course, victim, "self", course.params.threshold)
    if secret is not None:
        combine_masks(plain, add=[], subtract=[derive.self_mask_seed(secret, course.h, victim)])
    ring.reduce(plain, bits)
    site = course.site(victim)
    if np.array_equal(plain, course.arena.words([site])):
        evidence.gained(
            f"the vector of {site}, true to the last bit, from {len(without) + 1} vectors under one mask"
        )
