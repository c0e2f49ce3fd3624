"""Clients that sign and answer too much: weakened in what they do with survivor sets and shares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from weak_session import WeakSession

from secfed.crypto.labels import Label
from secfed.ids import Digest, MemberIndex
from secfed.rounds.exchange import Ask
from secfed.secagg import states
from secfed.secagg.attempt import Attempt
from secfed.secagg.messages import (
    Adverts,
    Confirm,
    ConfirmRequest,
    RecoveryKeyShare,
    SelfMaskShare,
    ShareAnswers,
    SignedReply,
    UnmaskRequest,
)
from secfed.wire import strict, sums
from secfed.wire.pb import sum_pb2 as pb


def sign_set(masked: states.Masked, survivors: tuple[MemberIndex, ...], view: Digest) -> SignedReply:
    a = masked.attempt
    return SignedReply(a.sign(Label.SIGN_CONFIRM, a.us.codec.encode(Confirm(view, survivors))))


def give_shares(masked: states.Masked, survivors: tuple[MemberIndex, ...]) -> SignedReply:
    shares = {
        owner: SelfMaskShare(held.self_share) if owner in survivors else RecoveryKeyShare(held.recovery_share)
        for owner, held in masked.held.items()
    }
    statement = masked.attempt.us.codec.encode(ShareAnswers(masked.transcript, shares))
    return SignedReply(masked.attempt.sign(Label.SIGN_UNMASK, statement))


class SignsEverySet(WeakSession):
    """Two survivor sets: no write-once decision, no floor, no quorum, as many answers as are asked for."""

    def advance(self, state, request):
        match state, request:
            case states.Masked(), ConfirmRequest():
                return state, sign_set(state, request.survivors, state.transcript)
            case states.Masked(), UnmaskRequest():
                return state, give_shares(state, request.survivors)
        return super().advance(state, request)


def lowered(state: Any, most: int) -> Any:
    """The same state, with a threshold that so many neighbours can meet."""
    params = replace(state.attempt.params, threshold=min(most, state.attempt.params.threshold))
    return replace(state, attempt=replace(state.attempt, params=params))


class AnswersEveryList(WeakSession):
    """Double unmask: one set is signed, shares are given for any, and two of them open a secret."""

    def _open(self, request):
        state, reply = super()._open(request)
        params = replace(state.attempt.params, threshold=2)
        return replace(state, attempt=replace(state.attempt, params=params)), reply

    def advance(self, state, request):
        if isinstance(state, states.Confirmed) and isinstance(request, UnmaskRequest):
            return state, give_shares(state.masked, request.survivors)
        return super().advance(state, request)


class OneView(WeakSession):
    """A split share set: what each saw is neither signed nor held against the survivors."""

    def advance(self, state, request):
        if isinstance(state, states.Masked) and isinstance(request, ConfirmRequest):
            view = Digest(bytes(32))
            a, blind = state.attempt, replace(state, transcript=view)
            statement = a.us.codec.encode(Confirm(view, request.survivors))
            reply = SignedReply(a.sign(Label.SIGN_CONFIRM, statement))
            return states.Confirmed(blind, request.survivors, statement), reply
        return super().advance(state, request)


class Uncounting(Attempt):
    """Lists are neither sorted nor free of repetitions."""

    __slots__ = ()

    def check_senders(self, senders, allowed, what):
        del senders, allowed, what


class CountsAgain(WeakSession):
    """Repeated ids: an advert, a survivor and a signature count as often as they are shown."""

    attempt = Uncounting

    def advance(self, state, request):
        match state, request:
            case states.Advertised(), Adverts():
                state = lowered(state, len({member for member, _ in request.adverts} - {state.attempt.me}))
            case states.Masked(), ConfirmRequest() if len(request.survivors) >= state.attempt.params.floor:
                reply = sign_set(state, request.survivors, state.transcript)
                return states.Confirmed(state, request.survivors, reply.statement.statement), reply
        return super().advance(state, request)


decode_told = sums.decode_told


def lax_told(data):
    """Repeated ids: lists of requests are parsed without a look at their order."""
    message = pb.Told()
    message.ParseFromString(data)
    match message.ask.WhichOneof("request"):
        case "adverts":
            items = [
                (each.member, strict.signed_from(each.statement)) for each in message.ask.adverts.adverts
            ]
            return Ask(message.ask.attempt, sums.Adverts(tuple(items)))
        case "confirm":
            return Ask(message.ask.attempt, ConfirmRequest(tuple(message.ask.confirm.survivors)))
        case "unmask":
            signatures = tuple((each.member, each.signature) for each in message.ask.unmask.signatures)
            return Ask(message.ask.attempt, UnmaskRequest(tuple(message.ask.unmask.survivors), signatures))
    return decode_told(data)
