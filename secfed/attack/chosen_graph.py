"""A graph the aggregator chose: who masks with whom is arranged so that few honest members hold together.

On the complete graph the adversary cuts the honest members into two halves that never meet: each
is shown its own half and the accomplice, in every phase. Were a member content with the
neighbours that it is shown, each half's sum could be opened alone.

On the ring it wants its accomplices around the victim. It shows their adverts alone, and of all others
digests of its own making; then it tries several such sets of digests, takes the ring that is best for
it, and plays the honest neighbours on it itself, under keys that it made up. Were a member content
with the neighbours that it is shown, the adversary's own alone would hold all its shares and know
all its masks.
"""

from __future__ import annotations

from dataclasses import replace

from secfed.attack.accomplice import Accomplice
from secfed.attack.arena import Arena
from secfed.attack.course import Course, accepted, told_of
from secfed.attack.finding import Evidence, Report
from secfed.attack.impostors import close_in
from secfed.attack.loot import judge_sums, openable
from secfed.attack.venue import Venue
from secfed.crypto.signing import SigningKey
from secfed.ids import MemberIndex
from secfed.rounds.proposal import JobProposal, RoundProposal
from secfed.secagg import transcript
from secfed.secagg.graph import Graph
from secfed.secagg.messages import ConfirmRequest, Listed, OpenAttempt, Phase
from secfed.secagg.params import COMPLETE_GRAPH_MAX, Params

__all__ = ["run"]

_RING = COMPLETE_GRAPH_MAX + 1
"""Sites on the ring, of which one honest one runs: no other is heard by it."""

_VICTIM = MemberIndex(0)

_TRIES = 3
"""Sets of adverts that are tried, each at the price of one slow hash."""


def run(venue: Venue, report: Report) -> None:
    """Cut a cohort in halves; then be around a member of a ring."""
    with venue.arena() as arena:
        job, round_ = arena.open_round(report)
        _halve(report.part("two halves that never meet"), Course(arena, job, round_))
    with venue.arena(_RING) as arena:
        report.saw(
            f"on a ring of {_RING} sites, one of them honest and running, the adversary plays "
            f"{len(arena.corrupt)} and the aggregator"
        )
        arena.start(arena.honest[0])
        job = arena.job()
        for number, name, step in (
            (1, "accomplices alone on the ring", _surround),
            (2, "the best of several rings", _grind),
        ):
            round_ = arena.round(job, number)
            arena.make_ready(job, round_, arena.honest[:1])
            step(report.part(name), _ring_course(arena, job, round_))


# -- the complete graph ------------------------------------------------------------------------


def _halve(evidence: Evidence, course: Course) -> None:
    course.play(Phase.SHARE)
    victims, own = course.victims, tuple(course.played)
    middle = len(victims) // 2
    halves = {
        member: (victims[:middle] if member in victims[:middle] else victims[middle:]) for member in victims
    }
    cut = {member: course.lists_for(member, (*half, *own)) for member, half in halves.items()}
    whole = {member: course.lists_for(member, course.members) for member in own}
    heard = course.ask(cut | whole)
    evidence.saw(told_of("neighbours of its own half alone", heard))
    if accepted({course.site(member): heard[course.site(member)] for member in victims}):
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


def _ring_course(arena: Arena, job: JobProposal, round_: RoundProposal) -> Course:
    """An attempt of the ring's cohort, opened at the victim and at the adversary's own seats."""
    roster = arena.people.roster
    params = Params.of(_RING, roster.corrupt, min_cohort=roster.min_cohort)
    course = Course(arena, job, round_, params=params, losses=params.losses)
    course.played = {member: accomplice.crony() for member, accomplice in course.played.items()}
    course.ask(dict.fromkeys((_VICTIM, *course.played), OpenAttempt(course.session.signed_manifest)))
    return course


def _invented(course: Course) -> dict[MemberIndex, Accomplice]:
    """Somebody in each place but the victim's and its own, with keys that nobody signed for."""
    return {
        member: course.accomplice(member, SigningKey.generate()).crony()
        for member in course.members
        if member not in course.adverts
    }


def _listed(course: Course, invented: dict[MemberIndex, Accomplice]) -> Listed:
    """Digests of everybody's adverts, as an honest aggregator lists them; only the adversary's are true."""
    true = {member: item.statement for member, item in course.adverts.items()}
    every = true | {member: each.advertised.statement for member, each in invented.items()}
    return tuple((member, transcript.statement_digest(every[member])) for member in course.members)


def _surround(evidence: Evidence, course: Course) -> None:
    """Show the accomplices' adverts, and no others."""
    cronies = tuple(course.played)
    listed = _listed(course, _invented(course))
    heard = course.ask({_VICTIM: replace(course.adverts_from(cronies), listed=listed)})
    evidence.saw(told_of(f"adverts of its {len(cronies)} accomplices, and digests of all others", heard))
    if accepted(heard):
        close_in(evidence, course, _VICTIM, cronies, listed)
    judge_sums(evidence, course, openable(course, threshold=len(cronies)), course.params)


def _grind(evidence: Evidence, course: Course) -> None:
    """Try several sets of digests, take the best ring, and be the honest neighbours on it as well."""
    tries = [_invented(course) for _ in range(_TRIES)]
    around = [_ring_of(course, each) for each in tries]
    own = [sum(member in course.played for member in neighbours) for neighbours in around]
    best = max(range(_TRIES), key=own.__getitem__)
    evidence.saw(
        f"of {_TRIES} tries, each a slow hash, the best ring puts {own[best]} accomplices among the victim's "
        f"{course.params.neighbours} neighbours; {course.params.threshold} shares open a secret"
    )
    listed, neighbours = _listed(course, tries[best]), around[best]
    course.played |= {member: tries[best][member] for member in neighbours if member in tries[best]}
    course.ask(dict.fromkeys(neighbours, OpenAttempt(course.session.signed_manifest)))
    heard = course.ask({_VICTIM: replace(course.adverts_from(neighbours), listed=listed)})
    evidence.saw(told_of("that ring, with adverts signed in its neighbours' names", heard))
    if accepted(heard):
        close_in(evidence, course, _VICTIM, neighbours, listed)
    judge_sums(evidence, course, openable(course), course.params)


def _ring_of(course: Course, invented: dict[MemberIndex, Accomplice]) -> tuple[MemberIndex, ...]:
    """The victim's neighbours under these adverts, as the victim will compute them."""
    adverts = transcript.adverts_digest(course.h, dict(_listed(course, invented)))
    return Graph.ring(course.params, adverts).neighbours(_VICTIM)
