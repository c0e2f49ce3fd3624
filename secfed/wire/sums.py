"""What a client says and what it is told, to bytes and back: requests and replies of the sum.

A masked vector is no part of these: it travels in an upload's pieces (`calls`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secfed import limits
from secfed.errors import PeerError
from secfed.identity.signed import Signed
from secfed.ids import Digest, MemberIndex
from secfed.rounds.exchange import Answer, Ask, Declined, Offer, Present, Ready, Refused, Said, Told, Wait
from secfed.secagg.messages import (
    Adverts,
    Bundle,
    BundleItem,
    Bundles,
    CiphertextList,
    Ciphertexts,
    ConfirmRequest,
    DeliveredBundle,
    DeliveredCiphertexts,
    Listed,
    MaskedUpdate,
    OpenAttempt,
    OutcomeNotice,
    Request,
    SignedReply,
    UnmaskRequest,
    VoidNotice,
)
from secfed.wire import strict
from secfed.wire.codec import members_of
from secfed.wire.pb import sum_pb2 as pb

__all__ = ["decode_said", "decode_told", "encode_said", "encode_told"]


# -- the client says ---------------------------------------------------------------------------


def encode_said(said: Said) -> bytes:
    """Body of an Exchange.

    Raises:
        ValueError: A masked update, which is uploaded instead; a number out of range; over 1 MiB.
    """
    return strict.serialise(_said_to(said), limits.BODY_BYTES_MAX)


def decode_said(data: bytes) -> Said:
    """The inverse of `encode_said`.

    Raises:
        PeerError: Over 1 MiB, malformed, unknown fields, wrong lengths, unsorted lists, or not the
            message's one serialisation.
    """
    return _said_from(strict.parse(pb.Said, data, limits.BODY_BYTES_MAX))


def _said_to(said: Said) -> pb.Said:
    match said:
        case Present(job):
            return pb.Said(present=pb.Present(job=job))
        case Ready(job, number, round_plan):
            return pb.Said(ready=pb.Ready(job=job, round=number, round_plan=round_plan))
        case Declined(job, number):
            return pb.Said(declined=pb.Declined(job=job, round=number))
        case Answer():
            return pb.Said(answer=_answer_to(said))
        case Refused(attempt, rule):
            return pb.Said(refused=pb.Refused(attempt=attempt, rule=strict.clip(rule)))


def _said_from(message: pb.Said) -> Said:
    match message.WhichOneof("said"):
        case "present":
            job = message.present.job
            return Present(strict.job(job) if job else job)
        case "ready":
            ready = message.ready
            return Ready(
                strict.job(ready.job),
                strict.count(ready.round, "a round"),
                strict.digest(ready.round_plan, "a round plan's digest"),
            )
        case "declined":
            return Declined(strict.job(message.declined.job), strict.count(message.declined.round, "a round"))
        case "answer":
            return _answer_from(message.answer)
        case "refused":
            refused = message.refused
            return Refused(strict.digest(refused.attempt, "h"), strict.text(refused.rule, "a rule"))
        case _:
            raise PeerError("a body that says nothing")


# -- the aggregator tells ----------------------------------------------------------------------


def encode_told(told: Told) -> bytes:
    """Reply of Exchange and Upload. What was told last to everybody alike is remembered, serialised.

    Raises:
        ValueError: A number out of range, or over 4 MiB.
    """
    if not isinstance(told, Ask) or not isinstance(told.request, _ALIKE):
        return strict.serialise(_told_to(told), limits.TOLD_BYTES_MAX)
    last = _last.asked  # read once: another thread may put another one there
    if last is None or last.request is not told.request or last.attempt != told.attempt:
        data = strict.serialise(_told_to(told), limits.TOLD_BYTES_MAX)
        last = _last.asked = _Asked(told.request, told.attempt, data)
    return last.data


_ALIKE = OpenAttempt, Adverts, ConfirmRequest, UnmaskRequest, VoidNotice
"""Requests that a session makes once for all its members: a retry's adverts, 1.3 MB, cost 12 ms each time."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request to its bytes. It is held, so that no other object can take its identity."""

    request: Request
    attempt: Digest
    data: bytes


class _Last:
    """The one that was serialised last."""

    asked: _Asked | None = None


_last = _Last()


def decode_told(data: bytes) -> Told:
    """The inverse of `encode_told`.

    Raises:
        PeerError: As `decode_said`, with 4 MiB.
    """
    return _told_from(strict.parse(pb.Told, data, limits.TOLD_BYTES_MAX))


def _told_to(told: Told) -> pb.Told:
    match told:
        case Wait(what, remaining_s):
            return pb.Told(wait=pb.Wait(what=strict.clip(what), remaining_s=remaining_s))
        case Offer(job_plan, round_plan):
            return pb.Told(offer=pb.Offer(job_plan=job_plan, round_plan=round_plan))
        case Ask():
            return pb.Told(ask=_ask_to(told))


def _told_from(message: pb.Told) -> Told:
    match message.WhichOneof("told"):
        case "wait":
            return Wait(strict.text(message.wait.what, "what is awaited"), message.wait.remaining_s)
        case "offer":
            return Offer(
                strict.sized(message.offer.job_plan, limits.JOB_PLAN_BYTES_MAX, "a job plan"),
                strict.sized(message.offer.round_plan, limits.ROUND_PLAN_BYTES_MAX, "a round plan"),
            )
        case "ask":
            return _ask_from(message.ask)
        case _:
            raise PeerError("a reply that tells nothing")


# -- requests ----------------------------------------------------------------------------------


def _ask_to(ask: Ask) -> pb.Ask:
    attempt = ask.attempt
    match ask.request:
        case OpenAttempt(manifest):
            return pb.Ask(attempt=attempt, open=strict.signed_to(manifest))
        case Adverts() as adverts:
            return pb.Ask(attempt=attempt, adverts=_adverts_to(adverts))
        case Ciphertexts() as ciphertexts:
            return pb.Ask(attempt=attempt, ciphertexts=_ciphertexts_to(ciphertexts))
        case Bundles() as bundles:
            return pb.Ask(attempt=attempt, bundles=_bundles_to(bundles))
        case ConfirmRequest(survivors):
            return pb.Ask(attempt=attempt, confirm=pb.ConfirmRequest(survivors=survivors))
        case UnmaskRequest() as unmask:
            return pb.Ask(attempt=attempt, unmask=_unmask_to(unmask))
        case VoidNotice() as void:
            return pb.Ask(attempt=attempt, void=_notice_to(void))
        case OutcomeNotice() as outcome:
            return pb.Ask(attempt=attempt, outcome=_notice_to(outcome))


def _ask_from(message: pb.Ask) -> Ask:
    attempt = strict.digest(message.attempt, "h")
    match message.WhichOneof("request"):
        case "open":
            return Ask(attempt, OpenAttempt(strict.signed_from(message.open)))
        case "adverts":
            return Ask(attempt, _adverts_from(message.adverts))
        case "ciphertexts":
            return Ask(attempt, _ciphertexts_from(message.ciphertexts))
        case "bundles":
            return Ask(attempt, _bundles_from(message.bundles))
        case "confirm":
            return Ask(attempt, ConfirmRequest(_survivors_from(message.confirm.survivors)))
        case "unmask":
            return Ask(attempt, _unmask_from(message.unmask))
        case "void":
            return Ask(attempt, VoidNotice(*_notice_from(message.void)))
        case "outcome":
            return Ask(attempt, OutcomeNotice(*_notice_from(message.outcome)))
        case _:
            raise PeerError("an ask without a request")


def _adverts_to(value: Adverts) -> pb.Adverts:
    return pb.Adverts(
        adverts=[
            pb.SignedBy(member=member, statement=strict.signed_to(item)) for member, item in value.adverts
        ],
        listed=_listed_to(value.listed),
    )


def _adverts_from(message: pb.Adverts) -> Adverts:
    items = message.adverts
    members = members_of(items, lambda item: item.member, 0, limits.COHORT_MAX, "adverts")
    statements = (strict.signed_from(item.statement) for item in items)
    return Adverts(tuple(zip(members, statements, strict=True)), _listed_from(message))


def _listed_to(value: Listed) -> pb.Listed | None:
    """Members and, one after another, the digests of their statements; nothing on the complete graph."""
    if not value:
        return None
    return pb.Listed(members=[member for member, _ in value], digests=b"".join(each for _, each in value))


def _listed_from(message: pb.Adverts | pb.Ciphertexts | pb.Bundles) -> Listed:
    if not message.HasField("listed"):
        return ()
    size, raw = limits.DIGEST_BYTES, message.listed.digests
    members = strict.members(message.listed.members, 1, limits.COHORT_MAX, "digests")
    strict.exact(raw, size * len(members), "a list of digests")
    digests = (Digest(raw[start : start + size]) for start in range(0, len(raw), size))
    return tuple(zip(members, digests, strict=True))


def _ciphertexts_to(value: Ciphertexts) -> pb.Ciphertexts:
    return pb.Ciphertexts(
        lists=[
            pb.DeliveredCiphertexts(sender=item.sender, index=strict.signed_to(item.index), own=item.own)
            for item in value.lists
        ],
        listed=_listed_to(value.listed),
    )


def _ciphertexts_from(message: pb.Ciphertexts) -> Ciphertexts:
    senders = members_of(
        message.lists, lambda item: item.sender, 0, limits.NEIGHBOURS_MAX, "ciphertext lists"
    )
    return Ciphertexts(
        tuple(
            DeliveredCiphertexts(
                sender,
                strict.signed_from(item.index),
                _ciphertext_from(item.own) if item.HasField("own") else None,
            )
            for sender, item in zip(senders, message.lists, strict=True)
        ),
        _listed_from(message),
    )


def _ciphertext_from(data: bytes) -> bytes:
    return strict.exact(data, limits.MLKEM_CIPHERTEXT_BYTES, "an ML-KEM ciphertext")


def _bundles_to(value: Bundles) -> pb.Bundles:
    return pb.Bundles(
        bundles=[
            pb.DeliveredBundle(
                sender=item.sender,
                index=strict.signed_to(item.index),
                own=None if item.own is None else _bundle_item_to(item.own),
            )
            for item in value.bundles
        ],
        listed=_listed_to(value.listed),
    )


def _bundles_from(message: pb.Bundles) -> Bundles:
    senders = members_of(message.bundles, lambda item: item.sender, 0, limits.NEIGHBOURS_MAX, "bundles")
    return Bundles(
        tuple(
            DeliveredBundle(
                sender,
                strict.signed_from(item.index),
                _bundle_item_from(item.own) if item.HasField("own") else None,
            )
            for sender, item in zip(senders, message.bundles, strict=True)
        ),
        _listed_from(message),
    )


def _bundle_item_to(value: BundleItem) -> pb.BundleItem:
    return pb.BundleItem(
        envelope=value.envelope,
        self_share=value.self_share,
        recovery_share=value.recovery_share,
        edge=value.edge,
    )


def _bundle_item_from(message: pb.BundleItem) -> BundleItem:
    return BundleItem(
        envelope=strict.exact(message.envelope, limits.ENVELOPE_BYTES, "an envelope"),
        self_share=strict.digest(message.self_share, "a share's commitment"),
        recovery_share=strict.digest(message.recovery_share, "a share's commitment"),
        edge=strict.digest(message.edge, "an edge's commitment"),
    )


def _survivors_from(values: Sequence[int]) -> tuple[MemberIndex, ...]:
    return strict.members(values, 1, limits.COHORT_MAX, "survivors")


def _unmask_to(value: UnmaskRequest) -> pb.UnmaskRequest:
    return pb.UnmaskRequest(
        survivors=value.survivors,
        signatures=[
            pb.ConfirmSignature(member=member, signature=signature) for member, signature in value.signatures
        ],
    )


def _unmask_from(message: pb.UnmaskRequest) -> UnmaskRequest:
    items = message.signatures
    members = members_of(items, lambda item: item.member, 1, limits.COHORT_MAX, "signatures")
    signatures = (strict.exact(item.signature, limits.SIGNATURE_BYTES, "a signature") for item in items)
    return UnmaskRequest(_survivors_from(message.survivors), tuple(zip(members, signatures, strict=True)))


def _notice_to(value: VoidNotice | OutcomeNotice) -> pb.Notice:
    return pb.Notice(attempt=value.attempt, statement=strict.signed_to(value.statement))


def _notice_from(message: pb.Notice) -> tuple[Digest, Signed]:
    return strict.digest(message.attempt, "h"), strict.signed_from(message.statement)


# -- replies -----------------------------------------------------------------------------------


def _answer_to(answer: Answer) -> pb.Answer:
    attempt = answer.attempt
    match answer.reply:
        case SignedReply(statement):
            return pb.Answer(attempt=attempt, statement=strict.signed_to(statement))
        case CiphertextList() as ciphertexts:
            return pb.Answer(attempt=attempt, ciphertexts=_ciphertext_list_to(ciphertexts))
        case Bundle() as bundle:
            return pb.Answer(attempt=attempt, bundle=_bundle_to(bundle))
        case MaskedUpdate():
            raise ValueError("a masked update goes by Upload")


def _answer_from(message: pb.Answer) -> Answer:
    attempt = strict.digest(message.attempt, "h")
    match message.WhichOneof("reply"):
        case "statement":
            return Answer(attempt, SignedReply(strict.signed_from(message.statement)))
        case "ciphertexts":
            return Answer(attempt, _ciphertext_list_from(message.ciphertexts))
        case "bundle":
            return Answer(attempt, _bundle_from(message.bundle))
        case _:
            raise PeerError("an answer without a reply")


def _ciphertext_list_to(value: CiphertextList) -> pb.CiphertextList:
    return pb.CiphertextList(
        index=strict.signed_to(value.index),
        ciphertexts=[
            pb.Ciphertext(member=member, data=value.ciphertexts[member])
            for member in sorted(value.ciphertexts)
        ],
    )


def _ciphertext_list_from(message: pb.CiphertextList) -> CiphertextList:
    items = message.ciphertexts
    members = members_of(items, lambda item: item.member, 0, limits.NEIGHBOURS_MAX, "ciphertexts")
    data = (_ciphertext_from(item.data) for item in items)
    return CiphertextList(strict.signed_from(message.index), dict(zip(members, data, strict=True)))


def _bundle_to(value: Bundle) -> pb.Bundle:
    return pb.Bundle(
        index=strict.signed_to(value.index),
        items=[
            pb.AddressedItem(member=member, item=_bundle_item_to(value.items[member]))
            for member in sorted(value.items)
        ],
        blob=value.blob,
    )


def _bundle_from(message: pb.Bundle) -> Bundle:
    members = members_of(message.items, lambda item: item.member, 1, limits.NEIGHBOURS_MAX, "bundle items")
    items = (_bundle_item_from(entry.item) for entry in message.items)
    blob_bytes = len(members) * limits.BLOB_ENTRY_BYTES + limits.SEAL_TAG_BYTES
    return Bundle(
        index=strict.signed_from(message.index),
        items=dict(zip(members, items, strict=True)),
        blob=strict.exact(message.blob, blob_bytes, "a recovery blob"),
    )
