"""What machines ask a daemon, over plain HTTP on loopback: /metrics, /healthz, /readyz.

Nothing here is secret, signed or encrypted, so the address is loopback and nothing else (the
configuration refuses others, and so does this).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from secfed.errors import ConfigError, PortBusyError
from secfed.limits import PROBE_S, PROBES_MAX

__all__ = ["OpsServer", "loopback", "notify"]

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TEXT_TYPE = "text/plain; charset=utf-8"


def loopback(host: str) -> str:
    """The address behind a loopback host.

    Raises:
        ConfigError: It is not loopback.
    """
    address = "127.0.0.1" if host == "localhost" else host
    if not ipaddress.ip_address(address).is_loopback:
        raise ConfigError(
            f"{host} is not a loopback address: health and metrics are neither encrypted nor signed"
        )
    return address


class OpsServer:
    """A small HTTP server on its own threads.

    Args:
        host: A loopback address. port: 0 takes any free one.
        metrics: All metrics, in Prometheus' text format.
        ready: Empty if the daemon serves, else what is wrong.

    Raises:
        ConfigError: The address is not loopback.
        PortBusyError: The port is taken.
    """

    def __init__(
        self, host: str, port: int, *, metrics: Callable[[], bytes], ready: Callable[[], str]
    ) -> None:
        address = loopback(host)

        class Handler(_Handler):
            pages = {  # noqa: RUF012 - fixed for this server
                "/metrics": lambda: (HTTPStatus.OK, _METRICS_TYPE, metrics()),
                "/healthz": lambda: (HTTPStatus.OK, _TEXT_TYPE, b"ok\n"),
                "/readyz": lambda: _readiness(ready()),
            }

        try:
            self._server = _server_class(address)((address, port), Handler)
        except OSError as problem:
            raise PortBusyError(
                f"port {port} on {host} cannot be opened: {problem.strerror}",
                hint="Stop the program that holds the port, or choose another `ops_listen`.",
            ) from problem
        self._thread = threading.Thread(target=self._server.serve_forever, name="secfed-ops", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that was taken."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _server_class(address: str) -> type[ThreadingHTTPServer]:
    """A server of the address' family; its threads end with the process, and ports are not shared."""

    free = threading.BoundedSemaphore(PROBES_MAX)

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        daemon_threads = True
        allow_reuse_address = True
        request_queue_size = 4 * PROBES_MAX

        def process_request(self, request: Any, client_address: Any) -> None:
            """One more than there are places for is closed unanswered."""
            if free.acquire(blocking=False):
                super().process_request(request, client_address)
            else:
                self.shutdown_request(request)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                free.release()

    return Server


def _readiness(wrong: str) -> tuple[HTTPStatus, str, bytes]:
    if wrong:
        return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT_TYPE, wrong.encode() + b"\n"
    return HTTPStatus.OK, _TEXT_TYPE, b"ready\n"


class _Handler(BaseHTTPRequestHandler):
    """Three fixed pages; everything else is not found."""

    pages: dict[str, Callable[[], tuple[HTTPStatus, str, bytes]]]
    timeout = PROBE_S
    server_version = "secfed"
    sys_version = ""

    def do_GET(self) -> None:
        page = self.pages.get(self.path)
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        status, kind, body = page()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes are not worth a line."""


def notify(state: str, address: str | None) -> None:
    """Tell systemd (`Type=notify`) how the service stands, if it asked.

    Args:
        state: Such as `READY=1` or `STOPPING=1`.
        address: The value of NOTIFY_SOCKET, or None.

    Source: sd_notify(3).
    """
    if not address:
        return
    path = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect(os.fsencode(path))
            sender.send(state.encode())
        except OSError:
            return  # whoever asked is gone; the service does not depend on it
