"""What the members of one attempt sent to the aggregator; nothing enters that was not verified.

A statement's signature is checked before it is parsed, and every item against the digest that
its sender signed, so that what is passed on to others can be held against its author.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from secfed.crypto import agreement
from secfed.crypto.labels import Label
from secfed.errors import PeerError
from secfed.identity import signed
from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.secagg import derive, transcript
from secfed.secagg.frozen import Frozen, Owner
from secfed.secagg.graph import Graph
from secfed.secagg.manifest import Manifest
from secfed.secagg.messages import (
    Advert,
    Bundle,
    BundleItem,
    CiphertextIndex,
    CiphertextList,
    Codec,
    Confirm,
    Dropped,
    Listed,
    MaskedStatement,
    Phase,
    ShareAnswers,
    ShareIndex,
)
from secfed.secagg.opening import Shares
from secfed.secagg.params import Params
from secfed.secagg.transcript import Entries

__all__ = ["Collected"]


class Collected:
    """Replies by member and phase. Each `take_*` raises `PeerError` and keeps nothing if a rule is broken.

    Args:
        h: The manifest's digest, which every signature is bound to.
        members: Identity keys of the cohort, by site.

    Attributes:
        graph: Who masks with whom; on the ring once the adverts are fixed.
        listed: On the ring the digests of a phase's statements, once it is over.
        holders: Who gave a good share of each owner, in the order in which they came.
    """

    def __init__(
        self,
        manifest: Manifest,
        h: Digest,
        members: Mapping[ClientId, bytes],
        codec: Codec,
        params: Params,
    ) -> None:
        self._manifest, self._h, self._members, self._codec = manifest, h, members, codec
        self._params = params
        self.graph = Graph.complete(params.clients)
        self.listed: dict[Phase, Listed] = {}
        self._keys: dict[bytes, MemberIndex] = {}
        self.adverts: dict[MemberIndex, Signed] = {}
        self.lists: dict[MemberIndex, CiphertextList] = {}
        self.bundles: dict[MemberIndex, Bundle] = {}
        self.masked: dict[MemberIndex, MaskedStatement] = {}
        self.signatures: dict[MemberIndex, bytes] = {}
        self.answers: dict[MemberIndex, ShareAnswers] = {}
        self.holders: dict[MemberIndex, tuple[MemberIndex, ...]] = {}

    def site(self, member: MemberIndex) -> ClientId:
        """The member's name."""
        return self._manifest.cohort[member]

    def of(self, phase: Phase) -> Mapping[MemberIndex, object]:
        """Who has replied in a phase."""
        match phase:
            case Phase.ADVERTISE:
                return self.adverts
            case Phase.ENCAPSULATE:
                return self.lists
            case Phase.SHARE:
                return self.bundles
            case Phase.MASK:
                return self.masked
            case Phase.CONFIRM:
                return self.signatures
            case Phase.UNMASK | Phase.DONE:
                return self.answers

    def forget(self, member: MemberIndex, phase: Phase) -> None:
        """A member was lost before the freeze: what others have not built on is not used.

        A ciphertext list or a bundle stays: it does no harm, and a blob even helps.
        """
        if phase is Phase.ADVERTISE:
            self.adverts.pop(member, None)
            self._keys = {key: owner for key, owner in self._keys.items() if owner != member}
        if phase is Phase.MASK:
            self.masked.pop(member, None)

    def _open(self, item: Signed, label: Label, member: MemberIndex) -> bytes:
        site = self.site(member)
        return signed.open_(item, self._members[site], label, context=self._h, sender=site, recipient=None)

    def take_advert(self, member: MemberIndex, item: Signed) -> None:
        """Keys in good form that nobody else has."""
        advert = self._codec.decode(Advert, self._open(item, Label.SIGN_ADVERT, member))
        agreement.check_public(agreement.AgreementPublic(advert.x25519, advert.mlkem))
        keys = advert.x25519, advert.mlkem
        if any(key in self._keys for key in keys):
            raise PeerError("an ephemeral key repeats another member's", culprits=[self.site(member)])
        self._keys.update(dict.fromkeys(keys, member))
        self.adverts[member] = item

    def close(self, phase: Phase) -> None:
        """A phase is over: its statements are fixed, and with the adverts the ring."""
        if not self._params.on_ring:
            return
        statements = self._statements(phase)
        digests = {member: transcript.statement_digest(statements[member]) for member in sorted(statements)}
        self.listed[phase] = tuple(digests.items())
        if phase is Phase.ADVERTISE:
            self.graph = Graph.ring(self._params, transcript.adverts_digest(self._h, digests))

    def neighbours(self, member: MemberIndex, among: Container[MemberIndex]) -> list[MemberIndex]:
        """The member's neighbours that are among these, sorted."""
        return [other for other in self.graph.neighbours(member) if other in among]

    def take_ciphertexts(self, member: MemberIndex, reply: CiphertextList) -> None:
        """One ciphertext for each higher-numbered neighbour with an advert, as signed."""
        index = self._codec.decode(CiphertextIndex, self._open(reply.index, Label.SIGN_CIPHERTEXTS, member))
        digests = dict(index.items)
        wanted = {other for other in self.neighbours(member, self.adverts) if other > member}
        if digests.keys() != wanted or reply.ciphertexts.keys() != wanted:
            raise PeerError(
                "a ciphertext list is not for the higher-numbered neighbours", culprits=[self.site(member)]
            )
        for other, ciphertext in reply.ciphertexts.items():
            if derive.item_digest(self._h, member, other, ciphertext) != digests[other]:
                raise PeerError("a ciphertext is not the one that was signed", culprits=[self.site(member)])
        self.lists[member] = reply

    def take_bundle(self, member: MemberIndex, reply: Bundle) -> None:
        """One item for every neighbour with a ciphertext list, and the blob, as signed."""
        index = self._codec.decode(ShareIndex, self._open(reply.index, Label.SIGN_BUNDLE, member))
        digests = dict(index.items)
        wanted = set(self.neighbours(member, self.lists))
        if digests.keys() != wanted or reply.items.keys() != wanted:
            raise PeerError(
                "a bundle is not for the neighbours that agreed on keys", culprits=[self.site(member)]
            )
        for other, item in reply.items.items():
            if derive.item_digest(self._h, member, other, derive.bundle_item_bytes(item)) != digests[other]:
                raise PeerError("a bundle item is not the one that was signed", culprits=[self.site(member)])
        if derive.item_digest(self._h, member, member, reply.blob) != index.blob:
            raise PeerError("a recovery blob is not the one that was signed", culprits=[self.site(member)])
        self.bundles[member] = reply

    def check_masked(self, member: MemberIndex, statement: Signed) -> MaskedStatement:
        """What a member says of its masked vector: the right size, and complaints about others in U1."""
        masked = self._codec.decode(MaskedStatement, self._open(statement, Label.SIGN_MASKED, member))
        if masked.size_bytes != self._manifest.packed_bytes:
            raise PeerError(
                "a masked vector has another size than the manifest says", culprits=[self.site(member)]
            )
        if not set(masked.complaints) <= set(self.neighbours(member, self.bundles)):
            raise PeerError("a complaint names no neighbour with a bundle", culprits=[self.site(member)])
        return masked

    def take_masked(self, member: MemberIndex, statement: Signed, sha256: bytes) -> None:
        """The vector with this SHA-256 is stored: it must be the one that was signed."""
        masked = self.check_masked(member, statement)
        if not derive.same(masked.vector, derive.vector_digest(self._h, member, sha256)):
            raise PeerError("a masked vector is not the one that was signed", culprits=[self.site(member)])
        self.masked[member] = masked

    def take_signature(self, member: MemberIndex, item: Signed, frozen: Frozen) -> None:
        """A confirmation of the very transcript and survivors that were frozen."""
        confirm = self._codec.decode(Confirm, self._open(item, Label.SIGN_CONFIRM, member))
        if confirm != Confirm(frozen.transcript, frozen.survivors):
            raise PeerError(
                "a member confirms another transcript or survivor set", culprits=[self.site(member)]
            )
        self.signatures[member] = item.signature

    def take_shares(self, member: MemberIndex, item: Signed, frozen: Frozen) -> None:
        """Shares under the frozen transcript, each the one that its dealer committed to."""
        answers = self._codec.decode(ShareAnswers, self._open(item, Label.SIGN_UNMASK, member))
        if answers.transcript != frozen.transcript:
            raise PeerError("shares come with another transcript", culprits=[self.site(member)])
        Shares.check(self._h, frozen, member, answers, self.site)
        self.answers[member] = answers
        for owner in answers.shares:
            self.holders[owner] = (*self.holders.get(owner, ()), member)

    # -- before the freeze ---------------------------------------------------------------------

    def dispute(self) -> str | None:
        """Two ends of an edge that commit to different masks: the sum would be wrong in silence."""
        for low, bundle in self.bundles.items():
            for high, item in bundle.items.items():
                if low < high and high in self.bundles and item.edge != self.bundles[high].items[low].edge:
                    pair = f"{self.site(low)} and {self.site(high)}"
                    return f"{pair} commit to different masks for their edge"
        return None

    def unopenable(self) -> str | None:
        """An owner whose secrets could not be opened any more, and why: bad shares, or too few holders."""
        for owner, bundle in self.bundles.items():
            holders = [member for member in bundle.items if member in self.masked]
            good = [member for member in holders if owner not in self.masked[member].complaints]
            if len(good) >= self._params.threshold:
                continue
            if len(good) < len(holders):
                return f"{self.site(owner)} dealt bad shares to {len(holders) - len(good)} members"
            return (
                f"{len(good)} neighbours of {self.site(owner)} are left, {self._params.threshold} are needed"
            )
        return None

    def freeze(self, dropped: tuple[Dropped, ...]) -> Frozen:
        """All that is needed from here on, with the transcript that honest members computed too."""
        phases = Phase.ADVERTISE, Phase.ENCAPSULATE, Phase.SHARE
        seen = (self._entries(phase) for phase in phases)
        t = transcript.transcript(self._h, *seen, ring=self._params.on_ring)
        owners = {
            member: Owner(
                holders=tuple(sorted(bundle.items)),
                commitments={other: _commitments(item) for other, item in bundle.items.items()},
                blob=bundle.blob,
            )
            for member, bundle in self.bundles.items()
        }
        vectors = {member: self.masked[member].vector for member in sorted(self.masked)}
        return Frozen(vectors, t, owners, dropped)

    def _entries(self, phase: Phase) -> Entries:
        """What stands for each member in a phase's list of T."""
        return dict(self.listed[phase]) if self._params.on_ring else self._statements(phase)

    def _statements(self, phase: Phase) -> dict[MemberIndex, bytes]:
        match phase:
            case Phase.ADVERTISE:
                return {member: item.statement for member, item in self.adverts.items()}
            case Phase.ENCAPSULATE:
                return {member: item.index.statement for member, item in self.lists.items()}
            case _:
                return {member: item.index.statement for member, item in self.bundles.items()}


def _commitments(item: BundleItem) -> tuple[Digest, Digest, Digest]:
    return item.self_share, item.recovery_share, item.edge
