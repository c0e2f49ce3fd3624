"""The aggregator's process: listen, follow the roster, stop in order.

One port, mutual TLS, nothing without a certificate of the roster. Whatever fails for good ends
the process with that error; everything durable is enough for the next one to go on from.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio

from secfed import limits
from secfed.errors import PortBusyError, RosterError, SecfedError, StorageError
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roster import Roster
from secfed.limits import CONNECTIONS_MAX
from secfed.rounds.aggregator import AggregatorRounds
from secfed.rounds.exchange import Wait
from secfed.rounds.rosters import RosterKeeper
from secfed.store.adapters import AdapterStore
from secfed.transport import ops
from secfed.transport.auditlog import AuditLog
from secfed.transport.desk import POLL_S, Desk
from secfed.transport.health import HealthServer
from secfed.transport.hello import HelloGate
from secfed.transport.server import FederationService
from secfed.transport.tls import ServerTls

__all__ = ["Daemon", "Listening", "Reports"]

ROSTER_POLL_S = 2.0
"""How often the roster's file is looked at; a revoked member is cut off well within 5 seconds."""

AUDIT_FLUSH_S = 1.0
"""How often the audit log is written, so also how soon a log that cannot be written stops the daemon."""

AWAITING_S = 5.0
"""How often people may read what is awaited."""

STOP_GRACE_S = 5.0
"""How long calls in progress may go on once the process was asked to stop."""

OPTIONS: list[tuple[str, int]] = [
    ("grpc.so_reuseport", 0),  # a second process on the port is an error, not a competitor
    ("grpc.max_receive_message_length", limits.FRAME_BYTES_MAX),
    ("grpc.max_send_message_length", limits.REPLY_BYTES_MAX),
    ("grpc.max_concurrent_streams", limits.STREAMS_MAX),
    ("grpc.server_handshake_timeout_ms", limits.HANDSHAKE_S * 1000),
    ("grpc.max_connection_idle_ms", limits.CONNECTION_IDLE_S * 1000),
    ("grpc.keepalive_time_ms", 20_000),  # a link that died in silence is noticed
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # or a probe may take a minute, whatever the line above says
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Or the window grows with the link until gRPC keeps whole uploads; a message of 1 MiB has one anyway.
    ("grpc.http2.bdp_probe", 0),
]
"""Options of the listening side. gRPC ignores unknown ones in silence: a test looks at what they do."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the daemon serves; `health_port` is None without a gRPC health service."""

    port: int
    ops_port: int
    health_port: int | None


@dataclass(frozen=True, slots=True)
class Reports:
    """What is told of the daemon, for metrics, logs and terminals.

    Attributes:
        metrics: All metrics, in Prometheus' text format.
        uploaded: Bytes of masked vectors that came in.
        refused: A call was refused.
        connected: How many clients are waiting or between calls.
        roster_refused: The roster's file was changed to one that cannot be accepted.
        awaiting: What the rounds wait for now, and until when; None if for nothing.
        listening: The ports are open.
        state: The service's state, in systemd's words.
    """

    metrics: Callable[[], bytes]
    uploaded: Callable[[int], None]
    refused: Callable[[BaseException], None]
    connected: Callable[[int], None]
    roster_refused: Callable[[SecfedError], None]
    awaiting: Callable[[Wait | None], None]
    listening: Callable[[Listening], None]
    state: Callable[[str], None]


@dataclass(slots=True)
class Daemon:
    """Everything one aggregator process is made of; `serve` runs it.

    Attributes:
        rounds: Makes the core, once the process may call it.
        resources: Closed when `serve` ends.
        rosters: The roster in force; its file is looked at while running.
        health_listen: Where the gRPC health service answers; None for nowhere.
        most_calls: Calls at one time, over all members.
        poll_s: How long a client with nothing to hear is kept.
    """

    keys: MemberKeys
    rounds: Callable[[], AggregatorRounds]
    rosters: RosterKeeper
    roster_file: Path
    adapters: AdapterStore
    audit: AuditLog
    resources: contextlib.ExitStack
    listen: tuple[str, int]
    ops_listen: tuple[str, int]
    health_listen: tuple[str, int] | None
    upload_idle_s: float
    reports: Reports
    most_calls: int = limits.CALLS_MAX
    poll_s: float = POLL_S
    _wrong: str = field(default="starting", init=False)

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set, then finish what is being written.

        Raises:
            PortBusyError: A port is taken.
            SecfedError: What only a restart can mend.
        """
        with self.resources:
            desk = Desk(await asyncio.to_thread(self.rounds), poll_s=self.poll_s)
            try:
                await self._serve(desk, stop)
            finally:
                await desk.close()

    async def _serve(self, desk: Desk, stop: asyncio.Event) -> None:
        tls = ServerTls(self.keys, self.rosters.current, self._dialled)
        federation = FederationService(
            desk,
            HelloGate(self.keys.certificate),
            self.audit,
            self.adapters,
            roster=lambda: self.rosters.current,
            now=lambda: datetime.now(UTC),
            upload_idle_s=self.upload_idle_s,
            uploaded=self.reports.uploaded,
            refused=self.reports.refused,
        )
        connections = ("grpc.max_allowed_incoming_connections", min(CONNECTIONS_MAX, _descriptors() // 2))
        server = grpc.aio.server(options=[*OPTIONS, connections], maximum_concurrent_rpcs=self.most_calls)
        server.add_generic_rpc_handlers((federation.handler(),))
        port = _bind(server, self.listen, tls)
        health = None if self.health_listen is None else HealthServer(*self.health_listen)
        page = ops.OpsServer(*self.ops_listen, metrics=self.reports.metrics, ready=lambda: self._wrong)
        chores = [
            desk.chore(self._follow_roster(desk, federation, tls)),
            desk.chore(self._flush_audit(desk)),
            desk.chore(self._say_what_is_awaited(desk)),
        ]
        try:
            if health is not None:
                await health.start()
            await server.start()
            self._wrong = ""
            if health is not None:
                await health.tell(serving=True)
            self.reports.listening(Listening(port, page.port, None if health is None else health.port))
            self.reports.state("READY=1")
            await _first(stop, desk.failed)
        finally:
            self._wrong = "stopping"
            if health is not None:
                await health.tell(serving=False)
            self.reports.state("STOPPING=1")
            for chore in chores:
                chore.cancel()
            desk.release()
            await server.stop(STOP_GRACE_S)
            if health is not None:
                await health.close()
            await asyncio.to_thread(page.close)
        if desk.failed.done():
            raise desk.failed.result()

    def _dialled(self) -> None:
        """One without a call after it was refused by TLS, or said nothing, and leaves no other trace."""
        self.audit.add(who="-", what="Connect", outcome="begun", where="-", hurried=False)

    # -- chores --------------------------------------------------------------------------------

    async def _follow_roster(self, desk: Desk, federation: FederationService, tls: ServerTls) -> None:
        """Take up a new roster while running; one that cannot be accepted changes nothing.

        One that was refused is looked at again only if it changed; one that could not be pinned, as on a full
        disk, is tried again, or a revocation in it would be lost until the next start.
        """
        seen = b""
        while True:
            await asyncio.sleep(ROSTER_POLL_S)
            self.reports.connected(desk.waiting)
            try:
                text = await desk.disk(self.roster_file.read_bytes)
                if text in (seen, self.rosters.current.text):
                    continue
                roster: Roster = await desk.disk(self.rosters.follow, text)
            except RosterError as error:
                seen = text
                self.reports.roster_refused(error)
            except StorageError as error:
                self.reports.roster_refused(error)
            except OSError as problem:
                self.reports.roster_refused(StorageError(f"{self.roster_file}: {problem.strerror}"))
            else:
                seen = text
                tls.replace(roster)
                await desk.call(lambda rounds: rounds.roster_changed())
                federation.cut(roster)

    async def _say_what_is_awaited(self, desk: Desk) -> None:
        while True:
            await asyncio.sleep(AWAITING_S)
            self.reports.awaiting(await desk.call(lambda rounds: rounds.awaiting))

    async def _flush_audit(self, desk: Desk) -> None:
        while True:
            await asyncio.sleep(AUDIT_FLUSH_S)
            await desk.disk(self.audit.flush)


def _descriptors() -> int:
    """Let the process open all that the system allows it; how many files and sockets that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a hard limit may be beyond what the kernel takes now
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return CONNECTIONS_MAX * 2 if soft == resource.RLIM_INFINITY else soft


def _bind(server: grpc.aio.Server, listen: tuple[str, int], tls: ServerTls) -> int:
    host, port = listen
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_secure_port(address, tls.credentials())
    except RuntimeError:
        bound = 0
    if not bound:
        raise PortBusyError(f"port {port} on {host} cannot be opened: it is taken, or not this machine's")
    return bound


async def _first(stop: asyncio.Event, failed: asyncio.Future[BaseException]) -> None:
    """Until somebody asks to stop, or something failed."""
    failed.add_done_callback(lambda _: stop.set())
    await stop.wait()
