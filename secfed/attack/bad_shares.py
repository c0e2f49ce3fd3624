"""Bad shares: a corrupt member hands out garbage, to stop the round or to spoil its sum in silence.

One run has a corrupt holder, who answers the unmask request, before all others, with shares that
nobody dealt to it; another a corrupt dealer, who seals garbage for one member; a third a dealer who
commits to other shares than it seals. Each time the round must end with the exact sum, since t
good shares of everybody remain, and the culprit must be named.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from secfed.attack.clients import Victims
from secfed.attack.daemons import PATIENCE_S
from secfed.attack.finding import Evidence, Report
from secfed.attack.town import BITS, BOUND, Town
from secfed.attack.venue import Venue
from secfed.crypto.labels import Label
from secfed.encoding.fixedpoint import FixedPoint
from secfed.identity import signed
from secfed.identity.signed import Signed
from secfed.ids import Digest, MemberIndex
from secfed.rounds.admission import Site
from secfed.rounds.client import ClientRounds, Upload
from secfed.rounds.exchange import Answer, Ask, Said, Told
from secfed.secagg import derive
from secfed.secagg.messages import (
    Bundle,
    BundleItem,
    ItemDigest,
    Reply,
    ShareAnswers,
    ShareIndex,
    SignedReply,
    Statement,
    UnmaskRequest,
)
from secfed.secagg.states import Shared
from secfed.transport.client import Connection

__all__ = ["run"]

_SITES = 5
_ME, _WRONGED = MemberIndex(_SITES - 1), MemberIndex(0)

_HEAD_STARTS_S = (0.5, 3.0, 10.0)
"""How much longer honest shares travel, in turn: those that come once enough are in are not looked at."""


@dataclass(frozen=True, slots=True)
class _Hand:
    """What a corrupt member can sign in an attempt."""

    site: Site
    h: Digest

    def sign(self, label: Label, statement: Statement) -> Signed:
        return signed.sign(
            self.site.key,
            label,
            context=self.h,
            sender=self.site.name,
            recipient=None,
            statement=self.site.codec.encode(statement),
        )


Bend = Callable[[_Hand, Told, Reply], Reply]
"""From what was asked, and what an honest member would reply, to what is replied."""


def run(venue: Venue, report: Report) -> None:
    """One round for each kind of garbage; one more where the garbage came too late to be looked at."""
    evidence = report.part("a holder's wrong shares")
    for later_s in _HEAD_STARTS_S:
        first = threading.Event()
        with Town(venue, _SITES) as town:
            slow = replace(town.victims, connect=partial(_Slow, first, later_s))
            words = "a holder gives shares that nobody dealt"
            if _one_round(town, slow, partial(_wrong_shares, first), words, evidence):
                break
    else:
        evidence.gained("garbage under nobody's name: wrong shares were never looked at")
    for name, words, bend in (
        ("a dealer's sealed garbage", "a dealer seals garbage for one member", _sealed_garbage),
        (
            "a dealer's other commitments",
            "a dealer commits to other shares than it seals",
            _other_commitments,
        ),
    ):
        evidence = report.part(name)
        with Town(venue, _SITES) as town:
            if not _one_round(town, town.victims, bend, words, evidence):
                evidence.gained(f"garbage under nobody's name ({words})")


def _one_round(town: Town, others: Victims, bend: Bend, words: str, evidence: Evidence) -> bool:
    """A round of all sites, the last one corrupt; whether it was named, or got what it wanted."""
    vectors = {site: town.vector(site) for site in town.people.sites}
    *honest, corrupt = town.people.sites
    job = town.start_job("sum")
    for site in honest:
        town.client(site, others)
    town.client(corrupt, Victims(rounds=lambda site: _Corrupt(site, bend)))
    state = town.ended(job)
    found = town.published(job)
    if found is None:
        evidence.saw(f"{words}: nothing is published")
        evidence.gained(f"a round that it could stop ({words}): {[end.state for end in state.history]}")
        return True
    included = found.manifest["included"]
    off = float(np.abs(found.total - np.sum([vectors[site] for site in included], axis=0)).max())
    if off > _SITES * FixedPoint(BOUND, BITS).step:
        evidence.saw(f"{words}: a sum of {len(included)} sites is published")
        evidence.gained(f"a wrong sum that was published as right ({words})")
        return True
    evidence.saw(f"{words}: the exact sum of {len(included)} sites is published")
    lost = {entry["site"]: entry["reason"] for entry in found.manifest["lost_after_freeze"]}
    told = [line for line in town.aggregator.output.splitlines() if f"{corrupt} dealt it bad" in line]
    if corrupt in lost:
        evidence.saw(f"the manifest names {corrupt}: {lost[corrupt]}")
    elif told:
        evidence.saw(f"the aggregator's operator reads: {told[0]}")
    return corrupt in lost or bool(told)


class _Corrupt(ClientRounds):
    """Takes part as it should, but for one reply."""

    def __init__(self, site: Site, bend: Bend) -> None:
        super().__init__(site)
        self._bend = bend

    def hear(self, told: Told) -> Said | Upload:
        """What an honest client says, bent where it is a reply of the secure sum."""
        said = super().hear(told)
        if not (isinstance(told, Ask) and isinstance(said, Answer)):
            return said
        bent = self._bend(_Hand(self._site, told.attempt), told, said.reply)
        state = self._session._state
        if isinstance(bent, Bundle) and isinstance(state, Shared):  # so that it signs what others saw of it
            self._session._state = replace(state, statement=bent.index.statement)
        return Answer(said.attempt, bent)


class _Slow(Connection):
    """An honest member's link, on which shares travel a little longer than the corrupt one's."""

    def __init__(self, after: threading.Event, later_s: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._after, self._later_s = after, later_s
        self._told: Told | None = None

    def exchange(self, said: Said) -> Told:
        """As ever, once it is its turn."""
        if isinstance(self._told, Ask) and isinstance(self._told.request, UnmaskRequest):
            self._after.wait(PATIENCE_S)
            time.sleep(self._later_s)
        self._told = super().exchange(said)
        return self._told


def _wrong_shares(first: threading.Event, hand: _Hand, told: Told, reply: Reply) -> Reply:
    """Every share another one of the same kind, under a good signature."""
    if not (isinstance(told, Ask) and isinstance(told.request, UnmaskRequest)):
        return reply
    if not isinstance(reply, SignedReply):
        return reply
    answers = hand.site.codec.decode(ShareAnswers, reply.statement.statement)
    shares = {owner: type(share)(b"\x01" + os.urandom(31)) for owner, share in answers.shares.items()}
    first.set()
    return SignedReply(hand.sign(Label.SIGN_UNMASK, replace(answers, shares=shares)))


def _sealed_garbage(hand: _Hand, _told: Told, reply: Reply) -> Reply:
    return _dealt(hand, reply, lambda item: replace(item, envelope=os.urandom(len(item.envelope))))


def _other_commitments(hand: _Hand, _told: Told, reply: Reply) -> Reply:
    return _dealt(
        hand,
        reply,
        lambda item: replace(item, self_share=Digest(os.urandom(32)), recovery_share=Digest(os.urandom(32))),
    )


def _dealt(hand: _Hand, reply: Reply, change: Callable[[BundleItem], BundleItem]) -> Reply:
    """The bundle with another item for one member, under a good signature over just that."""
    if not isinstance(reply, Bundle):
        return reply
    items = dict(reply.items)
    items[_WRONGED] = change(items[_WRONGED])
    index = hand.site.codec.decode(ShareIndex, reply.index.statement)
    digests = tuple(
        ItemDigest(member, derive.item_digest(hand.h, _ME, member, derive.bundle_item_bytes(items[member])))
        for member in sorted(items)
    )
    return Bundle(hand.sign(Label.SIGN_BUNDLE, replace(index, items=digests)), items, reply.blob)
