"""Where attacks take place: a folder, and what the victims in it are made of."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from secfed.attack.arena import Arena
from secfed.attack.clients import Victims
from secfed.identity.roster import DEFAULT_MIN_COHORT

__all__ = ["Venue"]

_PROCESSES_MAX = 7
"""Clients that run as processes of their own; more are threads over the same sockets."""


@dataclass(frozen=True, slots=True)
class Venue:
    """Makes arenas, each in a folder of its own.

    Args:
        root: A new or empty folder.
        victims: What clients on threads are made of.
        processes: Clients are processes, where there are few.
    """

    root: Path
    victims: Victims = field(default_factory=Victims)
    processes: bool = True
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def arena(
        self,
        sites: int = 5,
        *,
        corrupt: int | None = None,
        min_cohort: int = DEFAULT_MIN_COHORT,
        training: bool = False,
        near_bound: bool = False,
    ) -> Arena:
        """A new federation.

        Args:
            sites: Clients; the last A of them are the adversary's.
            corrupt: A; None for the roster's default.
            min_cohort: Of the roster: fewest members whose sum may be opened.
            training: Its jobs train on a base adapter, and sites push updates made elsewhere.
            near_bound: Every coordinate is close to the most that the grid carries.
        """
        return Arena(
            self.root / f"arena-{next(self._numbers)}",
            sites,
            corrupt=corrupt,
            min_cohort=min_cohort,
            training=training,
            near_bound=near_bound,
            victims=self.victims,
            processes=self.processes and sites <= _PROCESSES_MAX,
        )
