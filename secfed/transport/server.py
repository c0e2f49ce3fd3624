"""The aggregator's service over gRPC: convert, call, convert; no state, no policy.

Every call is decoded, decided by its hello, entered in the audit log, and handed to the desk.
What is raised below goes out through `status`, and nothing else does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio

from secfed.errors import ConfigError, NetworkError, PeerError, RevokedError, SecfedError, StorageError
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import NO_DIGEST, ClientId, Digest
from secfed.rounds import archive
from secfed.rounds.aggregator import AggregatorRounds
from secfed.rounds.attempt import Upload
from secfed.store.adapters import AdapterStore
from secfed.store.journal import Head
from secfed.transport import chunks, status
from secfed.transport.auditlog import AuditLog
from secfed.transport.desk import Desk
from secfed.transport.hello import GREETING, Caller, HelloGate
from secfed.wire import calls, service, sums
from secfed.wire import status as wire_status
from secfed.wire.limits import CALLS_EACH_MAX, FIRST_FRAME_S, REFUSAL_S, UNPROVEN_MAX

__all__ = ["FederationService"]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""gRPC's view of a call."""

T = TypeVar("T")


class FederationService:
    """The calls of `service.proto`.

    Args:
        desk: The way to the rounds.
        roster: The roster in force, asked anew at every call.
        upload_idle_s: How long an upload may stand still.
        refused: Told of every refusal, for metrics and logs.
    """

    def __init__(
        self,
        desk: Desk,
        gate: HelloGate,
        audit: AuditLog,
        adapters: AdapterStore,
        *,
        roster: Callable[[], Roster],
        now: Callable[[], datetime],
        upload_idle_s: float,
        uploaded: Callable[[int], None],
        refused: Callable[[BaseException], None],
    ) -> None:
        self._desk, self._gate, self._audit, self._adapters = desk, gate, audit, adapters
        self._roster, self._now, self._idle_s = roster, now, upload_idle_s
        self._uploaded, self._refused = uploaded, refused
        self._calls: dict[ClientId, dict[asyncio.Task[Any], Digest]] = {}
        self._unproven: dict[bytes, list[asyncio.Task[Any]]] = {}
        self._uploads: dict[ClientId, asyncio.Lock] = {}
        self._downloads: dict[ClientId, asyncio.Lock] = {}
        self._uploading: dict[ClientId, set[asyncio.Task[Any]]] = {}
        self._ended: dict[asyncio.Task[Any], SecfedError] = {}

    def handler(self) -> grpc.GenericRpcHandler:
        """For `add_generic_rpc_handlers`: bytes in, bytes out."""
        short = {
            "Exchange": self._exchange,
            "GetRoster": self._get_roster,
            "StartJob": self._start_job,
            "ControlJob": self._control_job,
            "GetStatus": self._get_status,
        }
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(self._short(name, answer))
            for name, answer in short.items()
        }
        handlers["Upload"] = grpc.stream_unary_rpc_method_handler(self._upload)
        handlers["Download"] = grpc.unary_stream_rpc_method_handler(self._download)
        return grpc.method_handlers_generic_handler(service.SERVICE, handlers)

    def cut(self, roster: Roster) -> None:
        """End every call over a certificate that this roster no longer has, revoked or replaced."""
        active = {member.site: member.certificate.digest for member in roster.members if member.active}
        for site, tasks in self._calls.items():
            what = "had its key replaced" if site in active else "was revoked"
            reason = RevokedError(f"{site} {what} in roster version {roster.version}")
            for task, certificate in tasks.items():
                if active.get(site) != certificate:
                    self._end(task, reason)

    def _end(self, task: asyncio.Task[Any], reason: SecfedError) -> None:
        """End a call from this side; the other side hears why: the first reason, if there are several."""
        if task not in self._ended:
            self._ended[task] = reason
            task.cancel()

    # -- around every call ---------------------------------------------------------------------

    def _short(
        self, method: str, answer: Callable[[Caller, bytes], Awaitable[bytes]]
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handle(data: bytes, context: Context) -> bytes:
            async with self._guard(method, context) as admit:
                call = calls.decode_call(data)
                caller = admit(call)
                return await answer(caller, call.body)
            raise AssertionError("a guard passes nothing on")

        return handle

    @contextlib.asynccontextmanager
    async def _guard(self, method: str, context: Context) -> AsyncIterator[Callable[[calls.Call], Caller]]:
        """Decide who calls, remember the call while it lasts, and turn what is raised into a status."""
        entered: list[Caller] = []
        broken = True
        peer = next(iter(context.auth_context().get("x509_pem_cert", ())), b"")

        def admit(call: calls.Call) -> Caller:
            caller = self._gate.check(method, call.hello, call.body, peer, self._roster(), self._now())
            self._proven(peer)
            tasks = self._calls.setdefault(caller.site, {})
            if len(tasks) >= CALLS_EACH_MAX:
                raise NetworkError(f"{caller.site} has {CALLS_EACH_MAX} calls open, and no more are taken")
            tasks[_current()] = caller.member.certificate.digest
            entered.append(caller)
            if _takes_part(caller):
                self._desk.soon(lambda rounds: rounds.enter(caller.site))
            return caller

        try:
            self._await_hello(peer)
            yield admit
            broken = False
            self._enter(entered, method, context, "ok")
        except asyncio.CancelledError:
            reason = self._ended.pop(_current(), None)
            if reason is None:
                self._enter(entered, method, context, "broken off")
                raise
            _current().uncancel()
            await self._refuse(reason, entered, method, context)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side gets its public form
            broken = False
            await self._refuse(error, entered, method, context)
        finally:
            self._ended.pop(_current(), None)
            self._proven(peer)
            for caller in entered:
                self._leave(caller, broken)

    async def _refuse(self, error: Exception, entered: list[Caller], method: str, context: Context) -> None:
        refusal = status.refusal(error)
        self._refused(error)
        self._enter(entered, method, context, type(error).__name__, refusal.details)
        try:
            async with asyncio.timeout(REFUSAL_S):
                await context.abort(refusal.code, refusal.details, refusal.metadata)
        except TimeoutError:  # it stands behind a chunk that is not read: the stream ends without it
            raise asyncio.CancelledError from None

    def _leave(self, caller: Caller, broken: bool) -> None:
        tasks = self._calls.get(caller.site, {})
        tasks.pop(_current(), None)
        if not tasks:
            self._calls.pop(caller.site, None)
        if _takes_part(caller):
            self._desk.soon(lambda rounds: rounds.leave(caller.site, broken=broken))

    def _enter(
        self, entered: list[Caller], method: str, context: Context, outcome: str, text: str = ""
    ) -> None:
        who = entered[0].site if entered else "-"
        self._audit.add(who=who, what=method, outcome=outcome, where=_address(context.peer()), text=text)

    def _await_hello(self, peer: bytes) -> None:
        """A call begins over this certificate, and has shown no hello yet."""
        waiting = self._unproven.setdefault(peer, [])
        waiting.append(_current())
        if len(waiting) > UNPROVEN_MAX:
            self._end(waiting.pop(0), NetworkError("too many calls were begun without their hello"))

    def _proven(self, peer: bytes) -> None:
        """The call at hand has shown its hello, or is over."""
        waiting = self._unproven.get(peer, [])
        if _current() in waiting:
            waiting.remove(_current())
        if not waiting:
            self._unproven.pop(peer, None)

    # -- rounds --------------------------------------------------------------------------------

    async def _exchange(self, caller: Caller, body: bytes) -> bytes:
        said = sums.decode_said(body)
        ledger = Head(caller.hello.ledger_entries, caller.hello.ledger_head)
        site, state = caller.site, caller.hello.state
        over = await self._desk.call(lambda rounds: rounds.hear(site, said, ledger=ledger, state=state))
        return sums.encode_told(await self._desk.next_for(site, at_once=over))

    async def _upload(self, frames: AsyncIterator[bytes], context: Context) -> bytes:
        async with self._guard("Upload", context) as admit:
            stream = aiter(frames)
            first = calls.decode_upload_frame(await _next(stream, FIRST_FRAME_S))
            if not isinstance(first, calls.Call):
                raise PeerError("an upload begins with its call")
            caller = admit(first)
            header = calls.decode_upload_header(first.body)
            async with self._alone(caller.site):
                await self._receive(caller.site, header, stream)
            return sums.encode_told(await self._desk.next_for(caller.site))
        raise AssertionError("a guard passes nothing on")

    @contextlib.asynccontextmanager
    async def _alone(self, site: ClientId) -> AsyncIterator[None]:
        """One upload a site: earlier ones, whose link must have died, end first."""
        tasks, own = self._uploading.setdefault(site, set()), _current()
        for earlier in tasks:
            self._end(earlier, NetworkError(f"a newer upload of {site} took the place of this one"))
        tasks.add(own)
        try:
            async with self._uploads.setdefault(site, asyncio.Lock()):
                yield
        finally:
            tasks.discard(own)

    async def _receive(
        self, site: ClientId, header: calls.UploadHeader, stream: AsyncIterator[bytes]
    ) -> None:
        begun: list[Upload] = []  # a call that is cancelled has no result, but it may have a file open

        async def begin() -> None:
            upload = await self._desk.call(
                lambda rounds: rounds.begin_upload(site, header.attempt, header.statement)
            )
            begun.extend([] if upload is None else [upload])

        try:
            await _to_the_end(begin())
            for upload in begun:
                await self._store(upload, stream)
                await self._desk.call(partial(AggregatorRounds.finish_upload, upload=upload))
        except StorageError as error:
            self._desk.fail(error)  # or its sender would be dropped for what this side's disk did
            raise
        finally:
            for upload in begun:
                await _to_the_end(self._desk.disk(upload.abort))

    async def _store(self, upload: Upload, stream: AsyncIterator[bytes]) -> None:
        """Frames to the spool as they come; whole and durable on return."""
        assembly = chunks.Assembly(upload.size_bytes)
        writing: asyncio.Future[None] | None = None
        try:
            while not assembly.complete:
                frame = calls.decode_upload_frame(await _next(stream, self._idle_s))
                if not isinstance(frame, calls.Piece):
                    raise PeerError("an upload goes on with pieces")
                assembly.accept(frame.offset, len(frame.data))
                if writing is not None:
                    await asyncio.shield(writing)  # the next frame was on its way meanwhile
                writing = asyncio.ensure_future(self._desk.disk(upload.write, frame.data))
                self._uploaded(len(frame.data))
                self._desk.soon(lambda rounds: rounds.progress(upload))
            if writing is not None:
                await asyncio.shield(writing)
            writing = asyncio.ensure_future(self._desk.disk(upload.commit))
            await asyncio.shield(writing)
        finally:
            if writing is not None:
                await _to_the_end(asyncio.wait([writing]))  # nobody closes a file while it is written

    async def _download(self, data: bytes, context: Context) -> None:
        async with self._guard("Download", context) as admit:
            call = calls.decode_call(data)
            caller = admit(call)
            wanted = calls.decode_download(call.body)
            async with self._downloads.setdefault(caller.site, asyncio.Lock()):  # one file in memory each
                file = await self._published(wanted)
                for offset, piece in chunks.split(file):
                    chunk = calls.encode_chunk(calls.Chunk(offset, len(file), piece))
                    await self._send(context, chunk)

    async def _published(self, wanted: Digest) -> bytes:
        folder = await self._desk.call(lambda rounds: rounds.archived(wanted))
        if folder is not None:
            return await self._desk.disk(archive.pack, folder)
        # A job without a base names zeros as its base: they stand for no file.
        if wanted != NO_DIGEST and await self._desk.call(lambda rounds: rounds.announced(wanted)):
            return await self._desk.disk(self._adapters.read_bytes, wanted)
        plan = await self._desk.call(lambda rounds: rounds.job_plan(wanted))
        if plan is not None:
            return plan
        raise ConfigError(
            f"no adapter, sum or plan with the digest {wanted.hex()[:16]}… was published here",
            hint="`secfed status` shows the results of all rounds.",
        )

    async def _send(self, context: Context, chunk: bytes) -> None:
        """One chunk; whoever does not take it within the idle time hears no more."""
        try:
            await asyncio.wait_for(context.write(chunk), self._idle_s)
        except TimeoutError:
            raise NetworkError(f"a download stood still for {self._idle_s:g} s") from None

    # -- members and people --------------------------------------------------------------------

    async def _get_roster(self, caller: Caller, body: bytes) -> bytes:
        if body:
            raise PeerError("GetRoster has no body")
        roster = self._roster()
        held = caller.hello.roster == roster.digest
        return calls.encode_in_force(calls.InForce(self._gate.start, b"" if held else roster.text))

    async def _start_job(self, caller: Caller, body: bytes) -> bytes:
        del caller  # whoever calls: what counts is the admin's signature under the plan
        plan = calls.decode_start_job(body)
        return wire_status.encode_job_reply(await self._desk.call(lambda rounds: rounds.start_job(plan)))

    async def _control_job(self, caller: Caller, body: bytes) -> bytes:
        command = calls.decode_job_command(body)
        state = await self._desk.call(lambda rounds: rounds.control(command, caller.site))
        return wire_status.encode_job_reply(state)

    async def _get_status(self, caller: Caller, body: bytes) -> bytes:
        del caller
        job = wire_status.decode_status_request(body)
        return wire_status.encode_status(await self._desk.call(lambda rounds: rounds.status(job)))


def _takes_part(caller: Caller) -> bool:
    """Whether the call shows that a client is there to take part in rounds; a greeting may be a replay."""
    return caller.role is Role.CLIENT and caller.hello.method != GREETING


def _current() -> asyncio.Task[Any]:
    """The task of the call at hand."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a call is handled outside a task")
    return task


async def _to_the_end(work: Awaitable[T]) -> T:
    """Wait for something that must not be left halfway; a cancellation, or several, count afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    if cancelled is not None:
        raise cancelled from task.exception()
    return task.result()


async def _next(stream: AsyncIterator[bytes], within_s: float) -> bytes:
    """The next frame, or why there is none."""
    try:
        return await asyncio.wait_for(anext(stream), within_s)
    except StopAsyncIteration:
        raise PeerError("an upload ended before its announced size") from None
    except TimeoutError:
        raise NetworkError(f"an upload stood still for {within_s:g} s") from None


def _address(peer: str) -> str:
    """`ipv4:10.0.0.7:51234` without the port, which says nothing."""
    return peer.rpartition(":")[0] or peer
