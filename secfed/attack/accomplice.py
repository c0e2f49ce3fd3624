"""A member whose keys the adversary has: it plays along, signs whatever is useful, and tells all.

It is made of the same states as an honest client, so its messages are right in every byte;
what it leaves out are a client's decisions, and its silence.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from secfed.crypto import agreement
from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.secagg.attempt import Attempt, Membership
from secfed.secagg.manifest import Manifest, Terms
from secfed.secagg.messages import (
    Advert,
    Adverts,
    Bundles,
    Ciphertexts,
    Codec,
    Confirm,
    ConfirmRequest,
    Listed,
    OpenAttempt,
    RecoveryKeyShare,
    Reply,
    Request,
    SelfMaskShare,
    ShareAnswers,
    SignedReply,
    UnmaskRequest,
)
from secfed.secagg.params import Params
from secfed.secagg.record import ClientRecord
from secfed.secagg.states import Advertised, Encapsulated, Masked, Shared
from secfed.secagg.transcript import Entries

__all__ = ["Accomplice", "Forgetful"]


class Forgetful:
    """Decisions that are kept in memory, for parties of the adversary: what it repeats is its own affair."""

    def __init__(self) -> None:
        self._pairs: dict[str, bytes] = {}

    def put(self, key: str, value: bytes) -> None:
        """Store; other bytes under the same key simply take the place."""
        self._pairs[key] = value

    def get(self, key: str) -> bytes | None:
        """The value, or None."""
        return self._pairs.get(key)

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """All pairs whose key begins with `prefix`, sorted."""
        return sorted(pair for pair in self._pairs.items() if pair[0].startswith(prefix))


@dataclass(frozen=True, slots=True)
class _Nothing:
    """A contribution of zeros."""

    length: int

    def words(self) -> NDArray[np.uint32]:
        return np.zeros(self.length, np.uint32)

    def mark_sent(self, attempt: int) -> None:
        del attempt


@dataclass(frozen=True, slots=True)
class _Indifferent(Attempt):
    """A seat from which nothing is checked: what it is shown is the adversary's own doing."""

    def verify(self, item: Signed, label: Label, member: MemberIndex) -> bytes:
        del label, member
        return item.statement


class _Beside(_Indifferent):
    """A seat whose neighbours are whoever is shown to it."""

    __slots__ = ()

    def neighbours(self, adverts: Entries) -> tuple[MemberIndex, ...]:
        return tuple(member for member in sorted(adverts) if member != self.me)

    def entries(self, own: Entries, listed: Listed, allowed: frozenset[MemberIndex]) -> Entries:
        del listed, allowed
        return own


@dataclass(slots=True)
class Accomplice:
    """One corrupt member in one attempt. Its vector is zero, so it drops out of what is opened.

    Attributes:
        attempt: Its seat, with its real identity key (or an invented one, where no roster knows it).
        keys: Its ephemeral keys.
        shared: Its edges' seeds and its self mask's, once it dealt its shares.
        masked: What the others dealt to it, both kinds.
    """

    attempt: Attempt
    keys: agreement.KeyPair = field(repr=False)
    advertised: Advertised = field(repr=False)
    encapsulated: Encapsulated | None = field(default=None, repr=False)
    shared: Shared | None = field(default=None, repr=False)
    masked: Masked | None = field(default=None, repr=False)

    @classmethod
    def join(
        cls,
        site: ClientId,
        key: SigningKey,
        members: dict[ClientId, bytes],
        codec: Codec,
        terms: Terms,
        manifest: Manifest,
        h: Digest,
        params: Params,
        me: MemberIndex,
    ) -> Accomplice:
        """Take a seat; nothing of the manifest is held against anything."""
        nobody = (ClientId("nobody"), bytes(32))
        us = Membership(site, key, nobody, members, codec, ClientRecord(Forgetful()))
        attempt = _Indifferent(us, terms, _Nothing(manifest.length), manifest, h, params, me)
        keys = agreement.KeyPair.generate()
        advert = codec.encode(Advert(keys.public.x25519, keys.public.mlkem))
        return cls(attempt, keys, Advertised(attempt, keys, advert))

    def crony(self) -> Accomplice:
        """The same member with the same keys, beside whomever it is told of, be it one alone."""
        seat = _Beside(**{each.name: getattr(self.attempt, each.name) for each in fields(Attempt)})
        seat = replace(
            seat, params=replace(seat.params, threshold=1)
        )  # what it deals itself is worth nothing
        return Accomplice(seat, self.keys, replace(self.advertised, attempt=seat))

    def reply(self, request: Request) -> Reply:
        """What an honest member would reply, whatever was replied before."""
        match request:
            case OpenAttempt():
                return SignedReply(self.attempt.sign(Label.SIGN_ADVERT, self.advertised.statement))
            case Adverts():
                self.encapsulated, reply = self.advertised.encapsulate(request)
                return reply
            case Ciphertexts() if self.encapsulated is not None:
                self.shared, bundle = self.encapsulated.share(request)
                return bundle
            case Bundles() if self.shared is not None:
                self.masked, update = self.shared.mask(request)
                return update
            case ConfirmRequest() if self.masked is not None:
                return SignedReply(self.certify(self.masked.transcript, request.survivors))
            case UnmaskRequest() if self.masked is not None:
                return SignedReply(self._answer(self.masked, request.survivors))
            case _:
                raise ValueError(f"an accomplice has no reply to {type(request).__name__}")

    def certify(self, transcript: Digest, survivors: tuple[MemberIndex, ...]) -> Signed:
        """Its signature under any transcript and any survivors."""
        body = self.attempt.us.codec.encode(Confirm(transcript, survivors))
        return self.attempt.sign(Label.SIGN_CONFIRM, body)

    def _answer(self, masked: Masked, survivors: tuple[MemberIndex, ...]) -> Signed:
        shares = {
            owner: SelfMaskShare(held.self_share)
            if owner in survivors
            else RecoveryKeyShare(held.recovery_share)
            for owner, held in masked.held.items()
        }
        body = self.attempt.us.codec.encode(ShareAnswers(masked.transcript, shares))
        return self.attempt.sign(Label.SIGN_UNMASK, body)
