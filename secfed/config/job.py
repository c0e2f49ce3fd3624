"""`JOB.toml`: what an admin asks for, in the field's words; `job start` turns it into a signed plan."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from secfed.config.models import ConfigPath, PhaseSeconds, Section, TrainingSeconds
from secfed.config.trainers import Trainer
from secfed.ids import SITE_PATTERN

__all__ = [
    "DeadlineSection",
    "DpoSection",
    "JobFile",
    "KtoSection",
    "PrivacySection",
    "TrainingSection",
    "VectorSection",
]


def _check_name(text: str) -> str:
    if not SITE_PATTERN.fullmatch(text):
        raise ValueError("expected 1 to 63 lower-case letters, digits and inner hyphens")
    return text


_Name = Annotated[StrictStr, AfterValidator(_check_name)]
_Positive = Annotated[StrictFloat, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[StrictFloat, Field(ge=0, allow_inf_nan=False)]
_Length = Annotated[StrictInt, Field(ge=1)]


class VectorSection(Section):
    """`[vector]`: named arrays made elsewhere are summed; nothing is trained."""

    shapes: dict[StrictStr, tuple[_Length, ...]] = Field(
        min_length=1, description="Names and shapes of the arrays that every site sends."
    )
    bound: _Positive = Field(description="Largest magnitude of weight times value; more is refused.")
    weights: Literal["uniform", "declared"] = Field(
        "uniform", description="uniform: every site counts 1. declared: a site names a public constant."
    )
    weight_cap: StrictInt = Field(1, ge=1, description="Largest weight a site may declare.")


class DpoSection(Section):
    """`[training.dpo]`: the loss on pairs of responses; names and defaults are TRL's."""

    loss_type: Literal["sigmoid", "ipo", "hinge", "robust", "apo_zero"] = Field(
        "sigmoid", description="sigmoid, ipo, hinge, robust or apo_zero."
    )
    beta: _Positive = Field(0.1, description="How strongly the model is held to its base.")
    label_smoothing: Annotated[StrictFloat, Field(ge=0, lt=0.5)] = Field(
        0.0, description="Share of pairs taken to be the wrong way round (loss_type = robust)."
    )

    @model_validator(mode="after")
    def _smooth_robust(self) -> Self:
        if self.label_smoothing and self.loss_type != "robust":
            raise ValueError("label_smoothing belongs to loss_type = robust")
        return self


class KtoSection(Section):
    """`[training.kto]`: the loss on thumbs up and down; names and defaults are TRL's, but for z0.

    Nothing here may be worked out from private rows: the weights are constants, and so is z0, or it
    comes from public texts, or from noised sums.
    """

    loss_type: Literal["kto", "apo_zero_unpaired"] = Field(
        "kto", description="kto, or apo_zero_unpaired (z0 = 0)."
    )
    beta: _Positive = Field(0.1, description="How strongly the model is held to its base.")
    desirable_weight: _NotNegative = Field(1.0, description="Weight of rows with a thumb up: a constant.")
    undesirable_weight: _NotNegative = Field(1.0, description="Weight of rows with a thumb down: a constant.")
    kl: Literal["fixed", "public", "ride-along"] = Field(
        "fixed",
        description="Where z0 of kto comes from: kl_value (fixed), the texts of kl_file (public), or noised "
        "sums (ride-along).",
    )
    kl_value: _NotNegative = Field(0.0, description="z0 in nats (kl = fixed).")
    kl_file: ConfigPath | None = Field(
        None,
        description="Up to 32 PUBLIC rows of prompt and unrelated completion, which go into the plan: needed "
        "by public and by ride-along (completions alone).",
    )

    @model_validator(mode="after")
    def _one_point(self) -> Self:
        if self.loss_type != "kto" and (self.kl != "fixed" or self.kl_value):
            raise ValueError("kl and kl_value belong to loss_type = kto")
        if self.kl != "fixed" and self.kl_file is None:
            raise ValueError(f"kl = {self.kl} needs kl_file")
        if self.kl == "fixed" and self.kl_file is not None:
            raise ValueError("kl_file belongs to kl = public or ride-along")
        if self.kl != "fixed" and self.kl_value:
            raise ValueError("kl_value belongs to kl = fixed")
        if self.desirable_weight + self.undesirable_weight <= 0:
            raise ValueError("one of desirable_weight and undesirable_weight must be above 0")
        return self


class TrainingSection(Section):
    """`[training]`: LoRA adapters of one public base model."""

    trainer: Trainer = Field(
        description="classify: text to label. sft: prompt to completion. dpo: pairs. kto: thumbs up and down."
    )
    base_model: StrictStr = Field(
        description="Public id of the base model; every site has it in its models folder."
    )
    strategy: Literal["fedavg", "ffa"] = Field(
        "ffa", description="ffa: only B is trained and summed, the best under noise. fedavg: A and B."
    )
    target_modules: tuple[StrictStr, ...] = Field(
        min_length=1, description="Linear layers that get an adapter."
    )
    r: StrictInt = Field(8, ge=1, le=1024, description="Rank.")
    alpha: StrictInt = Field(8, ge=1, le=65536, description="Scale: the update counts alpha / r times.")
    steps: StrictInt = Field(8, ge=1, le=100_000, description="Optimiser steps of a site in one round.")
    learning_rate: _Positive = Field(0.01, description="Of the optimiser, after the noise.")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="adamw or sgd.")
    max_length: StrictInt = Field(64, ge=1, le=32768, description="Longest row in tokens.")
    plain_batch: StrictInt = Field(
        16, ge=1, le=65_536, description="Units of a step if there is no [privacy] section; else unused."
    )
    labels: tuple[StrictStr, ...] = Field((), description="Class names in order (classify).")
    dpo: DpoSection | None = Field(None, description="The loss of trainer = dpo; its defaults if not given.")
    kto: KtoSection | None = Field(None, description="The loss of trainer = kto; its defaults if not given.")

    @model_validator(mode="after")
    def _trainer_fits(self) -> Self:
        if self.trainer == "classify" and len(set(self.labels)) < max(2, len(self.labels)):
            raise ValueError("classify needs at least two labels, all different")
        if self.trainer != "classify" and self.labels:
            raise ValueError("labels belong to trainer = classify")
        for name, section in (("dpo", self.dpo), ("kto", self.kto)):
            if section is not None and self.trainer != name:
                raise ValueError(f"[training.{name}] belongs to trainer = {name}")
        return self


class PrivacySection(Section):
    """`[privacy]`: what is protected, and how much noise; the same public constants at every site."""

    unit: Literal["record", "person"] = Field(
        description="What one promise covers: a record, or all records of a person."
    )
    records_per_unit: StrictInt = Field(
        1, ge=1, le=1024, description="Most records of one person that count (unit = person)."
    )
    nominal_units: StrictInt = Field(
        ge=1, description="A public round figure for the units of one site; never its true count."
    )
    batch: _Positive = Field(description="Expected units in one step: the sampling rate times nominal_units.")
    clip: _Positive = Field(1.0, description="Clipping norm of one unit's gradient (L2).")
    noise_multiplier: _Positive | None = Field(
        None, description="Noise standard deviation over clip; or give target_epsilon."
    )
    target_epsilon: _Positive | None = Field(
        None, description="Epsilon of the whole plan; the noise is calibrated to it."
    )
    delta: Annotated[StrictFloat, Field(gt=0, lt=1)] = Field(1e-5, description="Of the figure by plan.")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise ValueError("give one of noise_multiplier and target_epsilon")
        if self.batch > self.nominal_units:
            raise ValueError("batch is at most nominal_units")
        if self.unit == "record" and self.records_per_unit != 1:
            raise ValueError("records_per_unit belongs to unit = person")
        return self


class DeadlineSection(Section):
    """`[deadlines]`: how long is waited for; sites that are later are listed as dropped."""

    training_s: TrainingSeconds = Field(3600, description="For training in one round.")
    phase_s: PhaseSeconds = Field(60, description="For one phase of the secure sum.")
    upload_idle_s: PhaseSeconds = Field(30, description="For an upload that makes no progress.")


class JobFile(Section):
    """`JOB.toml`."""

    name: _Name = Field(description="The job's name: lower-case letters, digits, inner hyphens.")
    rounds: StrictInt = Field(ge=1, le=100_000, description="Rounds that publish a result.")
    spare_rounds: StrictInt = Field(
        0, ge=0, le=1000, description="Rounds that may be trained again after an abort; charged again."
    )
    min_cohort: StrictInt = Field(3, ge=3, description="Fewest sites whose sum may be opened.")
    bits: StrictInt = Field(16, ge=2, le=24, description="Fixed-point bits of one number.")
    non_private: StrictBool = Field(
        False,
        description="true: train WITHOUT differential privacy; sites refuse unless their policy allows.",
    )
    vector: VectorSection | None = Field(None, description="A job of kind vector has this section.")
    training: TrainingSection | None = Field(None, description="A job of kind train has this section.")
    privacy: PrivacySection | None = Field(None, description="Differential privacy of a job of kind train.")
    deadlines: DeadlineSection = Field(default_factory=DeadlineSection, description="How long is waited for.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.vector is None) == (self.training is None):
            raise ValueError("a job has one of the sections [vector] and [training]")
        if self.vector is not None and self.privacy is not None:
            raise ValueError("a vector job trains nothing, so it has no [privacy] section")
        if self.training is not None and (self.privacy is None) != self.non_private:
            raise ValueError("a training job has a [privacy] section, or says non_private = true")
        return self
