"""A corrupt client in the aggregator's own hand: one face of it in one attempt.

It is a real session without a memory or a ledger, so that what it says holds together; the adversary
knows all its secrets, and may bend what leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from simfed.cast import MemoryDecisions, OneSlot
from simfed.liar import bent_bundle, forged
from simfed.owner import Owner
from simfed.scheme import Members, Scheme

from secfed.crypto.labels import Label
from secfed.errors import SecfedError
from secfed.ids import MemberIndex
from secfed.secagg.attempt import Membership
from secfed.secagg.client import ClientSession
from secfed.secagg.manifest import Terms
from secfed.secagg.messages import Bundle, Phase, Reply, ShareIndex
from secfed.secagg.record import ClientRecord
from secfed.wire.codec import ProtoCodec


@dataclass
class Puppet:
    """One face.

    Attributes:
        due: The phase of which it is asked next.
        habit: How its bundle is bent; empty for not at all.
    """

    scheme: Scheme
    member: MemberIndex
    face: int
    owner: Owner
    codec: ProtoCodec
    terms: Terms
    habit: str = ""
    due: Phase = Phase.ADVERTISE
    session: ClientSession = field(default_factory=ClientSession)

    def __post_init__(self) -> None:
        site, roster = self.scheme.site(self.member), self.owner.named(self.terms.roster)
        assert roster is not None
        us = Membership(
            site=site,
            key=self.owner.keys[site],
            aggregator=(roster.aggregator.site, roster.aggregator.identity_key),
            members={member.site: member.identity_key for member in roster.members},
            codec=self.codec,
            record=ClientRecord(MemoryDecisions()),
        )
        self.session.offer(us, self.terms, OneSlot(int(site.removeprefix("site-")), self.terms.length))

    def ask(self, random: Random, absent: Members) -> Reply | None:
        """Its next reply, or None while it waits; an error is its end."""
        request = self.scheme.request(self.member, self.face, self.due, None, absent)
        if request is None:
            return None
        try:
            reply = self.session.receive(request)
        except SecfedError:
            self.due = Phase.DONE
            return None
        if isinstance(reply, Bundle) and self.habit:
            site, h = self.scheme.site(self.member), self.scheme.h
            index = self.codec.decode(ShareIndex, reply.index.statement)
            index, bundle = bent_bundle(random, reply, index, h, self.member, self.habit)
            again = forged(self.owner.people, self.codec, site, Label.SIGN_BUNDLE, h, index)
            return replace(bundle, index=again)
        return reply
