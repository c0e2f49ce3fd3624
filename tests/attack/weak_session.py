"""What weakened victims are made of: a client whose steps a subclass may take in another way, and places.

A class that no `Victims` takes is put into its module's place for the test, and so are a few functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from secfed.attack.clients import Victims
from secfed.rounds.admission import Site
from secfed.rounds.client import ClientRounds
from secfed.secagg import client
from secfed.secagg.attempt import Attempt
from secfed.secagg.client import ClientSession
from secfed.secagg.manifest import Terms
from secfed.secagg.messages import OpenAttempt, OutcomeNotice, VoidNotice

T = TypeVar("T")


@dataclass(frozen=True)
class Weaker:
    """Victims of one row, without any defence that it names, and what is put into whose place beside them."""

    victims: Victims = field(default_factory=Victims)
    places: tuple[tuple[Any, str, Any], ...] = ()


def recast(kind: type[T], value: Any, **changes: Any) -> T:
    """The same fields in a weaker class."""
    return kind(**{each.name: getattr(value, each.name) for each in fields(value)} | changes)


class WeakSession(ClientSession):
    """A session whose steps a subclass may take in another way, and any number of times."""

    attempt: type[Attempt] = Attempt

    def receive(self, request):
        if isinstance(request, OpenAttempt | VoidNotice | OutcomeNotice):
            return super().receive(request)
        self._state, reply = self.advance(self._state, request)
        self._answered = None
        return reply

    def advance(self, state, request):
        return client._advance(state, request)

    def _open(self, request):
        state, reply = super()._open(request)
        return replace(state, attempt=recast(self.attempt, state.attempt)), reply

    def offer(self, us, terms, contribution):
        super().offer(us, self.terms(terms), contribution)

    def terms(self, terms: Terms) -> Terms:
        return terms


class WeakRounds(ClientRounds):
    """A client with such a session."""

    session: Callable[[], ClientSession] = WeakSession

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._session = self.session()


def with_session(session: type[ClientSession], rounds: type[WeakRounds] = WeakRounds) -> Victims:
    """Clients with this session and nothing else changed."""
    return Victims(rounds=type("Rounds", (rounds,), {"session": session}))
