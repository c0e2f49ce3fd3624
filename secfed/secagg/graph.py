"""Who masks with whom: everybody with everybody up to 128 members, above it the neighbours on a ring.

The ring is a Harary graph: members stand in a circle, and each masks with the k/2 before it and the
k/2 after it. Where each stands must be nobody's choice, or the aggregator would put its own members
around a victim. So the order is drawn from the adverts of all members, which are fixed before anybody
can know it; and because the aggregator may try other adverts of its own members again and again, each
trial costs a slow hash of a fifth of a second (`crypto.slow`).

Source: Bell et al. 2020, section 3 (doi:10.1145/3372297.3417885); Harary 1962;
Fisher and Yates 1938, as Durstenfeld 1964 has it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from secfed.crypto.labels import Label
from secfed.crypto.prg import KeyStream
from secfed.crypto.slow import slow_key
from secfed.ids import Digest, MemberIndex
from secfed.secagg.params import Params

__all__ = ["Graph", "ring_order"]

_WORDS = 1 << 32
_FIRST_WORDS = 2048
"""Drawn at first: twice what the largest cohort takes; hardly ever is one passed over."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Neighbours in one cohort.

    Attributes:
        clients: n.
        reach: k/2: how far a member's neighbours stand from it; 0 on the complete graph.
        order: The members around the ring; none on the complete graph.
    """

    clients: int
    reach: int = 0
    order: tuple[MemberIndex, ...] = field(default=(), repr=False)
    _places: tuple[int, ...] = field(default=(), repr=False)

    @classmethod
    def complete(cls, clients: int) -> Graph:
        """Everybody with everybody."""
        return cls(clients)

    @classmethod
    def ring(cls, params: Params, adverts: Digest) -> Graph:
        """The ring of a cohort whose adverts are fixed.

        Args:
            adverts: Digest of h and all adverts (`transcript.adverts_digest`).
        """
        order = ring_order(adverts, params.clients)
        places = [0] * params.clients
        for place, member in enumerate(order):
            places[member] = place
        return cls(params.clients, params.neighbours // 2, order, tuple(places))

    def neighbours(self, member: MemberIndex) -> tuple[MemberIndex, ...]:
        """The member's neighbours in ascending order."""
        if not self.order:
            return tuple(MemberIndex(other) for other in range(self.clients) if other != member)
        place = self._places[member]
        steps = itertools.chain(range(-self.reach, 0), range(1, self.reach + 1))
        return tuple(sorted(self.order[(place + step) % self.clients] for step in steps))


@functools.lru_cache(maxsize=8)
def ring_order(adverts: Digest, clients: int) -> tuple[MemberIndex, ...]:
    """The members around the ring: a uniform permutation under a slow hash of all adverts.

    Remembered for the last few attempts, since all parties of one process ask for the same; what it
    comes from is public.
    """
    words = _words(slow_key(adverts, Label.RING_ORDER))
    order = list(map(MemberIndex, range(clients)))
    for last in range(clients - 1, 0, -1):
        chosen = _below(last + 1, words)
        order[last], order[chosen] = order[chosen], order[last]
    return tuple(order)


def _words(key: bytes) -> Iterator[int]:
    """The key's stream, word by word."""
    stream, done, drawn = KeyStream(key), 0, _FIRST_WORDS
    while True:
        yield from stream.words(drawn)[done:].tolist()
        done, drawn = drawn, 2 * drawn


def _below(bound: int, words: Iterator[int]) -> int:
    """Uniform in [0, bound): a word from the incomplete last run of `bound` numbers is passed over."""
    whole = _WORDS - _WORDS % bound
    return next(word for word in words if word < whole) % bound
