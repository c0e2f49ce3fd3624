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
from weak_company import (
    AcceptsEveryPlan,
    BelievesA,
    BelievesWidth,
    CountsTheCrowd,
    JoinsAnybody,
    TakesAnyGraph,
    TrustsEveryKey,
)
from weak_session import Weaker, WeakRounds, WeakSession, recast, with_session
from weak_sets import AnswersEveryList, CountsAgain, OneView, SignsEverySet, lax_told

from secfed.attack.clients import Victims
from secfed.crypto import agreement
from secfed.crypto.labels import Label
from secfed.encoding import ring
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.privacy.events import NonPrivate
from secfed.rounds.admission import Site
from secfed.rounds.client import ClientRounds
from secfed.rounds.ports import Update
from secfed.rounds.vector import REASON, VectorContributor
from secfed.secagg import derive, masking, states
from secfed.secagg.attempt import Membership
from secfed.secagg.client import ClientSession
from secfed.secagg.messages import (
    Bundles,
    MaskedStatement,
    MaskedUpdate,
    SignedReply,
)
from secfed.secagg.record import ClientRecord
from secfed.wire import sums

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
