"""An aggregator that obeys a script: the real transport, and answers that somebody else decides.

It holds the aggregator's own keys, so every member takes it for the one that the roster names;
it listens on loopback only. Members dial in as always and hold one long call each; a script
tells one of them something and hears what it says to that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import grpc

from secfed import __version__, limits
from secfed.errors import NetworkError
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roster import Roster
from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest, JobId
from secfed.rounds.exchange import JobState, Said, StatusReply, Told, Wait
from secfed.transport import chunks
from secfed.transport.tls import ServerTls
from secfed.wire import calls, service, sums
from secfed.wire import status as wire_status

__all__ = ["PATIENCE_S", "Hostile", "Received"]

PATIENCE_S = 120.0
"""How long a script waits for a victim's word: a process has to start, on a machine that may be busy."""

_POLL_S = 15.0
"""How long a call is held while there is nothing to tell; below the client's own patience."""

_START = Digest(b"\x01" * 32)
"""What an honest aggregator draws at its start; hellos name it, and nobody here reads them."""

_CALLS_EACH = 2
"""Calls of one site at a time: the one that is held, and an upload or download."""


@dataclass(frozen=True, slots=True)
class Received:
    """A masked vector that came in, as its sender signed it."""

    attempt: Digest
    statement: Signed
    packed: bytes = field(repr=False)


class _Line:
    """One site's long call, handed from call to call; a newer one takes the place of an older."""

    def __init__(self, *, closed: bool) -> None:
        self._change = threading.Condition()
        self._said: list[Said | Received] = []
        self._due: Told | bytes | None = None
        self._calls = 0
        self._closed = closed

    def hold(self, said: Said | Received) -> bytes:
        """On the call's thread: note what was said, and wait for what is to be told."""
        with self._change:
            self._calls += 1
            mine = self._calls
            self._said.append(said)
            self._change.notify_all()
            self._change.wait_for(
                lambda: self._due is not None or self._closed or self._calls != mine, _POLL_S
            )
            told, self._due = (self._due, None) if self._calls == mine else (None, self._due)
            if told is None:
                return sums.encode_told(Wait("the next round", 0))
            self._said.clear()  # what comes from now on is said to this
            self._change.notify_all()
            return told if isinstance(told, bytes) else sums.encode_told(told)

    def tell(self, told: Told | bytes) -> None:
        """To be told on the site's call, the one that is held or the next."""
        with self._change:
            self._due = told
            self._change.notify_all()

    def hear(self, within_s: float) -> Said | Received | None:
        """What the site says once it was told what is due; None if it says nothing in time."""
        with self._change:
            self._change.wait_for(lambda: self._due is None and self._said, within_s)
            return self._said.pop(0) if self._due is None and self._said else None

    def release(self) -> None:
        """Let the call go that is held now."""
        with self._change:
            self._calls += 1
            self._due = None
            self._said.clear()
            self._change.notify_all()

    def close(self) -> None:
        """Let every call go from now on."""
        with self._change:
            self._closed = True
            self._change.notify_all()


class Hostile:
    """Listens on a free loopback port as the roster's aggregator.

    Args:
        keys: The aggregator's real keys.
        roster: Who may connect.
        sites: How many lines there may be.

    Attributes:
        port: Where it listens.
        files: What may be downloaded, by digest.
        forged: A roster to answer every greeting with; empty for none.
    """

    def __init__(self, keys: MemberKeys, roster: Roster, sites: int) -> None:
        self.files: dict[Digest, bytes] = {}
        self.forged = b""
        self._lines: dict[ClientId, _Line] = {}
        self._lock = threading.Lock()
        self._federation = roster.federation
        self._closing = False
        threads = ThreadPoolExecutor(_CALLS_EACH * sites + 4, thread_name_prefix="secfed-hostile")
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", limits.FRAME_BYTES_MAX),
            ("grpc.max_send_message_length", limits.REPLY_BYTES_MAX),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
        self._server = grpc.server(threads, options=options)
        self._server.add_generic_rpc_handlers((self._handler(),))
        self.port = self._server.add_secure_port("127.0.0.1:0", ServerTls(keys, roster).credentials())
        self._threads = threads

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self._server.stop(None).wait()
        self._threads.shutdown()

    def let_go(self) -> None:
        """Hold no call any more: whoever is to end hears so at once."""
        with self._lock:
            self._closing = True
            lines = list(self._lines.values())
        for line in lines:
            line.close()

    # -- the script's side ---------------------------------------------------------------------

    def tell(self, site: ClientId, told: Told | bytes, *, within_s: float = PATIENCE_S) -> Said | Received:
        """Tell one site something, or these very bytes, and return what it says to that.

        Raises:
            NetworkError: It says nothing in time, so nothing follows from this run.
        """
        line = self.line(site)
        line.tell(told)
        return self._heard(site, line, within_s)

    def tell_all(self, telling: dict[ClientId, Told]) -> dict[ClientId, Said | Received]:
        """Tell several sites at once, each its own; what each says to it."""
        for site, told in telling.items():
            self.line(site).tell(told)
        return {site: self._heard(site, self.line(site), PATIENCE_S) for site in telling}

    def release(self, site: ClientId) -> None:
        """Let go of the call of a site that is about to end, with all that was said on it."""
        self.line(site).release()

    def line(self, site: ClientId) -> _Line:
        """The site's line."""
        with self._lock:
            return self._lines.setdefault(site, _Line(closed=self._closing))

    def _heard(self, site: ClientId, line: _Line, within_s: float) -> Said | Received:
        said = line.hear(within_s)
        if said is None:
            raise NetworkError(
                f"{site} said nothing within {within_s:.0f} s, so this attack came to no end",
                hint="Is this machine very busy? Try again.",
            )
        return said

    # -- the members' side ---------------------------------------------------------------------

    def _handler(self) -> grpc.GenericRpcHandler:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Exchange": grpc.unary_unary_rpc_method_handler(self._exchange),
            "GetRoster": grpc.unary_unary_rpc_method_handler(self._greet),
            "GetStatus": grpc.unary_unary_rpc_method_handler(self._status),
            "Upload": grpc.stream_unary_rpc_method_handler(self._upload),
            "Download": grpc.unary_stream_rpc_method_handler(self._download),
        }
        return grpc.method_handlers_generic_handler(service.SERVICE, handlers)

    def _greet(self, _data: bytes, _context: grpc.ServicerContext) -> bytes:
        return calls.encode_in_force(calls.InForce(_START, self.forged))

    def _status(self, data: bytes, _context: grpc.ServicerContext) -> bytes:
        """Whichever job is asked for goes on, and none of its rounds has ended."""
        job = wire_status.decode_status_request(calls.decode_call(data).body)
        return wire_status.encode_status(StatusReply(__version__, self._federation, 1, (), _goes_on(job)))

    def _exchange(self, data: bytes, _context: grpc.ServicerContext) -> bytes:
        call = calls.decode_call(data)
        return self.line(_caller(call)).hold(sums.decode_said(call.body))

    def _upload(self, frames: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        call = calls.decode_upload_frame(next(frames))
        if not isinstance(call, calls.Call):
            raise NetworkError("an upload began without its call")
        header = calls.decode_upload_header(call.body)
        packed = bytearray()
        for frame in map(calls.decode_upload_frame, frames):
            if isinstance(frame, calls.Piece):
                packed += frame.data
        received = Received(header.attempt, header.statement, bytes(packed))
        return self.line(_caller(call)).hold(received)

    def _download(self, data: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
        wanted = self.files[calls.decode_download(calls.decode_call(data).body)]
        for offset, piece in chunks.split(wanted):
            yield calls.encode_chunk(calls.Chunk(offset, len(wanted), piece))


def _goes_on(job: JobId | None) -> tuple[JobState, ...]:
    if job is None:
        return ()
    state = JobState(
        job=job,
        kind="vector",
        state="running",
        phase="",
        round=1,
        rounds=1,
        attempt=1,
        waiting_for="",
        remaining_s=0,
        members=(),
        history=(),
    )
    return (state,)


def _caller(call: calls.Call) -> ClientId:
    """Who says that it calls; the one who asks is nobody whom that would protect."""
    return calls.decode_hello(call.hello.statement).site
