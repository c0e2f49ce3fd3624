"""What all parties agree to before anything private is touched: the job plan and the round plan.

Both are JSON text, signed over their exact bytes: the job plan by an admin, the round plan by
the aggregator. Clients compare a plan with their own policy before they charge or train.
Every number that privacy depends on stands in the job plan, as a public constant.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from secfed.aggregation.spec import Trainer
from secfed.aggregation.strategy import POINT
from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.encoding.layout import Layout
from secfed.ids import SITE_PATTERN, Digest
from secfed.limits import CURVE_MAX, PLAN_BITS_MAX, PUBLIC_PAIRS_MAX, PUBLIC_TEXT_MAX, VECTOR_COORDINATES_MAX
from secfed.privacy.events import NOISE_MAX

__all__ = [
    "BaseModelSpec",
    "Deadlines",
    "DpSpec",
    "DpoSpec",
    "JobPlan",
    "KtoSpec",
    "LoraSpec",
    "NoiseShares",
    "PublicMessage",
    "PublicPair",
    "RoundPlan",
    "TrainSpec",
    "job_plan_digest",
    "round_plan_digest",
]

_JOINERS = str.maketrans("", "", "\u200c\u200d")
"""Characters without width that some scripts need within a word; they steer nothing."""


def _shown(text: str) -> str:
    """Refuse what a terminal, a log or a model card could take for more than text: it will be printed."""
    if not text.translate(_JOINERS).isprintable():
        raise ValueError("holds a control character, a line end or a mark of writing direction")
    return text


_Shown = Annotated[str, StringConstraints(max_length=512), AfterValidator(_shown)]
"""A name or a class, in any script."""

_ModelId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
"""A public name as model hubs give them: it also stands in the code of a model card."""

DecimalText = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,12}(\.[0-9]{1,12})?$")]
"""A non-negative number as decimal text, so that every party reads the same value."""

Side = Annotated[int, Field(ge=1, le=VECTOR_COORDINATES_MAX)]
"""Of an array; the layout bounds their number and product."""

HexDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=f"^{SITE_PATTERN.pattern}$")]
_Said = Annotated[str, StringConstraints(min_length=1, max_length=PUBLIC_TEXT_MAX)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Deadlines(_Frozen):
    """How long the aggregator waits, in seconds. Progress renews the upload's."""

    training_s: int = Field(3600, ge=1, le=7 * 86_400)
    phase_s: int = Field(60, ge=1, le=3600)
    upload_idle_s: int = Field(30, ge=1, le=3600)


class BaseModelSpec(_Frozen):
    """A public base model: its public id, and the digest of its weights."""

    id: _ModelId
    revision: _ModelId = "main"
    weights_sha256: HexDigest


class LoraSpec(_Frozen):
    """A LoRA adapter. The initial A and the frozen parts come from the job's public seed."""

    r: int = Field(ge=1, le=1024)
    alpha: int = Field(ge=1, le=65_536)
    target_modules: tuple[_Shown, ...] = Field(min_length=1)


class DpoSpec(_Frozen):
    """The loss of trainer `dpo`, in TRL's words; every choice looks at one pair alone.

    Attributes:
        loss_type: `sigmoid` (Rafailov et al. 2023, arXiv:2305.18290), `ipo` (Azar et al. 2023,
            arXiv:2310.12036), `hinge` (Zhao et al. 2023, arXiv:2305.10425), `robust` (Chowdhury et al.
            2024, arXiv:2403.00409), `apo_zero` (D'Oosterlinck et al. 2024, arXiv:2408.06266).
        beta: How strongly the model is held to its base.
        label_smoothing: `robust`: share of pairs taken to be the wrong way round, below one half.
    """

    loss_type: Literal["sigmoid", "ipo", "hinge", "robust", "apo_zero"] = "sigmoid"
    beta: DecimalText = "0.1"
    label_smoothing: DecimalText = "0"

    @model_validator(mode="after")
    def _in_range(self) -> DpoSpec:
        if Decimal(self.beta) <= 0:
            raise ValueError("beta must be above 0")
        if Decimal(self.label_smoothing) and self.loss_type != "robust":
            raise ValueError("label_smoothing belongs to loss_type = robust")
        if Decimal(self.label_smoothing) >= Decimal("0.5"):
            raise ValueError("label_smoothing must be below 0.5")
        return self


class PublicMessage(_Frozen):
    """One turn of a public chat."""

    role: _Said
    content: _Said


class PublicPair(_Frozen):
    """A prompt and a completion that does not answer it, both public: two texts, or two lists of messages."""

    prompt: _Said | tuple[PublicMessage, ...]
    completion: _Said | tuple[PublicMessage, ...]

    @property
    def characters(self) -> int:
        """How much text this is."""
        texts = (self.prompt, self.completion)
        return sum(
            len(text) if isinstance(text, str) else sum(len(turn.role) + len(turn.content) for turn in text)
            for text in texts
        )


class KtoSpec(_Frozen):
    """The loss of trainer `kto`, in TRL's words; the reference point is public before a row is looked at.

    TRL takes the point z0 from the batch, so that each row moves every other row's gradient.

    Attributes:
        loss_type: `kto` (Ethayarajh et al. 2024, arXiv:2402.01306), or `apo_zero_unpaired`
            (D'Oosterlinck et al. 2024, arXiv:2408.06266), which is `kto` with z0 = 0.
        beta: How strongly the model is held to its base.
        desirable_weight: Weight of rows with a thumb up; a constant, never a ratio of private counts.
        undesirable_weight: Of rows with a thumb down.
        kl: Where z0 of `kto` comes from: `fixed` is `kl_value`; `public` is worked out at the start of
            every round from the broadcast adapter on `kl_pairs`; `ride-along` is estimated from private
            prompts with public completions, as one more coordinate of the clipped and noised gradient,
            and a round's point follows from the sums of the rounds before (`secfed.training.point`).
        kl_value: z0 in nats under `fixed`.
        kl_pairs: Public texts under `public`; under `ride-along` their completions alone are used.
    """

    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    beta: DecimalText = "0.1"
    desirable_weight: DecimalText = "1"
    undesirable_weight: DecimalText = "1"
    kl: Literal["fixed", "public", "ride-along"] = "fixed"
    kl_value: DecimalText = "0"
    kl_pairs: tuple[PublicPair, ...] = Field((), max_length=PUBLIC_PAIRS_MAX)

    @model_validator(mode="after")
    def _in_range(self) -> KtoSpec:
        if Decimal(self.beta) <= 0:
            raise ValueError("beta must be above 0")
        if Decimal(self.desirable_weight) + Decimal(self.undesirable_weight) <= 0:
            raise ValueError("one of desirable_weight and undesirable_weight must be above 0")
        if self.loss_type != "kto" and (self.kl != "fixed" or Decimal(self.kl_value)):
            raise ValueError("kl and kl_value belong to loss_type = kto")
        if (self.kl != "fixed") != bool(self.kl_pairs):
            raise ValueError("public pairs are given for kl = public or ride-along, and for nothing else")
        if sum(pair.characters for pair in self.kl_pairs) > PUBLIC_TEXT_MAX:
            raise ValueError(f"public pairs have at most {PUBLIC_TEXT_MAX} characters in all")
        if self.kl != "fixed" and Decimal(self.kl_value):
            raise ValueError("kl_value belongs to kl = fixed")
        return self


class TrainSpec(_Frozen):
    """What a site trains in one round, all public.

    Attributes:
        steps: Local optimiser steps a round; an empty Poisson batch is a step too.
        plain_batch: Units of a step in a job without differential privacy.
        adapter: Names and shapes of the whole adapter, frozen arrays and a point that rides along
            included; the plan's `shapes` are the strategy's choice of them.
        labels: Class names in order, for `classify`; they come from here, never from data.
        seed: 32 bytes in hexadecimal, public: the adapter's initial values follow from it.
        dpo: The loss, for `dpo`.
        kto: The loss, for `kto`.
    """

    trainer: Trainer
    strategy: Literal["fedavg", "ffa"]
    base: BaseModelSpec
    lora: LoraSpec
    steps: int = Field(ge=1, le=100_000)
    learning_rate: DecimalText
    optimizer: Literal["adamw", "sgd"] = "adamw"
    max_length: int = Field(128, ge=1, le=32_768)
    plain_batch: int = Field(16, ge=1, le=65_536)
    adapter: dict[_Shown, tuple[Side, ...]] = Field(min_length=1)
    labels: tuple[_Shown, ...] = ()
    seed: HexDigest
    dpo: DpoSpec | None = None
    kto: KtoSpec | None = None

    @property
    def preference(self) -> DpoSpec | KtoSpec | None:
        """The loss of a trainer that learns from preferences."""
        return self.dpo or self.kto

    @property
    def point_rides(self) -> bool:
        """Whether the reference point of `kto` is one more array of what is trained."""
        return self.kto is not None and self.kto.kl == "ride-along"

    @model_validator(mode="after")
    def _trainer_fits(self) -> TrainSpec:
        if (self.trainer == "classify") != bool(self.labels):
            raise ValueError("labels are given for `classify`, at least two, and for nothing else")
        if self.trainer == "classify" and len(set(self.labels)) < 2:
            raise ValueError("`classify` needs at least two different labels")
        if (self.trainer == "dpo", self.trainer == "kto") != (self.dpo is not None, self.kto is not None):
            raise ValueError("trainers `dpo` and `kto`, and no others, have a section of their name")
        if self.adapter.get(POINT) != ((1,) if self.point_rides else None):
            raise ValueError(f"{POINT!r}, one number, is there for kl = ride-along, and for nothing else")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out sections that are not there: plans of other trainers keep the bytes they had."""
        return {name: part for name, part in write(self).items() if part is not None}


class DpSpec(_Frozen):
    """Differential privacy of a job: public constants, the same for every site.

    Attributes:
        unit: What is protected; `person` needs a column at each site.
        records_per_unit: k, most records of one person that count.
        sampling_num: Poisson rate q as a numerator over 2^64.
        noise_multiplier: sigma, standard deviation of the noise over the clipping norm.
        clip: C, the L2 clipping norm of one unit's gradient.
        nominal_units: The public number of units that B = q * nominal_units is formed with.
        delta: For the figure by plan; each site's budget has its own.
    """

    unit: Literal["record", "person"]
    records_per_unit: int = Field(1, ge=1, le=1024)
    relation: Literal["add-remove"] = "add-remove"
    sampling_num: int = Field(ge=1, le=2**64)
    noise_multiplier: DecimalText
    clip: DecimalText
    nominal_units: int = Field(ge=1, le=2**53)
    delta: DecimalText

    @property
    def sampling_rate(self) -> float:
        """q as a float, for people; the sampler uses the integer."""
        return self.sampling_num / 2**64

    @property
    def batch(self) -> float:
        """B, the public denominator of a noisy step."""
        return self.sampling_rate * self.nominal_units

    @model_validator(mode="after")
    def _positive(self) -> DpSpec:
        for name in ("noise_multiplier", "clip", "delta"):
            if Decimal(getattr(self, name)) <= 0:
                raise ValueError(f"{name} must be above 0; a job without noise has no `dp` section")
        if Decimal(self.noise_multiplier) > NOISE_MAX:
            raise ValueError(f"noise_multiplier must be at most {NOISE_MAX}")
        if self.unit == "record" and self.records_per_unit != 1:
            raise ValueError("records_per_unit belongs to unit = person")
        return self


class NoiseShares(_Frozen):
    """Noise shares of the modes `distributed` and `client`; carried, and refused until built."""

    sigma_total: DecimalText
    scale: DecimalText
    honest_min: int = Field(ge=1)


class JobPlan(_Frozen):
    """A job, as an admin signs it.

    Attributes:
        kind: `vector` sums named arrays that were made elsewhere; `train` trains adapters.
        mode: Where the noise of differential privacy comes from; only `example` is built.
        shapes: Names and shapes of the arrays a contribution carries.
        bound: Largest magnitude of w * x in a contribution, in model units.
        bits: Fixed-point bits b of one coordinate.
        weights: `uniform` is the only choice under DP; `declared` is a public constant of a site.
        weight_cap: Largest weight w.
        survivors_min: Fewest survivors for which noise shares are sized; 0 in mode `example`.
        spare_rounds: Rounds that may be trained again and are then charged again.
        epsilon_by_round: Epsilon by plan after each round, decimal text, worked out by
            whoever signed and by every site again; empty where nothing is promised.
        policy: Digest of the policy text that the consortium agreed on, if it did.
    """

    schema_version: Literal[1] = 1
    federation: _Shown
    job: Name
    kind: Literal["vector", "train"]
    created: _Shown
    created_by: Name
    rounds: int = Field(ge=1, le=100_000)
    spare_rounds: int = Field(0, ge=0, le=1000)
    min_cohort: int = Field(3, ge=3, le=2**31)
    mode: Literal["example", "distributed", "client"] = "example"
    noise_shares: NoiseShares | None = None
    survivors_min: int = Field(0, ge=0, le=2**31)
    shapes: dict[_Shown, tuple[Side, ...]] = Field(min_length=1)
    bound: DecimalText
    bits: int = Field(16, ge=2, le=PLAN_BITS_MAX)
    rounding: Literal["stochastic"] = "stochastic"
    weights: Literal["uniform", "declared"] = "uniform"
    weight_cap: int = Field(1, ge=1)
    training: TrainSpec | None = None
    dp: DpSpec | None = None
    epsilon_by_round: tuple[DecimalText, ...] = ()
    deadlines: Deadlines = Deadlines()
    policy: HexDigest | None = None

    @model_validator(mode="after")
    def _consistent(self) -> JobPlan:
        if (self.kind == "train") != (self.training is not None):
            raise ValueError("a job of kind `train`, and no other, has a training section")
        if self.dp is not None and self.kind != "train":
            raise ValueError("a vector job trains nothing, so it has no dp section")
        if self.dp is not None and self.weights != "uniform":
            raise ValueError("under DP weights are uniform: a count of examples is private")
        if (self.mode == "example") != (self.noise_shares is None):
            raise ValueError("noise_shares belong to the modes `distributed` and `client`")
        if self.mode == "example" and self.survivors_min:
            raise ValueError("survivors_min belongs to the modes `distributed` and `client`")
        if self.weight_cap > 2**self.bits - 1:
            raise ValueError("weight_cap must fit in `bits`")
        if self.epsilon_by_round and self.dp is None:
            raise ValueError("epsilon_by_round belongs to a dp section: without one epsilon is infinite")
        if self.epsilon_by_round and not len(self.epsilon_by_round) == self.rounds <= CURVE_MAX:
            raise ValueError(f"epsilon_by_round has one figure for each round, of {CURVE_MAX} at most")
        if Decimal(self.bound) <= 0:
            raise ValueError("bound must be above 0")
        return self

    @property
    def layout(self) -> Layout:
        """The names and shapes as a flat vector's layout."""
        return Layout.from_shapes(self.shapes)


class RoundPlan(_Frozen):
    """One round of a job, as the aggregator signs it."""

    schema_version: Literal[1] = 1
    job: Name
    job_plan: HexDigest
    round: int = Field(ge=1, le=2**31)
    base: HexDigest
    deadlines: Deadlines


def job_plan_digest(statement: bytes) -> Digest:
    """Digest of a job plan's exact bytes."""
    return digest(Label.JOB_PLAN, statement)


def round_plan_digest(statement: bytes) -> Digest:
    """Digest of a round plan's exact bytes."""
    return digest(Label.ROUND_PLAN, statement)
