"""A graph the aggregator chose: who masks with whom is arranged so that few honest members hold together.

On the complete graph the adversary cuts the honest members into two halves that never meet: each
is shown its own half and the accomplice, in every phase. Were a member content with the
neighbours that it is shown, each half's sum could be opened alone.

On the ring it wants its accomplices around the victim. It shows their adverts alone, and of all others
digests of its own making; then it tries several such sets of digests, takes the ring that is best for
it, and signs the adverts of the honest neighbours itself. Were a member content with the neighbours that
it is shown, accomplices alone would hold all its shares and know all its masks.
"""

from __future__ import annotations

from dataclasses import fields, replace

from secfed.attack.accomplice import Accomplice
from secfed.attack.arena import Arena
from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence, Finding
from secfed.attack.loot import judge_sums, openable
from secfed.attack.venue import Venue
from secfed.crypto import agreement
from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.identity import signed
from secfed.identity.signed import Signed
from secfed.ids import MemberIndex
from secfed.rounds.exchange import Answer
from secfed.rounds.proposal import JobProposal, RoundProposal
from secfed.secagg import transcript
from secfed.secagg.attempt import Attempt
from secfed.secagg.graph import Graph
from secfed.secagg.messages import Advert, Adverts, ConfirmRequest, Listed, OpenAttempt, Phase
from secfed.secagg.params import COMPLETE_GRAPH_MAX, Params
from secfed.secagg.transcript import Entries

__all__ = ["run"]

_RING = COMPLETE_GRAPH_MAX + 1
"""Sites on the ring, of which one honest one runs: no other is heard by it."""

_VICTIM = MemberIndex(0)

_TRIES = 3
"""Sets of adverts that are tried, each at the price of one slow hash."""


def run(venue: Venue) -> Finding:
    """Cut a cohort in halves; then be around a member of a ring."""
    evidence = Evidence()
    with venue.arena() as arena:
        arena.start()
        job = arena.job()
        round_ = arena.round(job)
        arena.make_ready(job, round_)
        course = Course(arena, job, round_)
        course.play(Phase.SHARE)
        _halve(evidence, course)
    with venue.arena(_RING) as arena:
        evidence.saw(
            f"a ring of {_RING} sites, of which the adversary plays {len(arena.corrupt)}; and the aggregator:"
        )
        arena.start(arena.honest[0])
        job = arena.job()
        round_ = arena.round(job)
        for number, step in enumerate((_surround, _grind), 1):
            arena.make_ready(job, round_, arena.honest[:1])
            step(evidence, _ring_course(arena, job, round_, number))
    return evidence.finding


# -- the complete graph ------------------------------------------------------------------------


def _halve(evidence: Evidence, course: Course) -> None:
    victims, own = course.victims, tuple(course.played)
    middle = len(victims) // 2
    halves = {
        member: (victims[:middle] if member in victims[:middle] else victims[middle:]) for member in victims
    }
    cut = {member: course.lists_for(member, (*half, *own)) for member, half in halves.items()}
    whole = {member: course.lists_for(member, course.members) for member in own}
    heard = course.ask(cut | whole)
    evidence.saw(told_of("neighbours of its own half alone", heard))
    if all(isinstance(heard[course.site(member)], Answer) for member in victims):
        _open_half(evidence, course, victims[:middle])
    judge_sums(evidence, course, openable(course, threshold=middle), course.params)


def _open_half(evidence: Evidence, course: Course, half: tuple[MemberIndex, ...]) -> None:
    """Go on with one half, and the accomplice, as if they were everybody."""
    everybody = tuple(sorted((*half, *course.played)))
    heard = course.ask({member: course.bundles_for(member, everybody) for member in half})
    evidence.saw(told_of("a share set of that half", heard))
    for member, accomplice in course.played.items():
        accomplice.reply(course.bundles_for(member, course.members))  # so it has what was dealt to it
    heard = course.ask(dict.fromkeys(everybody, ConfirmRequest(everybody)))
    evidence.saw(told_of(f"confirm of {len(everybody)} members", heard))
    evidence.saw(told_of("shares for them", course.unmask(everybody, half)))


# -- the ring ----------------------------------------------------------------------------------


class _Crony(Attempt):
    """A seat next to whomever it is told of; nothing is checked from it."""

    __slots__ = ()

    def verify(self, item: Signed, label: Label, member: MemberIndex) -> bytes:
        del label, member
        return item.statement

    def neighbours(self, adverts: Entries) -> tuple[MemberIndex, ...]:
        return tuple(member for member in sorted(adverts) if member != self.me)

    def entries(self, own: Entries, listed: Listed, allowed: frozenset[MemberIndex]) -> Entries:
        del listed, allowed
        return own


def _ring_course(arena: Arena, job: JobProposal, round_: RoundProposal, number: int) -> Course:
    """An attempt of the ring's cohort, opened at the victim and at the adversary's own seats."""
    roster = arena.people.roster
    params = Params.of(_RING, roster.corrupt, min_cohort=roster.min_cohort)
    course = Course(arena, job, round_, attempt=number, params=params, losses=params.losses)
    for member, accomplice in course.played.items():
        seat = _Crony(**{each.name: getattr(accomplice.attempt, each.name) for each in fields(Attempt)})
        seat = replace(seat, params=replace(params, threshold=1))  # what it deals itself is worth nothing
        course.played[member] = Accomplice(
            seat, accomplice.keys, replace(accomplice.advertised, attempt=seat)
        )
    course.ask(dict.fromkeys((_VICTIM, *course.played), OpenAttempt(course.session.signed_manifest)))
    return course


def _statements(course: Course) -> dict[MemberIndex, bytes]:
    """Everybody's advert: the victim's and its own are true, in all other names stand keys of its own."""
    true = {member: item.statement for member, item in course.adverts.items()}
    return {member: true.get(member) or _invented(course) for member in course.members}


def _invented(course: Course) -> bytes:
    public = agreement.KeyPair.generate().public
    return course.codec.encode(Advert(public.x25519, public.mlkem))


def _listed(statements: dict[MemberIndex, bytes]) -> Listed:
    """Their digests, as an honest aggregator lists them."""
    return tuple((member, transcript.statement_digest(each)) for member, each in statements.items())


def _surround(evidence: Evidence, course: Course) -> None:
    """Show the accomplices' adverts, and no others."""
    cronies = tuple(course.played)
    listed = _listed(_statements(course))
    heard = course.ask({_VICTIM: replace(course.adverts_from(cronies), listed=listed)})
    evidence.saw(told_of(f"adverts of its {len(cronies)} accomplices, and digests of all others", heard))
    if isinstance(heard[course.site(_VICTIM)], Answer):
        _close_in(evidence, course, listed)
    judge_sums(evidence, course, openable(course, threshold=len(cronies)), course.params)


def _close_in(evidence: Evidence, course: Course, listed: Listed) -> None:
    """Go on as if victim and accomplices were neighbours on the ring."""
    cronies = tuple(course.played)
    course.ask({member: course.adverts_from((_VICTIM,)) for member in cronies})
    heard = course.ask({_VICTIM: replace(course.lists_for(_VICTIM, cronies), listed=listed)})
    evidence.saw(told_of("ciphertexts of its accomplices alone", heard))
    course.ask({member: course.lists_for(member, (_VICTIM,)) for member in cronies})
    heard = course.ask({_VICTIM: replace(course.bundles_for(_VICTIM, cronies), listed=listed)})
    evidence.saw(told_of("a share set of its accomplices alone", heard))
    for member, accomplice in course.played.items():
        accomplice.reply(course.bundles_for(member, (_VICTIM,)))  # so it has what was dealt to it


def _grind(evidence: Evidence, course: Course) -> None:
    """Try several sets of digests, take the best ring, and sign for the honest neighbours on it."""
    tries = [_statements(course) for _ in range(_TRIES)]
    around = [_ring_of(course, each) for each in tries]
    own = [sum(member in course.played for member in neighbours) for neighbours in around]
    best = max(range(_TRIES), key=own.__getitem__)
    evidence.saw(
        f"of {_TRIES} tries, each a slow hash, the best ring puts {own[best]} accomplices among the victim's "
        f"{course.params.neighbours} neighbours; {course.params.threshold} shares open a secret"
    )
    adverts = tuple(
        (member, course.adverts.get(member) or _forged(course, member, tries[best][member]))
        for member in around[best]
    )
    heard = course.ask({_VICTIM: Adverts(adverts, _listed(tries[best]))})
    evidence.saw(told_of("that ring, with adverts signed in its neighbours' names", heard))
    judge_sums(evidence, course, openable(course), course.params)


def _ring_of(course: Course, statements: dict[MemberIndex, bytes]) -> tuple[MemberIndex, ...]:
    """The victim's neighbours under these adverts, as the victim will compute them."""
    adverts = transcript.adverts_digest(course.h, dict(_listed(statements)))
    return Graph.ring(course.params, adverts).neighbours(_VICTIM)


def _forged(course: Course, member: MemberIndex, statement: bytes) -> Signed:
    """An advert in another's name, under a signature of the adversary's."""
    return signed.sign(
        SigningKey.generate(),
        Label.SIGN_ADVERT,
        context=course.h,
        sender=course.site(member),
        recipient=None,
        statement=statement,
    )
