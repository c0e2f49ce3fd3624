"""What all states of a client share in one attempt: who it is, whom it believes, and what it signs.

Every signature of an attempt is made and checked here, bound to the manifest's digest h.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.errors import PeerError
from secfed.identity import signed
from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.secagg.derive import same
from secfed.secagg.graph import Graph
from secfed.secagg.manifest import Manifest, Terms
from secfed.secagg.messages import Codec, Listed
from secfed.secagg.params import Params
from secfed.secagg.record import ClientRecord
from secfed.secagg.transcript import Entries, adverts_digest, statement_digest

__all__ = ["Attempt", "Contribution", "Membership"]


class Contribution(Protocol):
    """One round's contribution, made once, rounding included."""

    def words(self) -> NDArray[np.uint32]:
        """A fresh copy of the encoded vector, shape (length,)."""
        ...

    def mark_sent(self, attempt: int) -> None:
        """Make SENT durable in the ledger; the first masked byte leaves only after this returns."""
        ...


@dataclass(frozen=True, slots=True)
class Membership:
    """Who this client is and whom it believes, for one attempt.

    Attributes:
        aggregator: The aggregator's name and identity key, from the roster.
        members: Identity keys of the roster's active clients, by site.
    """

    site: ClientId
    key: SigningKey
    aggregator: tuple[ClientId, bytes]
    members: Mapping[ClientId, bytes]
    codec: Codec
    record: ClientRecord
    entropy: Callable[[int], bytes] = os.urandom


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt as this client sees it; every signature of it is made and checked here."""

    us: Membership
    terms: Terms
    contribution: Contribution
    manifest: Manifest
    h: Digest
    params: Params
    me: MemberIndex

    def site(self, member: MemberIndex) -> ClientId:
        return self.manifest.cohort[member]

    def sign(self, label: Label, statement: bytes) -> Signed:
        return signed.sign(
            self.us.key, label, context=self.h, sender=self.us.site, recipient=None, statement=statement
        )

    def verify(self, item: Signed, label: Label, member: MemberIndex) -> bytes:
        """The exact bytes, once the member's signature over them holds."""
        site = self.site(member)
        return signed.open_(item, self.us.members[site], label, context=self.h, sender=site, recipient=None)

    def neighbours(self, adverts: Entries) -> tuple[MemberIndex, ...]:
        """Whom this client masks with, sorted; on the ring it follows from everybody's adverts."""
        if not self.params.on_ring:
            return Graph.complete(self.params.clients).neighbours(self.me)
        return Graph.ring(self.params, adverts_digest(self.h, adverts)).neighbours(self.me)

    def entries(
        self, own: Mapping[MemberIndex, bytes], listed: Listed, allowed: frozenset[MemberIndex]
    ) -> Entries:
        """What enters T for one phase: the statements verified here; on the ring everybody's digests.

        Args:
            own: This client's statement and the verified ones of others, by author.
            listed: As the request has it.
            allowed: Who may be in it.

        Raises:
            PeerError: Digests where there are none to be, not sorted, of somebody else, or other ones than
                those of the statements in hand.
        """
        if not self.params.on_ring:
            if listed:
                raise PeerError("digests stand beside a list that is whole: the cohort has no ring")
            return own
        self.check_senders(tuple(member for member, _ in listed), allowed, "digests")
        entries = dict(listed)
        for member, statement in own.items():
            if not same(entries.get(member, b""), statement_digest(statement)):
                raise PeerError(
                    "a statement is not the one of the list's digest, or is not in the list",
                    culprits=[] if member == self.me else [self.site(member)],
                )
        return entries

    def check_whole(
        self, neighbours: Iterable[MemberIndex], shown: Collection[MemberIndex], entries: Entries, what: str
    ) -> None:
        """Of every neighbour that is listed the statement itself must be here."""
        if any(member in entries and member not in shown for member in neighbours):
            raise PeerError(f"a neighbour's {what} is listed by its digest and held back")

    def check_senders(
        self, senders: tuple[MemberIndex, ...], allowed: frozenset[MemberIndex], what: str
    ) -> None:
        """A list from the aggregator: strictly sorted, without this client, only from `allowed`."""
        if any(low >= high for low, high in itertools.pairwise(senders)):
            raise PeerError(f"the list of {what} is not strictly sorted: an id is repeated")
        if not allowed.issuperset(senders):
            raise PeerError(f"the list of {what} names a member who is not allowed in it")
