"""One attempt as the adversary runs it: an honest session to compose messages from, and every place to bend.

Requests go to unmodified clients over the real transport and to accomplices in memory. Whatever
comes back is kept: vectors, signatures, shares of either kind. `loot` says what that is worth.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from secfed.attack.accomplice import Accomplice, Forgetful
from secfed.attack.arena import Arena
from secfed.attack.hostile import Received
from secfed.attack.people import AGGREGATOR
from secfed.crypto.labels import PROTOCOL_VERSION, SUITE, Label
from secfed.crypto.signing import SigningKey
from secfed.encoding.fixedpoint import word_bits
from secfed.errors import NetworkError
from secfed.identity import signed
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, ClientId, Digest, MemberIndex
from secfed.rounds.exchange import Answer, Ask, Present, Ready, Refused, Said, Told
from secfed.rounds.proposal import JobProposal, RoundProposal, vector_words
from secfed.secagg.aggregator import AggregatorSession
from secfed.secagg.manifest import Manifest, Terms, manifest_context
from secfed.secagg.messages import (
    Adverts,
    Bundle,
    Bundles,
    CiphertextList,
    Ciphertexts,
    Codec,
    Confirm,
    ConfirmRequest,
    DeliveredBundle,
    DeliveredCiphertexts,
    MaskedUpdate,
    OpenAttempt,
    Outcome,
    OutcomeNotice,
    Phase,
    Reply,
    Request,
    SelfMaskShare,
    ShareAnswers,
    SignedReply,
    Statement,
    UnmaskRequest,
)
from secfed.secagg.params import Params
from secfed.secagg.record import AggregatorRecord
from secfed.wire.codec import ProtoCodec

__all__ = ["Course", "Heard", "accepted", "told_of"]

Heard = Said | Received
"""What a member said to what it was told."""


def told_of(what: str, heard: Mapping[ClientId, Heard]) -> str:
    """One line of evidence: who did what was asked, and who refused by which rule."""
    groups: dict[str, list[str]] = {}
    for site, said in heard.items():
        words = f'refused: "{said.rule}"' if isinstance(said, Refused) else _words(said)
        groups.setdefault(words, []).append(site)
    parts = (f"{_names(sites)} {words}" for words, sites in groups.items())
    return f"{what}: {'; '.join(parts)}"


def accepted(heard: Mapping[ClientId, Heard]) -> bool:
    """Whether all of them did what was asked."""
    return all(isinstance(said, Answer | Received) for said in heard.values())


def _words(said: Heard) -> str:
    match said:
        case Received():
            return "sent a masked vector"
        case Answer():
            return "answered"
        case Ready() | Present():
            return f"took no notice (said {type(said).__name__.lower()})"
        case _:
            return f"said {type(said).__name__.lower()}"


def _names(sites: list[str]) -> str:
    return ", ".join(sites[:4]) + (f" and {len(sites) - 4} more" if len(sites) > 4 else "")


class Course:
    """One attempt under a manifest of the adversary's making.

    Args:
        cohort: Its members; all sites if not given.
        invented: Identity keys of the adversary's own, in the name of members that it will play.
        params: Thresholds that the adversary works with; those of cohort and roster if not given.
        codec: How the adversary reads and writes statements.
        changes: Fields of the manifest that are not the honest ones.

    Attributes:
        manifest: What the members are asked to join. h: Its digest.
        session: An honest aggregator's session over it, to compose requests from.
        played: Members that the adversary plays.
        shown: The share set that each member masked with.
        vectors: Every masked vector that a member sent, oldest first.
        adverts: Every member's advert. lists: Its ciphertexts. bundles: Its dealt shares.
        signatures: By (transcript, survivors), the members' signatures under it.
        shares: By owner and kind ("self", "recovery"), what each holder gave away.
    """

    def __init__(
        self,
        arena: Arena,
        job: JobProposal,
        round_: RoundProposal,
        *,
        attempt: int = 1,
        cohort: tuple[ClientId, ...] | None = None,
        invented: Mapping[ClientId, SigningKey] | None = None,
        params: Params | None = None,
        codec: Codec | None = None,
        **changes: Any,
    ) -> None:
        self.arena, self.codec = arena, codec or ProtoCodec()
        people, roster = arena.people, arena.people.roster
        members = cohort or people.sites
        honest = Manifest(
            protocol=PROTOCOL_VERSION,
            suite=SUITE,
            federation=roster.federation,
            roster=roster.digest,
            job=job.job,
            job_plan=job.digest,
            round_plan=round_.digest,
            round=round_.plan.round,
            sum_index=0,
            attempt=attempt,
            cohort=members,
            corrupt=roster.corrupt,
            layout=job.plan.layout.digest,
            length=vector_words(job.plan),
            word_bits=word_bits(len(members), job.plan.bits),
            base=round_.base,
            previous_round=0,
            previous=NO_DIGEST,
        )
        self.manifest = replace(honest, **changes)
        self.params = params or Params.complete(len(members), roster.corrupt, min_cohort=roster.min_cohort)
        keys = {site: people.keys[site].signing for site in arena.corrupt} | dict(invented or {})
        public = {site: people.keys[site].signing.public for site in people.sites}
        public |= {site: key.public for site, key in keys.items()}
        self._public, self._terms = public, _terms(self.manifest, job)
        self.session = AggregatorSession(
            self.sign(Label.SIGN_MANIFEST, self.manifest, context=manifest_context(self.manifest)),
            self.params,
            members=public,
            codec=self.codec,
            record=AggregatorRecord(Forgetful()),
            uploads=self,
        )
        self.h = self.session.h
        self.played = {
            MemberIndex(place): self.accomplice(MemberIndex(place), keys[site])
            for place, site in enumerate(members)
            if site in keys
        }
        self.shown: dict[MemberIndex, frozenset[MemberIndex]] = {}
        self.vectors: dict[MemberIndex, list[bytes]] = {}
        self.adverts: dict[MemberIndex, Signed] = {}
        self.lists: dict[MemberIndex, CiphertextList] = {}
        self.bundles: dict[MemberIndex, Bundle] = {}
        self.signatures: dict[tuple[Digest, tuple[MemberIndex, ...]], dict[MemberIndex, bytes]] = {}
        self.shares: dict[MemberIndex, dict[str, dict[MemberIndex, bytes]]] = {}

    def open(self, h: Digest, member: MemberIndex) -> io.BytesIO:
        """The `Uploads` port: a member's vector."""
        del h
        return io.BytesIO(self.vectors[member][-1])

    # -- who is who ----------------------------------------------------------------------------

    @property
    def members(self) -> tuple[MemberIndex, ...]:
        """Every place of the cohort."""
        return tuple(map(MemberIndex, range(len(self.manifest.cohort))))

    @property
    def victims(self) -> tuple[MemberIndex, ...]:
        """The places of honest clients."""
        return tuple(member for member in self.members if member not in self.played)

    def site(self, member: MemberIndex) -> ClientId:
        """Whose place it is."""
        return self.manifest.cohort[member]

    def accomplice(self, member: MemberIndex, key: SigningKey) -> Accomplice:
        """Somebody of the adversary's in a member's place, under this identity key."""
        return Accomplice.join(
            self.site(member),
            key,
            self._public,
            self.codec,
            self._terms,
            self.manifest,
            self.h,
            self.params,
            member,
        )

    # -- asking --------------------------------------------------------------------------------

    def request(self, member: MemberIndex) -> Request:
        """What an honest aggregator would ask of this member now."""
        asked = self.session.ask(member)
        if asked is None:
            raise ValueError(f"nothing is owed by {self.site(member)} in phase {self.session.phase.value}")
        return asked

    def ask(self, requests: Mapping[MemberIndex, Request]) -> dict[ClientId, Heard]:
        """Ask each member what is given, all at once; keep what comes back, and return it by site."""
        real: dict[ClientId, Told] = {
            self.site(member): Ask(self.h, asked)
            for member, asked in requests.items()
            if member not in self.played
        }
        heard: dict[ClientId, Heard] = dict(self.arena.hostile.tell_all(real))
        for member, asked in requests.items():
            if member in self.played:
                heard[self.site(member)] = _as_heard(self.h, self.played[member].reply(asked))
            self._keep(member, asked, heard[self.site(member)])
        return {self.site(member): heard[self.site(member)] for member in requests}

    def take(self, heard: Mapping[ClientId, Heard]) -> None:
        """Let the honest session have replies."""
        for site, said in heard.items():
            member = self.manifest.index_of(site)
            match said:
                case Received(_, statement, packed):
                    self.session.receive_upload(member, statement, hashlib.sha256(packed).digest())
                case Answer(_, reply):
                    self.session.receive(member, reply)
                case _:
                    raise NetworkError(f"{told_of('an honest request', {site: said})}: this proves nothing")

    def step(self) -> None:
        """One honest phase, for everybody who owes something."""
        owed = {member: self.session.ask(member) for member in self.members}
        self.take(self.ask({member: asked for member, asked in owed.items() if asked is not None}))

    def play(self, until: Phase) -> None:
        """Play honestly until a phase begins."""
        while self.session.phase is not until:
            self.step()

    # -- what comes back -----------------------------------------------------------------------

    def _keep(self, member: MemberIndex, asked: Request, said: Heard) -> None:
        match asked, said:
            case Bundles(), Received():
                self.shown[member] = frozenset(item.sender for item in asked.bundles)
                self.vectors.setdefault(member, []).append(said.packed)
            case OpenAttempt(), Answer(_, SignedReply(statement)):
                self.adverts[member] = statement
            case _, Answer(_, CiphertextList() as ciphertexts):
                self.lists[member] = ciphertexts
            case _, Answer(_, Bundle() as bundle):
                self.bundles[member] = bundle
            case ConfirmRequest(), Answer(_, SignedReply(statement)):
                confirm = self.codec.decode(Confirm, statement.statement)
                key = (confirm.transcript, confirm.survivors)
                self.signatures.setdefault(key, {})[member] = statement.signature
            case UnmaskRequest(), Answer(_, SignedReply(statement)):
                self._keep_shares(member, self.codec.decode(ShareAnswers, statement.statement))

    def _keep_shares(self, holder: MemberIndex, answers: ShareAnswers) -> None:
        for owner, item in answers.shares.items():
            kind = "self" if isinstance(item, SelfMaskShare) else "recovery"
            self.shares.setdefault(owner, {}).setdefault(kind, {})[holder] = item.share

    # -- requests of the adversary's own making ------------------------------------------------

    def adverts_from(self, senders: Iterable[MemberIndex]) -> Adverts:
        """Adverts of these members alone."""
        return Adverts(tuple((sender, self.adverts[sender]) for sender in sorted(senders)))

    def lists_for(self, member: MemberIndex, senders: Iterable[MemberIndex]) -> Ciphertexts:
        """What these members, and no others, have for one."""
        return Ciphertexts(
            tuple(
                DeliveredCiphertexts(
                    sender, self.lists[sender].index, self.lists[sender].ciphertexts.get(member)
                )
                for sender in sorted(senders)
                if sender != member
            )
        )

    def bundles_for(self, member: MemberIndex, senders: Iterable[MemberIndex]) -> Bundles:
        """The share set of these members, shown to one."""
        return Bundles(
            tuple(
                DeliveredBundle(sender, self.bundles[sender].index, self.bundles[sender].items.get(member))
                for sender in sorted(senders)
                if sender != member
            )
        )

    def relayed(self, phase: Phase) -> dict[MemberIndex, Request]:
        """What everybody would be asked in a phase, made of what came so far and verified by nobody.

        For members that do not agree on the attempt, whose replies an honest session would refuse.
        """
        everybody = self.members
        match phase:
            case Phase.ENCAPSULATE:
                return dict.fromkeys(everybody, self.adverts_from(everybody))
            case Phase.SHARE:
                return {member: self.lists_for(member, everybody) for member in everybody}
            case Phase.MASK:
                return {member: self.bundles_for(member, everybody) for member in everybody}
            case Phase.CONFIRM:
                return dict.fromkeys(everybody, ConfirmRequest(everybody))
            case Phase.UNMASK:
                _, signatures = next(iter(self.signatures.items()))
                return dict.fromkeys(everybody, UnmaskRequest(everybody, tuple(sorted(signatures.items()))))
            case _:
                return dict.fromkeys(everybody, OpenAttempt(self.session.signed_manifest))

    def unmask(
        self,
        survivors: tuple[MemberIndex, ...],
        asked: Iterable[MemberIndex],
        transcript: Digest | None = None,
    ) -> dict[ClientId, Heard]:
        """Ask for shares under one survivor set, with every signature under it that there is.

        Args:
            transcript: Whose view the signatures are under; of the first that there is if not given.
        """
        found = [key for key in self.signatures if key[1] == survivors and transcript in (None, key[0])]
        signatures = tuple(sorted(self.signatures[found[0]].items())) if found else ()
        return self.ask({member: UnmaskRequest(survivors, signatures) for member in asked})

    # -- the aggregator's own statements -------------------------------------------------------

    def sign(self, label: Label, statement: Statement, *, context: bytes) -> Signed:
        """A statement in the aggregator's name, with its real key."""
        return signed.sign(
            self.arena.people.keys[AGGREGATOR].signing,
            label,
            context=context,
            sender=AGGREGATOR,
            recipient=None,
            statement=self.codec.encode(statement),
        )

    def outcome(self) -> OutcomeNotice:
        """The word on how it ended: the sum that the honest session opened."""
        total = self.session.sum_up()
        outcome = Outcome(
            round_id=self.manifest.round_id,
            published=True,
            survivors=tuple(map(self.site, total.survivors)),
            dropped=self.session.dropped,
            sum=total.digest,
            transcript=total.transcript,
            result=total.digest,
        )
        return OutcomeNotice(self.h, self.sign(Label.SIGN_OUTCOME, outcome, context=self.h))


def _as_heard(h: Digest, reply: Reply) -> Heard:
    if isinstance(reply, MaskedUpdate):
        return Received(h, reply.statement, reply.packed)
    return Answer(h, reply)


def _terms(manifest: Manifest, job: JobProposal) -> Terms:
    """Terms under which the adversary's own members join: the manifest's, whatever it says."""
    return Terms(
        **{
            name: getattr(manifest, name)
            for name in (
                "federation", "roster", "job", "job_plan", "round_plan", "round", "sum_index", "corrupt",
                "layout", "length", "base",
            )
        },
        bits=job.plan.bits,
        min_cohort=1,
        survivors_min=0,
        difference_key=None,
    )  # fmt: skip
