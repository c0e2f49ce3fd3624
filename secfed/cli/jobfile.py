"""From a JOB.toml to a job plan: every number that privacy depends on becomes a public constant.

Runs in the admin's process, which may import the accountant and, for training jobs, the model
library: the aggregator needs neither.
"""

from __future__ import annotations

import math
import secrets
import tempfile
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from secfed.config.job import (
    DpoSection,
    JobFile,
    KtoSection,
    PrivacySection,
    TrainingSection,
    VectorSection,
)
from secfed.config.trainers import TRAINERS
from secfed.errors import ConfigError
from secfed.identity.fields import write_time
from secfed.identity.roster import Roster
from secfed.ids import ClientId
from secfed.limits import CURVE_MAX, PUBLIC_PAIRS_MAX
from secfed.rounds.plan import (
    BaseModelSpec,
    Deadlines,
    DpoSpec,
    DpSpec,
    JobPlan,
    KtoSpec,
    LoraSpec,
    PublicMessage,
    PublicPair,
    TrainSpec,
)

if TYPE_CHECKING:
    from secfed.training.rows import Value

__all__ = ["TEMPLATES", "plan_of", "privacy_spec", "require_files", "template"]

_BOUND_GRID = 1e9
"""The bound of a training job is rounded up to whole steps of one over this: plain decimal text."""

_PUBLIC_REMEDY = "Mend kl_file: public rows of prompt and completion; nothing was sent."

TEMPLATES: Final = ("vector", *TRAINERS)


_SMALL_CHAT: dict[str, Any] = {
    "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "target_modules": ("q_proj", "v_proj"),
    "r": 2,
    "alpha": 4,
    "learning_rate": 0.003,
    "max_length": 96,
}
"""An adapter of a chat model that a CPU trains."""


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
                max_length=32,
                labels=("negative", "positive"),
            ),
            privacy=PrivacySection(
                unit="record", nominal_units=3400, batch=64.0, noise_multiplier=0.75, delta=1e-6
            ),
        )
    if kind == "sft":
        return JobFile(
            name="chat",
            rounds=2,
            training=TrainingSection(trainer="sft", steps=4, **_SMALL_CHAT),
            privacy=PrivacySection(
                unit="person",
                records_per_unit=4,
                nominal_units=300,
                batch=8.0,
                noise_multiplier=1.0,
                delta=1e-5,
            ),
        )
    if kind in ("dpo", "kto"):
        return JobFile(
            name="pairs" if kind == "dpo" else "thumbs",
            rounds=3,
            training=TrainingSection(
                trainer=kind,
                dpo=DpoSection() if kind == "dpo" else None,
                kto=KtoSection(loss_type="apo_zero_unpaired") if kind == "kto" else None,
                **_SMALL_CHAT,
            ),
            privacy=PrivacySection(
                unit="record", nominal_units=1000, batch=16.0, noise_multiplier=1.0, delta=1e-5
            ),
        )
    raise ConfigError(f"no template {kind!r}", hint=f"Choose one of: {', '.join(TEMPLATES)}.")


def require_files(job: JobFile) -> None:
    """Refuse a job whose file of public rows is not there, before anybody is asked for anything.

    Raises:
        DataError: It is not, or is none of rows.
    """
    from secfed.cli.inputs import require_rows

    kto = None if job.training is None else job.training.kto
    if kto is not None and kto.kl_file is not None:
        require_rows(kto.kl_file, _PUBLIC_REMEDY)


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
        point=section.kto is not None and section.kto.kl == "ride-along",
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
        dpo=_dpo(section.dpo or DpoSection()) if section.trainer == "dpo" else None,
        kto=_kto(section.kto or KtoSection()) if section.trainer == "kto" else None,
    )
    dp = None if job.privacy is None else privacy_spec(job, job.privacy, section)
    return JobPlan(
        kind="train",
        shapes=by_name(section.strategy).wire_shapes(shapes),
        bound=_decimal(math.ceil(update_bound(train, dp) * _BOUND_GRID) / _BOUND_GRID),
        training=train,
        dp=dp,
        epsilon_by_round=_curve(job, train, dp),
        **shared,
    )


def _dpo(section: DpoSection) -> DpoSpec:
    return DpoSpec(
        loss_type=section.loss_type,
        beta=_decimal(section.beta),
        label_smoothing=_decimal(section.label_smoothing),
    )


def _kto(section: KtoSection) -> KtoSpec:
    return KtoSpec(
        loss_type=section.loss_type,
        beta=_decimal(section.beta),
        desirable_weight=_decimal(section.desirable_weight),
        undesirable_weight=_decimal(section.undesirable_weight),
        kl=section.kl,
        kl_value=_decimal(section.kl_value),
        kl_pairs=() if section.kl_file is None else _public_pairs(section.kl_file),
    )


def _public_pairs(path: Path) -> tuple[PublicPair, ...]:
    """The texts that z0 is worked out from: they are signed with the plan, and every site reads them."""
    from secfed.cli.inputs import load_rows
    from secfed.training.rows import PROMPT_COMPLETION

    with tempfile.TemporaryDirectory() as scratch:
        rows = load_rows(
            path,
            (PROMPT_COMPLETION,),
            scratch=Path(scratch),
            remedy=_PUBLIC_REMEDY,
        ).rows
    if len(rows) > PUBLIC_PAIRS_MAX:
        raise ConfigError(f"{path}: {len(rows)} public rows; a plan carries at most {PUBLIC_PAIRS_MAX}")
    return tuple(
        PublicPair(prompt=_public(row["prompt"]), completion=_public(row["completion"])) for row in rows
    )


def _public(value: Value) -> str | tuple[PublicMessage, ...]:
    """A cell as a plan carries it."""
    if isinstance(value, tuple):
        return tuple(PublicMessage(role=turn.role, content=turn.content) for turn in value)
    return str(value)


def privacy_spec(job: JobFile, privacy: PrivacySection, section: TrainingSection) -> DpSpec:
    """The public constants; the noise is calibrated where only its epsilon was asked for.

    Raises:
        BudgetExceededError: No noise reaches the epsilon asked for.
    """
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
