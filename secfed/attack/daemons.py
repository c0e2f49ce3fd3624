"""An unmodified aggregator to be attacked: the process that an operator starts, or a thread of this one.

The process is what a real attack meets. The thread is where a test puts an aggregator without
its defences; it is built by whoever asks for it, since wiring lies above this package.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Protocol

from secfed.attack.people import AGGREGATOR, People
from secfed.config import AggregatorConfig, to_toml
from secfed.errors import NetworkError, SecfedError
from secfed.identity.keyfile import MemberKeys
from secfed.transport.daemon import Daemon, Listening

__all__ = [
    "PATIENCE_S",
    "PROGRAM",
    "Aggregator",
    "AggregatorProcess",
    "AggregatorThread",
    "BuildDaemon",
    "Program",
    "uninterrupted",
]

PATIENCE_S = 120.0
"""How long anything that takes a moment is waited for, on a machine that may be busy."""

PROGRAM = ("-m", "secfed")
"""What the interpreter runs: what its user would start."""

_STOP_S = 30.0
"""How long a program may take to end by itself."""

_PORT = re.compile(r"^secfed \S+ aggregator {2}port ([0-9]+) ", re.MULTILINE)


class BuildDaemon(Protocol):
    """Wires a daemon from its configuration."""

    def __call__(self, config: AggregatorConfig, keys: MemberKeys, out: IO[str]) -> Daemon:
        """A daemon that was not started yet; `out` is where people would read."""
        ...


class Aggregator(Protocol):
    """An aggregator that runs."""

    @property
    def port(self) -> int:
        """Where it listens on loopback."""

    @property
    def output(self) -> str:
        """What it told its operator so far."""

    def start(self) -> None:
        """Start it; on return it listens."""

    def stop(self) -> None:
        """Ask it to stop, and wait until it has."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back while a program is begun, until whoever is to end it knows of it.

    They meet the main thread alone: on any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    former = {
        number: signal.signal(number, lambda caught, _frame: came.append(caught))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    for caught in came[:1]:
        signal.raise_signal(caught)


class Program:
    """One `secfed` command as a process of its own, with its output in a file.

    Args:
        log: Where standard output and standard error go.
        extra: More variables of its environment.
        program: What the interpreter runs.
    """

    def __init__(
        self,
        log: Path,
        arguments: Sequence[str],
        extra: dict[str, str] | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._log = log
        variables = dict(os.environ, PYTHONUNBUFFERED="1", NO_COLOR="1", OMP_NUM_THREADS="1", **(extra or {}))
        with log.open("ab") as stream:
            self._popen = subprocess.Popen(
                [sys.executable, *program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=variables,
            )

    @property
    def pid(self) -> int:
        """The process."""
        return self._popen.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._popen.poll()

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait(self) -> int:
        """Wait for its end; its exit code."""
        return self._popen.wait(PATIENCE_S)

    def stop(self) -> None:
        """Ask it to stop; kill it if it does not."""
        if self.code is None:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()


class AggregatorProcess:
    """`secfed aggregator run`, as its operator would start it.

    Args:
        passphrase: File with its key's passphrase; None where the key has none.
        log_level: As in aggregator.toml.
        extra: More variables of its environment.
        program: What the interpreter runs.
    """

    def __init__(
        self,
        people: People,
        *,
        passphrase: Path | None = None,
        log_level: str = "info",
        extra: dict[str, str] | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        home = people.home(AGGREGATOR)
        self._config = home / "aggregator.toml"
        config = people.aggregator_config(0).model_copy(update={"log_level": log_level})
        self._config.write_text(to_toml(config, home), encoding="utf-8")
        self._log, self._extra, self._runs = home / "output.log", extra, program
        self._options = () if passphrase is None else ("--passphrase-file", str(passphrase))
        self._program: Program | None = None

    @property
    def program(self) -> Program:
        """The process."""
        if self._program is None:
            raise ValueError("the aggregator was not started")
        return self._program

    @property
    def port(self) -> int:
        """Where it listens on loopback, as it told its operator."""
        found = _PORT.search(self.output)
        if found is None:
            raise ValueError("the aggregator has not said where it listens")
        return int(found[1])

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self.program.output

    def start(self) -> None:
        """Start it; on return it listens."""
        arguments = ["aggregator", "run", "--config", str(self._config), *self._options]
        with uninterrupted():
            self._program = Program(self._log, arguments, self._extra, self._runs)
        deadline = time.monotonic() + PATIENCE_S
        while _PORT.search(self.output) is None:
            if self._program.code is not None or time.monotonic() > deadline:
                raise NetworkError(f"the aggregator did not start: {self.output.strip()[-300:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._program is not None:
            self._program.stop()


class AggregatorThread:
    """A daemon in a thread of this process.

    Args:
        build: Wires it.
    """

    def __init__(self, people: People, build: BuildDaemon) -> None:
        self._config, self._keys = people.aggregator_config(0), people.keys[AGGREGATOR]
        self._build, self._out = build, io.StringIO()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="secfed-victim")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._at: Listening | None = None
        self._error: SecfedError | None = None

    @property
    def port(self) -> int:
        """Where it listens on loopback."""
        if self._at is None:
            raise ValueError("the aggregator was not started")
        return self._at.port

    @property
    def output(self) -> str:
        """What it told its operator so far."""
        return self._out.getvalue()

    def start(self) -> None:
        """Start it; on return it listens."""
        self._thread.start()
        self._ready.wait(PATIENCE_S)
        if self._at is None:
            raise self._error or NetworkError("the aggregator did not start")

    def stop(self) -> None:
        """Ask it to stop, and wait."""
        if self._loop is not None and self._ending is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except SecfedError as error:
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        daemon = self._build(self._config, self._keys, self._out)
        daemon.reports = replace(daemon.reports, listening=self._listening)
        await daemon.serve(self._ending)

    def _listening(self, at: Listening) -> None:
        self._at = at
        self._ready.set()
