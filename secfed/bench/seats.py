"""Both sides of a measured sum, each in a process of its own, fed with the bytes that the wire would carry.

What a seat does is the product's own code: `ClientSession` with a decision store on disk; a
`LiveAttempt` with its spool. It times itself, so what the rest of the measurement does meanwhile
costs it nothing. Transport security and the signed hellos around calls are left out (`loopback`
has them); every message is serialised and parsed as for the wire.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from secfed.bench.cohort import AGGREGATOR, Cohort, Silent, Vector
from secfed.bench.floors import Bare, Kernel, measure_bare, time_kernel
from secfed.bench.limits import Rates, measure_rates
from secfed.bench.meter import Meter, Parts, Reading, Target
from secfed.bench.work import OF_AGGREGATOR, OF_CLIENT, LongHash
from secfed.crypto.labels import Label
from secfed.identity.roles import Role
from secfed.ids import ClientId, MemberIndex
from secfed.rounds.attempt import LiveAttempt, SpoolUploads, open_attempt
from secfed.rounds.exchange import Answer, Ask, Told
from secfed.rounds.house import House, adapter_digest
from secfed.rounds.jobs import JobBook
from secfed.secagg.aggregator import AggregatorSession
from secfed.secagg.client import ClientSession
from secfed.secagg.manifest import manifest_context
from secfed.secagg.messages import MaskedUpdate, Phase
from secfed.secagg.params import Params
from secfed.secagg.record import AggregatorRecord
from secfed.store.adapters import AdapterStore
from secfed.store.decisions import DecisionStore
from secfed.store.spool import Spool
from secfed.transport import chunks
from secfed.wire import calls, sums
from secfed.wire.codec import ProtoCodec

__all__ = ["ENCODE", "OPEN", "SUM", "AggregatorSeat", "ClientSeat", "Seat", "reply_of"]

ENCODE, OPEN, SUM = "encode", "open", "sum"
"""Stages beside the phases: rounding the vector, signing the manifest, opening the sum."""


class Seat:
    """What both sides are asked besides their messages.

    Args:
        folder: Where it writes.
        parts: What is told apart in a round that is profiled.
        spread: See `meter.Parts`.
    """

    def __init__(
        self, folder: Path, parts: dict[str, tuple[Target, ...]], spread: Collection[str] = ()
    ) -> None:
        self._folder = folder
        self._parts = Parts(parts, spread)
        self._meter = Meter(self._parts)
        self._native = hashlib.sha256

    def profile(self) -> None:
        """Tell the kinds of work apart from here on, which costs a little."""
        vars(hashlib)["sha256"] = LongHash
        self._parts.wrap()

    def rates(self) -> Rates:
        """This process' limits, now."""
        return measure_rates()

    def bare(self, params: Params) -> Bare:
        """What the primitives take by themselves; the rounds are over, and nothing is told apart any more."""
        self._parts.unwrap()
        vars(hashlib)["sha256"] = self._native
        return measure_bare(params, self._folder)

    def kernel(self, length: int, streams: int, threads: int = 1) -> Kernel:
        """The mask kernel by itself, with and without its additions."""
        return time_kernel(length, streams, threads)

    def readings(self) -> dict[str, Reading]:
        """What each stage cost since this was asked last."""
        taken = dict(self._meter.readings)
        self._meter.clear()
        return taken


# -- a client ----------------------------------------------------------------------------------


class ClientSeat(Seat):
    """One client, measured.

    Args:
        folder: New; its decisions go there.
    """

    def __init__(self, cohort: Cohort, member: MemberIndex, folder: Path) -> None:
        super().__init__(folder, OF_CLIENT)
        self._cohort, self._member = cohort, member
        self._roster = cohort.roster()
        self._job = cohort.job(self._roster)
        self._members = {each.site: each.identity_key for each in self._roster.active(Role.CLIENT)}
        self._decisions = DecisionStore(folder / "decisions.sqlite")
        self._session = ClientSession()

    def offer(self, number: int) -> None:
        """Round the vector, and be ready for a round."""
        vector = self._cohort.coordinates(self._member)
        with self._meter.stage(ENCODE):
            words = self._cohort.encoded(self._member, vector)
        terms = self._cohort.terms(self._roster, self._job, number)
        us = self._cohort.membership(self._member, self._members, ProtoCodec(), self._decisions)
        self._session = ClientSession()
        self._session.offer(us, terms, Vector(words))

    def hear(self, phase: Phase, data: bytes) -> list[bytes]:
        """Take a request's bytes; the reply's, or the frames of the upload."""
        with self._meter.stage(phase.value) as reading:
            replies = reply_of(self._session, sums.decode_told(data))
        reading.bytes_down += len(data)
        reading.bytes_up += sum(map(len, replies))
        return replies

    def close(self) -> None:
        """Let go of the files."""
        self._decisions.close()


def reply_of(session: ClientSession, told: Told) -> list[bytes]:
    """A client's reply as bytes: one message, or the frames of an upload as a connection sends it.

    The hello that would stand before each, and its signature, are left out.
    """
    if not isinstance(told, Ask):
        raise TypeError("a seat is only asked")
    reply = session.receive(told.request)
    match reply:
        case None:
            raise TypeError("every request of a sum has a reply")
        case MaskedUpdate(statement, packed):
            header = calls.encode_upload_header(calls.UploadHeader(told.attempt, statement))
            pieces = (calls.Piece(offset, piece) for offset, piece in chunks.split(packed))
            return [header, *map(calls.encode_upload_frame, pieces)]
        case _:
            return [sums.encode_said(Answer(told.attempt, reply))]


# -- the aggregator ----------------------------------------------------------------------------


class _Clock:
    """This machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now_ns(self) -> int:
        return time.time_ns()


class AggregatorSeat(Seat):
    """The aggregator, measured.

    Args:
        folder: New; decisions and uploads go there.
    """

    def __init__(self, cohort: Cohort, folder: Path) -> None:
        super().__init__(folder, OF_AGGREGATOR, spread=["masks"])
        self._cohort = cohort
        roster = cohort.roster()
        self._decisions = DecisionStore(folder / "decisions.sqlite")
        self._house = House(
            site=AGGREGATOR,
            key=cohort.key(AGGREGATOR),
            roster=lambda: roster,
            roster_key=cohort.roster_key,
            codec=ProtoCodec(),
            decisions=self._decisions,
            spool=Spool(folder / "spool"),
            adapters=AdapterStore(folder / "adapters", digest=adapter_digest),
            output=folder / "out",
            clock=_Clock(),
            observer=Silent(),
            threads=cohort.setting.threads,
        )
        self._book = JobBook(self._decisions)
        self._job = self._book.start(cohort.job(roster))
        self._live: LiveAttempt | None = None

    @property
    def _session(self) -> AggregatorSession:
        return self._attempt.session

    @property
    def _attempt(self) -> LiveAttempt:
        if self._live is None:
            raise ValueError("no attempt is open")
        return self._live

    def open(self, number: int) -> Params:
        """Freeze the cohort of a round; the numbers that follow from its size."""
        proposal = self._cohort.round(self._job.proposal, number)
        with self._meter.stage(OPEN):
            session = open_attempt(self._house, self._book, self._job, proposal, self._cohort.sites, 1)
            if self._cohort.setting.losses is not None:
                session = self._sized_for(self._cohort.setting.losses, session)
            self._live = LiveAttempt(self._house, session, proposal.plan.deadlines)
        return session.params

    def _sized_for(self, losses: int, session: AggregatorSession) -> AggregatorSession:
        """The attempt after this one, with another D in its manifest: no operator has a choice there."""
        house, first = self._house, session.manifest
        manifest = replace(first, attempt=first.attempt + 1, losses=losses)
        signed = house.sign(
            Label.SIGN_MANIFEST, house.codec.encode(manifest), context=manifest_context(manifest)
        )
        terms = self._cohort.terms(house.roster(), self._job.proposal, manifest.round)
        record = AggregatorRecord(house.decisions)
        record.open_attempt(manifest.round_id, manifest.attempt, signed.statement)
        return AggregatorSession(
            signed,
            terms.params(len(manifest.cohort), losses),
            members=session.members,
            codec=house.codec,
            record=record,
            uploads=SpoolUploads(house),
        )

    def phase(self) -> Phase:
        """Where the attempt stands."""
        return self._session.phase

    def ask(self, member: MemberIndex) -> bytes | None:
        """What a member must be asked now, as bytes; None if the aggregator has all that it needs of it."""
        if self.phase() is Phase.DONE:
            return None
        with self._meter.stage(self.phase().value) as reading:
            request = self._attempt.ask(self._cohort.sites[member])
            if request is None:
                return None
            data = sums.encode_told(Ask(self._attempt.h, request))
        reading.bytes_down += len(data)
        return data

    def take(self, member: MemberIndex, replies: list[bytes]) -> None:
        """A member's reply, or the frames of its upload."""
        site = self._cohort.sites[member]
        with self._meter.stage(self.phase().value) as reading:
            if self.phase() is Phase.MASK:
                self._store(site, replies)
            else:
                said = sums.decode_said(replies[0])
                if not isinstance(said, Answer):
                    raise TypeError("a client of a measurement only answers")
                self._attempt.answer(site, said.reply)
        reading.bytes_up += sum(map(len, replies))
        lost = self._session.dropped
        if any(item.site == site for item in lost):
            raise RuntimeError(f"{site} was dropped: {lost[-1].reason}")

    def _store(self, site: ClientId, frames: list[bytes]) -> None:
        """An upload, as the service takes it in, on one thread."""
        header = calls.decode_upload_header(frames[0])
        upload = self._attempt.begin_upload(site, header.statement)
        if upload is None:
            raise RuntimeError(f"no vector of {site} is awaited")
        try:
            assembly = chunks.Assembly(upload.size_bytes)
            for frame in frames[1:]:
                offset, size = assembly.next
                piece = calls.piece_at(frame, offset, size)
                if piece is None:
                    raise TypeError("an upload goes on with its next piece")
                assembly.accept(offset, size)
                upload.write(piece)
                self._attempt.progress(upload)
            assembly.finish()
            upload.commit()
        finally:
            upload.abort()
        self._attempt.finish_upload(upload)

    def lose(self, member: MemberIndex) -> None:
        """A member is gone."""
        with self._meter.stage(self.phase().value):
            self._attempt.lose(self._cohort.sites[member], "left out on purpose")

    def sum_up(self) -> tuple[tuple[MemberIndex, ...], bytes]:
        """Open the sum: whose vectors are in it, and their total as bytes of uint32 words."""
        with self._meter.stage(SUM):
            opened = self._session.sum_up(threads=self._house.threads)
        return opened.survivors, opened.total.tobytes()

    def discard(self) -> None:
        """Remove the round's uploads."""
        for name in self._house.spool.names():
            self._house.spool.discard(name)

    def close(self) -> None:
        """Let go of the files."""
        self._decisions.close()
