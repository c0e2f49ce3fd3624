"""What gRPC takes to move bytes over mutual TLS, when nobody does anything with them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Self

import grpc

from secfed.bench.processes import end, unheard
from secfed.identity.keyfile import MemberKeys
from secfed.limits import CHUNK_BYTES_MAX
from secfed.transport import tls

__all__ = ["Sink", "Stream"]

_STREAMS = 4
"""Streams at one time: more than the cores of a small machine."""

_METHOD = "/bare/Take"

_END_S = 10.0
"""How long its process may take to end."""


@dataclass(frozen=True, slots=True)
class Stream:
    """How a transfer went.

    Attributes:
        server_cpu_s: Processor seconds of the receiving process.
    """

    size_bytes: int
    wall_s: float
    server_cpu_s: float

    @property
    def cpu_s_per_gb(self) -> float:
        """Server processor seconds for 1e9 bytes."""
        return self.server_cpu_s / self.size_bytes * 1e9


class Sink:
    """A process that takes streams of 1 MiB messages, counts them and throws them away; use `with`.

    Args:
        server: Whose certificate it has.
        client: Whose certificate the senders have.
    """

    def __init__(self, server: MemberKeys, client: MemberKeys) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        arguments = (far, server.tls_key_pem, server.tls_certificate_pem, client.tls_certificate_pem)
        self._process = context.Process(target=_sink, args=arguments, daemon=True)
        with unheard():
            self._process.start()
        far.close()
        credentials = tls.channel_credentials(client, server.certificate.pem)
        options = [*tls.channel_options(), ("grpc.use_local_subchannel_pool", 1)]
        address = f"127.0.0.1:{self._pipe.recv()}"
        self._channels = [grpc.secure_channel(address, credentials, options) for _ in range(_STREAMS)]

    def take(self, size_bytes: int, count: int) -> Stream:
        """Send so many streams of this size, rounded up to whole messages."""
        messages = -(-size_bytes // CHUNK_BYTES_MAX)
        with futures.ThreadPoolExecutor(_STREAMS) as pool:
            list(pool.map(lambda number: self._send(number, 1), range(_STREAMS)))  # the handshakes
            before, begin = self._cpu_s(), time.perf_counter()
            list(pool.map(lambda number: self._send(number, messages), range(count)))
            took = time.perf_counter() - begin
        return Stream(messages * CHUNK_BYTES_MAX * count, took, self._cpu_s() - before)

    def _send(self, number: int, messages: int) -> None:
        stub: Callable[..., bytes] = self._channels[number % _STREAMS].stream_unary(_METHOD)
        stub(iter([bytes(CHUNK_BYTES_MAX)] * messages))

    def _cpu_s(self) -> float:
        self._pipe.send("cpu")
        used: float = self._pipe.recv()
        return used

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()
        self._pipe.close()
        end(self._process, _END_S)


def _sink(pipe: Pipe, key: bytes, certificate: bytes, roots: bytes) -> None:
    """The receiving process."""

    def take(frames: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        return str(sum(map(len, frames))).encode()

    limit = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(_STREAMS), options=limit)
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(take)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", {"Take": handler}),))
    credentials = grpc.ssl_server_credentials([(key, certificate)], roots, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    with suppress(EOFError, ConnectionError):  # nobody asks any more
        pipe.send(port)
        while True:
            pipe.recv()
            pipe.send(time.process_time())
    server.stop(None)
