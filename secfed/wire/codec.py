"""Statements to exact bytes and back: the `Codec` that the secure sum is given.

One pair of functions a statement, in the order of the phases, and one table that says which
pair belongs to which kind. What a decoder returns has the right lengths and sorted lists;
whether it is true is the protocol's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from google.protobuf.message import Message

from secfed import limits
from secfed.errors import PeerError
from secfed.ids import MemberIndex, RoundId
from secfed.secagg.manifest import Manifest
from secfed.secagg.messages import (
    Advert,
    CiphertextIndex,
    Confirm,
    Countersignature,
    Dropped,
    ItemDigest,
    MaskedStatement,
    Outcome,
    RecoveryKeyShare,
    S,
    SelfMaskShare,
    ShareAnswers,
    ShareIndex,
    Statement,
    Void,
)
from secfed.wire import strict
from secfed.wire.pb import statements_pb2 as pb

__all__ = ["ProtoCodec", "members_of"]

M = TypeVar("M", bound=Message)
X = TypeVar("X", bound=Message)


class ProtoCodec:
    """`secagg.messages.Codec` over the schema in `protos/`. Has no state."""

    def encode(self, statement: Statement) -> bytes:
        """The one serialisation of a statement.

        Raises:
            ValueError: A number out of its field's range, or more than 512 KiB.
        """
        return strict.serialise(_PAIRS[type(statement)].to(statement), limits.STATEMENT_BYTES_MAX)

    def decode(self, kind: type[S], data: bytes) -> S:
        """Parse a statement of this kind.

        Raises:
            PeerError: Unknown fields, wrong lengths, unsorted lists, or bytes that are not
                the statement's one serialisation.
        """
        pair = _PAIRS[kind]
        return cast(S, pair.from_(strict.parse(pair.message, data, limits.STATEMENT_BYTES_MAX)))


def members_of(
    items: Sequence[X], member: Callable[[X], int], least: int, most: int, what: str
) -> tuple[MemberIndex, ...]:
    """Whom a list's entries are of, as `strict.members`; too many are refused before any is looked at."""
    strict.ranged(len(items), least, most, f"the number of {what}")
    return strict.members([member(item) for item in items], least, most, what)


# -- before an attempt -------------------------------------------------------------------------


def _manifest_to(value: Manifest) -> pb.Manifest:
    return pb.Manifest(
        protocol=value.protocol,
        suite=value.suite,
        federation=value.federation,
        roster=value.roster,
        job=value.job,
        job_plan=value.job_plan,
        round_plan=value.round_plan,
        round=value.round,
        sum_index=value.sum_index,
        attempt=value.attempt,
        cohort=value.cohort,
        corrupt=value.corrupt,
        layout=value.layout,
        length=value.length,
        word_bits=value.word_bits,
        base=value.base,
        previous_round=value.previous_round,
        previous=value.previous,
        losses=value.losses,
    )


def _manifest_from(message: pb.Manifest) -> Manifest:
    return Manifest(
        protocol=message.protocol,
        suite=strict.token(message.suite, limits.SUITE_CHARS_MAX, "a suite"),
        federation=strict.federation(message.federation),
        roster=strict.digest(message.roster, "a roster's digest"),
        job=strict.job(message.job),
        job_plan=strict.digest(message.job_plan, "a job plan's digest"),
        round_plan=strict.digest(message.round_plan, "a round plan's digest"),
        round=strict.count(message.round, "a round"),
        sum_index=message.sum_index,
        attempt=strict.count(message.attempt, "an attempt"),
        cohort=strict.sites(message.cohort, 1, limits.COHORT_MAX, "members of a cohort"),
        corrupt=message.corrupt,
        layout=strict.digest(message.layout, "a layout's digest"),
        length=strict.ranged(message.length, 1, limits.VECTOR_WORDS_MAX, "a vector's length"),
        word_bits=strict.ranged(message.word_bits, 1, limits.WORD_BITS_MAX, "a word's width"),
        base=strict.digest(message.base, "a base's digest"),
        previous_round=message.previous_round,
        previous=strict.digest(message.previous, "a transcript's digest"),
        losses=message.losses,
    )


# -- advertise ---------------------------------------------------------------------------------


def _advert_to(value: Advert) -> pb.Advert:
    return pb.Advert(x25519=value.x25519, mlkem=value.mlkem)


def _advert_from(message: pb.Advert) -> Advert:
    return Advert(
        x25519=strict.exact(message.x25519, limits.X25519_KEY_BYTES, "an X25519 key"),
        mlkem=strict.exact(message.mlkem, limits.MLKEM_KEY_BYTES, "an ML-KEM key"),
    )


# -- encapsulate -------------------------------------------------------------------------------


def _items_to(items: tuple[ItemDigest, ...]) -> list[pb.ItemDigest]:
    return [pb.ItemDigest(member=item.member, digest=item.digest) for item in items]


def _items_from(messages: Sequence[pb.ItemDigest], least: int) -> tuple[ItemDigest, ...]:
    strict.ranged(len(messages), least, limits.NEIGHBOURS_MAX, "the number of items")
    items = [(item.member, item.digest) for item in messages]
    strict.members([member for member, _ in items], least, limits.NEIGHBOURS_MAX, "items")
    strict.digests([digest for _, digest in items], "an item's digest")
    return tuple(map(ItemDigest._make, items))


def _ciphertext_index_to(value: CiphertextIndex) -> pb.CiphertextIndex:
    return pb.CiphertextIndex(items=_items_to(value.items))


def _ciphertext_index_from(message: pb.CiphertextIndex) -> CiphertextIndex:
    return CiphertextIndex(_items_from(message.items, least=0))


# -- share -------------------------------------------------------------------------------------


def _share_index_to(value: ShareIndex) -> pb.ShareIndex:
    return pb.ShareIndex(items=_items_to(value.items), blob=value.blob)


def _share_index_from(message: pb.ShareIndex) -> ShareIndex:
    return ShareIndex(_items_from(message.items, least=1), strict.digest(message.blob, "a blob's digest"))


# -- mask --------------------------------------------------------------------------------------


def _masked_to(value: MaskedStatement) -> pb.MaskedStatement:
    return pb.MaskedStatement(vector=value.vector, size_bytes=value.size_bytes, complaints=value.complaints)


def _masked_from(message: pb.MaskedStatement) -> MaskedStatement:
    return MaskedStatement(
        vector=strict.digest(message.vector, "a vector's digest"),
        size_bytes=strict.ranged(message.size_bytes, 1, limits.VECTOR_BYTES_MAX, "a vector's size"),
        complaints=strict.members(message.complaints, 0, limits.NEIGHBOURS_MAX, "complaints"),
    )


# -- confirm -----------------------------------------------------------------------------------


def _confirm_to(value: Confirm) -> pb.Confirm:
    return pb.Confirm(transcript=value.transcript, survivors=value.survivors)


def _confirm_from(message: pb.Confirm) -> Confirm:
    return Confirm(
        transcript=strict.digest(message.transcript, "a transcript"),
        survivors=strict.members(message.survivors, 1, limits.COHORT_MAX, "survivors"),
    )


# -- unmask ------------------------------------------------------------------------------------


def _answers_to(value: ShareAnswers) -> pb.ShareAnswers:
    answers = [_answer_to(member, value.shares[member]) for member in sorted(value.shares)]
    return pb.ShareAnswers(transcript=value.transcript, answers=answers)


def _answers_from(message: pb.ShareAnswers) -> ShareAnswers:
    members = members_of(message.answers, lambda item: item.member, 0, limits.NEIGHBOURS_MAX, "shares")
    return ShareAnswers(
        transcript=strict.digest(message.transcript, "a transcript"),
        shares=dict(zip(members, map(_answer_from, message.answers), strict=True)),
    )


def _answer_to(member: MemberIndex, share: SelfMaskShare | RecoveryKeyShare) -> pb.ShareAnswer:
    if isinstance(share, SelfMaskShare):
        return pb.ShareAnswer(member=member, self_mask=share.share)
    return pb.ShareAnswer(member=member, recovery_key=share.share)


def _answer_from(message: pb.ShareAnswer) -> SelfMaskShare | RecoveryKeyShare:
    match message.WhichOneof("share"):
        case "self_mask":
            return SelfMaskShare(strict.exact(message.self_mask, limits.SHARE_BYTES, "a share"))
        case "recovery_key":
            return RecoveryKeyShare(strict.exact(message.recovery_key, limits.SHARE_BYTES, "a share"))
        case _:
            raise PeerError("an answer without a share")


# -- the end -----------------------------------------------------------------------------------


def _void_to(value: Void) -> pb.Void:
    return pb.Void(reason=strict.clip(value.reason))


def _void_from(message: pb.Void) -> Void:
    return Void(strict.text(message.reason, "a reason"))


def _outcome_to(value: Outcome) -> pb.Outcome:
    return pb.Outcome(
        job=value.round_id.job,
        round=value.round_id.round,
        sum_index=value.round_id.sum_index,
        published=value.published,
        survivors=value.survivors,
        dropped=[_dropped_to(item) for item in value.dropped],
        sum=value.sum,
        transcript=value.transcript,
        result=value.result,
    )


def _outcome_from(message: pb.Outcome) -> Outcome:
    strict.ranged(len(message.dropped), 0, limits.COHORT_MAX, "the number of dropped sites")
    strict.increasing([item.site for item in message.dropped], 0, limits.COHORT_MAX, "dropped sites")
    return Outcome(
        round_id=RoundId(strict.job(message.job), strict.count(message.round, "a round"), message.sum_index),
        published=message.published,
        survivors=strict.sites(message.survivors, 0, limits.COHORT_MAX, "survivors"),
        dropped=tuple(map(_dropped_from, message.dropped)),
        sum=strict.digest(message.sum, "a sum's digest"),
        transcript=strict.digest(message.transcript, "a transcript's digest"),
        result=strict.digest(message.result, "a result's digest"),
    )


def _dropped_to(value: Dropped) -> pb.Dropped:
    return pb.Dropped(site=value.site, phase=value.phase, reason=strict.clip(value.reason))


def _dropped_from(message: pb.Dropped) -> Dropped:
    return Dropped(
        strict.site(message.site), strict.phase(message.phase), strict.text(message.reason, "a reason")
    )


def _countersignature_to(value: Countersignature) -> pb.Countersignature:
    return pb.Countersignature(sum=value.sum, transcript=value.transcript)


def _countersignature_from(message: pb.Countersignature) -> Countersignature:
    return Countersignature(
        strict.digest(message.sum, "a sum's digest"),
        strict.digest(message.transcript, "a transcript's digest"),
    )


# -- which pair for which kind -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pair(Generic[M, S]):
    message: type[M]
    to: Callable[[S], M]
    from_: Callable[[M], S]


_PAIRS: dict[type[Any], _Pair[Any, Any]] = {
    Manifest: _Pair(pb.Manifest, _manifest_to, _manifest_from),
    Advert: _Pair(pb.Advert, _advert_to, _advert_from),
    CiphertextIndex: _Pair(pb.CiphertextIndex, _ciphertext_index_to, _ciphertext_index_from),
    ShareIndex: _Pair(pb.ShareIndex, _share_index_to, _share_index_from),
    MaskedStatement: _Pair(pb.MaskedStatement, _masked_to, _masked_from),
    Confirm: _Pair(pb.Confirm, _confirm_to, _confirm_from),
    ShareAnswers: _Pair(pb.ShareAnswers, _answers_to, _answers_from),
    Void: _Pair(pb.Void, _void_to, _void_from),
    Outcome: _Pair(pb.Outcome, _outcome_to, _outcome_from),
    Countersignature: _Pair(pb.Countersignature, _countersignature_to, _countersignature_from),
}
