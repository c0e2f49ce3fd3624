"""A whole federation in a folder, for measurements over the network: the daemon, and clients on threads.

The aggregator is the process that an operator starts. Clients are the product's own core and link,
one thread each. Vectors lie on the job's grid, so that the true sum is known to the last step.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from secfed.bench.cohort import AGGREGATOR, ARRAY, BOUND, JOB, Setting, Silent
from secfed.bench.meter import memory_mib
from secfed.config import AggregatorConfig, BudgetPolicy, JobPolicy, PolicyConfig, to_toml
from secfed.encoding.fixedpoint import FixedPoint
from secfed.errors import NetworkError
from secfed.identity import keyfile, membership
from secfed.identity.fields import to_base64, write_time
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roles import Role
from secfed.ids import ClientId
from secfed.privacy.ledger import Ledger
from secfed.rounds.admission import Site
from secfed.rounds.client import ClientRounds
from secfed.rounds.contribution import ContributionStore, site_key
from secfed.rounds.plan import Deadlines, JobPlan
from secfed.rounds.proposal import sign_job_plan
from secfed.rounds.rosters import RosterKeeper
from secfed.rounds.vector import VectorContributor
from secfed.store import files
from secfed.store.decisions import DecisionStore
from secfed.transport.client import Connection, Sequence
from secfed.wire.codec import ProtoCodec

__all__ = ["PATIENCE_S", "Town", "utc_now"]

ADMIN = ClientId("office")

PATIENCE_S = 600.0
"""How long anything is waited for, on a machine that may be busy."""

_PORT = re.compile(r"^secfed \S+ aggregator {2}port ([0-9]+) ", re.MULTILINE)

_POLICY = PolicyConfig(budget=BudgetPolicy(epsilon=8.0), job=JobPolicy(allow_non_private=True))

_UPDATE = "update.safetensors"

_CPUCLOCK_SCHED = 2


class Town:
    """A federation with a running aggregator; use `with`.

    Args:
        root: An empty folder.

    Attributes:
        sites: The clients, sorted.
        keys: Everybody's private keys.
        idle_mib: What the aggregator held once it listened.
    """

    def __init__(self, setting: Setting, root: Path) -> None:
        self.setting, self.root = setting, root
        width = len(str(setting.clients - 1))
        self.sites = tuple(ClientId(f"site-{index:0{width}}") for index in range(setting.clients))
        roles = {AGGREGATOR: Role.AGGREGATOR, ADMIN: Role.ADMIN} | dict.fromkeys(self.sites, Role.CLIENT)
        now = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
        self.keys: dict[ClientId, MemberKeys] = {}
        for name, role in roles.items():
            files.private_directory(root / name)
            path = root / name / "member.key"
            self.keys[name] = keyfile.create(path, site=name, role=role, passphrase=None, now=now)
        owner = keyfile.create_roster_key(root / "roster.key", passphrase=None, now=now)
        enrolments = [each.enrolment for each in self.keys.values()]
        self.roster = membership.create(
            owner, enrolments, now=now, not_after=now + timedelta(days=2), corrupt=setting.corrupt
        )
        self.roster_key = owner.public
        self._process: subprocess.Popen[bytes] | None = None
        self._log = root / AGGREGATOR / "output.log"
        self.idle_mib = 0.0

    # -- the aggregator ------------------------------------------------------------------------

    def __enter__(self) -> Self:
        home = self.root / AGGREGATOR
        config = AggregatorConfig(
            site=AGGREGATOR,
            key=home / "member.key",
            roster=self._roster_of(AGGREGATOR),
            roster_key=to_base64(self.roster_key),
            state_dir=home / "state",
            output_dir=home / "out",
            listen="127.0.0.1:0",
            ops_listen="127.0.0.1:0",
            log_level="error",
        )
        path = home / "aggregator.toml"
        path.write_text(to_toml(config, home), encoding="utf-8")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "secfed", "aggregator", "run", "--config", str(path)],
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

    @property
    def cpu_s(self) -> float:
        """Processor seconds that the aggregator has used, all its threads, ended ones too."""
        return time.clock_gettime(_cpu_clock(self._running.pid))

    @property
    def peak_mib(self) -> float:
        """Most memory that the aggregator has held above its idle process."""
        return memory_mib("VmHWM", self._running.pid) - self.idle_mib

    # -- the job -------------------------------------------------------------------------------

    def start_job(self) -> None:
        """Start the job, as its admin."""
        setting = self.setting
        plan = JobPlan(
            federation=self.roster.federation,
            job=JOB,
            kind="vector",
            created=write_time(utc_now()),
            created_by=ADMIN,
            rounds=setting.repeats,
            shapes={ARRAY: (setting.coordinates,)},
            bound=str(int(BOUND)),
            bits=setting.bits,
            deadlines=Deadlines(training_s=3600, phase_s=3600, upload_idle_s=600),
        )
        with self.connection(ADMIN) as admin:
            admin.start_job(sign_job_plan(self.keys[ADMIN].signing, plan).text)

    def published(self, number: int) -> NDArray[np.float64]:
        """The sum that a round published, shape (d,)."""
        folder = self.root / AGGREGATOR / "out" / JOB / f"round-{number:04}"
        total: NDArray[np.float64] = load_file(folder / "sum.safetensors")[f"weighted_sum.{ARRAY}"]
        return total

    # -- clients -------------------------------------------------------------------------------

    def write_vector(self, site: ClientId) -> NDArray[np.int64]:
        """Give a site its vector; the grid points that it consists of, shape (d,)."""
        grid = FixedPoint(BOUND, self.setting.bits)
        draw = np.random.default_rng()
        steps = draw.integers(0, grid.levels, self.setting.coordinates, endpoint=True, dtype=np.int64)
        save_file({ARRAY: steps * grid.step - grid.bound}, self.root / site / _UPDATE)
        return steps

    def connection(self, name: ClientId) -> Connection:
        """A member's way to the aggregator."""
        found = _PORT.search(self._output)
        if found is None:
            raise ValueError("the aggregator has not said where it listens")
        rosters = RosterKeeper(self._roster_of(name), self.roster_key)
        return Connection(
            f"127.0.0.1:{found[1]}",
            self.keys[name],
            rosters,
            Sequence(),
            now=utc_now,
            patience_s=PATIENCE_S,
        )

    def client(self, site: ClientId, stack: ExitStack) -> ClientRounds:
        """A site's part in the rounds, with its files; `stack` closes them."""
        home, keys = self.root / site, self.keys[site]
        decisions = stack.enter_context(DecisionStore(home / "decisions.sqlite"))
        ledger = stack.enter_context(
            Ledger.create(
                home / "scratch.ledger", key=keys.signing, site=site, unit="record", records_per_unit=1,
                relation="add-remove", budget=None,
            )
        )  # fmt: skip
        contributor = VectorContributor(home / _UPDATE)
        return ClientRounds(
            Site(
                name=site,
                key=keys.signing,
                only=None,
                codec=ProtoCodec(),
                rosters=RosterKeeper(self._roster_of(site), self.roster_key, decisions),
                decisions=decisions,
                contributions=ContributionStore(home / "contributions", site_key(home / "site.key")),
                policy=_POLICY,
                policy_digest="00" * 32,
                ledger=lambda _plan: ledger,
                contributor=lambda _plan: contributor,
                base=_no_base,
                observer=Silent(),
                now=utc_now,
                monotonic=time.monotonic,
            )
        )

    def _roster_of(self, name: ClientId) -> Path:
        path = self.root / name / "roster.txt"
        if not path.exists():
            files.replace(path, self.roster.text, mode=files.PUBLIC_MODE)
        return path


def utc_now() -> datetime:
    """The clock, for validity."""
    return datetime.now(UTC)


def _cpu_clock(process: int) -> int:
    """Linux's clock of another process' processor time, in nanoseconds: what clock_getcpuclockid(3) gives."""
    return (~process << 3) | _CPUCLOCK_SCHED


def _no_base(_digest: Any) -> Any:
    raise ValueError("a vector job has no base")
