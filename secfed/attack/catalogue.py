"""The register of attacks: every row of what must be defeated, in its order, loaded one by one.

A row is carried out by the module of its name in this package, which has one public function,
`run(venue) -> Finding`.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass

from secfed.attack.finding import Finding
from secfed.attack.venue import Venue
from secfed.errors import ConfigError

__all__ = ["ROWS", "Result", "Row", "find"]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that must be defeated.

    Attributes:
        name: What to call it at a terminal.
        words: The threat, in words.
        against: Whom it is aimed at: clients, aggregator or files.
    """

    name: str
    words: str
    against: str

    @property
    def module(self) -> str:
        """Where it is carried out, in this package."""
        return self.name.replace("-", "_")

    def run(self, venue: Venue) -> Result:
        """Carry the attack out.

        Raises:
            SecfedError: The attack could not be carried to its end, which says nothing about the defence.
        """
        begun = time.monotonic()
        finding: Finding = importlib.import_module(f"secfed.attack.{self.module}").run(venue)
        return Result(self, finding, time.monotonic() - begun)


@dataclass(frozen=True, slots=True)
class Result:
    """One row's finding, and how long it took."""

    row: Row
    finding: Finding
    seconds: float


_CLIENTS, _AGGREGATOR, _FILES = "clients", "aggregator", "files"

ROWS: tuple[Row, ...] = (
    Row("two-survivor-sets", "two certified survivor sets, 5 sites", _CLIENTS),
    Row("two-survivor-sets-100", "two certified survivor sets, 100 sites", _CLIENTS),
    Row("double-unmask", "double unmask: overlapping or split lists", _CLIENTS),
    Row("second-attempt", "a second attempt beside a live first one", _CLIENTS),
    Row("swapped-keys", "swapped or invented peer keys", _CLIENTS),
    Row("sybil-cohort", "sybil or shrunken cohort", _CLIENTS),
    Row("lowered-threshold", "lowered threshold or A", _CLIENTS),
    Row("repeated-ids", "repeated ids", _CLIENTS),
    Row("model-per-client", "a different model per client", _CLIENTS),
    Row("round-replay", "replay of a round, retry under the same masks", _CLIENTS),
    Row("sum-difference", "difference of two sums (within its rule)", _CLIENTS),
    Row("members-without-edge", "members shown in U1 without an edge", _CLIENTS),
    Row("forgotten-vector", "a vector sent, forgotten in a crash and sent again", _CLIENTS),
    Row("noise-shortfall", "fewer survivors than the noise was sized for", _CLIENTS),
    Row("modulus-wrap", "modulus wrap", _CLIENTS),
    Row("weight-over-cap", "weight over its cap", _AGGREGATOR),
    Row("weak-mask-seeds", "weak mask seeds", _CLIENTS),
    Row("chosen-graph", "a graph the aggregator chose", _CLIENTS),
    Row("split-share-set", "a share set shown differently to different clients", _CLIENTS),
    Row("bad-shares", "bad shares: named, and the round finishes", _AGGREGATOR),
    Row("leaked-secrets", "secrets in logs, state, dumps", _FILES),
    Row("telling-metadata", "metadata that varies with the data", _AGGREGATOR),
    Row("saturation-leak", "saturation as a leak", _CLIENTS),
    Row("hostile-bytes", "hostile serialisation", _AGGREGATOR),
    Row("stolen-key-file", "a stolen key file without its passphrase", _FILES),
    Row("revoked-member", "a revoked or expired member", _AGGREGATOR),
    Row("wrong-role", "right key, wrong role", _AGGREGATOR),
    Row("roster-fork", "roster downgrade and fork", _CLIENTS),
)


def find(name: str) -> Row:
    """The row of this name.

    Raises:
        ConfigError: There is none.
    """
    for row in ROWS:
        if row.name == name:
            return row
    raise ConfigError(f"no attack is called {name!r}", hint="`secfed attack list` names them all.")
