"""Clients from which the defences of one row were taken, each by a subclass; they serve no other end.

What is left in them is the real client. An attack that ends BROKEN against such a client, and
DEFENDED against the real one, was stopped by what the subclass leaves out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from weak_session import WeakRounds, WeakSession, recast, with_session

from secfed.attack.clients import Victims
from secfed.crypto.labels import Label
from secfed.encoding.fixedpoint import word_bits
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.privacy.events import NonPrivate
from secfed.rounds.admission import Site
from secfed.rounds.client import ClientRounds
from secfed.rounds.exchange import Ask
from secfed.rounds.ports import Update
from secfed.rounds.vector import REASON, VectorContributor
from secfed.secagg import states
from secfed.secagg.attempt import Attempt, Membership
from secfed.secagg.client import ClientSession
from secfed.secagg.manifest import Manifest, Terms
from secfed.secagg.messages import (
    Bundles,
    Ciphertexts,
    Confirm,
    ConfirmRequest,
    RecoveryKeyShare,
    SelfMaskShare,
    ShareAnswers,
    SignedReply,
    UnmaskRequest,
)
from secfed.secagg.params import Params
from secfed.secagg.record import ClientRecord
from secfed.transport.client import Connection
from secfed.wire import strict, sums
from secfed.wire.pb import sum_pb2 as pb

# -- survivor sets and shares ------------------------------------------------------------------


def sign_set(masked: states.Masked, survivors: tuple[MemberIndex, ...], transcript: Digest) -> SignedReply:
    a = masked.attempt
    return SignedReply(a.sign(Label.SIGN_CONFIRM, a.us.codec.encode(Confirm(transcript, survivors))))


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


class AnswersEveryList(WeakSession):
    """Double unmask: one set is signed, and shares are given for any."""

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
    """Repeated ids: a signature counts as often as it is shown."""

    attempt = Uncounting


class LaxConnection(Connection):
    """Repeated ids: lists of requests are parsed without a look at their order."""

    def exchange(self, said):
        return lax_told(self._call("Exchange", sums.encode_said(said), within_s=45))


def lax_told(data):
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
    return sums.decode_told(data)


# -- who is there ------------------------------------------------------------------------------


class Trusting(Attempt):
    """Whose signature it is, is not asked."""

    __slots__ = ()

    def verify(self, item, label, member):
        del label, member
        return item.statement


class TrustsEveryKey(WeakSession):
    """Swapped or invented keys: adverts, and all that follows, are believed unsigned."""

    attempt = Trusting


class AnyCohort(Terms):
    """No floor: thresholds that any number of members can meet."""

    __slots__ = ()

    def params(self, clients, losses):
        del losses
        k = clients - 1
        threshold = min(k, (k + self.corrupt) // 2 + 1)
        quorum = (clients + self.corrupt) // 2 + 1
        return Params(clients, self.corrupt, k, threshold, quorum, floor=2, losses=0)


class Anybody(dict):
    """A roster in which every name stands."""

    def __contains__(self, site):
        return True

    def __missing__(self, site):
        return bytes(32)


class JoinsAnybody(TrustsEveryKey):
    """Sybil or shrunken cohort: neither the floor nor the roster decides whom to sum with."""

    def offer(self, us, terms, contribution):
        super().offer(replace(us, members=Anybody(us.members)), terms, contribution)

    def terms(self, terms):
        return recast(AnyCohort, terms)


class AnyA(Terms):
    """A is what the manifest says, 0 included, and the thresholds follow from it."""

    __slots__ = ()

    def check(self, manifest: Manifest) -> Params:
        super().check(replace(manifest, corrupt=self.corrupt))
        n, k, a = len(manifest.cohort), len(manifest.cohort) - 1, manifest.corrupt
        threshold, quorum = (k + a) // 2 + 1, (n + a) // 2 + 1
        floor = max(threshold + 1, quorum)
        return Params(n, a, k, threshold, quorum, floor, n - floor)


class BelievesA(WeakSession):
    """Lowered threshold or A: the manifest's A is not held against the roster's."""

    def terms(self, terms):
        return recast(AnyA, terms)


class AnyWidth(Terms):
    """The word's width is what the manifest says."""

    __slots__ = ()

    def check(self, manifest: Manifest) -> Params:
        return super().check(replace(manifest, word_bits=word_bits(len(manifest.cohort), self.bits)))


class BelievesWidth(WeakSession):
    """Modulus wrap: the width is not worked out."""

    def terms(self, terms):
        return recast(AnyWidth, terms)


class CountsTheCrowd(WeakSession):
    """Members without an edge: whoever is shown counts, and a few neighbours get a small threshold."""

    def advance(self, state, request):
        match state, request:
            case states.Encapsulated(), Ciphertexts():
                few = min(state.attempt.params.threshold, len(request.lists))
                params = replace(state.attempt.params, threshold=few)
                state = replace(state, attempt=replace(state.attempt, params=params))
            case states.Shared(), Bundles():
                known = tuple(item for item in request.bundles if item.sender in state.edges and item.own)
                params = replace(state.attempt.params, threshold=min(len(known), 1))
                state = replace(state, attempt=replace(state.attempt, params=params))
                request = Bundles(known)
        return super().advance(state, request)


# -- memory ------------------------------------------------------------------------------------


class MasksAgain(WeakSession):
    """A retry under the same masks: the state before the mask is kept, and serves for every share set."""

    shared = None

    def advance(self, state, request):
        if isinstance(request, Bundles):
            self.shared = state if isinstance(state, states.Shared) else self.shared
            return self.shared.mask(request)
        return super().advance(state, request)


class Forgets:
    """Decisions of which those with a prefix are never found again."""

    def __init__(self, decisions: Any, *prefixes: str) -> None:
        self._decisions, self._prefixes = decisions, prefixes

    def put(self, key, value):
        if not key.startswith(self._prefixes):
            self._decisions.put(key, value)

    def get(self, key):
        return None if key.startswith(self._prefixes) else self._decisions.get(key)

    def scan(self, prefix):
        return [] if prefix.startswith(self._prefixes) else self._decisions.scan(prefix)


class ForgetsWhatLeft(ClientRounds):
    """A vector forgotten in a crash: that it left is not kept, so that anybody may be summed with next."""

    def _membership(self, now):
        us = super()._membership(now)
        return replace(us, record=ClientRecord(Forgets(self._site.decisions, "left/")))


def forgetting_rounds(site: Site) -> Site:
    """Replay of a round: neither attempts nor answers nor ends of rounds are kept."""
    gone = ("attempt/", "answered/", "closed/", "left/", "confirm/", "transcript/")
    return replace(site, decisions=Forgets(site.decisions, *gone))


class ManyAttempts(ClientRounds):
    """A second attempt beside a live one: a session each, with a memory each."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._each: dict[Digest, ClientSession] = {}

    def _answer(self, ask):
        self._session = self._each.setdefault(ask.attempt, ClientSession())
        return super()._answer(ask)

    def _membership(self, now: Any) -> Membership:
        record = ClientRecord(Forgets(self._site.decisions, "attempt/", "answered/", "closed/", "left/"))
        return replace(super()._membership(now), record=record)


class NoDifferenceRule(WeakSession):
    """Difference of two sums: no two sums are compared."""

    def terms(self, terms):
        return replace(terms, difference_key=None)


# -- what binds an attempt, and what masks come from -------------------------------------------


class BelievesDigest(WeakSession):
    """A different model per client: h is the number that the aggregator gives, not the manifest's digest."""

    told = Digest(bytes(32))

    def _open(self, request):
        state, _ = super()._open(request)
        attempt = replace(state.attempt, h=self.told)
        return replace(state, attempt=attempt), SignedReply(attempt.sign(Label.SIGN_ADVERT, state.statement))


class ToldDigest(WeakRounds):
    session = BelievesDigest

    def _answer(self, ask):
        self._session.told = ask.attempt
        return super()._answer(ask)


class Follower(VectorContributor):
    """An update that the base decides: a base of zeros lets nothing through, as dead units would."""

    def contribute(self, plan, round_plan, base):
        arrays = {name: array * base[name] for name, array in self._read(plan).items()}
        return Update(arrays, 1, 0, NonPrivate(REASON))


def follower(_site: ClientId, path: Path) -> Follower:
    return Follower(path)


class SmallSeed(ClientRounds):
    """Weak mask seeds: a Mersenne Twister that was seeded with ten bits."""

    _SEEDS: Iterator[int] = iter(np.random.default_rng(7).permutation(1 << 10).tolist())

    def _membership(self, now):
        return replace(super()._membership(now), entropy=random.Random(next(self._SEEDS)).randbytes)


WEAKENED: dict[str, Victims] = {
    "two-survivor-sets": with_session(SignsEverySet),
    "two-survivor-sets-100": with_session(SignsEverySet),
    "double-unmask": with_session(AnswersEveryList),
    "second-attempt": Victims(rounds=ManyAttempts),
    "swapped-keys": with_session(TrustsEveryKey),
    "sybil-cohort": with_session(JoinsAnybody),
    "lowered-threshold": with_session(BelievesA),
    "repeated-ids": replace(with_session(CountsAgain), connect=LaxConnection),
    "model-per-client": Victims(rounds=ToldDigest, contributor=follower),
    "round-replay": with_session(MasksAgain),
    "sum-difference": with_session(NoDifferenceRule),
    "members-without-edge": with_session(CountsTheCrowd),
    "forgotten-vector": Victims(rounds=ForgetsWhatLeft),
    "modulus-wrap": with_session(BelievesWidth),
    "weak-mask-seeds": Victims(rounds=SmallSeed),
    "split-share-set": with_session(OneView),
}
"""For each row that is aimed at clients by a hostile aggregator, clients without its defences."""

FORGETFUL = Victims(site=forgetting_rounds)
"""Clients that would play a round again that has ended."""
