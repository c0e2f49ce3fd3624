"""A graph the aggregator chose: who masks with whom is arranged so that few honest members hold together.

On the complete graph the adversary cuts the honest members into two halves that never meet: each
is shown its own half and the accomplice, in every phase. Were a member content with the
neighbours that it is shown, each half's sum could be opened alone.

The ring graph for large cohorts, on which the order of members must not be the aggregator's
choice, is not built: larger cohorts are refused, and the row says NOT BUILT.
"""

from __future__ import annotations

from secfed.attack.course import Course, told_of
from secfed.attack.finding import Evidence, Finding, Verdict
from secfed.attack.loot import judge_sums, openable
from secfed.attack.venue import Venue
from secfed.errors import InfeasibleCohortError
from secfed.ids import MemberIndex
from secfed.rounds.exchange import Answer
from secfed.secagg.messages import ConfirmRequest, Phase
from secfed.secagg.params import COMPLETE_GRAPH_MAX, Params

__all__ = ["run"]


def run(venue: Venue) -> Finding:
    """Cut a cohort in halves; then ask for a cohort that needs the ring."""
    evidence = Evidence()
    with venue.arena() as arena:
        arena.start()
        job = arena.job()
        round_ = arena.round(job)
        arena.make_ready(job, round_)
        course = Course(arena, job, round_)
        course.play(Phase.SHARE)
        _halve(evidence, course)
    finding = evidence.finding
    if finding.verdict is Verdict.BROKEN:
        return finding
    return Finding(Verdict.NOT_BUILT, (*finding.evidence, *_no_ring()))


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


def _no_ring() -> tuple[str, ...]:
    """What every party says to a cohort that needs the ring."""
    try:
        Params.complete(COMPLETE_GRAPH_MAX + 1, corrupt=13, min_cohort=3)
    except InfeasibleCohortError as refusal:
        return ("on the complete graph the attack fails; the ring graph is not built", f"refused: {refusal}")
    return (f"a cohort of {COMPLETE_GRAPH_MAX + 1} is taken, and this row does not attack it",)
