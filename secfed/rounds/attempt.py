"""One attempt under way: the session of the secure sum with its deadlines and its uploads.

The session decides what is right; this adds time. A member that does not answer within a phase,
or whose upload stands still, is dropped with that reason. An answer that comes again after a
lost reply changes nothing.
"""

from __future__ import annotations

import hashlib
from io import BufferedIOBase
from typing import NoReturn

from secfed.crypto.labels import PROTOCOL_VERSION, SUITE, Label
from secfed.encoding import ring
from secfed.encoding.fixedpoint import word_bits
from secfed.errors import (
    EncodingError,
    InfeasibleCohortError,
    PeerError,
    RoundAbortedError,
    UnexpectedMessageError,
)
from secfed.identity import roster as rosters
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, ClientId, Digest, MemberIndex
from secfed.limits import SLOWEST_BYTES_PER_S
from secfed.rounds.house import House
from secfed.rounds.jobs import Job, JobBook
from secfed.rounds.plan import Deadlines
from secfed.rounds.proposal import RoundProposal, vector_words
from secfed.secagg.aggregator import AggregatorSession
from secfed.secagg.manifest import Manifest, manifest_context
from secfed.secagg.messages import Phase, Reply, Request
from secfed.secagg.params import Params
from secfed.secagg.record import AggregatorRecord
from secfed.store.spool import SpoolWriter

__all__ = [
    "LiveAttempt", "SpoolUploads", "Upload", "discard_uploads", "open_attempt", "params_for",
    "restore_attempt", "upload_name",
]  # fmt: skip


def upload_name(h: Digest, member: MemberIndex) -> str:
    """A masked vector's name in the spool."""
    return f"{h.hex()}-{member}"


def discard_uploads(house: House, h: Digest) -> None:
    """Remove the masked vectors of an attempt that will never be summed, or was."""
    for name in house.spool.names():
        if name.startswith(h.hex()):
            house.spool.discard(name)


class SpoolUploads:
    """The `Uploads` port over the spool."""

    def __init__(self, house: House) -> None:
        self._spool = house.spool

    def open(self, h: Digest, member: MemberIndex) -> BufferedIOBase:
        """The packed bytes, as they were acknowledged."""
        return self._spool.open(upload_name(h, member))


def params_for(house: House, job: Job, clients: int) -> Params:
    """The thresholds of a cohort of this size under roster and plan.

    Raises:
        InfeasibleCohortError: Too small or too large to be defended, or for the words of the sum.
    """
    roster, plan = house.roster(), job.plan
    floor = max(roster.min_cohort, plan.min_cohort)
    params = Params.of(clients, roster.corrupt, min_cohort=floor, survivors_min=plan.survivors_min)
    try:
        word_bits(clients, plan.bits)
    except EncodingError as error:
        raise InfeasibleCohortError(str(error), hint=error.hint) from error
    return params


def open_attempt(
    house: House, book: JobBook, job: Job, proposal: RoundProposal, cohort: tuple[ClientId, ...], number: int
) -> AggregatorSession:
    """Freeze a cohort: sign its manifest, and burn the attempt's number before anybody sees it."""
    roster, plan = house.roster(), job.plan
    params = params_for(house, job, len(cohort))
    last = job.last_published
    manifest = Manifest(
        protocol=PROTOCOL_VERSION,
        suite=SUITE,
        federation=roster.federation,
        roster=roster.digest,
        job=job.id,
        job_plan=job.proposal.digest,
        round_plan=proposal.digest,
        round=proposal.plan.round,
        sum_index=0,
        attempt=number,
        cohort=cohort,
        corrupt=roster.corrupt,
        layout=plan.layout.digest,
        length=vector_words(plan),
        word_bits=word_bits(len(cohort), plan.bits),
        base=proposal.base,
        previous_round=0 if last is None else last.round,
        previous=NO_DIGEST if last is None else last.transcript,
        losses=params.losses if params.on_ring else 0,
    )
    signed = house.sign(Label.SIGN_MANIFEST, house.codec.encode(manifest), context=manifest_context(manifest))
    book.keep_roster(roster.digest, roster.text)
    record = AggregatorRecord(house.decisions)
    record.open_attempt(manifest.round_id, number, signed.statement)
    members = house.clients()
    return AggregatorSession(
        signed,
        params,
        members={site: members[site] for site in cohort},
        codec=house.codec,
        record=record,
        uploads=SpoolUploads(house),
    )


def restore_attempt(house: House, book: JobBook, job: Job, statement: bytes) -> AggregatorSession:
    """An attempt that was opened before a restart, under the roster that its manifest names.

    The manifest's signature is made again: Ed25519 gives the same bytes.
    """
    manifest = house.codec.decode(Manifest, statement)
    roster = rosters.verify(book.kept_roster(manifest.roster), house.roster_key)
    floor = max(roster.min_cohort, job.plan.min_cohort)
    params = Params.of(
        len(manifest.cohort),
        manifest.corrupt,
        min_cohort=floor,
        survivors_min=job.plan.survivors_min,
        losses=manifest.losses,
    )
    return AggregatorSession(
        house.sign(Label.SIGN_MANIFEST, statement, context=manifest_context(manifest)),
        params,
        members={site: roster.member(site).identity_key for site in manifest.cohort},
        codec=house.codec,
        record=AggregatorRecord(house.decisions),
        uploads=SpoolUploads(house),
    )


class Upload:
    """One masked vector coming in. `write` and `commit` may run on another thread; one thread at a time."""

    def __init__(
        self,
        writer: SpoolWriter,
        site: ClientId,
        h: Digest,
        member: MemberIndex,
        statement: Signed,
        size: int,
        longest_s: float,
    ) -> None:
        self.site, self.h, self.member, self.statement = site, h, member, statement
        self.size_bytes = size
        self.longest_s = longest_s
        """How long it may take in all."""
        self.received_bytes = 0
        """How far it has come."""
        self.last_byte = 0
        """The last one so far, where a packed vector is padded."""
        self._writer, self._hash = writer, hashlib.sha256()

    @property
    def sha256(self) -> bytes:
        """Digest of what was written."""
        return self._hash.digest()

    def write(self, piece: bytes | memoryview) -> None:
        """Append a piece.

        Raises:
            StorageError: The disk refuses it.
        """
        self._writer.write(piece)
        self._hash.update(piece)
        if piece:
            self.last_byte = piece[-1]
        self.received_bytes += len(piece)

    def commit(self) -> None:
        """Make the whole durable; only now may it be acknowledged."""
        self._writer.commit()

    def abort(self) -> None:
        """Drop what was not committed."""
        self._writer.abort()


class LiveAttempt:
    """An attempt with its clock.

    Every method that moves it may raise `AttemptVoidError` or `RoundAbortedError`: the attempt,
    or the round, is then over.
    """

    def __init__(self, house: House, session: AggregatorSession, deadlines: Deadlines) -> None:
        self._house, self._deadlines = house, deadlines
        self.session = session
        self.opened = house.clock.monotonic()
        self.masked = False
        """Whether members were asked for their vectors, so that these may have left."""
        self._replies: dict[MemberIndex, Reply] = {}
        self._uploads: dict[MemberIndex, Upload] = {}
        self._furthest: dict[MemberIndex, int] = {}
        self._progress: dict[MemberIndex, float] = {}
        self._phase: Phase | None = None
        self._entered = self.opened
        self._follow()

    @property
    def h(self) -> Digest:
        """The attempt's digest."""
        return self.session.h

    @property
    def number(self) -> int:
        """The attempt's number."""
        return self.session.manifest.attempt

    @property
    def cohort(self) -> tuple[ClientId, ...]:
        """Its members."""
        return self.session.manifest.cohort

    def ask(self, site: ClientId) -> Request | None:
        """What this site owes now."""
        member = self.session.place(site)
        return None if member is None else self.session.ask(member)

    # -- what members say ----------------------------------------------------------------------

    def answer(self, site: ClientId, reply: Reply) -> None:
        """Take a reply.

        Raises:
            PeerError: It breaks a rule; its sender is dropped with that reason.
        """
        member = self.session.manifest.index_of(site)
        if self._replies.get(member) == reply:
            return  # said again: the acknowledgement was lost
        try:
            self.session.receive(member, reply)
        except UnexpectedMessageError as error:
            if error.culprits:
                self._refuse(site, error)
        except PeerError as error:
            self._refuse(site, error)
        else:
            self._replies[member] = reply
        self._follow()

    def _refuse(self, site: ClientId, error: PeerError) -> NoReturn:
        """Drop who broke a rule and raise that; where this ends the attempt, as the cause of its end."""
        try:
            self.lose(site, str(error))
        except RoundAbortedError as end:
            raise end from error
        raise error

    def lose(self, site: ClientId, reason: str) -> None:
        """A member is gone, revoked, or has refused; strangers are ignored."""
        member = self.session.place(site)
        if member is None:
            return
        before = self.session.gone
        self.session.drop(member, reason)
        if self.session.gone != before:
            event = "lost_after_freeze" if self.session.frozen else "dropped"
            self._house.observer.note(event, job=self.session.manifest.job, site=site, reason=reason)
        self._follow()

    # -- uploads -------------------------------------------------------------------------------

    def begin_upload(self, site: ClientId, statement: Signed) -> Upload | None:
        """Accept the first frame of a masked vector; None if nothing is owed (any more).

        Raises:
            PeerError: The statement is wrong; its sender is dropped.
        """
        member = self.session.manifest.index_of(site)
        if not self.session.expects_upload(member):
            return None
        try:
            masked = self.session.check_upload(member, statement)
        except PeerError as error:
            self._refuse(site, error)
        for dealer in masked.complaints:
            named = self.session.site(dealer)
            self._house.observer.note("bad_share", job=self.session.manifest.job, site=site, dealer=named)
        name = upload_name(self.h, member)
        self._house.spool.discard(name)  # whole, but its end was never heard: it comes again
        writer = self._house.spool.writer(name, reserve_bytes=masked.size_bytes)
        size = masked.size_bytes
        upload = Upload(writer, site, self.h, member, statement, size, self._longest_s(size))
        self._uploads[member] = upload
        self._progress.setdefault(member, self._house.clock.monotonic())  # to begin again is no progress
        return upload

    def progress(self, upload: Upload) -> None:
        """Look how far it has come: only what lies beyond all that came before renews the member's time."""
        if upload.received_bytes > self._furthest.get(upload.member, 0):
            self._furthest[upload.member] = upload.received_bytes
            self._progress[upload.member] = self._house.clock.monotonic()

    def finish_upload(self, upload: Upload) -> None:
        """A committed vector.

        Raises:
            PeerError: It is not as its sender signed it, or not in its one form; the sender is dropped.
        """
        manifest = self.session.manifest
        try:
            ring.check_padding(upload.last_byte, manifest.word_bits, manifest.length)
            self.session.receive_upload(upload.member, upload.statement, upload.sha256)
        except PeerError as error:
            self._house.spool.discard(upload_name(self.h, upload.member))
            self._refuse(upload.site, error)
        self._follow()

    # -- time ----------------------------------------------------------------------------------

    @property
    def entered(self) -> float:
        """When this phase began, monotonic seconds."""
        return self._entered

    @property
    def deadline(self) -> float:
        """When this phase ends at the latest if nothing more comes, monotonic seconds."""
        ends = self._entered + self._deadlines.phase_s
        if self.session.phase is Phase.MASK and self._progress:
            moving = max(self._progress.values()) + self._deadlines.upload_idle_s
            most = max(upload.longest_s for upload in self._uploads.values())
            ends = max(ends, min(moving, self._entered + most))
        return ends

    def _longest_s(self, size_bytes: int) -> float:
        """The phase's time to begin, and then the least rate: an upload takes no longer than this."""
        return self._deadlines.phase_s + size_bytes / SLOWEST_BYTES_PER_S

    def tick(self, now: float) -> None:
        """Drop who is late."""
        for upload in self._uploads.values():
            self.progress(upload)
        phase = self.session.phase
        for site in self.session.waiting_for:
            member = self.session.place(site)
            reason = None if member is None else self._late(member, now)
            if reason is not None and self.session.phase is phase:
                self.lose(site, reason)

    def _late(self, member: MemberIndex, now: float) -> str | None:
        if now < self._entered + self._deadlines.phase_s:
            return None
        moved = self._progress.get(member)
        if self.session.phase is Phase.MASK and moved is not None:
            idle = self._deadlines.upload_idle_s
            if now >= moved + idle:
                return f"upload timeout {idle} s"
            crawls = now >= self._entered + self._uploads[member].longest_s
            return f"upload slower than {SLOWEST_BYTES_PER_S // 1024} KiB/s" if crawls else None
        return f"no answer in phase {self.session.phase.value} within {self._deadlines.phase_s} s"

    def _follow(self) -> None:
        """Start the clock of a new phase."""
        if self.session.phase is not self._phase:
            self._phase = self.session.phase
            self._entered = self._house.clock.monotonic()
            self.masked = self.masked or self.session.phase is Phase.MASK or self.session.frozen
            self._house.observer.note("phase", job=self.session.manifest.job, phase=self._phase.value)
