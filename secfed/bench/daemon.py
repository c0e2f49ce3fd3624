"""The aggregator of a measurement over the network: the process that an operator starts, and what it uses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from secfed.bench.meter import forget_peak, memory_mib
from secfed.errors import NetworkError

__all__ = ["PATIENCE_S", "Daemon"]

PATIENCE_S = 600.0
"""How long anything is waited for, on a machine that may be busy."""

_PORT = re.compile(r"^secfed \S+ aggregator {2}port ([0-9]+) ", re.MULTILINE)

_CPUCLOCK_SCHED = 2


class Daemon:
    """A running aggregator; use `with`.

    Args:
        config: Its aggregator.toml, with a port of its own choice on loopback.

    Attributes:
        idle_mib: What it held once it listened.
    """

    def __init__(self, config: Path) -> None:
        self._config, self._log = config, config.with_name("output.log")
        self._process: subprocess.Popen[bytes] | None = None
        self.idle_mib, self._most_mib = 0.0, 0.0

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "secfed", "aggregator", "run", "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, PYTHONUNBUFFERED="1", NO_COLOR="1"),
            )
        try:
            self._await_port()
        except BaseException:
            self._stop()
            raise
        self.idle_mib = memory_mib("VmRSS", self._process.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def address(self) -> str:
        """Where it listens."""
        found = _PORT.search(self._output)
        if found is None:
            raise ValueError("the aggregator has not said where it listens")
        return f"127.0.0.1:{found[1]}"

    @property
    def cpu_s(self) -> float:
        """Processor seconds that it has used, all its threads, ended ones too."""
        return time.clock_gettime(_cpu_clock(self._running.pid))

    @property
    def peak_mib(self) -> float:
        """Most memory that it has held above its idle process."""
        return max(self._most_mib, memory_mib("VmHWM", self._running.pid) - self.idle_mib)

    def take_peak_mib(self) -> float:
        """Most that it has held above its idle process since this was asked last."""
        held = memory_mib("VmHWM", self._running.pid) - self.idle_mib
        forget_peak(self._running.pid)
        self._most_mib = max(self._most_mib, held)
        return held

    def _await_port(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while _PORT.search(self._output) is None:
            if self._running.poll() is not None or time.monotonic() > deadline:
                raise NetworkError(f"the aggregator did not start: {self._output.strip()[-300:]}")
            time.sleep(0.05)

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ValueError("the aggregator was not started")
        return self._process

    @property
    def _output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")


def _cpu_clock(process: int) -> int:
    """Linux's clock of another process' processor time, in nanoseconds: what clock_getcpuclockid(3) gives."""
    return (~process << 3) | _CPUCLOCK_SCHED
