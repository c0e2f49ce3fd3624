"""The roster that this member goes by: verified with the pinned key, and never an older one again.

A version is pinned as a write-once decision, so the same version with other content (a fork) and
a lower version (a rollback) are both refused for good, whoever signed them.
"""

from __future__ import annotations

from pathlib import Path

from secfed.errors import RosterError
from secfed.identity import roster as rosters
from secfed.identity.roster import Roster, RosterPin
from secfed.limits import ROSTER_FILE_BYTES_MAX
from secfed.secagg.record import Decisions
from secfed.store import files
from secfed.store.files import PUBLIC_MODE

__all__ = ["RosterKeeper"]

_PREFIX = "roster/"


class RosterKeeper:
    """Holds the newest accepted roster in a file, and its pin among the decisions.

    Args:
        path: The cached roster's file.
        roster_key: The federation's pinned key, 32 bytes.
        decisions: Where versions are pinned; None for a member that keeps none (an admin): its pin
            is the file.

    Raises:
        RosterError: The file is forged, malformed, or older than what was accepted before.
        StorageError: It cannot be read.
    """

    def __init__(self, path: Path, roster_key: bytes, decisions: Decisions | None = None) -> None:
        self._path, self._key, self._decisions = path, roster_key, decisions
        with files.storage_errors(path):
            data = files.read_small(path, ROSTER_FILE_BYTES_MAX)
        try:
            fresh = rosters.verify(data, roster_key)
        except RosterError as problem:
            raise RosterError(f"{path}: {problem}") from problem
        stored = [] if decisions is None else decisions.scan(_PREFIX)
        self._last = RosterPin.from_text(stored[-1][1]) if stored else RosterPin.of(fresh)
        self._current = self._take(fresh)

    @property
    def current(self) -> Roster:
        """The roster in force here."""
        return self._current

    def accept(self, data: bytes) -> Roster:
        """Verify a roster that came from elsewhere and go by it from now on; durable on return.

        Raises:
            RosterError: Not signed by the pinned key, rolled back, or a fork.
        """
        fresh = rosters.verify(data, self._key)
        if fresh.digest != self._current.digest:
            self._last.check_successor(fresh)
            files.replace(self._path, fresh.text, mode=PUBLIC_MODE)
            self._current = self._take(fresh)
        return self._current

    def follow(self, data: bytes) -> Roster:
        """Go by a roster that somebody else put into this keeper's file; the pin is durable on return.

        Nothing is written there: a newer one may have come since `data` was read, and must not be lost.

        Raises:
            RosterError: As `accept`.
        """
        fresh = rosters.verify(data, self._key)
        if fresh.digest != self._current.digest:
            self._current = self._take(fresh)
        return self._current

    def _take(self, fresh: Roster) -> Roster:
        """Pin a roster that lies in the file."""
        self._last = self._last.check_successor(fresh)
        if self._decisions is not None:
            self._decisions.put(f"{_PREFIX}{fresh.version:010}", self._last.to_text())
        return fresh
