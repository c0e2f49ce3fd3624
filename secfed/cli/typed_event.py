"""A noisy mechanism as people type it on a command line, turned into an exact event.

What is out of range is an error that names the option, before an accountant is loaded.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from secfed.privacy.events import Gaussian, PoissonGaussian, Unit

__all__ = [
    "DECLARED",
    "Delta",
    "NoiseMultiplier",
    "RecordsPerUnit",
    "SamplingRate",
    "Steps",
    "check_delta",
    "declaration",
    "described",
    "typed",
]

SamplingRate = Annotated[
    float, typer.Option("--sampling-rate", help="Chance of a unit, or record, to be in one step's batch.")
]
NoiseMultiplier = Annotated[
    float, typer.Option("--noise-multiplier", help="Noise standard deviation over the clipping norm.")
]
Steps = Annotated[int, typer.Option("--steps", help="Noisy steps in all, empty batches included.")]
Delta = Annotated[float, typer.Option("--delta", help="The delta that epsilon holds at.")]
RecordsPerUnit = Annotated[
    int | None,
    typer.Option(
        "--records-per-unit",
        help="Protect a person with at most K records, each drawn and clipped by itself. "
        "The trainers here draw and clip whole persons: for these leave it out.",
    ),
]

DECLARED = "declared by the site, not enforced"
"""Stands beside every charge whose event is the site's word."""

_DECIMALS = 12
"""Most decimals of a number in a plan or ledger."""


def typed(
    sampling_rate: float,
    noise_multiplier: float,
    steps: int,
    *,
    relation: str = "add-remove",
    unit: Unit = "record",
    records_per_unit: int | None = None,
    declared: bool = False,
) -> PoissonGaussian:
    """The event that the options describe.

    Args:
        relation: add-remove or replace-one.
        unit: Whose presence is hidden.
        records_per_unit: K, where a person's records are drawn each by itself; then the unit is a person.
        declared: It is a site's word for what was done elsewhere.

    Raises:
        ConfigError: A value is out of range, or no bound is known for the combination.
    """
    from typing import get_args

    from secfed.errors import ConfigError, LedgerError
    from secfed.privacy.events import NOISE_MAX, Q_DENOMINATOR, PoissonGaussian, Relation
    from secfed.privacy.rdp import NOISE_MIN, Meter

    if not 0 < sampling_rate <= 1 or not (q_num := round(sampling_rate * Q_DENOMINATOR)):
        raise ConfigError(f"--sampling-rate is above 0 and at most 1, not {sampling_rate:g}")
    if not NOISE_MIN <= noise_multiplier <= NOISE_MAX:
        raise ConfigError(
            f"--noise-multiplier is from {NOISE_MIN:g} to {NOISE_MAX}, not {noise_multiplier:g}"
        )
    known = next((each for each in get_args(Relation) if each == relation), None)
    if known is None:
        raise ConfigError(f"--relation is one of {', '.join(get_args(Relation))}, not {relation!r}")
    by_record = records_per_unit is not None and records_per_unit != 1
    try:
        event = PoissonGaussian(
            q_num=q_num,
            noise_multiplier=_decimal("--noise-multiplier", noise_multiplier),
            steps=steps,
            relation=known,
            unit="person" if by_record else unit,
            records_per_unit=records_per_unit if by_record and records_per_unit is not None else 1,
            sampling="record" if by_record else "unit",
            declared=declared,
        )
        Meter(0.5).add(event)  # refuses what nothing here can bound
    except LedgerError as problem:
        raise ConfigError(str(problem), hint="Mend the option; nothing was charged.") from problem
    return event


def declaration(
    unit: Unit,
    *,
    noise_multiplier: float | None,
    steps: int | None,
    sampling_rate: float | None,
    records_per_unit: int | None,
    most_records: int | None = None,
) -> PoissonGaussian | Gaussian | None:
    """What a site says of a vector that was made elsewhere; None where it says nothing.

    Args:
        unit: What its data set's ledger protects.
        sampling_rate: None for noisy releases over the whole data set.
        records_per_unit: As in `typed`; 1 says that whole persons were drawn. It must be said where the two
            ways differ in cost, since the cheaper one would otherwise be taken.
        most_records: Most records of one unit in the data set; None where it is not known.

    Raises:
        ConfigError: Half a declaration, or as `typed`.
    """
    from secfed.errors import ConfigError
    from secfed.privacy.events import Gaussian

    if noise_multiplier is None or steps is None:
        if (noise_multiplier, steps, sampling_rate, records_per_unit) == (None, None, None, None):
            return None
        raise ConfigError("a declared event takes --noise-multiplier and --steps together")
    if sampling_rate is None and records_per_unit is not None:
        raise ConfigError("--records-per-unit speaks of sampled records: it takes --sampling-rate")
    if unit == "person" and most_records != 1 and sampling_rate is not None and records_per_unit is None:
        raise ConfigError(
            "the data set protects persons: a declared --sampling-rate takes --records-per-unit",
            hint="Give K where single records were drawn and clipped, at most K of one person; "
            "give 1 where each person was drawn and clipped as a whole.",
        )
    event = typed(
        1.0 if sampling_rate is None else sampling_rate,
        noise_multiplier,
        steps,
        unit=unit,
        records_per_unit=records_per_unit,
        declared=True,
    )
    if sampling_rate is None:
        return Gaussian(event.noise_multiplier, steps, event.relation, unit, declared=True)
    return event


def described(event: PoissonGaussian | Gaussian) -> str:
    """Such as `1000 steps, noise multiplier 1, sampling rate 0.01`."""
    from secfed.privacy.events import Gaussian

    if isinstance(event, Gaussian):
        return f"{event.count} steps over all data, noise multiplier {event.noise_multiplier}"
    person = f", at most {event.records_per_unit} records of a person" if event.sampling == "record" else ""
    return (
        f"{event.steps} steps, noise multiplier {event.noise_multiplier}, sampling rate {event.q:g}{person}"
    )


def check_delta(delta: float) -> float:
    """A delta that a plan or ledger can hold.

    Raises:
        ConfigError: Another one.
    """
    from secfed.errors import ConfigError

    if not 0 < delta < 1:
        raise ConfigError(f"--delta is above 0 and below 1, not {delta:g}")
    _decimal("--delta", delta)
    return delta


def _decimal(option: str, value: float) -> str:
    """Decimal text as plans and ledgers hold it; nothing is rounded, since that would be another figure."""
    from secfed.errors import ConfigError

    exact = Decimal(repr(value)) if math.isfinite(value) else Decimal("NaN")
    if not exact.is_finite() or exact != round(exact, _DECIMALS):
        raise ConfigError(f"{option} has at most {_DECIMALS} decimals, unlike {value!r}")
    text = format(exact, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
