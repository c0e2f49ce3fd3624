"""Whether a client is the one that was heard before: one state a key, and a ledger that only grows.

What a client must not do twice is known to its state and its ledger alone. An honest aggregator
remembers what it saw of both, so that a second client with one key, or one that came back from a
backup, is refused, and whoever has the state goes on.
"""

from __future__ import annotations

from secfed.errors import AuthenticationError, LedgerError
from secfed.ids import ClientId, Digest
from secfed.rounds.house import House
from secfed.rounds.jobs import Job, JobBook
from secfed.store.journal import Head

__all__ = ["Continuity"]


class Continuity:
    """Remembers states and ledgers of all clients, durably through the book.

    Args:
        house: Roster and observer.
        book: Where the first state of a key, and each ledger's head, are kept for good.
    """

    def __init__(self, house: House, book: JobBook) -> None:
        self._house, self._book = house, book
        self._states: dict[tuple[ClientId, bytes], Digest] = {}

    def check_state(self, site: ClientId, state: Digest) -> None:
        """One key, one state; zero is a client that names none.

        Raises:
            AuthenticationError: The key has served with another state, or with one where this client
                names none.
        """
        key = self._house.clients().get(site)
        if key is None or self._states.get((site, key)) == state:
            return
        if not self._book.serves_with(site, key, state):
            self._house.observer.note("another_state", site=site)
            raise AuthenticationError(
                f"the key of {site} has served with another state than this client's",
                hint="A key serves one client. If the first one's state is lost, make a new key with "
                "`secfed keys rotate` and have it enrolled (`secfed enroll --rotate`).",
            )
        self._states[site, key] = state

    def check_ledger(self, job: Job, site: ClientId, ledger: Head) -> None:
        """A ledger may only have grown.

        Raises:
            LedgerError: It is behind what was seen of it before.
        """
        try:
            self._book.ledger_head(job, site, ledger.count, ledger.digest)
        except LedgerError as error:
            self._house.observer.note("ledger_behind", job=job.id, site=site, reason=str(error))
            raise
