"""Two certified survivor sets among a hundred sites, of which the adversary plays ten."""

from __future__ import annotations

from secfed.attack import two_survivor_sets
from secfed.attack.finding import Report
from secfed.attack.venue import Venue

__all__ = ["run"]


def run(venue: Venue, report: Report) -> None:
    """At n = 100, with clients on threads over real sockets."""
    with venue.arena(100) as arena:
        two_survivor_sets.attack(arena, report)
