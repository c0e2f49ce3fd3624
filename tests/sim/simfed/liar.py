"""Corrupt clients beside an honest aggregator: real ones, whose words are bent on the way out.

They deal bad shares, commit to other masks, complain about honest dealers, give away wrong shares, say
two different things in one place, repeat themselves, refuse, or fall silent, each under their own good
signature. Their vectors stay what they were: that a sum has honest inputs is nobody's promise.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from random import Random

from simfed.invariants import Sites
from simfed.nodes import ClientNode
from simfed.people import People

from secfed.crypto.labels import Label
from secfed.errors import PeerError
from secfed.identity import signed
from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.rounds.client import Upload
from secfed.rounds.exchange import Answer, Ask, Refused, Said
from secfed.secagg import derive
from secfed.secagg.manifest import Manifest, attempt_digest
from secfed.secagg.messages import (
    Bundle,
    BundleItem,
    Confirm,
    ConfirmRequest,
    ItemDigest,
    MaskedStatement,
    OpenAttempt,
    RecoveryKeyShare,
    SelfMaskShare,
    ShareAnswers,
    ShareIndex,
    SignedReply,
    UnmaskRequest,
)
from secfed.wire.codec import ProtoCodec

DEALS_BADLY = ("bad shares", "other masks", "bad blob")
HABITS = (*DEALS_BADLY, "complaints", "wrong answers", "two faces", "repeats", "mute")


def forged(
    people: People, codec: ProtoCodec, site: ClientId, label: Label, h: Digest, statement: object
) -> Signed:
    """A statement under a corrupt member's own key."""
    body = statement if isinstance(statement, bytes) else codec.encode(statement)  # type: ignore[type-var]
    key = people.clients[site]
    return signed.sign(key, label, context=h, sender=site, recipient=None, statement=body)


def bent_bundle(
    random: Random, bundle: Bundle, index: ShareIndex, h: Digest, me: MemberIndex, habit: str
) -> tuple[ShareIndex, Bundle]:
    """Some holders' items made bad, with digests that fit; to be signed again."""
    items, blob = dict(bundle.items), bundle.blob
    if habit == "bad blob":
        blob = random.randbytes(len(blob))
    for holder in random.sample(sorted(items), random.randint(1, len(items))):
        items[holder] = _bent_item(random, items[holder], habit)
    digests = tuple(
        ItemDigest(holder, derive.item_digest(h, me, holder, derive.bundle_item_bytes(item)))
        for holder, item in sorted(items.items())
    )
    index = replace(index, items=digests, blob=derive.item_digest(h, me, me, blob))
    return index, replace(bundle, items=items, blob=blob)


def _bent_item(random: Random, item: BundleItem, habit: str) -> BundleItem:
    match habit:
        case "bad shares":
            return replace(item, envelope=random.randbytes(len(item.envelope)))
        case "other masks":
            return replace(item, edge=Digest(random.randbytes(32)))
        case _:
            return item


class Liar:
    """Decides for all corrupt clients of one federation what leaves them; each seed knows a few habits."""

    def __init__(self, random: Random, people: People, owned: Sites) -> None:
        self._random, self._people = random, people
        self._codec = ProtoCodec()
        self._members: dict[Digest, Manifest] = {}
        self._said: list[Said] = []
        self._habits: tuple[str, ...] = ()
        if owned:
            self._habits = tuple(random.sample(HABITS, random.randint(1, 3)))

    def bend(self, node: ClientNode, saying: Said | Upload) -> Said | Upload | None:
        """What is said instead; None for silence."""
        habit = self._random.choice(self._habits)
        if isinstance(node.heard, Ask) and isinstance(node.heard.request, OpenAttempt):
            self._note(node.heard.request.manifest.statement)
        if self._random.random() < 0.5:
            return saying
        if habit == "mute":
            return None if self._random.random() < 0.9 else saying
        if habit == "repeats" and self._said:
            return self._random.choice(self._said)
        if isinstance(saying, Upload):
            return self._upload(node, saying) if habit == "complaints" else saying
        bent = self._answer(node, saying, habit) if isinstance(saying, Answer) else saying
        self._said.append(bent)
        return bent

    def _note(self, statement: bytes) -> None:
        """Remember whose places are whose in an attempt; a manifest that was damaged on the way is none."""
        with suppress(PeerError):
            self._members[attempt_digest(statement)] = self._codec.decode(Manifest, statement)

    def _answer(self, node: ClientNode, answer: Answer, habit: str) -> Said:
        h, asked = answer.attempt, node.heard
        if h not in self._members or not isinstance(asked, Ask):
            return answer
        me = self._members[h].index_of(node.name)
        match asked.request, answer.reply:
            case _, Bundle() as bundle if habit in DEALS_BADLY:
                index = self._codec.decode(ShareIndex, bundle.index.statement)
                index, bundle = bent_bundle(self._random, bundle, index, h, me, habit)
                signed_index = self._sign(node.name, Label.SIGN_BUNDLE, h, index)
                return Answer(h, replace(bundle, index=signed_index))
            case UnmaskRequest(), SignedReply(statement) if habit in ("wrong answers", "two faces"):
                return Answer(h, SignedReply(self._shares(node.name, h, statement)))
            case ConfirmRequest(), SignedReply(statement) if habit == "two faces":
                confirm = self._codec.decode(Confirm, statement.statement)
                fewer = tuple(member for member in confirm.survivors if member != confirm.survivors[-1])
                other = replace(confirm, survivors=fewer)
                return Answer(h, SignedReply(self._sign(node.name, Label.SIGN_CONFIRM, h, other)))
            case _:
                return Refused(h, "two faces have nothing to say") if habit == "two faces" else answer

    def _shares(self, site: ClientId, h: Digest, statement: Signed) -> Signed:
        """Shares that nobody dealt, or the other kind of share where one was asked for."""
        answers = self._codec.decode(ShareAnswers, statement.statement)
        shares = dict(answers.shares)
        for target in self._random.sample(sorted(shares), self._random.randint(0, len(shares))):
            data = bytes(1) + self._random.randbytes(31)
            kind = self._random.choice((SelfMaskShare, RecoveryKeyShare))
            shares[target] = kind(data)
        return self._sign(site, Label.SIGN_UNMASK, h, replace(answers, shares=shares))

    def _upload(self, node: ClientNode, upload: Upload) -> Upload:
        """The vector as it is, with complaints about honest dealers."""
        h = upload.attempt
        if h not in self._members:
            return upload
        manifest = self._members[h]
        others = [MemberIndex(i) for i in range(len(manifest.cohort)) if manifest.cohort[i] != node.name]
        accused = tuple(sorted(self._random.sample(others, self._random.randint(1, len(others)))))
        masked = self._codec.decode(MaskedStatement, upload.statement.statement)
        said = self._sign(node.name, Label.SIGN_MASKED, h, replace(masked, complaints=accused))
        return replace(upload, statement=said)

    def _sign(self, site: ClientId, label: Label, h: Digest, statement: object) -> Signed:
        return forged(self._people, self._codec, site, label, h, statement)
