"""The configuration files as frozen models: every key with its type, bounds, default and meaning."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from secfed.config.trainers import TRAINERS
from secfed.errors import ConfigError
from secfed.ids import SITE_PATTERN

__all__ = [
    "AdminConfig",
    "AggregatorConfig",
    "BudgetPolicy",
    "ClientConfig",
    "ConfigPath",
    "DataConfig",
    "JobPolicy",
    "PhaseSeconds",
    "PolicyConfig",
    "Section",
    "TrainingSeconds",
    "check_dialled",
    "split_address",
]


_ADDRESS = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45}(?:%[0-9A-Za-z._-]{1,64})?)\]|([0-9A-Za-z._-]{1,253})):([0-9]{1,5})"
)
"""An IPv6 address with its zone, or a host's ASCII name or IPv4 address; then the port. An address is
printed, so no other character gets in: one that steers a terminal could change what stands beside it."""


def split_address(text: str) -> tuple[str, int]:
    """Part `host:port`, an IPv6 address standing in brackets.

    Raises:
        ValueError: Another form, a host that cannot be one, or a port out of range.
    """
    parts = _ADDRESS.fullmatch(text)
    if parts is None:
        raise ValueError("expected host:port, such as 127.0.0.1:8443, the host in ASCII")
    bracketed, plain, port = parts.groups()
    if bracketed is not None:
        ipaddress.IPv6Address(bracketed)
    if int(port) > 65535:
        raise ValueError("a port is at most 65535")
    return bracketed or plain, int(port)


def check_dialled(text: str) -> str:
    """An address that somebody can dial, as it is.

    Raises:
        ValueError: As `split_address`, or without its port.
    """
    if split_address(text)[1] == 0:
        raise ValueError("an address to dial needs its port")
    return text


def _check_listen(text: str) -> str:
    split_address(text)
    return text


def _check_loopback(text: str) -> str:
    host, _port = split_address(text)
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        raise ValueError("must be a loopback address: status and metrics are neither encrypted nor signed")
    return text


def _check_site(text: str) -> str:
    if not SITE_PATTERN.fullmatch(text):
        raise ValueError("expected 1 to 63 lower-case letters, digits and inner hyphens")
    return text


def _check_public_key(text: str) -> str:
    if len(base64.b64decode(text, validate=True)) != 32:
        raise ValueError("expected 32 bytes in base64")
    return text


def _resolve(path: Path, info: ValidationInfo) -> Path:
    """Make a path absolute, from the folder of the file it stands in; `~` is the user's home."""
    try:
        home = path.expanduser()
    except RuntimeError as problem:
        raise ValueError("~ names no home directory here; write the whole path") from problem
    return Path(os.path.abspath(Path(info.context or "") / home))


ConfigPath = Annotated[Path, AfterValidator(_resolve)]
"""A path; a relative one is relative to the file it stands in."""

_Site = Annotated[StrictStr, AfterValidator(_check_site)]
_Listen = Annotated[StrictStr, AfterValidator(_check_listen)]
_Dial = Annotated[StrictStr, AfterValidator(check_dialled)]
_Loopback = Annotated[StrictStr, AfterValidator(_check_loopback)]
_PublicKey = Annotated[StrictStr, AfterValidator(_check_public_key)]
PhaseSeconds = Annotated[StrictInt, Field(ge=1, le=3600)]
"""How long a phase or an upload that stands still may be waited for: what a round's plan can say."""

TrainingSeconds = Annotated[StrictInt, Field(ge=1, le=7 * 86_400)]
"""How long sites may train in one round, likewise."""

_Positive = Annotated[StrictFloat, Field(gt=0, allow_inf_nan=False)]
_Probability = Annotated[StrictFloat, Field(gt=0, lt=1)]


class Section(BaseModel):
    """What all tables have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AggregatorConfig(Section):
    """`aggregator.toml`: one aggregator process."""

    site: _Site = Field(description="This aggregator's name in the roster.")
    key: ConfigPath = Field(description="Its private key file.")
    roster: ConfigPath = Field(description="The signed roster; a new version is taken up while running.")
    roster_key: _PublicKey = Field(description="The federation's public roster key: pinned, never replaced.")
    state_dir: ConfigPath = Field(
        description="Decisions, uploads, journals: never edit it, never restore it from a copy."
    )
    output_dir: ConfigPath = Field(description="Where the adapters and manifests of finished rounds go.")
    listen: _Listen = Field(
        "127.0.0.1:8443", description="Where sites connect (mTLS). Port 0 takes any free port."
    )
    advertise: _Dial | None = Field(None, description="The address in invites, if sites dial another one.")
    ops_listen: _Loopback = Field(
        "127.0.0.1:9443", description="Health and metrics: plain HTTP, so loopback only."
    )
    health_listen: _Loopback | None = Field(
        None, description="The gRPC health service, in plain text, so loopback only; none given: no such."
    )
    training_deadline_s: TrainingSeconds = Field(3600, description="How long sites may train in one round.")
    phase_timeout_s: PhaseSeconds = Field(60, description="How long one phase of the secure sum may take.")
    upload_idle_s: PhaseSeconds = Field(30, description="An upload without progress for so long is dropped.")
    max_upload_mib: StrictInt = Field(1024, ge=1, le=65536, description="Largest upload of one site, MiB.")
    retain_uploads: StrictBool = Field(
        False, description="Keep masked uploads after the sum, for a reviewer; they are removed otherwise."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error."
    )

    @model_validator(mode="after")
    def _one_port_each(self) -> Self:
        if self.health_listen == self.ops_listen and not self.ops_listen.endswith(":0"):
            raise ValueError("health_listen and ops_listen need an address each")
        return self


class AdminConfig(Section):
    """`admin.toml`: who starts and stops jobs, or reads their status."""

    site: _Site = Field(description="This admin's name in the roster.")
    key: ConfigPath = Field(description="Its private key file.")
    federation: Annotated[StrictStr, Field(pattern="^[0-9a-f]{32}$")] = Field(
        description="The federation's id, made from its roster key."
    )
    roster_key: _PublicKey = Field(description="The federation's public roster key: pinned, never replaced.")
    roster: ConfigPath = Field(description="The newest roster seen.")
    aggregator: _Dial = Field(description="The aggregator's address.")


class DataConfig(Section):
    """`[data]` of `client.toml`: what this site trains on."""

    file: ConfigPath = Field(description="A .jsonl, .csv or .parquet file; it never leaves this site.")
    unit: Annotated[StrictStr, Field(min_length=1)] = Field(
        description='What privacy protects: "record", or the column that names the person.'
    )
    max_records_per_unit: StrictInt | None = Field(
        None,
        ge=1,
        description="Records of one person that are used; more are left out. Needed with a column.",
    )
    text: StrictStr = Field("text", description="Column of the text (classify).")
    label: StrictStr = Field("label", description="Column of the label (classify), or of the thumb (kto).")
    labels: tuple[StrictStr, ...] = Field(
        (), description="Classes a plan must name, in any order; none given: what it names (classify)."
    )
    messages: StrictStr = Field("messages", description="Column of whole chats (sft).")
    prompt: StrictStr = Field(
        "prompt",
        description="Column of the prompt (sft, dpo, kto); pairs may have it in both responses instead.",
    )
    completion: StrictStr = Field("completion", description="Column of the completion (sft, kto).")
    chosen: StrictStr = Field("chosen", description="Column of the preferred response (dpo).")
    rejected: StrictStr = Field("rejected", description="Column of the other response (dpo).")
    public_n: StrictInt = Field(
        ge=1, description="A public round figure for the number of units; the true count stays private."
    )

    @property
    def columns(self) -> dict[str, str]:
        """Every trainer's column name to this file's."""
        return {
            "text": self.text,
            "label": self.label,
            "messages": self.messages,
            "prompt": self.prompt,
            "completion": self.completion,
            "chosen": self.chosen,
            "rejected": self.rejected,
        }

    @field_validator("labels")
    @classmethod
    def _different_labels(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if labels and len(set(labels)) < max(2, len(labels)):
            raise ValueError("classes are at least two, all different")
        return labels

    @model_validator(mode="after")
    def _bounded_units(self) -> Self:
        """A person without a bound on records has no bound on influence."""
        if self.unit == "record" and self.max_records_per_unit not in (None, 1):
            raise ValueError('with unit = "record" max_records_per_unit is 1 and need not be given')
        if self.unit != "record" and self.max_records_per_unit is None:
            raise ValueError("a unit column needs max_records_per_unit")
        return self


class ClientConfig(Section):
    """`client.toml`: one site."""

    site: _Site = Field(description="This site's name in the roster.")
    key: ConfigPath = Field(description="Its private key file.")
    federation: Annotated[StrictStr, Field(pattern="^[0-9a-f]{32}$")] = Field(
        description="The federation's id, made from its roster key."
    )
    roster_key: _PublicKey = Field(description="The federation's public roster key: pinned, never replaced.")
    roster: ConfigPath = Field(description="The newest roster seen.")
    aggregator: _Dial = Field(description="The aggregator's address.")
    aggregator_certificate: ConfigPath = Field(description="Its TLS certificate (PEM).")
    state_dir: ConfigPath = Field(description="State of running attempts. NOT for backups: never restore it.")
    ledger_dir: ConfigPath = Field(description="The privacy ledger: back it up, never edit it.")
    policy: ConfigPath = Field(description="What this site accepts.")
    output_dir: ConfigPath = Field(description="Where fetched adapters and reports go.")
    models_dir: ConfigPath = Field(
        Path("~/.cache/secfed"), validate_default=True, description="Folder of the base models to train."
    )
    device: Annotated[StrictStr, Field(pattern="^(auto|cpu|cuda(:[0-9]+)?)$")] = Field(
        "auto", description="auto, cpu, cuda or cuda:N."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Of the frozen base. bfloat16: half the memory; rows are then trained on one at a time.",
    )
    threads: StrictInt | None = Field(None, ge=1, le=1024, description="CPU threads; all if not given.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error."
    )
    data: DataConfig | None = Field(None, description="What this site trains on; none for vector jobs only.")


class BudgetPolicy(Section):
    """`[budget]` of `policy.toml`: what the data set may spend in all, written into its ledger once."""

    epsilon: _Positive = Field(description="The data set's cap over all jobs.")
    delta: _Probability | None = Field(None, description="Default: the smaller of 1e-6 and 1/(10 public_n).")

    def delta_for(self, public_n: int) -> float:
        """The budget's delta for a data set of about `public_n` units.

        Raises:
            ConfigError: The delta asked for would allow giving away a whole unit.
        """
        delta = min(1e-6, 1 / (10 * public_n)) if self.delta is None else self.delta
        if delta >= 1 / public_n:
            raise ConfigError(f"budget.delta = {delta:g} is not below 1/public_n = {1 / public_n:g}")
        return delta


class JobPolicy(Section):
    """`[job]` of `policy.toml`: which jobs this site takes part in."""

    max_epsilon: _Positive = Field(8.0, description="The most one job's whole plan may cost.")
    max_delta: _Probability = Field(1e-5, description="The largest delta a plan may name.")
    min_noise_multiplier: _Positive = Field(0.5, description="The least noise a plan may add.")
    min_cohort: StrictInt = Field(3, ge=3, description="The fewest sites whose sum may be opened.")
    unit: Literal["record", "person"] = Field("record", description='"person" refuses plans for records.')
    allowed_kinds: tuple[Literal["vector", "train"], ...] = Field(
        ("vector", "train"), description="vector: sums of files given by hand. train: training here."
    )
    allowed_base_models: tuple[StrictStr, ...] = Field(
        (), description="Base models that may be trained; none given: every one installed here."
    )
    allowed_trainers: tuple[StrictStr, ...] = Field(TRAINERS, description="Trainers.")
    allowed_strategies: tuple[StrictStr, ...] = Field(("fedavg", "ffa"), description="Strategies.")
    allow_non_private: StrictBool = Field(
        False, description="Accept releases WITHOUT differential privacy (epsilon is infinite)."
    )
    allow_declared: StrictBool = Field(
        False,
        description="Accept events that this site only declares (`client push`); nothing enforces them.",
    )

    @field_validator("allowed_kinds")
    @classmethod
    def _some_kind(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        if not kinds:
            raise ValueError("a policy that allows no kind of job accepts nothing")
        return kinds


class PolicyConfig(Section):
    """`policy.toml`: what a site accepts, whatever the aggregator plans."""

    budget: BudgetPolicy = Field(
        description="What the data set may spend in all; fixed when its ledger opens."
    )
    job: JobPolicy = Field(default_factory=JobPolicy, description="Which jobs this site takes part in.")
