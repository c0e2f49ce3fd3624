"""Every derivation of one attempt, in one place, so that both sides compute the same bytes.

Each input is bound to h and to the places of the two members that it concerns.
`protos/README.md` tells the same in words.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from secfed.crypto import aead
from secfed.crypto.agreement import EdgeSecret
from secfed.crypto.kdf import derive, digest
from secfed.crypto.labels import Label
from secfed.errors import PeerError
from secfed.ids import Digest, MemberIndex
from secfed.secagg.messages import BundleItem

__all__ = [
    "SHARE_BYTES",
    "EdgeKeys",
    "HeldShares",
    "agreement_salt",
    "blob_key",
    "edge_commitment",
    "edge_keys",
    "item_digest",
    "open_blob",
    "open_envelope",
    "recovery_commitment",
    "same",
    "seal_blob",
    "seal_envelope",
    "self_commitment",
    "self_mask_seed",
    "vector_digest",
]

SHARE_BYTES = 32
"""A share of a secret below 2^255 - 19."""

_SEED_BYTES = 32
_SELF, _RECOVERY = b"\x01", b"\x02"


def place(member: MemberIndex) -> bytes:
    """A member's index as two bytes, big-endian."""
    return member.to_bytes(2, "big")


def same(left: bytes, right: bytes) -> bool:
    """Compare without telling by time where they differ."""
    return hmac.compare_digest(left, right)


def item_digest(h: Digest, sender: MemberIndex, recipient: MemberIndex, data: bytes) -> Digest:
    """Digest of what one member has for another."""
    return digest(Label.ITEM, h, place(sender), place(recipient), data)


def bundle_item_bytes(item: BundleItem) -> bytes:
    """A bundle item's exact bytes under `item_digest`: envelope, then the three commitments."""
    return item.envelope + item.self_share + item.recovery_share + item.edge


def agreement_salt(low_advert: bytes, high_advert: bytes, ciphertext: bytes) -> bytes:
    """Salt of an edge: both advert statements in index order, and the ciphertext between them."""
    return digest(Label.AGREEMENT_SALT, low_advert, high_advert, ciphertext)


@dataclass(frozen=True, slots=True)
class EdgeKeys:
    """The secrets of one edge, as seen from one end.

    Attributes:
        mask: 32-byte seed of the edge mask, the same at both ends.
        outgoing: Seals this end's envelope; used exactly once.
        incoming: Opens the other end's envelope.
    """

    mask: bytes = field(repr=False)
    outgoing: bytes = field(repr=False)
    incoming: bytes = field(repr=False)


def edge_keys(secret: EdgeSecret, h: Digest, me: MemberIndex, other: MemberIndex) -> EdgeKeys:
    """Expand an agreed secret into the edge's mask seed and the two envelope keys."""
    low, high = sorted((me, other))
    return EdgeKeys(
        mask=secret.derive(Label.EDGE_MASK, h, place(low), place(high)),
        outgoing=secret.derive(Label.ENVELOPE, h, place(me), place(other)),
        incoming=secret.derive(Label.ENVELOPE, h, place(other), place(me)),
    )


def self_mask_seed(secret: bytes, h: Digest, owner: MemberIndex) -> bytes:
    """Seed of the self mask from b_i."""
    return derive(secret, Label.SELF_MASK, h, place(owner))


def blob_key(secret: bytes, h: Digest, owner: MemberIndex) -> bytes:
    """Key of the recovery blob from K_i."""
    return derive(secret, Label.BLOB, h, place(owner))


def self_commitment(h: Digest, owner: MemberIndex, holder: MemberIndex, share: bytes) -> Digest:
    """Commitment to the share of b_owner that `holder` keeps."""
    return digest(Label.SHARE_COMMITMENT, h, place(owner), place(holder), _SELF, share)


def recovery_commitment(h: Digest, owner: MemberIndex, holder: MemberIndex, share: bytes) -> Digest:
    """Commitment to the share of K_owner that `holder` keeps."""
    return digest(Label.SHARE_COMMITMENT, h, place(owner), place(holder), _RECOVERY, share)


def edge_commitment(h: Digest, one: MemberIndex, other: MemberIndex, mask: bytes) -> Digest:
    """Commitment to an edge's mask seed; the same from both ends."""
    low, high = sorted((one, other))
    return digest(Label.EDGE_COMMITMENT, h, place(low), place(high), mask)


def vector_digest(h: Digest, owner: MemberIndex, sha256: bytes) -> Digest:
    """What a masked vector's signature covers; the SHA-256 of the packed bytes may be streamed."""
    return digest(Label.MASKED_VECTOR, h, place(owner), sha256)


# -- envelopes: one holder's shares ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeldShares:
    """The two shares of one owner that a holder keeps; it will give away at most one of them."""

    self_share: bytes = field(repr=False)
    recovery_share: bytes = field(repr=False)


def seal_envelope(
    keys: EdgeKeys, h: Digest, me: MemberIndex, holder: MemberIndex, shares: HeldShares
) -> bytes:
    """Seal this owner's shares for one holder; `keys.outgoing` never seals again."""
    plain = shares.self_share + shares.recovery_share
    return aead.seal(keys.outgoing, plain, aad=h + place(me) + place(holder))


def open_envelope(
    keys: EdgeKeys, h: Digest, owner: MemberIndex, me: MemberIndex, sealed: bytes
) -> HeldShares:
    """Open the owner's envelope for this holder.

    Raises:
        PeerError: It was not sealed for this edge, direction and attempt.
    """
    plain = aead.open_(keys.incoming, sealed, aad=h + place(owner) + place(me))
    if len(plain) != 2 * SHARE_BYTES:
        raise PeerError("an envelope holds something else than two shares")
    return HeldShares(plain[:SHARE_BYTES], plain[SHARE_BYTES:])


# -- recovery blobs: one owner's edge seeds ----------------------------------------------------


def _blob_context(h: Digest, owner: MemberIndex, neighbours: tuple[MemberIndex, ...]) -> bytes:
    return h + place(owner) + b"".join(map(place, neighbours))


def seal_blob(secret: bytes, h: Digest, owner: MemberIndex, seeds: dict[MemberIndex, bytes]) -> bytes:
    """Seal the owner's edge mask seeds under its recovery key K_i.

    If the owner drops, t shares of K_i open these seeds of this attempt and nothing else.
    """
    order = tuple(sorted(seeds))
    plain = b"".join(place(member) + seeds[member] for member in order)
    return aead.seal(blob_key(secret, h, owner), plain, aad=_blob_context(h, owner, order))


def open_blob(
    secret: bytes, h: Digest, owner: MemberIndex, neighbours: tuple[MemberIndex, ...], sealed: bytes
) -> dict[MemberIndex, bytes]:
    """Open a dropped owner's edge seeds.

    Raises:
        PeerError: The blob does not open under this key and neighbour list.
    """
    plain = aead.open_(blob_key(secret, h, owner), sealed, aad=_blob_context(h, owner, neighbours))
    width = 2 + _SEED_BYTES
    pieces = [plain[start : start + width] for start in range(0, len(plain), width)]
    if [piece[:2] for piece in pieces] != [place(member) for member in neighbours]:
        raise PeerError("a recovery blob lists other neighbours than its signed bundle")
    return {member: piece[2:] for member, piece in zip(neighbours, pieces, strict=True)}
