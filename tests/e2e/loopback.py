"""A federation of real processes on loopback, as the end-to-end tests drive and question it.

Everything runs as people run it; only the keys are left without a passphrase, because deriving one
takes a quarter of a second for each key and process. Set-up and questions go through the command
line in this process, and every aggregator and client is a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from secfed.cli import main
from secfed.cli.ledgers import SCRATCH_LEDGER
from secfed.cli.playground import Playground, Process
from secfed.config import to_toml
from secfed.config.job import DeadlineSection, JobFile, VectorSection
from secfed.encoding.fixedpoint import FixedPoint

VALUE = 0.75
"""What a site has at its own coordinate, and nowhere else."""

BOUND, BITS = 1.0, 16

KILLED = -9
"""Return code of a process that SIGKILL ended."""

PHASE_S = 4
"""Deadline of a phase, seconds: what a killed member costs a round."""

PATIENCE_S = 200.0
"""How long a test waits for what takes some seconds where nothing else runs."""

NOBODY = "127.0.0.1:1"
"""An address where nothing listens: no program is given a port below 1024 by chance."""

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of cause."""
        return self._only("error: ")

    @property
    def remedy(self) -> str:
        """The one line of remedy."""
        return self._only("remedy: ")

    def _only(self, start: str) -> str:
        (found,) = [line for line in (self.out + self.err).splitlines() if line.startswith(start)]
        return found.removeprefix(start)


@dataclass(frozen=True)
class Round:
    """A published round, as it lies in the aggregator's output folder."""

    folder: Path
    manifest: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    @property
    def total(self) -> NDArray[np.float64]:
        """The weighted sum of the one array of a vector job."""
        return self.arrays["weighted_sum.x"]

    @property
    def dropped(self) -> dict[str, str]:
        """Sites that are not in the sum, with the reason."""
        return {entry["site"]: entry["reason"] for entry in self.manifest["dropped"]}

    @property
    def bytes(self) -> dict[str, bytes]:
        """Every file."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


def secfed(*words: object) -> Outcome:
    """Give a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.run([str(word) for word in words])
    return Outcome(code, out.getvalue(), err.getvalue())


class Loopback(Playground):
    """A playground whose keys have no passphrase, with what tests ask of it."""

    def __exit__(self, *error: Any) -> None:
        """Ask all processes to stop at once: each takes a moment, and nobody waits for another."""
        for process in self.processes:
            if process.running:
                process.popen.terminate()
        super().__exit__(*error)

    # -- set-up --------------------------------------------------------------------------------

    def found(self, *, min_cohort: int = 3) -> None:
        """`secfed init`."""
        self.done(
            "init", self.federation, "--address", f"127.0.0.1:{self.port}",
            "--ops", f"127.0.0.1:{self.ops_port}", "--min-cohort", min_cohort, "--no-passphrase",
        )  # fmt: skip

    def enroll(self, names: Sequence[str]) -> None:
        """`secfed keys new` at each site, then `secfed enroll` for all; a running aggregator knows of it."""
        for name in names:
            self.done("keys", "new", name, "--dir", self.site(name), "--no-passphrase")
        public = [self.site(name) / f"{name}.pub" for name in names]
        said = self.done("enroll", *public, "--dir", self.federation, "--yes").out
        (version,) = re.findall(r"^roster .* version ([0-9]+)$", said, re.M)
        if any(process.name == "aggregator" and process.running for process in self.processes):
            self.until(
                lambda: self.overview()["roster_version"] >= int(version), "the new roster", PATIENCE_S
            )

    def join(self, name: str, *options: str) -> str:
        """`secfed client join`; the aggregator runs."""
        invite = self.federation / "invites" / f"{name}.invite"
        key = self.site(name) / f"{name}.key"
        done = self.done("client", "join", invite, "--key", key, "--dir", self.site(name), *options)
        assert "round trip     PASS" in done.out
        return done.out

    def open(self, names: Sequence[str]) -> None:
        """A running federation of these sites, each ready to push vectors."""
        self.found()
        self.enroll(names)
        self.start_aggregator()
        for name in names:
            self.join(name, "--allow-non-private")

    def done(self, *words: object) -> Outcome:
        """Give a command that must succeed."""
        outcome = secfed(*words)
        assert outcome.code == 0, f"secfed {' '.join(map(str, words[:2]))}: {outcome.err}"
        return outcome

    def job(
        self, name: str, size: int, *, rounds: int = 1, phase_s: int = PHASE_S, training_s: int = 600
    ) -> None:
        """Start a vector job over one array `x` of so many coordinates."""
        path = self.job_file(name, size, rounds=rounds, phase_s=phase_s, training_s=training_s)
        self.done("job", "start", path, "--config", self.federation / "admin.toml")

    def job_file(
        self, name: str, size: int, *, rounds: int = 1, phase_s: int = PHASE_S, training_s: int = 600
    ) -> Path:
        """Write what `job` starts."""
        job = JobFile(
            name=name,
            rounds=rounds,
            bits=BITS,
            vector=VectorSection(shapes={"x": (size,)}, bound=BOUND),
            deadlines=DeadlineSection(training_s=training_s, phase_s=phase_s, upload_idle_s=phase_s),
        )
        path = self.root / f"{name}.toml"
        path.write_text(to_toml(job, self.root))
        return path

    def update(self, name: str, coordinate: int, size: int, *, value: float = VALUE) -> Path:
        """A site's update file: `value` at one coordinate, 0 elsewhere."""
        vector = np.zeros(size, dtype=np.float32)
        vector[coordinate] = value
        path = self.site(name) / "update.safetensors"
        save_file({"x": vector}, path)
        return path

    # -- processes -----------------------------------------------------------------------------

    def spawn(
        self, name: str, *arguments: str, script: str = "", point: str = "", within: Sequence[str] = ()
    ) -> Process:
        """Start a `secfed` command, or one that a script of this folder kills at a point.

        Args:
            within: A command that the words of this one are given to.
        """
        program = [str(_HERE / script), point] if script else ["-m", "secfed"]
        log = self.root / f"{name}.log"
        stream = log.open("ab")
        popen = subprocess.Popen(
            [*within, sys.executable, *program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=self.environment({"PYTHONPATH": str(_HERE.parents[1])}),
        )
        process = Process(name, popen, log, stream)
        self.processes.append(process)
        return process

    def start_aggregator(self, *options: str) -> Process:
        """`secfed aggregator run`, until its port answers, however busy the machine is."""
        config = str(self.federation / "aggregator.toml")
        process = self.spawn("aggregator", "aggregator", "run", "--config", config, *options)
        self.until(lambda: self._listens() or not process.running, "the aggregator's port", PATIENCE_S)
        assert process.running, self.transcript()
        return process

    def call(self, *words: object) -> Outcome:
        """Run one `secfed` command in a process of its own, to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "secfed", *map(str, words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=self.environment({"PYTHONPATH": str(_HERE.parents[1])}),
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def doomed_push(self, name: str, update: Path, point: str) -> Process:
        """`secfed client push`, killed at a point of doomed_client.py."""
        arguments = ("client", "push", "--config", str(self.config(name)), "--update", str(update))
        return self.spawn(name, *arguments, script="doomed_client.py", point=point)

    def doomed_aggregator(self, point: str) -> Process:
        """`secfed aggregator run`, killed at a point of doomed_aggregator.py; returns once it serves."""
        arguments = ("aggregator", "run", "--config", str(self.federation / "aggregator.toml"))
        process = self.spawn("aggregator", *arguments, script="doomed_aggregator.py", point=point)
        self.until(lambda: self._listens() or not process.running, "the aggregator's port", PATIENCE_S)
        return process

    # -- questions -----------------------------------------------------------------------------

    def status(self, job: str) -> dict[str, Any]:
        """The job in `secfed status --json`."""
        asked = self.done("status", "--json", "--job", job, "--config", self.federation / "admin.toml")
        (found,) = json.loads(asked.out)["jobs"]
        assert isinstance(found, dict)
        return found

    def overview(self) -> dict[str, Any]:
        """`secfed status --json`."""
        asked = self.done("status", "--json", "--config", self.federation / "admin.toml")
        found = json.loads(asked.out)
        assert isinstance(found, dict)
        return found

    def round_folder(self, job: str, number: int = 1) -> Path:
        """Where a round is published."""
        return self.federation / "out" / job / f"round-{number:04}"

    def published(self, job: str, number: int = 1) -> Round:
        """Wait for a round's folder and read it."""
        folder = self.round_folder(job, number)
        self.until(folder.exists, f"round {number} of {job}", PATIENCE_S)
        manifest = json.loads((folder / "secfed_manifest.json").read_text())
        return Round(folder, manifest, self.arrays(folder))

    def arrays(self, folder: Path) -> Mapping[str, NDArray[Any]]:
        """The arrays that were published in a round's folder."""
        return load_file(folder / "sum.safetensors")

    def ledger(self, name: str, job: str, kind: str, *, book: str = SCRATCH_LEDGER) -> list[dict[str, Any]]:
        """A site's ledger entries of one kind (`reserve`, `sent`) for a job."""
        lines = (self.site(name) / "ledger" / book).read_text().splitlines()
        bodies = [json.loads(line)["body"] for line in lines]
        return [body for body in bodies if body["type"] == kind and body["job"] == job]

    def output(self, name: str) -> str:
        """What all processes of this name printed so far."""
        return (self.root / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def until(self, reached: Callable[[], object], what: str, timeout_s: float) -> None:
        """Wait until something holds; what everybody printed stands in the failure.

        A question that takes this process long is asked again after four times as long, so that what
        it is about has the cores.
        """

        def asked() -> object:
            before = time.process_time()
            found = reached()
            if not found:
                time.sleep(4 * (time.process_time() - before))
            return found

        try:
            super().until(asked, what, timeout_s)
        except Exception as late:
            raise AssertionError(f"{late}\n{self.transcript()}") from late

    def is_ready(self) -> bool:
        """Whether the aggregator says that it serves."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ops_port}/readyz", timeout=10) as page:
                return bool(page.status == 200)
        except OSError:
            return False

    def ends(self, process: Process, code: int, timeout_s: float = PATIENCE_S) -> None:
        """Wait until a process ended with this code."""
        self.until(lambda: not process.running, f"the end of {process.name}", timeout_s)
        found = process.popen.returncode
        assert found == code, f"{process.name} ended with {found}, not {code}\n{self.transcript()}"

    def transcript(self) -> str:
        """The last lines of every log."""
        logs = sorted(self.root.glob("*.log"))
        return "\n".join(
            f"--- {path.stem}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-25:])
            for path in logs
        )


def assert_exact(total: NDArray[np.float64], expected: Mapping[int, float], *, sites: int) -> None:
    """Every slot of a sum is what it must be, to within one step of the grid for each site in it."""
    wanted = np.zeros(total.shape)
    for coordinate, value in expected.items():
        wanted[coordinate] = value
    limit = sites * FixedPoint(BOUND, BITS).step
    assert float(np.abs(total - wanted).max()) < limit
