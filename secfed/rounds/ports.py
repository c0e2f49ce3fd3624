"""How a round meets the world: what it asks of a trainer, a link, a clock and an observer.

Implementations are injected by `cli/build.py`; the simulator injects its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest, JobId
from secfed.privacy.events import Event
from secfed.rounds.exchange import Said, Told
from secfed.rounds.plan import JobPlan, RoundPlan

__all__ = ["Clock", "Contributor", "Link", "NamedArrays", "Observer", "Update"]

NamedArrays = Mapping[str, NDArray[np.float32]]
"""Arrays by name, in model units; names and shapes are the job plan's."""


@dataclass(frozen=True, slots=True)
class Update:
    """What one local run made.

    Attributes:
        arrays: Change relative to the round's base (a vector job: the vector itself).
        weight: w, an integer of at most the plan's cap; 1 under DP.
        saturated: Coordinates that were clamped to the bound, after the noise.
        event: What really happened to private data; must be the event that was reserved.
    """

    arrays: NamedArrays
    weight: int
    saturated: int
    event: Event


class Contributor(Protocol):
    """Makes this site's update for one round; the only thing that touches private data."""

    def planned_event(self, plan: JobPlan) -> Event:
        """What one round of this plan will be charged as, from the plan alone."""
        ...

    def check(self, plan: JobPlan) -> None:
        """Refuse, before anything is charged, a plan that this site cannot carry out.

        Raises:
            SecfedError: A missing column, an unknown model, a wrong shape.
        """
        ...

    def contribute(self, plan: JobPlan, round_plan: RoundPlan, base: NamedArrays) -> Update:
        """Train or read. Called once a reservation is durable."""
        ...


class Link(Protocol):
    """One client's way to the aggregator. Raises NetworkError after its own retries."""

    def exchange(self, said: Said) -> Told:
        """Say something, wait for what comes next."""
        ...

    def upload(self, attempt: Digest, statement: Signed, packed: bytes) -> Told:
        """Send a masked vector in frames; returns once it is durable on the other side."""
        ...

    def download(self, digest: Digest) -> bytes:
        """Fetch an adapter by its digest, and check it."""
        ...


class Clock(Protocol):
    """Seconds; only refusals and deadlines depend on it, never a permission."""

    def monotonic(self) -> float:
        """For deadlines."""
        ...

    def now_ns(self) -> int:
        """Nanoseconds since 1970, for logs, validity and sequence numbers."""
        ...


class Observer(Protocol):
    """Hears what happened, for terminals, logs and metrics. Never decides anything."""

    def note(
        self, event: str, *, job: JobId | None = None, site: ClientId | None = None, **facts: object
    ) -> None:
        """One fact; `event` is a word, the rest are public values."""
        ...
