"""The aggregator's service over gRPC: convert, call, convert; no state, no policy.

Every call comes in by the entrance, which decides it by its hello and enters it in the audit log,
is decoded, and is handed to the desk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import grpc

from secfed.errors import ConfigError, NetworkError, PeerError, StorageError
from secfed.identity.roster import Roster
from secfed.ids import NO_DIGEST, ClientId, Digest
from secfed.limits import FIRST_FRAME_S, FRAME_BYTES_MAX, MESSAGE_S
from secfed.rounds import archive
from secfed.rounds.aggregator import AggregatorRounds
from secfed.rounds.attempt import Upload
from secfed.store.adapters import AdapterStore
from secfed.store.journal import Head
from secfed.transport import chunks
from secfed.transport.auditlog import AuditLog
from secfed.transport.desk import Desk
from secfed.transport.entrance import Context, Entrance, Visit, current
from secfed.transport.hello import Caller, HelloGate
from secfed.transport.status import UnknownCallError
from secfed.wire import calls, service, sums
from secfed.wire import status as wire_status
from secfed.wire.strict import clip

__all__ = ["FederationService"]

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
        self._desk, self._gate, self._adapters = desk, gate, adapters
        self._entrance = Entrance(desk, gate, audit, roster=roster, now=now, refused=refused)
        self._roster, self._idle_s, self._uploaded = roster, upload_idle_s, uploaded
        self._uploads: dict[ClientId, asyncio.Lock] = {}
        self._downloads: dict[ClientId, asyncio.Lock] = {}
        self._uploading: dict[ClientId, set[asyncio.Task[Any]]] = {}

    def handler(self) -> grpc.GenericRpcHandler:
        """For `add_generic_rpc_handlers`: bytes in, bytes out; it answers calls that do not exist, too."""
        short = {
            "Exchange": self._exchange,
            "GetRoster": self._get_roster,
            "StartJob": self._start_job,
            "ControlJob": self._control_job,
            "GetStatus": self._get_status,
        }
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            service.path(name): grpc.stream_unary_rpc_method_handler(self._short(name, answer))
            for name, answer in short.items()
        }
        handlers[service.path("Upload")] = grpc.stream_unary_rpc_method_handler(self._upload)
        handlers[service.path("Download")] = grpc.stream_stream_rpc_method_handler(self._download)
        return _Calls(handlers, self._unknown)

    def cut(self, roster: Roster) -> None:
        """End every call over a certificate that this roster no longer has, revoked or replaced."""
        self._entrance.cut(roster)

    # -- around every call ---------------------------------------------------------------------

    def _short(
        self, method: str, answer: Callable[[Visit, Caller, bytes], Awaitable[bytes]]
    ) -> Callable[[AsyncIterator[bytes], Context], Awaitable[bytes]]:
        """One message in, one out; for gRPC a stream, or a call without its message would leave no trace."""

        async def handle(frames: AsyncIterator[bytes], context: Context) -> bytes:
            async with self._entrance.guard(method, context) as visit:
                call = calls.decode_call(await _message(frames))
                return await answer(visit, visit.admit(call), call.body)
            raise AssertionError("a guard passes nothing on")

        return handle

    async def _unknown(self, path: str, frames: AsyncIterator[bytes], context: Context) -> bytes:
        del frames
        async with self._entrance.guard("unknown call", context):
            raise UnknownCallError(f"{service.SERVICE} has no call {clip(path)}")
        raise AssertionError("a guard passes nothing on")

    # -- rounds --------------------------------------------------------------------------------

    async def _exchange(self, visit: Visit, caller: Caller, body: bytes) -> bytes:
        del visit
        said = sums.decode_said(body)
        ledger = Head(caller.hello.ledger_entries, caller.hello.ledger_head)
        site, state = caller.site, caller.hello.state
        over = await self._desk.call(lambda rounds: rounds.hear(site, said, ledger=ledger, state=state))
        return sums.encode_told(await self._desk.next_for(site, at_once=over))

    async def _upload(self, frames: AsyncIterator[bytes], context: Context) -> bytes:
        async with self._entrance.guard("Upload", context) as visit:
            self._entrance.await_hello(visit)
            stream = aiter(frames)
            first = calls.decode_upload_frame(await _next(stream, FIRST_FRAME_S))
            if not isinstance(first, calls.Call):
                raise PeerError("an upload begins with its call")
            caller = visit.admit(first)
            header = calls.decode_upload_header(first.body)
            async with self._alone(caller.site):
                await self._receive(caller.site, header, stream)
            return sums.encode_told(await self._desk.next_for(caller.site))
        raise AssertionError("a guard passes nothing on")

    @contextlib.asynccontextmanager
    async def _alone(self, site: ClientId) -> AsyncIterator[None]:
        """One upload a site: earlier ones, whose link must have died, end first."""
        tasks, own = self._uploading.setdefault(site, set()), current()
        for earlier in tasks:
            self._entrance.end(earlier, NetworkError(f"a newer upload of {site} took the place of this one"))
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
            async with asyncio.timeout(upload.longest_s):
                while not assembly.complete:
                    piece = _piece(await _next(stream, self._idle_s), assembly)
                    if writing is not None:
                        await asyncio.shield(writing)  # the next frame was on its way meanwhile
                    writing = asyncio.ensure_future(self._desk.disk(upload.write, piece))
                    self._uploaded(len(piece))
            if writing is not None:
                await asyncio.shield(writing)
            writing = asyncio.ensure_future(self._desk.disk(upload.commit))
            await asyncio.shield(writing)
        except TimeoutError:
            raise NetworkError(
                f"an upload of {upload.size_bytes} bytes was not whole after {upload.longest_s:g} s"
            ) from None
        finally:
            if writing is not None:
                await _to_the_end(asyncio.wait([writing]))  # nobody closes a file while it is written

    async def _download(self, frames: AsyncIterator[bytes], context: Context) -> None:
        async with self._entrance.guard("Download", context) as visit:
            call = calls.decode_call(await _message(frames))
            caller = visit.admit(call)
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

    async def _get_roster(self, visit: Visit, caller: Caller, body: bytes) -> bytes:
        del visit
        if body:
            raise PeerError("GetRoster has no body")
        roster = self._roster()
        held = caller.hello.roster == roster.digest
        return calls.encode_in_force(calls.InForce(self._gate.start, b"" if held else roster.text))

    async def _start_job(self, visit: Visit, caller: Caller, body: bytes) -> bytes:
        del caller  # whoever calls: what counts is the admin's signature under the plan
        plan = calls.decode_start_job(body)
        state = await self._desk.call(lambda rounds: rounds.start_job(plan))
        visit.about = state.job
        return wire_status.encode_job_reply(state)

    async def _control_job(self, visit: Visit, caller: Caller, body: bytes) -> bytes:
        command = calls.decode_job_command(body)
        visit.about = f"{command.verb} {command.job}"
        state = await self._desk.call(lambda rounds: rounds.control(command, caller.site))
        return wire_status.encode_job_reply(state)

    async def _get_status(self, visit: Visit, caller: Caller, body: bytes) -> bytes:
        del visit, caller
        job = wire_status.decode_status_request(body)
        return wire_status.encode_status(await self._desk.call(lambda rounds: rounds.status(job)))


class _Calls(grpc.GenericRpcHandler):
    """The calls by their path; any other goes to `unknown`, since gRPC would refuse it without a trace."""

    def __init__(
        self,
        known: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
        unknown: Callable[[str, AsyncIterator[bytes], Context], Awaitable[bytes]],
    ) -> None:
        self._known, self._unknown = known, unknown

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """What handles a call."""
        found = self._known.get(details.method)
        return found or grpc.stream_unary_rpc_method_handler(partial(self._unknown, details.method))


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


def _piece(frame: bytes, assembly: chunks.Assembly) -> bytes | memoryview:
    """The bytes of the piece that follows; a frame that is another one is parsed to tell what is wrong."""
    piece = calls.piece_at(frame, *assembly.next)
    if piece is not None:
        assembly.accept(assembly.next[0], len(piece))
        return piece
    other = calls.decode_upload_frame(frame)
    if not isinstance(other, calls.Piece):
        raise PeerError("an upload goes on with pieces")
    assembly.accept(other.offset, len(other.data))
    return other.data


async def _message(frames: AsyncIterator[bytes]) -> bytes:
    """The one message of a call, or why there is none."""
    try:
        async with asyncio.timeout(MESSAGE_S):
            return await anext(aiter(frames))
    except StopAsyncIteration:
        raise PeerError(f"the call has no message, or one of more than {FRAME_BYTES_MAX} bytes") from None
    except TimeoutError:
        raise NetworkError(f"the call's message did not come within {MESSAGE_S:g} s") from None


async def _next(stream: AsyncIterator[bytes], within_s: float) -> bytes:
    """The next frame, or why there is none."""
    try:
        async with asyncio.timeout(within_s):
            return await anext(stream)
    except StopAsyncIteration:
        raise PeerError("an upload ended before its announced size") from None
    except TimeoutError:
        raise NetworkError(f"an upload stood still for {within_s:g} s") from None
