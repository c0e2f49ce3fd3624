"""A whole federation on this machine: real keys, real processes, real sockets on loopback.

`secfed demo` and the end-to-end tests use it. Set-up calls the very functions behind the
commands; the aggregator and every client are processes of their own, started from the command
line and ended by id.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from secfed import errors
from secfed.errors import NetworkError, RoundAbortedError, SecfedError

__all__ = ["Playground", "Process", "failure", "held_port"]

_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}
"""glibc keeps what training frees: some 15 % faster on a CPU."""

_AT_ONCE = 2
"""Commands of set-up that run side by side."""

_KINDS: tuple[type[SecfedError], ...] = tuple(getattr(errors, name) for name in errors.__all__)
"""Every error; of those with one exit code the first stands for all."""

_STOP_S = 10
"""How long a process may take to stop by itself before it is killed."""


def held_port() -> socket.socket:
    """A port on loopback that is nobody's until this socket is closed: a dial is refused.

    The system gives it to no program that asks for any free port. A server of this federation, which names
    it, listens there all the same, as often as it is started: both sides say SO_REUSEADDR.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def failure(name: str, code: int, output: str, log: Path | None = None) -> SecfedError:
    """What a process said as it failed: its cause and remedy, as an error with its exit code.

    Args:
        name: Who failed.
        code: The exit code; below 0 the signal that ended it.
        output: What it printed.
        log: The file of the output, named where the process gave no remedy.
    """
    said = dict(
        line.split(": ", 1) for line in output.splitlines() if line.startswith(("error: ", "remedy: "))
    )
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    hint = "Try again." if log is None else f"Its output is in {log}."
    kind = next((kind for kind in _KINDS if kind.exit_code == code), RoundAbortedError)
    return kind(f"{name}: {said.get('error', how)}", hint=said.get("remedy", hint))


@dataclass(slots=True)
class Process:
    """One started command, with its output in a file."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    _stream: IO[bytes]

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout_s: float) -> int:
        """Wait for its end and return the exit code.

        Raises:
            NetworkError: It has not ended in time.
        """
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired as late:
            raise NetworkError(
                f"{self.name} has not ended within {timeout_s:.0f} s", hint=f"Its output is in {self.log}."
            ) from late

    def stop(self) -> None:
        """Ask it to stop; kill it if it does not."""
        if self.running:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._stream.close()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.running:
            self.popen.kill()
        self.popen.wait()
        self._stream.close()


class Playground:
    """A folder with one federation: `federation/`, and one folder for each site.

    Args:
        root: A new or empty folder.
        threads: Threads of each client process; None leaves it to the libraries.
    """

    def __init__(self, root: Path, *, threads: int | None = None) -> None:
        self.root = root
        self._held = [held_port(), held_port()]
        self.port, self.ops_port = (int(held.getsockname()[1]) for held in self._held)
        self.processes: list[Process] = []
        self._threads = threads
        self.passphrase = root / "passphrase"

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.passphrase.exists():
            self.passphrase.touch(mode=0o600)
            self.passphrase.write_text(secrets.token_urlsafe(24) + "\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self.processes):
            process.stop()
        for held in self._held:
            held.close()

    # -- set-up --------------------------------------------------------------------------------

    @property
    def federation(self) -> Path:
        """The owner's folder."""
        return self.root / "federation"

    def site(self, name: str) -> Path:
        """A site's folder."""
        return self.root / name

    def config(self, name: str) -> Path:
        """A site's client.toml."""
        return self.site(name) / "client.toml"

    def found(self, *, min_cohort: int = 3) -> None:
        """`secfed init`."""
        from secfed.cli import federation

        with _quiet():
            federation.init(
                self.federation,
                address=f"127.0.0.1:{self.port}",
                listen=None,
                ops=f"127.0.0.1:{self.ops_port}",
                days=2,
                min_cohort=min_cohort,
                passphrase_file=self.passphrase,
            )

    def edit_aggregator(self, **values: str) -> None:
        """Set keys of aggregator.toml to TOML literals, as its operator would with an editor."""
        path = self.federation / "aggregator.toml"
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.split(" = ")[0] not in values]
        path.write_text("\n".join([*kept, *(f"{key} = {value}" for key, value in values.items())]) + "\n")

    def enroll(self, names: Sequence[str]) -> None:
        """`secfed keys new` at each site, then `secfed enroll` for all."""
        from secfed.cli import federation, keys

        with _quiet():
            for name in names:
                keys.new(
                    name, directory=self.site(name), role="client", days=2, passphrase_file=self.passphrase
                )
            federation.enroll(
                [self.site(name) / f"{name}.pub" for name in names],
                directory=self.federation,
                rotate=False,
                yes=True,
                passphrase_file=self.passphrase,
            )

    def join(self, name: str, *options: str) -> str:
        """`secfed client join` of one site; returns what it printed."""
        return self.run(
            "client", "join", str(self.federation / "invites" / f"{name}.invite"),
            "--key", str(self.site(name) / f"{name}.key"), "--dir", str(self.site(name)),
            "--passphrase-file", str(self.passphrase), *options,
        )  # fmt: skip

    def join_all(self, options: Mapping[str, Sequence[str]]) -> None:
        """`secfed client join` of several sites, a few at a time, each with its options."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for done in [pool.submit(self.join, name, *given) for name, given in options.items()]:
                done.result()

    # -- processes -----------------------------------------------------------------------------

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """What every process inherits; nothing secret is in it."""
        values = dict(os.environ, PYTHONUNBUFFERED="1", NO_COLOR="1", **(extra or {}))
        if self._threads is not None:
            values.update(OMP_NUM_THREADS=str(self._threads), OMP_WAIT_POLICY="PASSIVE", **_MALLOC)
        return values

    def start(self, name: str, *arguments: str) -> Process:
        """Start one `secfed` command in the background."""
        log = self.root / f"{name}.log"
        stream = log.open("ab")
        popen = subprocess.Popen(
            [sys.executable, "-m", "secfed", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=self.environment(),
        )
        process = Process(name, popen, log, stream)
        self.processes.append(process)
        return process

    def run(self, *arguments: str, expect: int = 0, timeout_s: float = 120) -> str:
        """Run one `secfed` command to its end; returns what it printed.

        Raises:
            NetworkError: It did not end in time.
            SecfedError: It ended with another exit code than expected; see `failure`.
        """
        name = f"`secfed {' '.join(arguments[:2])}`"
        try:
            done = subprocess.run(
                [sys.executable, "-m", "secfed", *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env=self.environment(),
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise NetworkError(
                f"{name} has not ended within {timeout_s:.0f} s",
                hint=f"Is this machine very busy? The logs are in {self.root}.",
            ) from late
        if done.returncode != expect:
            raise failure(name, done.returncode, done.stderr or done.stdout)
        return done.stdout + done.stderr

    def start_aggregator(self) -> Process:
        """`secfed aggregator run`, until its port answers."""
        process = self.start(
            "aggregator", "aggregator", "run", "--config", str(self.federation / "aggregator.toml"),
            "--passphrase-file", str(self.passphrase),
        )  # fmt: skip
        self.until(lambda: self._listens() or not process.running, "the aggregator's port", 120)
        if not process.running:
            raise failure("the aggregator", process.wait(_STOP_S), process.output, process.log)
        return process

    def start_client(self, name: str, *options: str) -> Process:
        """`secfed client run` of one site."""
        return self.start(
            name,
            "client",
            "run",
            "--config",
            str(self.config(name)),
            "--passphrase-file",
            str(self.passphrase),
            *options,
        )

    def push(self, name: str, update: Path, *options: str) -> Process:
        """`secfed client push` of one site."""
        return self.start(
            name, "client", "push", "--config", str(self.config(name)), "--update", str(update),
            "--passphrase-file", str(self.passphrase), *options,
        )  # fmt: skip

    def start_job(self, path: Path, models: Path | None = None) -> str:
        """`secfed job start` by the admin; returns what it printed.

        In this process, as the rest of set-up: for a training job it loads the libraries that a
        demo needs for its metric anyway.
        """
        from secfed.cli import job

        options = {} if models is None else {"models": models}
        with _quiet() as said:
            job.start(
                path,
                config=self.federation / "admin.toml",
                passphrase_file=self.passphrase,
                passphrase_fd=None,
                **options,
            )
        return said.getvalue()

    def report(self, configs: Sequence[Path], form: str, output: Path | None = None) -> str:
        """`secfed report` of these sites; returns what it printed. A second form of it costs little."""
        from secfed.cli import report

        with _quiet() as said:
            report.report(list(configs), form, output)
        return said.getvalue()

    def until(
        self, reached: Callable[[], object], what: str, timeout_s: float, *, every_s: float = 0.05
    ) -> None:
        """Wait until something holds.

        Raises:
            NetworkError: It does not within the time; the message says what was awaited.
        """
        deadline = time.monotonic() + timeout_s
        while not reached():
            if time.monotonic() > deadline:
                raise NetworkError(
                    f"waited {timeout_s:.0f} s for {what}", hint=f"The logs are in {self.root}."
                )
            time.sleep(every_s)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Set-up talks to whoever types the commands one by one; here one line for all is enough."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        yield said
