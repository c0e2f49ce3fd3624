"""One attempt, played honestly once and then entered at any phase, to tamper with what comes next."""

from __future__ import annotations

import copy
import hashlib
import io
from dataclasses import dataclass, field
from typing import Any

from simfed.cast import AGGREGATOR, Cast, MemoryDecisions, OneSlot

from secfed.crypto.labels import Label
from secfed.identity.signed import Signed
from secfed.ids import Digest, MemberIndex
from secfed.secagg.aggregator import AggregatorSession
from secfed.secagg.client import ClientSession
from secfed.secagg.manifest import Manifest, Terms
from secfed.secagg.messages import (
    MaskedUpdate,
    OpenAttempt,
    Outcome,
    OutcomeNotice,
    Phase,
    Reply,
    Request,
    Statement,
)
from secfed.secagg.record import AggregatorRecord


@dataclass
class Uploads:
    """Masked vectors as the aggregator keeps them."""

    packed: dict[tuple[Digest, MemberIndex], bytes] = field(default_factory=dict)

    def open(self, h: Digest, member: MemberIndex) -> io.BytesIO:
        return io.BytesIO(self.packed[h, member])


class Stage:
    """n honest clients and an honest aggregator, with a snapshot at the start of each phase.

    Args:
        terms: Changes of the first round's terms, at every client alike.
    """

    def __init__(self, clients: int, *, cast: Cast | None = None, **terms: Any) -> None:
        self.cast = cast or Cast(clients, length=max(40, clients))
        self.terms: Terms = self.cast.terms(**terms)
        self.decisions = [MemoryDecisions() for _ in self.cast.sites]
        self.clients = [ClientSession() for _ in self.cast.sites]
        self._players = tuple(self.clients)
        self.aggregator_decisions = MemoryDecisions()
        self.uploads = Uploads()
        self.members = tuple(map(MemberIndex, range(clients)))
        self._snapshots: dict[Phase, list[tuple[Any, dict[str, Any]]]] = {}
        for member in self.members:
            self.offer(member)
        self.session = self._played = self.open_session(self.cast.manifest(self.terms))

    # -- the honest course ---------------------------------------------------------------------

    def offer(self, member: MemberIndex, **changes: Any) -> None:
        """The client is ready, under terms of its own where changed."""
        site = self.cast.sites[member]
        terms = self.cast.terms(**changes) if changes else self.terms
        us = self.cast.membership(site, self.decisions[member])
        self.clients[member].offer(us, terms, OneSlot(member, self.cast.length))

    def restart(self, member: MemberIndex) -> None:
        """The client's process ends and comes back with its disk and nothing else."""
        self.clients[member] = ClientSession()
        self.offer(member)

    def open_session(self, manifest: Manifest) -> AggregatorSession:
        params = self.cast.params(len(manifest.cohort), manifest.losses)
        return AggregatorSession(
            self.cast.sign_manifest(self.terms, manifest),
            params,
            members=self.cast.members,
            codec=self.cast.codec,
            record=AggregatorRecord(self.aggregator_decisions),
            uploads=self.uploads,
        )

    def deliver(self, member: MemberIndex, reply: Reply | None) -> None:
        """Hand a client's reply to the aggregator."""
        if isinstance(reply, MaskedUpdate):
            self.uploads.packed[self.session.h, member] = reply.packed
            self.session.receive_upload(member, reply.statement, hashlib.sha256(reply.packed).digest())
        elif reply is not None:
            self.session.receive(member, reply)

    def play(self, until: Phase = Phase.DONE) -> Stage:
        """Play honestly until a phase begins."""
        while self.session.phase is not until:
            self.step()
        return self

    def step(self) -> None:
        """One phase, for everybody who owes something in it."""
        asked = {member: self.session.ask(member) for member in self.members_here()}
        for member, request in asked.items():
            if request is not None:
                self.deliver(member, self.client_of(member).receive(request))

    def members_here(self) -> tuple[MemberIndex, ...]:
        return tuple(map(MemberIndex, range(len(self.session.manifest.cohort))))

    def client_of(self, member: MemberIndex) -> ClientSession:
        """The client behind a place in the present attempt's cohort."""
        return self.clients[self.cast.sites.index(self.session.manifest.cohort[member])]

    # -- snapshots -----------------------------------------------------------------------------

    def at(self, phase: Phase) -> Stage:
        """Back to where this phase began, whatever was tried since."""
        if not self._snapshots:
            while self.session.phase is not Phase.DONE:
                self._snapshots[self.session.phase] = self._save()
                self.step()
            self._snapshots[Phase.DONE] = self._save()
        for part, saved in self._snapshots[phase]:
            part.__dict__.clear()
            part.__dict__.update(_copied(saved))
        self.session, self.clients[:] = self._played, self._players
        return self

    def _parts(self) -> list[Any]:
        session = self.session
        sides = [*self.clients, *self.decisions, self.aggregator_decisions]
        return [*sides, session, session._collected, self.uploads]

    def _save(self) -> list[tuple[Any, dict[str, Any]]]:
        return [(part, _copied(part.__dict__)) for part in self._parts()]

    # -- what a dishonest aggregator or member can say -----------------------------------------

    def ask(self, member: int) -> Any:
        """The request that an honest aggregator would send now."""
        request = self.session.ask(MemberIndex(member))
        assert request is not None
        return request

    def tell(self, member: int, request: Request) -> Reply | None:
        return self.clients[member].receive(request)

    def by(self, member: int, label: Label, statement: Statement | bytes) -> Signed:
        """A statement of this attempt under a member's own signature."""
        body = statement if isinstance(statement, bytes) else self.cast.codec.encode(statement)
        return self.cast.sign(self.cast.sites[member], label, self.session.h, body)

    def open(self, member: int, **changes: Any) -> Reply | None:
        """Open an attempt with a manifest of the aggregator's own making."""
        manifest = self.cast.manifest(self.terms, **changes)
        return self.tell(member, OpenAttempt(self.cast.sign_manifest(self.terms, manifest)))

    def outcome(self, outcome: Outcome, h: Digest | None = None) -> OutcomeNotice:
        """The aggregator's signed word on how the attempt ended."""
        h = h or self.session.h
        statement = self.cast.sign(AGGREGATOR, Label.SIGN_OUTCOME, h, self.cast.codec.encode(outcome))
        return OutcomeNotice(h, statement)


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes with containers of their own; what they hold is immutable or shared on purpose."""
    return {
        name: copy.copy(value) if isinstance(value, dict | list) else value
        for name, value in attributes.items()
    }
