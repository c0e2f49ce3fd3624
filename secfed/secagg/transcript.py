"""T: the digest of everything that all survivors must have seen alike before one signs.

Each client computes T from the statements that it used itself, never from a request. Clients
that were shown different sets have different T, so their confirmations do not add up to a quorum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.ids import Digest, MemberIndex
from secfed.secagg.derive import place

__all__ = ["outcome_transcript", "transcript"]

Statements = Mapping[MemberIndex, bytes]
"""A statement's exact bytes by its author."""


def _listed(statements: Statements) -> Digest:
    fields = [part for member in sorted(statements) for part in (place(member), statements[member])]
    return digest(Label.ITEM_LIST, *fields)


def transcript(h: Digest, adverts: Statements, ciphertexts: Statements, bundles: Statements) -> Digest:
    """T over the exact statements used: adverts of all who sent one, lists of E, bundles of U1."""
    return digest(Label.TRANSCRIPT, h, _listed(adverts), _listed(ciphertexts), _listed(bundles))


def outcome_transcript(h: Digest, t: Digest, survivors: Sequence[MemberIndex], sum_digest: Digest) -> Digest:
    """What the next manifest of the job names as its predecessor."""
    return digest(Label.OUTCOME_TRANSCRIPT, h, t, b"".join(map(place, survivors)), sum_digest)
