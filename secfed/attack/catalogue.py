"""The register of attacks: every row of what must be defeated, in its order, loaded one by one.

A row is carried out by the module of its name in this package, which has one public function,
`run(venue, report)`. Each of its parts is listed here and entered into the report by its name, so that
none is left out: not in the attack, and not where it is shown that the part can succeed.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass

from secfed.attack.finding import Finding, Report, Verdict
from secfed.attack.venue import Venue
from secfed.errors import ConfigError, SecfedError

__all__ = ["ROWS", "Result", "Row", "find"]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that must be defeated.

    Attributes:
        name: What to call it at a terminal.
        words: The threat, in words.
        against: Whom it is aimed at: clients, aggregator or files.
        parts: What is tried, each by itself.
        missing: What is not built yet, so that there is nothing to attack; empty where there is.
    """

    name: str
    words: str
    against: str
    parts: tuple[str, ...]
    missing: str = ""

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
        report = Report(self.parts, Verdict.NOT_BUILT if self.missing else Verdict.DEFENDED)
        if self.missing:
            report.saw(self.missing)
        try:
            importlib.import_module(f"secfed.attack.{self.module}").run(venue, report)
        except SecfedError as problem:
            if not report.gained:
                raise
            report.saw(f"it went no further: {problem}")
        return Result(self, report.finding, time.monotonic() - begun)


@dataclass(frozen=True, slots=True)
class Result:
    """One row's finding, and how long it took."""

    row: Row
    finding: Finding
    seconds: float


_CLIENTS, _AGGREGATOR, _FILES = "clients", "aggregator", "files"

ROWS: tuple[Row, ...] = (
    Row(
        "two-survivor-sets",
        "two certified survivor sets, 5 sites",
        _CLIENTS,
        ("a set for each half",),
    ),
    Row(
        "two-survivor-sets-100",
        "two certified survivor sets, 100 sites",
        _CLIENTS,
        ("a set for each half",),
    ),
    Row(
        "double-unmask",
        "double unmask: overlapping or split lists",
        _CLIENTS,
        ("split lists", "overlapping lists"),
    ),
    Row(
        "second-attempt",
        "a second attempt beside a live first one",
        _CLIENTS,
        ("two attempts at once",),
    ),
    Row(
        "swapped-keys",
        "swapped or invented peer keys",
        _CLIENTS,
        ("two members' keys swapped", "the peers' keys exchanged", "members with invented keys"),
    ),
    Row(
        "sybil-cohort",
        "sybil or shrunken cohort",
        _CLIENTS,
        ("a cohort of two", "strangers from no roster"),
    ),
    Row(
        "lowered-threshold",
        "lowered threshold or A",
        _CLIENTS,
        ("A of 1", "A of 0"),
    ),
    Row(
        "repeated-ids",
        "repeated ids",
        _CLIENTS,
        ("an advert again and again", "a survivor twice", "a signature again and again"),
    ),
    Row(
        "model-per-client",
        "a different model per client",
        _CLIENTS,
        ("two models in one round",),
    ),
    Row(
        "round-replay",
        "replay of a round, retry under the same masks",
        _CLIENTS,
        ("a vector again under the same masks", "an ended round again"),
    ),
    Row(
        "sum-difference",
        "difference of two sums (within its rule)",
        _CLIENTS,
        ("the same vectors without one",),
    ),
    Row(
        "members-without-edge",
        "members shown in U1 without an edge",
        _CLIENTS,
        ("one neighbour in E", "a member of U1 that is not in E", "bundles that do not list the victim"),
    ),
    Row(
        "forgotten-vector",
        "a vector sent, forgotten in a crash and sent again",
        _CLIENTS,
        ("two attempts with one vector",),
    ),
    Row(
        "noise-shortfall",
        "fewer survivors than the noise was sized for",
        _CLIENTS,
        ("a job of mode distributed", "a job of mode client"),
        missing="noise shares are not built",
    ),
    Row(
        "modulus-wrap",
        "modulus wrap",
        _CLIENTS,
        ("words of one vector's width", "words of one bit too few"),
    ),
    Row(
        "weight-over-cap",
        "weight over its cap",
        _AGGREGATOR,
        ("a corrupt site's weight", "an honest site's weight", "a cap beyond the grid"),
    ),
    Row(
        "weak-mask-seeds",
        "weak mask seeds",
        _CLIENTS,
        ("keys that are guessed", "masks that serve twice", "a key of low order", "a reflected key"),
    ),
    Row(
        "chosen-graph",
        "a graph the aggregator chose",
        _CLIENTS,
        ("two halves that never meet", "accomplices alone on the ring", "the best of several rings"),
    ),
    Row(
        "split-share-set",
        "a share set shown differently to different clients",
        _CLIENTS,
        ("two members hidden from each other", "one member hidden from another"),
    ),
    Row(
        "bad-shares",
        "bad shares: named, and the round finishes",
        _AGGREGATOR,
        ("a holder's wrong shares", "a dealer's sealed garbage", "a dealer's other commitments"),
    ),
    Row(
        "leaked-secrets",
        "secrets in logs, state, dumps",
        _FILES,
        ("state and files", "logs and output", "/proc", "core dumps"),
    ),
    Row(
        "telling-metadata",
        "metadata that varies with the data",
        _AGGREGATOR,
        ("zeros, and a vector at the bound",),
    ),
    Row(
        "saturation-leak",
        "saturation as a leak",
        _CLIENTS,
        ("an update within the bound, and one beyond",),
    ),
    Row(
        "hostile-bytes",
        "hostile serialisation",
        _AGGREGATOR,
        (
            "bytes that are no message",
            "another encoding of a message",
            "endless lengths",
            "nested groups",
            "more bytes than allowed",
            "a pickle",
            "memory",
            "the honest round",
            "replies to a client",
        ),
    ),
    Row(
        "stolen-key-file",
        "a stolen key file without its passphrase",
        _FILES,
        ("what stands in the file", "guesses", "a file changed and put back"),
    ),
    Row(
        "revoked-member",
        "a revoked or expired member",
        _AGGREGATOR,
        ("a held call", "a revoked member", "an expired member", "a member before its time"),
    ),
    Row(
        "wrong-role",
        "right key, wrong role",
        _AGGREGATOR,
        ("client", "admin", "auditor", "aggregator", "stranger", "another's name"),
    ),
    Row(
        "roster-fork",
        "roster downgrade and fork",
        _CLIENTS,
        (
            "an older version, told to a client",
            "a fork, told to a client",
            "another key's, told to a client",
            "an older version in a client's folder",
            "an older version in the aggregator's folder",
            "a fork in the aggregator's folder",
            "another key's in the aggregator's folder",
            "a call under an older version",
        ),
    ),
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
