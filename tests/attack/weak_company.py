"""Clients that sum with anybody: weakened in whom they take for a member or a neighbour."""

from __future__ import annotations

from dataclasses import replace

from weak_session import WeakSession, recast
from weak_sets import SignsEverySet, lowered

from secfed.encoding.fixedpoint import word_bits
from secfed.rounds.admission import Admission, Site
from secfed.rounds.client import ClientRounds
from secfed.secagg import states, transcript
from secfed.secagg.attempt import Attempt
from secfed.secagg.manifest import Manifest, Terms
from secfed.secagg.messages import (
    Adverts,
    Bundles,
    Ciphertexts,
)
from secfed.secagg.params import Params


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
