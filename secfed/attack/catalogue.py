"""The register of attacks: every row of what must be defeated, in its order, loaded one by one.

A row names the module of this package that carries it out; the module has one public function,
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
        module: Where it is carried out, in this package.
    """

    name: str
    words: str
    against: str
    module: str

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
    Row("two-survivor-sets", "two certified survivor sets, 5 sites", _CLIENTS, "two_survivor_sets"),
    Row("two-survivor-sets-100", "two certified survivor sets, 100 sites", _CLIENTS, "two_survivor_sets_100"),
    Row("double-unmask", "double unmask: overlapping or split lists", _CLIENTS, "double_unmask"),
    Row("second-attempt", "a second attempt beside a live first one", _CLIENTS, "second_attempt"),
    Row("swapped-keys", "swapped or invented peer keys", _CLIENTS, "swapped_keys"),
    Row("sybil-cohort", "sybil or shrunken cohort", _CLIENTS, "sybil_cohort"),
    Row("lowered-threshold", "lowered threshold or A", _CLIENTS, "lowered_threshold"),
    Row("repeated-ids", "repeated ids", _CLIENTS, "repeated_ids"),
    Row("model-per-client", "a different model per client", _CLIENTS, "model_per_client"),
    Row("round-replay", "replay of a round, retry under the same masks", _CLIENTS, "round_replay"),
    Row("sum-difference", "difference of two sums (within its rule)", _CLIENTS, "sum_difference"),
    Row("members-without-edge", "members shown in U1 without an edge", _CLIENTS, "members_without_edge"),
    Row(
        "forgotten-vector",
        "a vector sent, forgotten in a crash and sent again",
        _CLIENTS,
        "forgotten_vector",
    ),
    Row(
        "noise-shortfall",
        "fewer survivors than the noise was sized for",
        _CLIENTS,
        "noise_shortfall",
    ),
    Row("modulus-wrap", "modulus wrap", _CLIENTS, "modulus_wrap"),
    Row("weight-over-cap", "weight over its cap", _AGGREGATOR, "weight_over_cap"),
    Row("weak-mask-seeds", "weak mask seeds", _CLIENTS, "weak_mask_seeds"),
    Row("chosen-graph", "a graph the aggregator chose", _CLIENTS, "chosen_graph"),
    Row(
        "split-share-set",
        "a share set shown differently to different clients",
        _CLIENTS,
        "split_share_set",
    ),
    Row("bad-shares", "bad shares: named, and the round finishes", _AGGREGATOR, "bad_shares"),
    Row("leaked-secrets", "secrets in logs, state, dumps", _FILES, "leaked_secrets"),
    Row("telling-metadata", "metadata that varies with the data", _AGGREGATOR, "telling_metadata"),
    Row("saturation-leak", "saturation as a leak", _CLIENTS, "saturation_leak"),
    Row("hostile-bytes", "hostile serialisation", _AGGREGATOR, "hostile_bytes"),
    Row("stolen-key-file", "a stolen key file without its passphrase", _FILES, "stolen_key_file"),
    Row("revoked-member", "a revoked or expired member", _AGGREGATOR, "revoked_member"),
    Row("wrong-role", "right key, wrong role", _AGGREGATOR, "wrong_role"),
    Row("roster-fork", "roster downgrade and fork", _CLIENTS, "roster_fork"),
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
