"""From a JOB.toml to a job plan: every number that privacy depends on becomes a public constant.

Runs in the admin's process, which may import the accountant and, for training jobs, the model
library: the aggregator needs neither.
"""

from __future__ import annotations

import math
import secrets
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from secfed.config.job import JobFile, PrivacySection, TrainingSection, VectorSection
from secfed.errors import ConfigError
from secfed.identity.fields import write_time
from secfed.identity.roster import Roster
from secfed.ids import ClientId
from secfed.rounds.plan import CURVE_MAX, BaseModelSpec, Deadlines, DpSpec, JobPlan, LoraSpec, TrainSpec

__all__ = ["TEMPLATES", "plan_of", "template"]

_BOUND_GRID = 1e9
"""The bound of a training job is rounded up to whole steps of one over this: plain decimal text."""

TEMPLATES = ("vector", "classify", "sft")


def template(kind: str) -> JobFile:
    """An example that runs as it stands, for `job init`.

    Raises:
        ConfigError: No such template.
    """
    if kind == "vector":
        return JobFile(
            name="vector-sum",
            rounds=1,
            vector=VectorSection(shapes={"weights": (100, 100), "bias": (100,)}, bound=1.0),
        )
    if kind == "classify":
        return JobFile(
            name="classify",
            rounds=3,
            bits=20,
            training=TrainingSection(
                trainer="classify",
                base_model="sentence-transformers/all-MiniLM-L6-v2",
                target_modules=("query", "value"),
                optimizer="sgd",
                learning_rate=1.0,
                labels=("negative", "positive"),
            ),
            privacy=PrivacySection(
                unit="record", nominal_units=3000, batch=64.0, noise_multiplier=0.75, delta=1e-6
            ),
        )
    if kind == "sft":
        return JobFile(
            name="chat",
            rounds=2,
            training=TrainingSection(
                trainer="sft",
                base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
                target_modules=("q_proj", "v_proj"),
                r=2,
                alpha=4,
                steps=4,
                learning_rate=0.003,
                max_length=96,
            ),
            privacy=PrivacySection(
                unit="person",
                records_per_unit=4,
                nominal_units=300,
                batch=8.0,
                noise_multiplier=1.0,
                delta=1e-5,
            ),
        )
    raise ConfigError(f"no template {kind!r}", hint=f"Choose one of: {', '.join(TEMPLATES)}.")


def plan_of(job: JobFile, roster: Roster, admin: ClientId, *, models: Path, now: datetime) -> JobPlan:
    """Turn an admin's file into the plan that will be signed.

    Args:
        models: Folder with base models, read for their weights' digest and layer shapes.

    Raises:
        ConfigError: A value does not fit the others, or the base model is not there.
    """
    shared: dict[str, Any] = {
        "federation": roster.federation,
        "job": job.name,
        "created": write_time(now),
        "created_by": admin,
        "rounds": job.rounds,
        "spare_rounds": job.spare_rounds,
        "min_cohort": max(job.min_cohort, roster.min_cohort),
        "bits": job.bits,
        "deadlines": Deadlines(**job.deadlines.model_dump()),
    }
    try:
        if job.vector is not None:
            return JobPlan(
                kind="vector",
                shapes=dict(job.vector.shapes),
                bound=_decimal(job.vector.bound),
                weights=job.vector.weights,
                weight_cap=job.vector.weight_cap,
                **shared,
            )
        assert job.training is not None  # noqa: S101 - the model holds one of the two sections
        return _training_plan(job, job.training, models, shared)
    except ValueError as problem:
        raise ConfigError(f"the job does not fit together: {_first(problem)}") from problem


def _training_plan(job: JobFile, section: TrainingSection, models: Path, shared: dict[str, Any]) -> JobPlan:
    from secfed.aggregation.registry import by_name
    from secfed.aggregation.spec import AdapterSpec
    from secfed.training.adapter import schema
    from secfed.training.models import model_folder, weights_sha256
    from secfed.training.spec import update_bound

    folder = model_folder(models, section.base_model)
    spec = AdapterSpec(
        base_model=section.base_model,
        revision="main",
        trainer=section.trainer,
        target_modules=section.target_modules,
        r=section.r,
        alpha=section.alpha,
        labels=section.labels,
    )
    shapes = schema(spec, folder)
    for module in section.target_modules:
        if not any(f".{module}.lora_" in f".{name}" for name in shapes):
            raise ConfigError(f"no linear layer of {section.base_model} is called {module!r}")
    train = TrainSpec(
        trainer=section.trainer,
        strategy=section.strategy,
        base=BaseModelSpec(id=section.base_model, weights_sha256=weights_sha256(folder)),
        lora=LoraSpec(r=section.r, alpha=section.alpha, target_modules=section.target_modules),
        steps=section.steps,
        learning_rate=_decimal(section.learning_rate),
        optimizer=section.optimizer,
        max_length=section.max_length,
        plain_batch=section.plain_batch,
        adapter=shapes,
        labels=section.labels,
        seed=secrets.token_hex(32),
    )
    dp = None if job.privacy is None else _dp(job, job.privacy, section)
    return JobPlan(
        kind="train",
        shapes=by_name(section.strategy).wire_shapes(shapes),
        bound=_decimal(math.ceil(update_bound(train, dp) * _BOUND_GRID) / _BOUND_GRID),
        training=train,
        dp=dp,
        epsilon_by_round=_curve(job, train, dp),
        **shared,
    )


def _dp(job: JobFile, privacy: PrivacySection, section: TrainingSection) -> DpSpec:
    """The public constants; the noise is calibrated where only its epsilon was asked for."""
    noise = privacy.noise_multiplier
    spec = DpSpec(
        unit=privacy.unit,
        records_per_unit=privacy.records_per_unit,
        sampling_num=round(privacy.batch / privacy.nominal_units * 2**64),
        noise_multiplier=_decimal(1.0 if noise is None else noise),
        clip=_decimal(privacy.clip),
        nominal_units=privacy.nominal_units,
        delta=_decimal(privacy.delta),
    )
    if privacy.target_epsilon is None:
        return spec
    from secfed.privacy.calibrate import noise_multiplier
    from secfed.privacy.events import PoissonGaussian

    whole = PoissonGaussian(
        q_num=spec.sampling_num,
        noise_multiplier=spec.noise_multiplier,
        steps=section.steps * (job.rounds + job.spare_rounds),
        relation=spec.relation,
        unit=spec.unit,
        records_per_unit=spec.records_per_unit,
    )
    found = noise_multiplier(privacy.target_epsilon, whole, privacy.delta)
    return spec.model_copy(update={"noise_multiplier": found.event.noise_multiplier})


def _curve(job: JobFile, train: TrainSpec, dp: DpSpec | None) -> tuple[str, ...]:
    """Epsilon by plan after each round, so that the aggregator needs no accountant."""
    if dp is None or job.rounds > CURVE_MAX:
        return ()
    from secfed.privacy.accountant import running
    from secfed.training.spec import planned_event

    event = planned_event(train, dp)
    points = running([event] * job.rounds, float(dp.delta))
    return tuple(f"{point.epsilon:.3f}" for point in points)


def _decimal(value: float) -> str:
    """The shortest decimal text that reads back as this float."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _first(problem: ValueError) -> str:
    """The first thing that does not fit, in one line."""
    if not isinstance(problem, ValidationError):
        return str(problem)
    first = problem.errors()[0]
    place = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
