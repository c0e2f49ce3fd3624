"""The client's states in one attempt: one frozen class a state, one method in it.

The method is the only thing that may happen next; it returns the next state and the reply.
Nothing that a request says is believed: the sets E and U1, the transcript T and the numbers
t, q and A are computed here, from statements whose signatures were verified here. Each
refusal is an exception that names its rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from secfed.crypto import agreement, shamir
from secfed.crypto.labels import Label
from secfed.encoding import ring
from secfed.errors import DifferenceRuleError, PeerError, ShareConflictError, StaleAttemptError
from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.secagg import derive, masking, transcript
from secfed.secagg.attempt import Attempt, Membership
from secfed.secagg.derive import EdgeKeys, HeldShares
from secfed.secagg.messages import (
    Advert,
    Adverts,
    Bundle,
    BundleItem,
    Bundles,
    CiphertextIndex,
    CiphertextList,
    Ciphertexts,
    Confirm,
    ConfirmRequest,
    DeliveredBundle,
    DeliveredCiphertexts,
    ItemDigest,
    MaskedStatement,
    MaskedUpdate,
    RecoveryKeyShare,
    SelfMaskShare,
    ShareAnswers,
    ShareIndex,
    SignedReply,
    UnmaskRequest,
)
from secfed.secagg.record import Left
from secfed.secagg.transcript import Entries

__all__ = [
    "Advertised", "Attempt", "Confirmed", "Encapsulated", "Finished", "Idle", "Masked",
    "Membership", "Shared", "State", "attempt_of",
]  # fmt: skip


# -- the states --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Advertised:
    """Ephemeral keys are out. Next: encapsulate to the adverts of the others."""

    attempt: Attempt
    keys: agreement.KeyPair = field(repr=False)
    statement: bytes

    def encapsulate(self, request: Adverts) -> tuple[Encapsulated, CiphertextList]:
        a, everybody = self.attempt, frozenset(map(MemberIndex, range(self.attempt.params.clients)))
        senders = tuple(member for member, _ in request.adverts)
        a.check_senders(senders, everybody, "adverts")
        statements: dict[MemberIndex, bytes] = {}
        peers: dict[MemberIndex, Advert] = {}
        for member, item in request.adverts:
            statement = a.verify(item, Label.SIGN_ADVERT, member)
            if member == a.me:
                if statement != self.statement:
                    raise PeerError("the aggregator shows another advert in this site's name")
                continue
            advert = a.us.codec.decode(Advert, statement)
            agreement.check_public(agreement.AgreementPublic(advert.x25519, advert.mlkem))
            statements[member], peers[member] = statement, advert
        self._refuse_repeated_keys(peers)
        statements[a.me] = self.statement
        seen = a.entries(statements, request.listed, everybody)
        neighbours = a.neighbours(seen)
        a.check_whole(neighbours, statements, seen, "advert")
        present = {a.site(member): a.us.members[a.site(member)] for member in peers}
        peers = {member: peers[member] for member in neighbours if member in peers}
        if len(peers) < a.params.threshold:
            raise PeerError("fewer adverts than the threshold: shares could never be opened")
        self._refuse_unsafe_retry(present)
        sent: dict[MemberIndex, tuple[bytes, bytes]] = {}
        for member, advert in peers.items():
            if member > a.me:
                sent[member] = agreement.encapsulate(agreement.AgreementPublic(advert.x25519, advert.mlkem))
        items = tuple(
            ItemDigest(member, derive.item_digest(a.h, a.me, member, sent[member][0]))
            for member in sorted(sent)
        )
        statement = a.us.codec.encode(CiphertextIndex(items))
        following = Encapsulated(a, self.keys, neighbours, statements, seen, peers, sent, statement)
        ciphertexts = {member: ciphertext for member, (ciphertext, _) in sent.items()}
        return following, CiphertextList(a.sign(Label.SIGN_CIPHERTEXTS, statement), ciphertexts)

    def _refuse_repeated_keys(self, peers: Mapping[MemberIndex, Advert]) -> None:
        """Two members with one key, or this client's own key reflected, would share a mask."""
        own = self.attempt.us.codec.decode(Advert, self.statement)
        adverts = [own, *peers.values()]
        for part in ({advert.x25519 for advert in adverts}, {advert.mlkem for advert in adverts}):
            if len(part) != len(adverts):
                raise PeerError("an ephemeral key is repeated or reflected among the adverts")

    def _refuse_unsafe_retry(self, present: Mapping[ClientId, bytes]) -> None:
        """Mask again only once too few holders of the earlier attempt's shares can still open it.

        Args:
            present: Who is in this attempt, with identity keys. A new key shows nothing of who holds what
                the old one was given.
        """
        a = self.attempt
        for left in a.us.record.left(a.manifest.round_id):
            needed = left.needed_back(a.params.corrupt)
            back = sum(present.get(site) == key for site, key in left.neighbours.items())
            if back < needed:
                raise StaleAttemptError(
                    f"this site's vector left in attempt {left.attempt}, and fewer than {needed} of its "
                    f"neighbours there are back",
                    hint="Wait until the sites of the earlier attempt are connected again.",
                )


@dataclass(frozen=True, slots=True)
class Encapsulated:
    """Ciphertexts are out. Next: agree on every edge, and share the two secrets."""

    attempt: Attempt
    keys: agreement.KeyPair = field(repr=False)
    neighbours: tuple[MemberIndex, ...]
    adverts: Mapping[MemberIndex, bytes]
    seen_adverts: Entries
    peers: Mapping[MemberIndex, Advert]
    sent: Mapping[MemberIndex, tuple[bytes, bytes]] = field(repr=False)
    statement: bytes

    def share(self, request: Ciphertexts) -> tuple[Shared, Bundle]:
        a = self.attempt
        senders = tuple(item.sender for item in request.lists)
        a.check_senders(senders, frozenset(self.peers), "ciphertext lists")
        statements = {a.me: self.statement}
        edges: dict[MemberIndex, EdgeKeys] = {}
        for item in request.lists:
            statements[item.sender] = a.verify(item.index, Label.SIGN_CIPHERTEXTS, item.sender)
            edges[item.sender] = self._agree(item, statements[item.sender])
        seen = a.entries(statements, request.listed, frozenset(self.seen_adverts))
        a.check_whole(self.neighbours, statements, seen, "ciphertext list")
        if len(edges) < a.params.threshold:
            raise PeerError("fewer than t neighbours have agreed on a key")
        holders = tuple(sorted(edges))
        own_mask, recovery = (shamir.random_secret(a.us.entropy) for _ in range(2))
        places = [holder + 1 for holder in holders]
        mask_shares = shamir.split(own_mask, a.params.threshold, places, a.us.entropy)
        recovery_shares = shamir.split(recovery, a.params.threshold, places, a.us.entropy)
        items: dict[MemberIndex, BundleItem] = {}
        for holder, mask_share, recovery_share in zip(holders, mask_shares, recovery_shares, strict=True):
            shares = HeldShares(mask_share, recovery_share)
            items[holder] = BundleItem(
                envelope=derive.seal_envelope(edges[holder], a.h, a.me, holder, shares),
                self_share=derive.self_commitment(a.h, a.me, holder, mask_share),
                recovery_share=derive.recovery_commitment(a.h, a.me, holder, recovery_share),
                edge=derive.edge_commitment(a.h, a.me, holder, edges[holder].mask),
            )
        blob = derive.seal_blob(recovery, a.h, a.me, {holder: edges[holder].mask for holder in holders})
        index = ShareIndex(
            items=tuple(
                ItemDigest(
                    holder, derive.item_digest(a.h, a.me, holder, derive.bundle_item_bytes(items[holder]))
                )
                for holder in holders
            ),
            blob=derive.item_digest(a.h, a.me, a.me, blob),
        )
        statement = a.us.codec.encode(index)
        self_seed = derive.self_mask_seed(own_mask, a.h, a.me)
        following = Shared(a, self.neighbours, self.seen_adverts, seen, edges, self_seed, statement)
        return following, Bundle(a.sign(Label.SIGN_BUNDLE, statement), items, blob)

    def _agree(self, item: DeliveredCiphertexts, statement: bytes) -> EdgeKeys:
        """The edge's secrets, from the ciphertext that its lower end signed."""
        a, other = self.attempt, item.sender
        digests = dict(a.us.codec.decode(CiphertextIndex, statement).items)
        if digests and min(digests) <= other:
            raise PeerError("a ciphertext list is for a lower-numbered member", culprits=[a.site(other)])
        if other > a.me:
            if item.own is not None:
                raise PeerError("a ciphertext came from the higher-numbered end of an edge")
            ciphertext, shared = self.sent[other]
            low, high = self.adverts[a.me], self.adverts[other]
        else:
            ciphertext = self._own_ciphertext(item, digests)
            shared = self.keys.decapsulate(ciphertext)
            low, high = self.adverts[other], self.adverts[a.me]
        peer = self.peers[other]
        secret = agreement.edge_secret(
            self.keys,
            agreement.AgreementPublic(peer.x25519, peer.mlkem),
            shared,
            salt=derive.agreement_salt(low, high, ciphertext),
        )
        return derive.edge_keys(secret, a.h, a.me, other)

    def _own_ciphertext(self, item: DeliveredCiphertexts, digests: Mapping[MemberIndex, Digest]) -> bytes:
        a = self.attempt
        if item.own is None or a.me not in digests:
            raise PeerError("a ciphertext list leaves this site out", culprits=[a.site(item.sender)])
        if not derive.same(derive.item_digest(a.h, item.sender, a.me, item.own), digests[a.me]):
            raise PeerError("a ciphertext is not the one that its sender signed")
        return item.own


@dataclass(frozen=True, slots=True)
class Shared:
    """Shares are out. Next: verify the others' bundles, and mask."""

    attempt: Attempt
    neighbours: tuple[MemberIndex, ...]
    seen_adverts: Entries
    seen_lists: Entries
    edges: Mapping[MemberIndex, EdgeKeys] = field(repr=False)
    self_seed: bytes = field(repr=False)
    statement: bytes

    def mask(self, request: Bundles) -> tuple[Masked, MaskedUpdate]:
        a = self.attempt
        senders = tuple(item.sender for item in request.bundles)
        a.check_senders(senders, frozenset(self.edges), "bundles")
        if len(senders) < a.params.threshold:
            raise PeerError("fewer than t neighbours are in the share set")
        statements = {a.me: self.statement}
        held: dict[MemberIndex, HeldShares] = {}
        complaints: list[MemberIndex] = []
        for item in request.bundles:
            statements[item.sender] = a.verify(item.index, Label.SIGN_BUNDLE, item.sender)
            own = self._own_item(item, statements[item.sender])
            shares = self._open(item.sender, own)
            if shares is None:
                complaints.append(item.sender)
            else:
                held[item.sender] = shares
        seen = a.entries(statements, request.listed, frozenset(self.seen_lists))
        a.check_whole(self.neighbours, statements, seen, "bundle")
        t = transcript.transcript(a.h, self.seen_adverts, self.seen_lists, seen, ring=a.params.on_ring)
        words = a.contribution.words()
        if words.shape != (a.manifest.length,):
            raise ValueError("the contribution does not have the layout's length")
        a.contribution.mark_sent(a.manifest.attempt)
        a.us.record.mark_left(
            a.manifest.round_id,
            Left(
                attempt=a.manifest.attempt,
                cohort=a.manifest.cohort,
                corrupt=a.params.corrupt,
                threshold=a.params.threshold,
                neighbours={a.site(member): a.us.members[a.site(member)] for member in self.neighbours},
            ),
        )
        seeds = {member: self.edges[member].mask for member in senders}
        masking.mask(words, me=a.me, self_seed=self.self_seed, edge_seeds=seeds)
        packed = ring.pack(words, a.manifest.word_bits)
        vector = derive.vector_digest(a.h, a.me, hashlib.sha256(packed).digest())
        statement = a.us.codec.encode(MaskedStatement(vector, len(packed), tuple(complaints)))
        following = Masked(a, t, frozenset(seen) - {a.me}, held)
        return following, MaskedUpdate(a.sign(Label.SIGN_MASKED, statement), packed)

    def _own_item(self, item: DeliveredBundle, statement: bytes) -> BundleItem:
        """The owner's item for this holder, once it is the one that its owner signed."""
        a, owner = self.attempt, item.sender
        digests = dict(a.us.codec.decode(ShareIndex, statement).items)
        if item.own is None or a.me not in digests:
            raise PeerError("a neighbour's bundle does not list this site", culprits=[a.site(owner)])
        if not derive.same(
            derive.item_digest(a.h, owner, a.me, derive.bundle_item_bytes(item.own)), digests[a.me]
        ):
            raise PeerError("a bundle item is not the one that its owner signed")
        ours = derive.edge_commitment(a.h, a.me, owner, self.edges[owner].mask)
        if not derive.same(item.own.edge, ours):
            raise PeerError("the two ends of an edge commit to different masks", culprits=[a.site(owner)])
        return item.own

    def _open(self, owner: MemberIndex, item: BundleItem) -> HeldShares | None:
        """The shares for this holder; None where they are bad, which is complained about."""
        a = self.attempt
        try:
            shares = derive.open_envelope(self.edges[owner], a.h, owner, a.me, item.envelope)
            for share in (shares.self_share, shares.recovery_share):
                shamir.check_share(share, a.me + 1)
        except PeerError:
            return None
        good = derive.same(
            derive.self_commitment(a.h, owner, a.me, shares.self_share), item.self_share
        ) and derive.same(
            derive.recovery_commitment(a.h, owner, a.me, shares.recovery_share), item.recovery_share
        )
        return shares if good else None


@dataclass(frozen=True, slots=True)
class Masked:
    """The vector is out. Next: sign one survivor set."""

    attempt: Attempt
    transcript: Digest
    share_set: frozenset[MemberIndex]
    held: Mapping[MemberIndex, HeldShares] = field(repr=False)

    def confirm(self, request: ConfirmRequest) -> tuple[Confirmed, SignedReply]:
        a, survivors = self.attempt, request.survivors
        others = tuple(member for member in survivors if member != a.me)
        a.check_senders(others, self.share_set, "survivors")
        if survivors != tuple(sorted({*others, a.me})):
            raise PeerError("the survivor list is not sorted, or this site is missing from it")
        if len(survivors) < a.params.floor:
            raise PeerError(f"{len(survivors)} survivors are below the floor of {a.params.floor}")
        self._refuse_difference(frozenset(a.site(member) for member in survivors))
        statement = a.us.codec.encode(Confirm(self.transcript, survivors))
        a.us.record.confirm(a.h, statement)
        return Confirmed(self, survivors, statement), SignedReply(a.sign(Label.SIGN_CONFIRM, statement))

    def _refuse_difference(self, survivors: frozenset[ClientId]) -> None:
        """Two sums over almost the same members would show the few by which they differ.

        A of these may be corrupt, whose vectors the aggregator takes off; what is then left of the
        difference still holds `min_cohort` vectors.
        """
        a = self.attempt
        key = a.terms.difference_key
        if key is None:
            return
        least = a.terms.min_cohort + a.params.corrupt
        for earlier in a.us.record.answered_under(key):
            apart = len(survivors ^ earlier.survivors)
            if earlier.attempt != a.h and 0 < apart < least:
                raise DifferenceRuleError(
                    f"this sum and an earlier one of the same contribution differ by {apart} "
                    f"member{'s' * (apart != 1)}, fewer than {least}"
                )


@dataclass(frozen=True, slots=True)
class Confirmed:
    """One survivor set is signed. Next: one more answer is owed, and only one."""

    masked: Masked
    survivors: tuple[MemberIndex, ...]
    statement: bytes

    def answer(self, request: UnmaskRequest) -> tuple[Finished, SignedReply]:
        a = self.masked.attempt
        if request.survivors != self.survivors:
            raise ShareConflictError("shares are asked for another survivor set than the one signed here")
        signers = tuple(member for member, _ in request.signatures)
        a.check_senders(signers, frozenset(self.survivors), "survivors' signatures")
        for member, signature in request.signatures:
            a.verify(Signed(self.statement, signature), Label.SIGN_CONFIRM, member)
        if len(signers) < a.params.quorum:
            raise PeerError(f"{len(signers)} signatures are below the quorum of {a.params.quorum}")
        survivors = [a.site(member) for member in self.survivors]
        a.us.record.answer(a.manifest.round_id, a.manifest.attempt, a.h, survivors, a.terms.difference_key)
        alive = frozenset(self.survivors)
        shares = {
            owner: SelfMaskShare(held.self_share) if owner in alive else RecoveryKeyShare(held.recovery_share)
            for owner, held in self.masked.held.items()
        }
        statement = a.us.codec.encode(ShareAnswers(self.masked.transcript, shares))
        reply = SignedReply(a.sign(Label.SIGN_UNMASK, statement))
        return Finished(a, self.survivors, reply), reply


@dataclass(frozen=True, slots=True)
class Finished:
    """Shares were given; all secrets are gone. What is left is to hear how the sum ended."""

    attempt: Attempt
    survivors: tuple[MemberIndex, ...]
    reply: SignedReply

    def repeat(self, request: UnmaskRequest) -> tuple[Finished, SignedReply]:
        """The same bytes for the same survivors, whichever signatures come with them this time."""
        if request.survivors != self.survivors:
            raise ShareConflictError("shares are asked for another survivor set than the one answered here")
        return self, self.reply


@dataclass(frozen=True, slots=True)
class Idle:
    """No attempt is live."""


State = Idle | Advertised | Encapsulated | Shared | Masked | Confirmed | Finished


def attempt_of(state: State) -> Attempt | None:
    """The attempt that a state belongs to."""
    match state:
        case Idle():
            return None
        case Confirmed():
            return state.masked.attempt
        case _:
            return state.attempt
