"""Sybil or shrunken cohort: a victim among members that the adversary made up, or nearly alone.

Every member but one is the adversary's, so the sum would show that one's vector, and its shares
would all be dealt to the adversary.
"""

from __future__ import annotations

from secfed.attack.course import Course
from secfed.attack.finding import Evidence, Finding
from secfed.attack.impostors import play_alone
from secfed.attack.venue import Venue
from secfed.crypto.signing import SigningKey
from secfed.ids import ClientId
from secfed.secagg.params import Params

__all__ = ["run"]

_PAIR = Params(clients=2, corrupt=1, neighbours=1, threshold=1, quorum=2, floor=2, losses=0)
"""What two members could do with: no thresholds defend them."""


def run(venue: Venue) -> Finding:
    """Two members; then one among strangers; then one with strangers beside a real cohort's size."""
    evidence = Evidence()
    with venue.arena() as arena:
        arena.begin(evidence)
        job = arena.job()
        round_ = arena.round(job)
        target, accomplice = arena.honest[0], arena.corrupt[0]
        strangers = {ClientId(f"sybil-{index}"): SigningKey.generate() for index in range(4)}
        cohorts: tuple[tuple[str, tuple[ClientId, ...], dict[ClientId, SigningKey], Params | None], ...] = (
            (f"a cohort of {target} and one accomplice", (target, accomplice), {}, _PAIR),
            (f"a cohort of {target} and 4 sites that no roster has", (target, *strangers), strangers, None),
        )
        for number, (what, cohort, invented, params) in enumerate(cohorts, 1):
            arena.make_ready(job, round_, [target])
            evidence.saw(what)
            course = Course(
                arena,
                job,
                round_,
                attempt=number,
                cohort=tuple(sorted(cohort)),
                invented=invented,
                params=params,
            )
            play_alone(evidence, course, arena.params)
    return evidence.finding
