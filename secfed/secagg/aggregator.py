"""The aggregator's side of one attempt: it carries statements about and opens one sum.

It holds no secret of a member. A member that breaks a rule, or stays away past a deadline, is
dropped with its phase and reason; the attempt goes on while the survivors' floor holds, else
it is void. Before it asks for signatures it makes the survivor list durable, before it asks
for shares the signatures, so that a restart asks the identical thing.

Everything is an event: `receive` for a message, `drop` for a member that is lost or late. `ask`
says what a member must be asked now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from secfed.errors import RoundAbortedError, UnexpectedMessageError
from secfed.identity.signed import Signed
from secfed.ids import ClientId, MemberIndex
from secfed.secagg.collected import Collected
from secfed.secagg.frozen import Frozen, Signatures, Uploads
from secfed.secagg.graph import Graph
from secfed.secagg.manifest import Manifest, attempt_digest
from secfed.secagg.messages import (
    Adverts,
    Bundle,
    Bundles,
    CiphertextList,
    Ciphertexts,
    Codec,
    ConfirmRequest,
    DeliveredBundle,
    DeliveredCiphertexts,
    Dropped,
    MaskedStatement,
    OpenAttempt,
    Phase,
    Reply,
    Request,
    SignedReply,
    UnmaskRequest,
)
from secfed.secagg.opening import RingSum, Shares, add_up, open_sum
from secfed.secagg.params import Params
from secfed.secagg.record import AggregatorRecord

__all__ = ["AggregatorSession", "AttemptVoidError"]

_Signatures = tuple[tuple[MemberIndex, bytes], ...]

_Alike = Literal[Phase.ADVERTISE, Phase.ENCAPSULATE, Phase.CONFIRM, Phase.UNMASK]
"""Phases in which everybody is asked the same, but for `_shows_neighbours`."""

_NAMED = 8
"""How many lost members a reason names."""


class AttemptVoidError(RoundAbortedError):
    """The attempt ended before its survivor list was frozen; the round may be tried again."""

    hint = "The round is tried again with fresh keys once enough sites are ready."


class AggregatorSession:
    """One attempt, from the signed manifest to the opened sum.

    Args:
        manifest: The signed manifest, already durable under its attempt number.
        members: Identity keys of the cohort, by site; an attribute too.
        uploads: Where complete masked vectors lie.
    """

    def __init__(
        self,
        manifest: Signed,
        params: Params,
        *,
        members: Mapping[ClientId, bytes],
        codec: Codec,
        record: AggregatorRecord,
        uploads: Uploads,
    ) -> None:
        self._record, self._uploads, self.members = record, uploads, members
        self.signed_manifest = manifest
        self.manifest = codec.decode(Manifest, manifest.statement)
        self.h = attempt_digest(manifest.statement)
        self.params = params
        self._places = {site: MemberIndex(place) for place, site in enumerate(self.manifest.cohort)}
        self._collected = Collected(self.manifest, self.h, members, codec, params)
        self.phase = Phase.ADVERTISE
        self._expected = frozenset(MemberIndex(i) for i in range(params.clients))
        self._dropped: dict[MemberIndex, Dropped] = {}
        self._lost: list[Dropped] = []
        self._frozen: Frozen | None = None
        self._certified: Signatures | None = None
        self._signed: dict[MemberIndex, bytes] = {}
        self._same: tuple[Phase, Request] | None = None

    # -- what people ask -----------------------------------------------------------------------

    def site(self, member: MemberIndex) -> ClientId:
        """The member's name."""
        return self.manifest.cohort[member]

    def place(self, site: ClientId) -> MemberIndex | None:
        """The site's place in the cohort; None for a stranger."""
        return self._places.get(site)

    @property
    def graph(self) -> Graph:
        """Who masks with whom; on the ring from the end of the first phase on."""
        return self._collected.graph

    @property
    def frozen(self) -> bool:
        """Whether the survivor list is durable: from here on the attempt finishes or the round aborts."""
        return self._frozen is not None

    @property
    def survivors(self) -> tuple[MemberIndex, ...]:
        """Whose vectors will be summed; empty before the freeze."""
        return () if self._frozen is None else self._frozen.survivors

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """Who is not in the sum, with phase and reason, sorted by site."""
        return tuple(self._dropped[member] for member in sorted(self._dropped))

    @property
    def lost(self) -> tuple[Dropped, ...]:
        """Survivors that went away after the freeze: their vectors are in the sum; sorted by site."""
        return tuple(sorted(self._lost, key=lambda item: item.site))

    @property
    def gone(self) -> int:
        """How many members were lost so far, before the freeze or after it."""
        return len(self._dropped) + len(self._lost)

    @property
    def waiting_for(self) -> tuple[ClientId, ...]:
        """Members whose reply of this phase is awaited."""
        if self.ready:
            return ()
        return tuple(self.site(member) for member in sorted(self._expected - self._received().keys()))

    @property
    def ready(self) -> bool:
        """Whether enough good shares are in to open the sum."""
        return self.phase is Phase.DONE

    def _received(self) -> Mapping[MemberIndex, object]:
        return self._collected.of(self.phase)

    # -- what a member is asked ----------------------------------------------------------------

    def ask(self, member: MemberIndex) -> Request | None:
        """What this member must be asked now; None if it owes nothing in this phase."""
        if member not in self._expected or member in self._received() or self.ready:
            return None
        match self.phase:
            case Phase.ENCAPSULATE if self._shows_neighbours:
                adverts = self._collected.adverts
                return self._adverts(self._collected.neighbours(member, adverts))
            case Phase.SHARE:
                lists = self._collected.lists
                return Ciphertexts(
                    tuple(
                        DeliveredCiphertexts(other, lists[other].index, lists[other].ciphertexts.get(member))
                        for other in self._collected.neighbours(member, lists)
                    ),
                    self._collected.listed.get(Phase.ENCAPSULATE, ()),
                )
            case Phase.MASK:
                bundles = self._collected.bundles
                return Bundles(
                    tuple(
                        DeliveredBundle(other, bundles[other].index, bundles[other].items.get(member))
                        for other in self._collected.neighbours(member, bundles)
                    ),
                    self._collected.listed.get(Phase.SHARE, ()),
                )
            case Phase.ADVERTISE | Phase.ENCAPSULATE | Phase.CONFIRM | Phase.UNMASK:
                return self._for_all(self.phase)
            case Phase.DONE:
                return None

    def _for_all(self, phase: _Alike) -> Request:
        """What everybody is asked alike in this phase: one object, so that it can be serialised once."""
        if self._same is None or self._same[0] is not phase:
            self._same = phase, self._made_for_all(phase)
        return self._same[1]

    def _made_for_all(self, phase: _Alike) -> Request:
        match phase:
            case Phase.ADVERTISE:
                return OpenAttempt(self.signed_manifest)
            case Phase.ENCAPSULATE:
                return self._adverts(sorted(self._collected.adverts))
            case Phase.CONFIRM:
                return ConfirmRequest(self.survivors)
            case Phase.UNMASK:
                assert self._certified is not None  # noqa: S101 - the phase begins by setting it
                return UnmaskRequest(self.survivors, self._shown_signatures(self._certified.signatures))

    @property
    def _shows_neighbours(self) -> bool:
        """On the ring a member sees its neighbours' adverts, unless this is a retry: who is back must then
        be seen."""
        return self.params.on_ring and self.manifest.attempt == 1

    def _adverts(self, shown: Sequence[MemberIndex]) -> Adverts:
        adverts = self._collected.adverts
        return Adverts(
            tuple((other, adverts[other]) for other in shown),
            self._collected.listed.get(Phase.ADVERTISE, ()),
        )

    def _shown_signatures(self, certified: _Signatures) -> _Signatures:
        """A quorum of them on the ring, where everybody verifying everybody's would be n squared."""
        return certified[: self.params.quorum] if self.params.on_ring else certified

    # -- events --------------------------------------------------------------------------------

    def receive(self, member: MemberIndex, reply: Reply) -> None:
        """Take one member's reply to what `ask` says.

        Raises:
            PeerError: The reply breaks a rule; the caller drops the member with this reason.
            UnexpectedMessageError: Nothing is owed by this member in this phase, or the
                reply is of another kind.
            AttemptVoidError, RoundAbortedError: The floor cannot be held any more.
        """
        if member not in self._expected:
            raise UnexpectedMessageError(f"{self.site(member)} owes nothing in phase {self.phase.value}")
        if member in self._received() or self.ready:
            return  # the same reply again after a lost acknowledgement, or one that is not needed any more
        if self._is_certified(member, reply):
            return  # said again to an aggregator that was restarted meanwhile, and has it from its record
        match self.phase, reply:
            case Phase.ADVERTISE, SignedReply():
                self._collected.take_advert(member, reply.statement)
            case Phase.ENCAPSULATE, CiphertextList():
                self._collected.take_ciphertexts(member, reply)
            case Phase.SHARE, Bundle():
                self._collected.take_bundle(member, reply)
            case Phase.CONFIRM, SignedReply():
                self._collected.take_signature(member, reply.statement, self._frozen_now())
            case Phase.UNMASK, SignedReply():
                self._collected.take_shares(member, reply.statement, self._frozen_now())
            case _:
                raise UnexpectedMessageError(
                    f"a {type(reply).__name__} came in phase {self.phase.value}", culprits=[self.site(member)]
                )
        self._advance_if_complete()

    def _is_certified(self, member: MemberIndex, reply: Reply) -> bool:
        """Whether this is the member's signature on the survivors, made durable before."""
        return isinstance(reply, SignedReply) and self._signed.get(member) == reply.statement.signature

    def expects_upload(self, member: MemberIndex) -> bool:
        """Whether this member's masked vector is awaited."""
        return self.phase is Phase.MASK and member in self._expected and member not in self._received()

    def check_upload(self, member: MemberIndex, statement: Signed) -> MaskedStatement:
        """Verify what a member says of its masked vector, before the first frame is taken.

        Raises:
            PeerError: Signature, size or a complaint is wrong.
        """
        return self._collected.check_masked(member, statement)

    def receive_upload(self, member: MemberIndex, statement: Signed, sha256: bytes) -> None:
        """A masked vector lies complete and durable in `uploads`.

        Args:
            sha256: Digest of the bytes as stored.

        Raises:
            PeerError: The bytes are not those that the member signed.
        """
        if not self.expects_upload(member):
            return
        self._collected.take_masked(member, statement, sha256)
        self._advance_if_complete()

    def drop(self, member: MemberIndex, reason: str) -> None:
        """A member is lost, refused, or was refused. Known drops and strangers are ignored.

        Raises:
            AttemptVoidError: Too few are left before the freeze.
            RoundAbortedError: Too few are left after it.
        """
        if member not in self._expected or self.ready:
            return
        loss = Dropped(self.site(member), self.phase.value, reason)
        if self.frozen:
            if member in self._received():
                return  # what it owed is here; the round no longer needs it
            self._lost.append(loss)
        else:
            self._dropped[member] = loss
            self._collected.forget(member, self.phase)
        self._expected -= {member}
        self._check_floor()
        self._advance_if_complete()

    def _check_floor(self) -> None:
        # Before the freeze a new attempt is cheaper than one that a few more losses would end for good.
        needed = self.params.floor if self.frozen else self.params.clients - self.params.losses
        if len(self._expected) >= needed:
            return
        gone = (*self.dropped, *self._lost)
        names = ", ".join(f"{item.site} ({item.phase}: {item.reason})" for item in gone[:_NAMED])
        names += f", and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        if not self.frozen:
            raise AttemptVoidError(
                f"{len(self._expected)} of {self.params.clients} members are left, "
                f"{needed} are needed: {names}"
            )
        raise RoundAbortedError(
            f"{len(self._expected)} members can still answer, {needed} are needed; "
            f"the survivor list was frozen, so the round is over: {names}"
        )

    def _advance_if_complete(self) -> None:
        """Open the next phase once everybody who is expected has replied."""
        if self.phase is Phase.UNMASK and self._shares().complete(self._frozen_now(), self.params.threshold):
            self.phase = Phase.DONE
            return
        received = self._received()
        if len(received) < len(self._expected) or not self._expected <= received.keys():
            return
        match self.phase:
            case Phase.ADVERTISE:
                self._collected.close(self.phase)
                self.phase = Phase.ENCAPSULATE
            case Phase.ENCAPSULATE:
                self._collected.close(self.phase)
                self.phase = Phase.SHARE
            case Phase.SHARE:
                self._collected.close(self.phase)
                reason = self._collected.dispute()
                if reason is not None:
                    raise AttemptVoidError(reason)
                self.phase = Phase.MASK
            case Phase.MASK:
                self._freeze()
            case Phase.CONFIRM:
                self._certify()
            case Phase.UNMASK:
                raise RoundAbortedError("everybody answered, and too few good shares are in to open the sum")
            case Phase.DONE:
                pass

    # -- freeze and certify --------------------------------------------------------------------

    def _freeze(self) -> None:
        """Make the survivor list durable, with all that a restart needs to finish."""
        reason = self._collected.unopenable()
        if reason is not None:
            raise AttemptVoidError(reason)
        frozen = self._collected.freeze(self.dropped)
        self._record.freeze(self.h, frozen.to_bytes())
        self._enter(frozen)

    def _enter(self, frozen: Frozen) -> None:
        self._frozen = frozen
        self._dropped = {self.manifest.index_of(item.site): item for item in frozen.dropped}
        self._expected = frozenset(frozen.survivors)
        self.phase = Phase.CONFIRM

    def _frozen_now(self) -> Frozen:
        if self._frozen is None:
            raise UnexpectedMessageError("the survivor list is not frozen")
        return self._frozen

    def _certify(self) -> None:
        certified = Signatures(tuple(sorted(self._collected.signatures.items())))
        self._record.certify(self.h, certified.to_bytes())
        self._certify_from(certified)

    def _certify_from(self, certified: Signatures) -> None:
        self._certified, self._signed = certified, dict(certified.signatures)
        self._expected = frozenset(member for member, _ in certified.signatures)
        self.phase = Phase.UNMASK

    # -- shares and the sum --------------------------------------------------------------------

    def _shares(self) -> Shares:
        return Shares(self._collected.answers, self._collected.holders)

    def sum_up(self, *, threads: int = 1) -> RingSum:
        """Open the sum: add the survivors' vectors, take off what masks are left.

        Raises:
            PeerError: A dropped member's recovery blob is bad; it is named.
            RoundAbortedError: Too few good shares.
            LostUploadError: An upload is not the one that was acknowledged.
        """
        frozen = self._frozen_now()
        opened = open_sum(self.h, frozen, self._shares(), self.params.threshold, self.site)
        return add_up(self.manifest, self.h, frozen, opened, self._uploads, threads=threads)

    # -- restart -------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Take up a frozen attempt after a restart; False if it was never frozen (void it then).

        Raises:
            StorageError: A stored record is damaged.
        """
        stored = self._record.frozen(self.h)
        if stored is None:
            return False
        self._enter(Frozen.from_bytes(stored))
        certified = self._record.certified(self.h)
        if certified is not None:
            self._certify_from(Signatures.from_bytes(certified))
            for member in sorted(set(self.survivors) - self._expected):
                reason = "its signature was not among those that were made durable"
                self._lost.append(Dropped(self.site(member), Phase.CONFIRM.value, reason))
        return True
