"""Weak mask seeds: keys that can be guessed, chosen by a peer, or that come twice.

The adversary tries what has been found in the field: generators with few bits of seed (a
Mersenne Twister seeded with a small number), keys of zeros or of one byte; it compares two attempts,
in which the same vector travels under what must be fresh masks; and it hands a member keys of low
order, under which one half of their common secret would be known to everybody, and the member's
own. What an accomplice shares with it the adversary knows anyway: of these two it is judged
whether the member deals its shares under such a key.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from secfed.attack.arena import Arena
from secfed.attack.course import Course, accepted, told_of
from secfed.attack.finding import Evidence, Report
from secfed.attack.loot import Edge, judge_accepted, judge_sums, openable
from secfed.attack.venue import Venue
from secfed.crypto import agreement
from secfed.crypto.labels import Label
from secfed.encoding import ring
from secfed.ids import MemberIndex
from secfed.rounds.proposal import JobProposal
from secfed.secagg import derive
from secfed.secagg.messages import Advert, Adverts, Phase

__all__ = ["SEEDS", "run"]

SEEDS = 1 << 13
"""Seeds of the generator that are tried: half a second's work, and all of 28 bits would be five hours'."""

_KEY_BYTES = 32
_AGREEING_MAX = 4
"""Words that two unrelated masked vectors may have in common: of some 30 words of 19 bits the chance
of more is below 2^-70."""


Draw = Callable[[int], bytes]
"""A source of bytes, from its beginning."""


def run(venue: Venue, report: Report) -> None:
    """Compare two attempts, guess everybody's keys in a third, and offer a member keys that serve nobody."""
    guesses = dict(_guesses())
    report.saw(f"{len(guesses)} keys were worked out that a poor generator would draw")
    with venue.arena() as arena:
        arena.begin(report)
        job = arena.job()
        _compare(report.part("masks that serve twice"), *_play(arena, job, 1, (Phase.CONFIRM, Phase.CONFIRM)))
        (course,) = _play(arena, job, 2, (Phase.DONE,))
        _guess(report.part("keys that are guessed"), course, guesses)
        early = _play(arena, job, 3, (Phase.ADVERTISE, Phase.ADVERTISE))
        for part, course in zip(("a key of low order", "a reflected key"), early, strict=True):
            _offer(report.part(part), course, part)


def _play(arena: Arena, job: JobProposal, number: int, phases: tuple[Phase, ...]) -> Iterator[Course]:
    """Attempts of one round, one after the other, each until its phase."""
    round_ = arena.round(job, number)
    for attempt, until in enumerate(phases, 1):
        arena.make_ready(job, round_)
        course = Course(arena, job, round_, attempt=attempt)
        course.play(until)
        yield course


# -- keys that can be guessed ------------------------------------------------------------------


def _guesses() -> Iterator[tuple[bytes, Callable[[], Draw]]]:
    """X25519 public keys, each with the generator that would have drawn its private one first."""
    for seed in range(SEEDS):
        yield _public(random.Random(seed).randbytes), partial(_twister, seed)  # noqa: S311 - what is attacked
    for byte in range(256):
        yield _public(partial(_constant, byte)), partial(partial, _constant, byte)


def _twister(seed: int) -> Draw:
    return random.Random(seed).randbytes  # noqa: S311 - the weak generator that is attacked


def _constant(byte: int, count: int) -> bytes:
    return bytes([byte]) * count


def _public(draw: Draw) -> bytes:
    return X25519PrivateKey.from_private_bytes(draw(_KEY_BYTES)).public_key().public_bytes_raw()


def _guess(evidence: Evidence, course: Course, guesses: Mapping[bytes, Callable[[], Draw]]) -> None:
    """Look every advert up; with the keys behind it, work out its edges' masks."""
    keys: dict[MemberIndex, agreement.KeyPair] = {}
    for member in course.victims:
        found = guesses.get(_advert(course, member).x25519)
        if found is not None:
            keys[member] = agreement.KeyPair.generate(found())
    evidence.saw(f"{len(keys)} of {len(course.victims)} keys guessed")
    known = {Edge({low, high}): mask for low, high, mask in _masks(course, keys)}
    judge_sums(evidence, course, openable(course, known=known), course.params)


def _masks(
    course: Course, keys: Mapping[MemberIndex, agreement.KeyPair]
) -> Iterator[tuple[MemberIndex, MemberIndex, bytes]]:
    """Mask seeds of the edges whose higher end's keys were guessed: it decapsulates."""
    for high, own in keys.items():
        for low in (member for member in course.lists if member < high):
            ciphertext = course.lists[low].ciphertexts[high]
            peer = _advert(course, low)
            secret = agreement.edge_secret(
                own,
                agreement.AgreementPublic(peer.x25519, peer.mlkem),
                own.decapsulate(ciphertext),
                salt=derive.agreement_salt(
                    course.adverts[low].statement, course.adverts[high].statement, ciphertext
                ),
            )
            yield low, high, derive.edge_keys(secret, course.h, high, low).mask


def _advert(course: Course, member: MemberIndex) -> Advert:
    return course.codec.decode(Advert, course.adverts[member].statement)


# -- keys that come twice, or are chosen by a peer ---------------------------------------------


def _compare(evidence: Evidence, first: Course, second: Course) -> None:
    """One vector under the masks of two attempts: equal words are equal masks."""
    length, bits = first.manifest.length, first.manifest.word_bits
    most = 0
    for member in first.victims:
        one, two = (ring.unpack(course.vectors[member][0], bits, length) for course in (first, second))
        most = max(most, int(np.count_nonzero(one == two)))
    evidence.saw(f"the same vector in two attempts: at most {most} of {length} masked words agree")
    if most > _AGREEING_MAX:
        evidence.gained("masks that served twice")


def _offer(evidence: Evidence, course: Course, part: str) -> None:
    """An accomplice's signed advert whose secret everybody would know, or that is the victim's own."""
    course.play(Phase.ENCAPSULATE)
    victim, (place, accomplice) = course.victims[0], *course.played.items()
    own, theirs = _advert(course, place), _advert(course, victim)
    bad = replace(own, x25519=bytes(_KEY_BYTES)) if part == "a key of low order" else theirs
    statement = accomplice.attempt.sign(Label.SIGN_ADVERT, course.codec.encode(bad))
    shown = Adverts(tuple(sorted((course.adverts | {place: statement}).items())))
    honest = dict.fromkeys(course.members, course.adverts_from(course.members))
    heard = course.ask(honest | {victim: shown})
    took = {course.site(victim): heard[course.site(victim)]}
    evidence.saw(told_of(f"adverts, {part} among them", took))
    if accepted(took):
        took = course.ask({victim: course.lists_for(victim, course.members)})
        evidence.saw(told_of("ciphertexts, to agree on secrets with", took))
        judge_accepted(evidence, took, f"{part} to agree on a secret with")
