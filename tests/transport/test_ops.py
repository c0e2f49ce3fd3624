"""Loopback only, and what systemd hears."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from pathlib import Path

import pytest

from secfed.errors import ConfigError
from secfed.transport.health import HealthServer
from secfed.transport.ops import OpsServer, notify


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_an_address_off_loopback_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="not a loopback address"):
        OpsServer(host, 0, metrics=bytes, ready=str)
    with pytest.raises(ConfigError, match="not a loopback address"):
        asyncio.run(_health(host))


async def _health(host: str) -> HealthServer:
    return HealthServer(host, 0)


def test_connections_that_ask_for_nothing_take_a_bounded_number_of_threads() -> None:
    server = OpsServer("127.0.0.1", 0, metrics=bytes, ready=str)
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        stack.callback(server.close)
        for _ in range(40):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        last = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        last.settimeout(60)
        assert last.recv(1) == b"", "closed, as all that came before it wait still"
        assert threading.active_count() - before <= 16


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_over_its_socket(disk: Path, abstract: bool) -> None:
    name = f"@secfed-test-{disk.name}" if abstract else str(disk / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        systemd.settimeout(60)
        notify("READY=1", name)
        assert systemd.recv(100) == b"READY=1"


def test_nobody_asked_or_nobody_is_there_any_more(disk: Path) -> None:
    notify("READY=1", None)
    notify("READY=1", str(disk / "gone"))
