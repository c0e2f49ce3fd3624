"""Every message of the secure sum, one frozen dataclass each, in the order they are sent.

A *statement* is what somebody signs: its exact serialised bytes travel in a `Signed`, are
verified first and parsed after. A *request* goes from the aggregator to one client, a *reply*
back. Requests need no signature of their own: everything in them that matters was signed by
a member, except the manifest, a void and an outcome, which the aggregator signs.

The core never serialises: it asks the `Codec` port, which `wire/codec.py` implements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol, TypeVar

from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest, MemberIndex, RoundId
from secfed.secagg.manifest import Manifest

__all__ = [
    "Advert", "Adverts", "Bundle", "BundleItem", "Bundles", "CiphertextIndex", "CiphertextList",
    "Ciphertexts", "Codec", "Confirm", "ConfirmRequest", "Countersignature", "DeliveredBundle",
    "DeliveredCiphertexts", "Dropped", "ItemDigest", "Listed", "MaskedStatement", "MaskedUpdate",
    "OpenAttempt", "Outcome", "OutcomeNotice", "Phase", "RecoveryKeyShare", "Reply", "Request",
    "SelfMaskShare", "ShareAnswers", "ShareIndex", "SignedReply", "Statement", "UnmaskRequest", "Void",
    "VoidNotice",
]  # fmt: skip


class Phase(Enum):
    """Where an attempt stands; the value is what people read."""

    ADVERTISE = "advertise"
    ENCAPSULATE = "encapsulate"
    SHARE = "share"
    MASK = "mask"
    CONFIRM = "confirm"
    UNMASK = "unmask"
    DONE = "done"


class ItemDigest(NamedTuple):
    """An item of a list for one member, by digest, so that a list's signature covers items
    that its reader never sees. A tuple: a cohort of a hundred reads ten thousand of them in a phase."""

    member: MemberIndex
    digest: Digest


Listed = tuple[tuple[MemberIndex, Digest], ...]
"""On the ring: the statement of every member that made one in a phase, by its digest, sorted by member.
Readers have their neighbours' in full. Empty on the complete graph, where everybody has everybody's."""


# -- advertise ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """Request: take part in this attempt. `manifest` holds a `Manifest` signed by the aggregator."""

    manifest: Signed


@dataclass(frozen=True, slots=True)
class Advert:
    """Statement: this member's ephemeral public keys. x25519 has 32 bytes, mlkem 1184."""

    x25519: bytes
    mlkem: bytes


# -- encapsulate -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Adverts:
    """Request: the adverts of all members that sent one, sorted by member.

    On the ring `listed` has all of them, the reader's own too. In full come at least those of the reader's
    neighbours, who follow from `listed`; in a second attempt everybody's, since the reader must see which
    of its former neighbours are back.
    """

    adverts: tuple[tuple[MemberIndex, Signed], ...]
    listed: Listed = ()


@dataclass(frozen=True, slots=True)
class CiphertextIndex:
    """Statement: digests of the ciphertexts for each higher-numbered neighbour, sorted.

    The member with the highest index signs an empty one: the signature says that it is here.
    """

    items: tuple[ItemDigest, ...]


@dataclass(frozen=True, slots=True)
class CiphertextList:
    """Reply: the signed index and the ML-KEM ciphertexts (1088 bytes each) themselves."""

    index: Signed
    ciphertexts: Mapping[MemberIndex, bytes]


# -- share -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeliveredCiphertexts:
    """One member's signed index, and its ciphertext for the reader (None where the reader is lower)."""

    sender: MemberIndex
    index: Signed
    own: bytes | None


@dataclass(frozen=True, slots=True)
class Ciphertexts:
    """Request: what every other member that sent its list had for this reader, sorted by sender.

    On the ring the neighbours alone, and `listed` has all.
    """

    lists: tuple[DeliveredCiphertexts, ...]
    listed: Listed = ()


@dataclass(frozen=True, slots=True)
class BundleItem:
    """What one owner has for one holder.

    Attributes:
        envelope: Sealed shares of the owner's self mask and recovery key for this holder.
        self_share: Commitment to the share of the self mask.
        recovery_share: Commitment to the share of the recovery key.
        edge: Commitment to the edge's mask seed, the same from both ends.
    """

    envelope: bytes = field(repr=False)
    self_share: Digest
    recovery_share: Digest
    edge: Digest


@dataclass(frozen=True, slots=True)
class ShareIndex:
    """Statement: digests of the items for each neighbour (this is the neighbour list) and of the blob."""

    items: tuple[ItemDigest, ...]
    blob: Digest


@dataclass(frozen=True, slots=True)
class Bundle:
    """Reply: the signed index, an item for each neighbour, and the recovery blob."""

    index: Signed
    items: Mapping[MemberIndex, BundleItem]
    blob: bytes = field(repr=False)


# -- mask --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeliveredBundle:
    """One owner's signed index and its item for the reader (None if it lists none)."""

    sender: MemberIndex
    index: Signed
    own: BundleItem | None


@dataclass(frozen=True, slots=True)
class Bundles:
    """Request: the bundles of all other members that sent one, sorted by sender.

    On the ring the neighbours' alone, and `listed` has all.
    """

    bundles: tuple[DeliveredBundle, ...]
    listed: Listed = ()


@dataclass(frozen=True, slots=True)
class MaskedStatement:
    """Statement over one masked vector: its digest and size, and owners whose shares were bad."""

    vector: Digest
    size_bytes: int
    complaints: tuple[MemberIndex, ...]


@dataclass(frozen=True, slots=True)
class MaskedUpdate:
    """Reply: the statement and the packed vector, which travels in frames."""

    statement: Signed
    packed: bytes = field(repr=False)


# -- confirm -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConfirmRequest:
    """Request: sign that exactly these members' vectors may be summed."""

    survivors: tuple[MemberIndex, ...]


@dataclass(frozen=True, slots=True)
class Confirm:
    """Statement: the transcript that this member saw, and the survivors, sorted."""

    transcript: Digest
    survivors: tuple[MemberIndex, ...]


# -- unmask ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UnmaskRequest:
    """Request: one share for each neighbour. `signatures` are over the reader's own `Confirm` bytes."""

    survivors: tuple[MemberIndex, ...]
    signatures: tuple[tuple[MemberIndex, bytes], ...]


@dataclass(frozen=True, slots=True)
class SelfMaskShare:
    """32 bytes: a share of a survivor's self mask."""

    share: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RecoveryKeyShare:
    """32 bytes: a share of a dropout's recovery key."""

    share: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ShareAnswers:
    """Statement: for each neighbour one share, of one kind; two for one member cannot be said.

    In the schema the pairs are sorted and strictly increasing, each with a `oneof`.
    """

    transcript: Digest
    shares: Mapping[MemberIndex, SelfMaskShare | RecoveryKeyShare]


# -- the end -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dropped:
    """A member of the cohort whose vector is not in the sum, with the phase and the reason."""

    site: ClientId
    phase: str
    reason: str


@dataclass(frozen=True, slots=True)
class Void:
    """Statement by the aggregator: this attempt is over and its masks are worthless."""

    reason: str


@dataclass(frozen=True, slots=True)
class VoidNotice:
    """Request: the attempt of `manifest` digest h is void; no reply is owed."""

    attempt: Digest
    statement: Signed


@dataclass(frozen=True, slots=True)
class Outcome:
    """Statement by the aggregator: how a sum ended.

    Attributes:
        round_id: Which sum. A member that took no part in the attempt cannot tell it by h.
        published: False if the round was aborted; the digests are then zero.
        survivors: Sites in the sum, sorted.
        dropped: Members of the cohort that are not.
        sum: Digest of the opened ring sum.
        transcript: Digest that the next manifest of the job names as its predecessor.
        result: Digest of the published adapter or sum file.
    """

    round_id: RoundId
    published: bool
    survivors: tuple[ClientId, ...]
    dropped: tuple[Dropped, ...]
    sum: Digest
    transcript: Digest
    result: Digest


@dataclass(frozen=True, slots=True)
class OutcomeNotice:
    """Request: how the sum with digest h ended. The reply is a signed `Countersignature`."""

    attempt: Digest
    statement: Signed


@dataclass(frozen=True, slots=True)
class Countersignature:
    """Statement: this member saw the same sum and transcript digests."""

    sum: Digest
    transcript: Digest


@dataclass(frozen=True, slots=True)
class SignedReply:
    """Reply: a signed `Advert`, `Confirm`, `ShareAnswers` or `Countersignature`, by the phase."""

    statement: Signed


Request = (
    OpenAttempt
    | Adverts
    | Ciphertexts
    | Bundles
    | ConfirmRequest
    | UnmaskRequest
    | VoidNotice
    | OutcomeNotice
)
"""From the aggregator to one client."""

Reply = SignedReply | CiphertextList | Bundle | MaskedUpdate
"""From one client to the aggregator."""

Statement = (
    Manifest
    | Advert
    | CiphertextIndex
    | ShareIndex
    | MaskedStatement
    | Confirm
    | ShareAnswers
    | Void
    | Outcome
    | Countersignature
)
"""What somebody signs."""

S = TypeVar("S", bound=Statement)


class Codec(Protocol):
    """Statements to exact bytes and back; strict, deterministic, bounded."""

    def encode(self, statement: Statement) -> bytes:
        """The one serialisation of a statement."""
        ...

    def decode(self, kind: type[S], data: bytes) -> S:
        """Parse a statement of this kind.

        Raises:
            PeerError: Unknown fields, wrong lengths, unsorted lists, or bytes that are not
                the statement's one serialisation.
        """
        ...
