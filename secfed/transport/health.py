"""The standard gRPC health service, in plain text on a loopback port of its own.

Probes of service meshes and of `grpc_health_probe` ask it instead of HTTP's /readyz. It tells
nothing else and takes no hello, so it never shares the members' port, and like all that is
unencrypted here it listens on loopback alone.

Source: the gRPC health checking protocol, grpc.health.v1.
"""

from __future__ import annotations

import asyncio
import contextlib

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from secfed.errors import PortBusyError
from secfed.limits import CONNECTION_IDLE_S, PROBE_BYTES_MAX, PROBES_MAX
from secfed.transport.ops import loopback
from secfed.wire.service import SERVICE

__all__ = ["HealthServer"]

_SERVICES = (health.OVERALL_HEALTH, SERVICE)
"""What may be asked for: the process as a whole, and the members' service, which are the same here."""

_TELL_S = 1.0
"""How long a change may take to reach those who watch; one who does not read holds nobody up, seconds."""

_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", PROBE_BYTES_MAX),
    ("grpc.max_allowed_incoming_connections", PROBES_MAX),
    ("grpc.max_connection_idle_ms", CONNECTION_IDLE_S * 1000),
]


class HealthServer:
    """`grpc.health.v1.Health`: NOT_SERVING until it is told otherwise.

    Args:
        host: A loopback address. port: 0 takes any free one.

    Raises:
        ConfigError: The address is not loopback.
        PortBusyError: The port is taken.
    """

    def __init__(self, host: str, port: int) -> None:
        address = loopback(host)
        self._servicer = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=PROBES_MAX)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        try:
            self.port = self._server.add_insecure_port(
                f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            )
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise PortBusyError(
                f"port {port} on {host} cannot be opened: it is taken, or not this machine's",
                hint="Stop the program that holds the port, or choose another `health_listen`.",
            )

    async def start(self) -> None:
        """Answer from now on."""
        await self.tell(serving=False)
        await self._server.start()

    async def tell(self, *, serving: bool) -> None:
        """What whoever asks hears from now on, and whoever watches hears at once."""
        states = health_pb2.HealthCheckResponse
        for service in _SERVICES:
            with contextlib.suppress(TimeoutError):
                state = states.SERVING if serving else states.NOT_SERVING
                await asyncio.wait_for(self._servicer.set(service, state), _TELL_S)

    async def close(self) -> None:
        """Stop answering."""
        await self._server.stop(None)
