"""One member of a federation in a folder: its keys and files, its way to the aggregator, its part in rounds.

Everything is read from the folder, so that a member can live in a process of its own.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secfed.bench.cohort import Silent
from secfed.bench.daemon import PATIENCE_S
from secfed.config import BudgetPolicy, JobPolicy, PolicyConfig
from secfed.identity import keyfile
from secfed.ids import ClientId
from secfed.privacy.ledger import Ledger
from secfed.rounds.admission import Site
from secfed.rounds.client import ClientRounds
from secfed.rounds.contribution import ContributionStore, site_key
from secfed.rounds.rosters import RosterKeeper
from secfed.rounds.vector import VectorContributor
from secfed.store.decisions import DecisionStore
from secfed.transport.client import Connection, Sequence
from secfed.wire.codec import ProtoCodec

__all__ = ["Member"]

_POLICY = PolicyConfig(budget=BudgetPolicy(epsilon=8.0), job=JobPolicy(allow_non_private=True))


class Member:
    """Whoever is enrolled.

    Args:
        root: The federation's folder; the member's own lies in it, under its name.
        roster_key: The pinned key.
    """

    def __init__(self, root: Path, name: ClientId, roster_key: bytes) -> None:
        self.name, self.home = name, root / name
        self.roster_file, self.vector_file = self.home / "roster.txt", self.home / "update.safetensors"
        self._roster_key = roster_key
        self._keys = keyfile.load(self.home / "member.key", None)

    def connection(self, address: str) -> Connection:
        """A way to the aggregator."""
        return Connection(
            address,
            self._keys,
            RosterKeeper(self.roster_file, self._roster_key),
            Sequence(),
            now=lambda: datetime.now(UTC),
            patience_s=PATIENCE_S,
        )

    def client(self, stack: ExitStack) -> ClientRounds:
        """A site's part in the rounds, with its files; `stack` closes them."""
        home, key = self.home, self._keys.signing
        decisions = stack.enter_context(DecisionStore(home / "decisions.sqlite"))
        ledger = stack.enter_context(
            Ledger.create(
                home / "scratch.ledger", key=key, site=self.name, unit="record", records_per_unit=1,
                relation="add-remove", budget=None,
            )
        )  # fmt: skip
        contributor = VectorContributor(self.vector_file)
        return ClientRounds(
            Site(
                name=self.name,
                key=key,
                only=None,
                codec=ProtoCodec(),
                rosters=RosterKeeper(self.roster_file, self._roster_key, decisions),
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


def _no_base(_digest: Any) -> Any:
    raise ValueError("a vector job has no base")
