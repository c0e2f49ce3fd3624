"""What was done to private data, as frozen definitions; the only thing a ledger remembers.

An event is exact: the sampling rate is a whole number over 2**64 (as the sampler draws it), noise
is decimal text, counts are integers. What an accountant makes of it is no part of it. Parsing is
strict, because an event that is half understood would be half charged: an unknown event, an
unknown field or a wrong type is refused, never approximated.

An event is what this code did, unless it says `declared`: then it is what the site says was done
elsewhere. It costs the same, and whoever shows it says that nothing here enforced it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import lru_cache
from types import NoneType
from typing import Any, ClassVar, Literal, TypeAlias, cast, get_args

from secfed.errors import LedgerError

__all__ = [
    "NOISE_MAX",
    "Q_DENOMINATOR",
    "DiscreteGaussianSum",
    "Event",
    "Gaussian",
    "NonPrivate",
    "PoissonGaussian",
    "Relation",
    "Sampling",
    "Unit",
    "check_one_of",
    "check_positive_decimal",
    "check_whole",
    "declared",
    "from_json",
    "to_json",
]

Relation: TypeAlias = Literal["add-remove", "replace-one"]
"""Which two data sets must look alike: one with and one without a unit, or one unit exchanged."""

Unit: TypeAlias = Literal["record", "person"]
"""Whose presence is hidden."""

Sampling: TypeAlias = Literal["unit", "record"]
"""What the Poisson sampler draws: whole units, or single records although the unit is a person."""

Q_DENOMINATOR = 2**64
"""Sampling rates are whole numbers over this, the resolution of the sampler's thresholds."""

NOISE_MAX = 1000
"""Most noise of a plan, and most that is tried for a target: a release under more says nothing at all, and an
accountant would add up more rounding than privacy loss, for hours."""

_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?")
"""A non-negative decimal of bounded length, without sign or exponent; the form that plans use."""

_COUNT_MAX = 10**9
"""Most steps, rounds or releases of one event: far above any training run."""

_RECORDS_MAX = 1024
"""Most records of one person, as in the job plan."""

_REASON_MAX = 200
"""Longest reason of a non-private release, in characters."""


@dataclass(frozen=True, slots=True)
class PoissonGaussian:
    """`steps` releases of a clipped sum over a Poisson sample, with Gaussian noise (DP-SGD).

    Attributes:
        q_num: Sampling rate times 2**64, from 1 to 2**64.
        noise_multiplier: Standard deviation over the clipping norm, decimal text, above 0.
        steps: Number of releases, empty batches included.
        relation: Neighbouring relation of the promise.
        unit: Whose presence is hidden.
        records_per_unit: k, most records of one unit; 1 where the unit is a record.
        sampling: `unit` where units are drawn and clipped as a whole (k then changes nothing);
            `record` where each of a person's k records is drawn and clipped by itself.
        declared: The site's word for what was done elsewhere; nothing here enforced it.

    Source: Abadi et al. 2016, arXiv:1607.00133.
    """

    kind: ClassVar[str] = "poisson_gaussian"

    q_num: int
    noise_multiplier: str
    steps: int
    relation: Relation
    unit: Unit
    records_per_unit: int = 1
    sampling: Sampling = "unit"
    declared: bool = False

    def __post_init__(self) -> None:
        check_whole("q_num", self.q_num, Q_DENOMINATOR)
        check_positive_decimal("noise_multiplier", self.noise_multiplier)
        check_whole("steps", self.steps, _COUNT_MAX)
        check_one_of("relation", self.relation, get_args(Relation))
        check_one_of("unit", self.unit, get_args(Unit))
        check_whole("records_per_unit", self.records_per_unit, _RECORDS_MAX)
        check_one_of("sampling", self.sampling, get_args(Sampling))
        if self.unit == "record" and (self.records_per_unit != 1 or self.sampling != "unit"):
            raise LedgerError("a unit that is a record has one record, and is sampled as a unit")
        _check_flag("declared", self.declared)

    @property
    def q(self) -> float:
        """The sampling rate, for people and accountants."""
        return self.q_num / Q_DENOMINATOR


@dataclass(frozen=True, slots=True)
class Gaussian:
    """`count` releases over the whole data set, each with sensitivity 1 and Gaussian noise.

    Attributes:
        noise_multiplier: Standard deviation over the sensitivity to one unit added or removed.
        declared: The site's word for what was done elsewhere; nothing here enforced it.
    """

    kind: ClassVar[str] = "gaussian"

    noise_multiplier: str
    count: int
    relation: Relation
    unit: Unit
    declared: bool = False

    def __post_init__(self) -> None:
        check_positive_decimal("noise_multiplier", self.noise_multiplier)
        check_whole("count", self.count, _COUNT_MAX)
        check_one_of("relation", self.relation, get_args(Relation))
        check_one_of("unit", self.unit, get_args(Unit))
        _check_flag("declared", self.declared)


@dataclass(frozen=True, slots=True)
class DiscreteGaussianSum:
    """Sums over several sites to which each added a share of integer noise.

    Part of the format, so that a ledger stays readable; no accountant here bounds it, so it is
    neither authorized nor given a figure.

    Attributes:
        q_num: Sampling rate times 2**64.
        sensitivity: D2, integer L2 sensitivity, decimal text.
        sigma_share: Noise of one share in integer units, decimal text.
        honest: Shares that the charge counts on.
        rounds: Number of sums.

    Source: Kairouz, Liu, Steinke 2021, arXiv:2102.06387.
    """

    kind: ClassVar[str] = "discrete_gaussian_sum"

    q_num: int
    sensitivity: str
    sigma_share: str
    honest: int
    rounds: int
    relation: Relation
    unit: Unit

    def __post_init__(self) -> None:
        check_whole("q_num", self.q_num, Q_DENOMINATOR)
        check_positive_decimal("sensitivity", self.sensitivity)
        check_positive_decimal("sigma_share", self.sigma_share)
        check_whole("honest", self.honest, 10**6)
        check_whole("rounds", self.rounds, _COUNT_MAX)
        check_one_of("relation", self.relation, get_args(Relation))
        check_one_of("unit", self.unit, get_args(Unit))


@dataclass(frozen=True, slots=True)
class NonPrivate:
    """A release without any bound: epsilon is infinite, and every report says so."""

    kind: ClassVar[str] = "non_private"

    reason: str

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str) or not 0 < len(self.reason) <= _REASON_MAX:
            raise LedgerError(f"reason must be 1 to {_REASON_MAX} characters")
        if not self.reason.isprintable():
            raise LedgerError("reason must be one printable line")


Event: TypeAlias = PoissonGaussian | Gaussian | DiscreteGaussianSum | NonPrivate

_DECLARED = "declared"
"""The one field that may be left out."""

_KINDS: dict[str, type[Event]] = {
    event.kind: event for event in (PoissonGaussian, Gaussian, DiscreteGaussianSum, NonPrivate)
}


def declared(event: Event) -> bool:
    """Whether the event is a site's word for what was done elsewhere."""
    return isinstance(event, PoissonGaussian | Gaussian) and event.declared


def to_json(event: Event) -> dict[str, object]:
    """The event as a JSON object; `from_json` gives the same event back.

    `declared` stands there only where it is true, so what this code did reads as it always has.
    """
    text: dict[str, object] = {"kind": event.kind}
    text |= {field.name: getattr(event, field.name) for field in fields(event)}
    if not declared(event):
        text.pop(_DECLARED, None)
    return text


_PLAIN = frozenset((str, int, float, bool, NoneType))
"""Types of an event's fields, wrong ones included, that can be told apart and kept."""


def from_json(text: object) -> Event:
    """Read an event strictly; equal texts give the same object, for a ledger repeats few events often.

    Raises:
        LedgerError: Not an object, an unknown event, a missing or unknown field, a value of the
            wrong type or out of range.
    """
    if not isinstance(text, Mapping):
        raise LedgerError("an event must be a JSON object")
    types = tuple(map(type, text.values()))
    if not _PLAIN.issuperset(types):
        raise LedgerError("every field of an event is a text, a number or a truth value")
    return _read(tuple(text.items()), types)


@lru_cache(maxsize=1024)
def _read(members: tuple[tuple[str, object], ...], _types: tuple[type, ...]) -> Event:
    """An event of these members; types are told apart, since True equals 1."""
    text = dict(members)
    kind = text.get("kind")
    event = _KINDS.get(kind) if isinstance(kind, str) else None
    if event is None:
        raise LedgerError(f"unknown event {kind!r}: it cannot be charged")
    wanted = {field.name for field in fields(event)}
    found = set(text) - {"kind"}
    if _DECLARED in wanted and _DECLARED not in found:
        wanted.remove(_DECLARED)
    elif text.get(_DECLARED, True) is not True:
        raise LedgerError("declared is true, or is left out")
    if found != wanted:
        wrong = ", ".join(sorted(map(str, found ^ wanted)))
        raise LedgerError(f"event {kind!r} has missing or unknown fields: {wrong}")
    return event(**{name: cast(Any, text[name]) for name in wanted})


def check_whole(name: str, value: object, largest: int) -> int:
    """A whole number from 1 to `largest`, or LedgerError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise LedgerError(f"{name} must be a whole number from 1 to {largest}")
    return value


def check_positive_decimal(name: str, value: object) -> str:
    """Decimal text of a number above 0, or LedgerError."""
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value) or Decimal(value) == 0:
        raise LedgerError(f"{name} must be a positive number as decimal text, such as '1.1'")
    return value


def check_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """One of the allowed words, or LedgerError."""
    if not isinstance(value, str) or value not in allowed:
        raise LedgerError(f"{name} must be one of {', '.join(allowed)}")


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise LedgerError(f"{name} must be true or false")
