"""Which sites are here now. It decides whom a cohort is frozen with, never what anybody may do."""

from __future__ import annotations

from secfed.ids import ClientId

__all__ = ["GRACE_S", "Presence"]

GRACE_S = 5.0
"""How long a site between two calls, or one whose link just broke, is waited for, seconds. A client
reconnects within it."""


class Presence:
    """Calls in progress and the last sign of life, by site. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._calls: dict[ClientId, int] = {}
        self._seen: dict[ClientId, float] = {}
        self._lost: dict[ClientId, float] = {}

    def enter(self, site: ClientId, now: float) -> None:
        """A call of this site begins."""
        self._calls[site] = self._calls.get(site, 0) + 1
        self.seen(site, now)

    def leave(self, site: ClientId, now: float, *, broken: bool) -> None:
        """A call ends: with its reply sent, or broken off by the other side."""
        self._calls[site] = max(0, self._calls.get(site, 0) - 1)
        if broken and not self._calls[site]:
            self._seen.pop(site, None)
            self._lost[site] = now
        else:
            self._seen[site] = now

    def seen(self, site: ClientId, now: float) -> None:
        """A sign of life."""
        self._seen[site] = now
        self._lost.pop(site, None)

    def here(self, site: ClientId, now: float) -> bool:
        """In a call, or between two of them."""
        return bool(self._calls.get(site)) or now - self._seen.get(site, -GRACE_S) < GRACE_S

    def may_return(self, site: ClientId, now: float) -> bool:
        """Not here, but its link broke so recently that it may be reconnecting."""
        return not self.here(site, now) and now - self._lost.get(site, -GRACE_S) < GRACE_S

    def all_here(self, now: float) -> tuple[ClientId, ...]:
        """Every site that is here, sorted."""
        return tuple(sorted(site for site in self._calls.keys() | self._seen.keys() if self.here(site, now)))
