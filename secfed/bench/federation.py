"""A whole federation in a folder, for measurements over the network: members, their files, and a job.

Clients are the product's own core and link. Vectors lie on the job's grid, so that the true sum is
known to the last step.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from secfed.bench.cohort import ADMIN, AGGREGATOR, ARRAY, BOUND, JOB, Setting, job_plan, roles
from secfed.bench.member import Member
from secfed.config import AggregatorConfig, to_toml
from secfed.encoding.fixedpoint import FixedPoint
from secfed.identity import keyfile, membership
from secfed.identity.fields import to_base64
from secfed.identity.keyfile import MemberKeys
from secfed.ids import ClientId
from secfed.rounds.plan import Deadlines
from secfed.rounds.proposal import sign_job_plan
from secfed.store import files

__all__ = ["Federation"]

_PATIENT_S = 3600
"""Nobody is late on a machine that may be busy."""

_SILENCE_S, _SLOWEST_BYTES_PER_S, _AN_EDGE_S = 10, 1e9, 0.002
"""Where some say nothing more, the others wait that long for them, and as long as all keystreams and keys
together take on one slow core: nobody else may be late."""


class Federation:
    """Everybody's keys, files and way to the aggregator.

    Args:
        root: An empty folder.

    Attributes:
        sites: The clients, sorted.
        roster_key: The pinned key.
        keys: Everybody's private keys.
    """

    def __init__(self, setting: Setting, root: Path) -> None:
        self.setting, self.root = setting, root
        self.sites = setting.sites
        now = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
        self.keys: dict[ClientId, MemberKeys] = {}
        for name, role in roles(setting).items():
            files.private_directory(root / name)
            path = root / name / "member.key"
            self.keys[name] = keyfile.create(path, site=name, role=role, passphrase=None, now=now)
        owner = keyfile.create_roster_key(root / "roster.key", passphrase=None, now=now)
        enrolments = [each.enrolment for each in self.keys.values()]
        self._roster = membership.create(
            owner, enrolments, now=now, not_after=now + timedelta(days=2), corrupt=setting.corrupt
        )
        self.roster_key = owner.public
        for name in self.keys:
            files.replace(root / name / "roster.txt", self._roster.text, mode=files.PUBLIC_MODE)

    # -- the aggregator ------------------------------------------------------------------------

    def write_config(self) -> Path:
        """The aggregator's configuration, as its operator would have it; it chooses its ports itself."""
        home = self.root / AGGREGATOR
        config = AggregatorConfig(
            site=AGGREGATOR,
            key=home / "member.key",
            roster=home / "roster.txt",
            roster_key=to_base64(self.roster_key),
            state_dir=home / "state",
            output_dir=home / "out",
            listen="127.0.0.1:0",
            ops_listen="127.0.0.1:0",
            log_level="error",
        )
        path = home / "aggregator.toml"
        path.write_text(to_toml(config, home), encoding="utf-8")
        return path

    def job(self) -> bytes:
        """The job's plan, signed by its admin."""
        deadlines = Deadlines(training_s=_PATIENT_S, phase_s=self._phase_s(), upload_idle_s=_PATIENT_S)
        plan = job_plan(self.setting, self._roster.federation, datetime.now(UTC), deadlines)
        return sign_job_plan(self.keys[ADMIN].signing, plan).text

    def _phase_s(self) -> int:
        """How long the aggregator waits in a phase for who says nothing."""
        setting = self.setting
        if not setting.dropouts:
            return _PATIENT_S
        edges = setting.clients * setting.clients
        busy = edges * (4 * setting.coordinates / _SLOWEST_BYTES_PER_S + _AN_EDGE_S)
        return min(_PATIENT_S, _SILENCE_S + round(busy))

    def uploads(self) -> int:
        """How many vectors stand whole in the aggregator's spool."""
        spool = self.root / AGGREGATOR / "state" / "spool"
        return sum(not name.startswith(".") for name in os.listdir(spool))

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
        save_file({ARRAY: steps * grid.step - grid.bound}, self.root / site / "update.safetensors")
        return steps

    def member(self, name: ClientId) -> Member:
        """Somebody who is enrolled."""
        return Member(self.root, name, self.roster_key)
