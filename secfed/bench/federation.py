"""A whole federation in a folder, for measurements over the network: members, their files, and a job.

Clients are the product's own core and link. Vectors lie on the job's grid, so that the true sum is
known to the last step.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from secfed.bench.cohort import ADMIN, AGGREGATOR, ARRAY, BOUND, JOB, Setting, Silent, job_plan, roles
from secfed.bench.daemon import PATIENCE_S
from secfed.config import AggregatorConfig, BudgetPolicy, JobPolicy, PolicyConfig, to_toml
from secfed.encoding.fixedpoint import FixedPoint
from secfed.identity import keyfile, membership
from secfed.identity.fields import to_base64
from secfed.identity.keyfile import MemberKeys
from secfed.ids import ClientId
from secfed.privacy.ledger import Ledger
from secfed.rounds.admission import Site
from secfed.rounds.client import ClientRounds
from secfed.rounds.contribution import ContributionStore, site_key
from secfed.rounds.plan import Deadlines
from secfed.rounds.proposal import sign_job_plan
from secfed.rounds.rosters import RosterKeeper
from secfed.rounds.vector import VectorContributor
from secfed.store import files
from secfed.store.decisions import DecisionStore
from secfed.transport.client import Connection, Sequence
from secfed.wire.codec import ProtoCodec

__all__ = ["Federation"]

_POLICY = PolicyConfig(budget=BudgetPolicy(epsilon=8.0), job=JobPolicy(allow_non_private=True))

_DEADLINES = Deadlines(training_s=3600, phase_s=3600, upload_idle_s=600)
"""Nobody is late on a machine that may be busy."""

_UPDATE = "update.safetensors"


class Federation:
    """Everybody's keys, files and way to the aggregator.

    Args:
        root: An empty folder.

    Attributes:
        sites: The clients, sorted.
        keys: Everybody's private keys.
    """

    def __init__(self, setting: Setting, root: Path) -> None:
        self.setting, self._root = setting, root
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
        self._roster_key = owner.public

    # -- the aggregator ------------------------------------------------------------------------

    def write_config(self) -> Path:
        """The aggregator's configuration, as its operator would have it; it chooses its ports itself."""
        home = self._root / AGGREGATOR
        config = AggregatorConfig(
            site=AGGREGATOR,
            key=home / "member.key",
            roster=self._roster_of(AGGREGATOR),
            roster_key=to_base64(self._roster_key),
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
        plan = job_plan(self.setting, self._roster.federation, datetime.now(UTC), _DEADLINES)
        return sign_job_plan(self.keys[ADMIN].signing, plan).text

    def published(self, number: int) -> NDArray[np.float64]:
        """The sum that a round published, shape (d,)."""
        folder = self._root / AGGREGATOR / "out" / JOB / f"round-{number:04}"
        total: NDArray[np.float64] = load_file(folder / "sum.safetensors")[f"weighted_sum.{ARRAY}"]
        return total

    # -- clients -------------------------------------------------------------------------------

    def write_vector(self, site: ClientId) -> NDArray[np.int64]:
        """Give a site its vector; the grid points that it consists of, shape (d,)."""
        grid = FixedPoint(BOUND, self.setting.bits)
        draw = np.random.default_rng()
        steps = draw.integers(0, grid.levels, self.setting.coordinates, endpoint=True, dtype=np.int64)
        save_file({ARRAY: steps * grid.step - grid.bound}, self._root / site / _UPDATE)
        return steps

    def connection(self, name: ClientId, address: str) -> Connection:
        """A member's way to the aggregator."""
        return Connection(
            address,
            self.keys[name],
            RosterKeeper(self._roster_of(name), self._roster_key),
            Sequence(),
            now=lambda: datetime.now(UTC),
            patience_s=PATIENCE_S,
        )

    def client(self, site: ClientId, stack: ExitStack) -> ClientRounds:
        """A site's part in the rounds, with its files; `stack` closes them."""
        home, keys = self._root / site, self.keys[site]
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
                rosters=RosterKeeper(self._roster_of(site), self._roster_key, decisions),
                decisions=decisions,
                contributions=ContributionStore(home / "contributions", site_key(home / "site.key")),
                policy=_POLICY,
                policy_digest="00" * 32,
                ledger=lambda _plan: ledger,
                contributor=lambda _plan: contributor,
                base=_no_base,
                observer=Silent(),
                now=lambda: datetime.now(UTC),
                monotonic=time.monotonic,
            )
        )

    def _roster_of(self, name: ClientId) -> Path:
        path = self._root / name / "roster.txt"
        if not path.exists():
            files.replace(path, self._roster.text, mode=files.PUBLIC_MODE)
        return path


def _no_base(_digest: Any) -> Any:
    raise ValueError("a vector job has no base")
