"""Clients from which the defences of one row were taken, each by a subclass; they serve no other end.

What is left in them is the real client. An attack that ends BROKEN against such a client, and
DEFENDED against the real one, was stopped by what the subclass leaves out.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from weak_session import Weaker, WeakRounds, WeakSession, recast, with_session

from secfed.attack.clients import Victims
from secfed.crypto import agreement
from secfed.crypto.labels import Label
from secfed.encoding import ring
from secfed.encoding.fixedpoint import word_bits
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.privacy.events import NonPrivate
from secfed.rounds.admission import Admission, Site
from secfed.rounds.client import ClientRounds
from secfed.rounds.exchange import Ask
from secfed.rounds.ports import Update
from secfed.rounds.vector import REASON, VectorContributor
from secfed.secagg import derive, masking, states, transcript
from secfed.secagg.attempt import Attempt, Membership
from secfed.secagg.client import ClientSession
from secfed.secagg.manifest import Manifest, Terms
from secfed.secagg.messages import (
    Adverts,
    Bundles,
    Ciphertexts,
    Confirm,
    ConfirmRequest,
    MaskedStatement,
    MaskedUpdate,
    RecoveryKeyShare,
    SelfMaskShare,
    ShareAnswers,
    SignedReply,
    UnmaskRequest,
)
from secfed.secagg.params import Params
from secfed.secagg.record import ClientRecord
from secfed.wire import strict, sums
from secfed.wire.pb import sum_pb2 as pb

# -- survivor sets and shares ------------------------------------------------------------------


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
                state = lowered(state, len(request.lists))
            case states.Shared(), Bundles():
                known = tuple(item for item in request.bundles if item.sender in state.edges and item.own)
                masked, reply = lowered(state, min(len(known), 1)).mask(replace(request, bundles=known))
                return self.with_crowd(state, masked, request), reply
        return super().advance(state, request)

    def with_crowd(self, state, masked, request):
        """As if all whose bundles were shown were in the share set."""
        if state.attempt.params.on_ring:
            return masked
        shown = {item.sender: item.index.statement for item in request.bundles}
        seen = shown | {state.attempt.me: state.statement}
        t = transcript.transcript(state.attempt.h, state.seen_adverts, state.seen_lists, seen)
        return replace(masked, transcript=t, share_set=frozenset(shown))


class AnyNeighbours(Trusting):
    """Neighbours are whose adverts are shown, whoever signed them, and no digest is held against anything."""

    __slots__ = ()

    def neighbours(self, adverts):
        return tuple(member for member in sorted(adverts) if member != self.me)

    def entries(self, own, listed, allowed):
        del listed, allowed
        return own


class TakesAnyGraph(SignsEverySet, CountsTheCrowd):
    """A graph the aggregator chose: neighbours are who is shown, with a threshold and signatures to match."""

    attempt = AnyNeighbours

    def advance(self, state, request):
        if isinstance(state, states.Advertised) and isinstance(request, Adverts):
            state = lowered(state, sum(member != state.attempt.me for member, _ in request.adverts))
        return super().advance(state, request)


class AnyPlan(Admission):
    """Fewer survivors than the noise was sized for: no plan is held against the policy."""

    def _accept(self, job, event):
        del job, event


class AcceptsEveryPlan(ClientRounds):
    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._admission = AnyPlan(site)


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


class AnyKey(states.Advertised):
    """Keys that are one's own, or another's, are as good as any."""

    def _refuse_repeated_keys(self, peers):
        del peers


class SameMasks(WeakSession):
    """Weak mask seeds: any key is agreed with, and a round's later attempts have the masks of its first."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[Any, tuple[bytes, dict[MemberIndex, bytes]]] = {}

    def _open(self, request):
        state, reply = super()._open(request)
        return recast(AnyKey, state), reply

    def advance(self, state, request):
        following, reply = super().advance(state, request)
        if not isinstance(state, states.Shared):
            return following, reply
        a, edges = state.attempt, {member: keys.mask for member, keys in state.edges.items()}
        first = self.first.setdefault(a.manifest.round_id, (state.self_seed, edges))
        if first == (state.self_seed, edges):
            return following, reply
        words = a.contribution.words()
        masking.mask(words, me=a.me, self_seed=first[0], edge_seeds=first[1])
        packed = ring.pack(words, a.manifest.word_bits)
        digest = derive.vector_digest(a.h, a.me, hashlib.sha256(packed).digest())
        statement = a.us.codec.encode(MaskedStatement(digest, len(packed), ()))
        return following, MaskedUpdate(a.sign(Label.SIGN_MASKED, statement), packed)


def exchange_with_any(private: Any, peer: bytes) -> bytes:
    """X25519 that gives zeros for a key of low order."""
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError:
        return bytes(32)


class SmallSeed(WeakRounds):
    """Weak mask seeds: a Mersenne Twister that was seeded with ten bits."""

    _SEEDS: Iterator[int] = iter(np.random.default_rng(7).permutation(1 << 10).tolist())

    def _membership(self, now):
        return replace(super()._membership(now), entropy=random.Random(next(self._SEEDS)).randbytes)


WEAKENED: dict[str, Weaker] = {
    "two-survivor-sets": Weaker(with_session(SignsEverySet)),
    "two-survivor-sets-100": Weaker(with_session(SignsEverySet)),
    "double-unmask": Weaker(with_session(AnswersEveryList)),
    "second-attempt": Weaker(Victims(rounds=ManyAttempts)),
    "swapped-keys": Weaker(with_session(TrustsEveryKey)),
    "sybil-cohort": Weaker(with_session(JoinsAnybody)),
    "lowered-threshold": Weaker(with_session(BelievesA)),
    "repeated-ids": Weaker(with_session(CountsAgain), ((sums, "decode_told", lax_told),)),
    "model-per-client": Weaker(Victims(rounds=ToldDigest, contributor=follower)),
    "round-replay": Weaker(replace(with_session(MasksAgain), site=forgetting_rounds)),
    "sum-difference": Weaker(with_session(NoDifferenceRule)),
    "members-without-edge": Weaker(with_session(CountsTheCrowd)),
    "forgotten-vector": Weaker(Victims(rounds=ForgetsWhatLeft)),
    "noise-shortfall": Weaker(Victims(rounds=AcceptsEveryPlan)),
    "modulus-wrap": Weaker(with_session(BelievesWidth)),
    "weak-mask-seeds": Weaker(
        with_session(SameMasks, SmallSeed),
        (
            (agreement, "check_public", lambda _public: None),
            (agreement, "_exchange", exchange_with_any),
        ),
    ),
    "chosen-graph": Weaker(with_session(TakesAnyGraph)),
    "split-share-set": Weaker(with_session(OneView)),
}
"""For each row that is aimed at clients by a hostile aggregator, clients without its defences."""
