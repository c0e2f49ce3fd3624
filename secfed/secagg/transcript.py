"""T: the digest of everything that all survivors must have seen alike before one signs.

Each client computes T from the statements that it used itself, never from a request. Clients
that were shown different sets have different T, so their confirmations do not add up to a quorum.

On the complete graph a client has every statement in full, and these go in. On the ring it has its
neighbours', and of everybody a digest; the digests go in, and those of statements that it has are its
own work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.ids import Digest, MemberIndex
from secfed.secagg.derive import place

__all__ = ["Entries", "adverts_digest", "outcome_transcript", "statement_digest", "transcript"]

Entries = Mapping[MemberIndex, bytes]
"""What stands for a member in a list: its statement's exact bytes; on the ring their digest."""


def statement_digest(statement: bytes) -> Digest:
    """What stands for a statement in the lists of a ring."""
    return digest(Label.STATEMENT, statement)


def _listed(entries: Entries, *, ring: bool) -> Digest:
    """Whose and what, ascending; digests, all of one size, stand in one field."""
    fields = [part for member in sorted(entries) for part in (place(member), entries[member])]
    return digest(Label.ITEM_LIST, b"".join(fields)) if ring else digest(Label.ITEM_LIST, *fields)


def adverts_digest(h: Digest, adverts: Entries) -> Digest:
    """What the order of a ring is drawn from."""
    return digest(Label.RING_ADVERTS, h, _listed(adverts, ring=True))


def transcript(h: Digest, *phases: Entries, ring: bool = False) -> Digest:
    """T over the entries used: adverts of all who sent one, lists of E, bundles of U1, in this order."""
    return digest(Label.TRANSCRIPT, h, *(_listed(entries, ring=ring) for entries in phases))


def outcome_transcript(h: Digest, t: Digest, survivors: Sequence[MemberIndex], sum_digest: Digest) -> Digest:
    """What the next manifest of the job names as its predecessor."""
    return digest(Label.OUTCOME_TRANSCRIPT, h, t, b"".join(map(place, survivors)), sum_digest)
