"""The files of an audit: coins, scores and results, as strict JSON models with one schema number.

Coins and scores name the canaries that they belong to by the digest of the canaries' file, so that
coins of one set are never held against scores of another. Results go into `audits/` beside the
ledger, one file each, never overwritten; the report shows them beside the claim.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from secfed.audit.guesses import Bound
from secfed.errors import DataError
from secfed.privacy.report.audits import AUDITS, Verdict, verdict
from secfed.store import files

__all__ = [
    "CanaryResult",
    "Check",
    "Claim",
    "Coins",
    "MechanismResult",
    "Scores",
    "canary_result",
    "file_sha256",
    "load",
    "save",
    "to_bytes",
]

_FILE_BYTES_MAX = 64 << 20
"""Largest file that is read: a score a canary, and some."""

_HexDigest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
_Bits = Annotated[str, StringConstraints(pattern="^[01]+$")]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Coins(_Document):
    """The secret coins of a set of canaries.

    Attributes:
        canaries_sha256: Of the canaries' file.
        included: A 1 for each canary that was put into the data, else a 0.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    kind: Literal["canary-coins"] = "canary-coins"
    trainer: str
    canaries_sha256: _HexDigest
    included: _Bits = Field(repr=False)


class Claim(_Document):
    """What an audit is held against."""

    epsilon: float = Field(ge=0, allow_inf_nan=False)
    delta: float = Field(gt=0, lt=1)
    source: Literal["round manifest", "option"]


class Scores(_Document):
    """One score a canary, from an adapter.

    Attributes:
        adapter: SHA-256 of the adapter's weights.
        result: What the round's manifest calls the adapter; None without a manifest.
        job, round, job_plan: As the manifest names them.
        claim: What the manifest says was spent, if it does.
        scores: Loss before training minus loss after, in the order of the canaries.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    kind: Literal["canary-scores"] = "canary-scores"
    canaries_sha256: _HexDigest
    trainer: str
    base_model: str
    adapter: _HexDigest
    result: _HexDigest | None
    job: str | None
    round: int | None
    job_plan: _HexDigest | None
    claim: Claim | None
    scores: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(min_length=1, repr=False)


class CanaryResult(_Document):
    """A one-run audit's outcome; `epsilon_lower` is that of the bound without an assumption.

    Attributes:
        verdict: `refuted` where the lower bound exceeds a claim at the same delta.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    kind: Literal["canaries"] = "canaries"
    date: str
    method: str
    confidence: float
    epsilon_lower: float
    delta: float
    ceiling: float
    canaries: int
    guesses: int
    right: int
    job: str | None
    round: int | None
    adapter: _HexDigest
    result: _HexDigest | None
    job_plan: _HexDigest | None
    trainer: str
    base_model: str
    canaries_sha256: _HexDigest
    claim: Claim | None
    verdict: Verdict
    bounds: tuple[Bound, ...]


class Check(_Document):
    """One measured figure and the range that a right mechanism keeps it in.

    Attributes:
        low, high: The range, ends included; None for no end.
    """

    name: str
    figure: float
    low: float | None
    high: float | None
    passed: bool
    about: str


class MechanismResult(_Document):
    """A mechanism audit's outcome.

    Attributes:
        base_model: Its public id, or `random weights`.
        error: Chance that a right mechanism fails one of the statistical checks.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    kind: Literal["mechanism"] = "mechanism"
    date: str
    job: str | None
    trainer: str
    base_model: str
    noise_multiplier: float
    clip: float
    batch: float
    error: float
    passed: bool
    checks: tuple[Check, ...]

    @model_validator(mode="after")
    def _passed_if_all(self) -> MechanismResult:
        if self.passed != all(check.passed for check in self.checks):
            raise ValueError("an audit passes if all of its checks do")
        return self


_Kind = TypeVar("_Kind", bound=_Document)


def load(path: Path, kind: type[_Kind]) -> _Kind:
    """Read a file of one kind.

    Raises:
        DataError: Not a file of this kind, or damaged.
    """
    what = (kind.__doc__ or "").partition(".")[0].lower()
    try:
        if path.stat().st_size > _FILE_BYTES_MAX:
            raise DataError(f"{path} is too long to be a file of an audit", hint=_REMEDY)
        return kind.model_validate_json(path.read_bytes())
    except OSError as problem:
        raise DataError(f"{path}: {problem.strerror}", hint=_REMEDY) from problem
    except ValidationError as problem:
        first = problem.errors(include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{path} does not hold {what}: {place}: {first['msg']}", hint=_REMEDY) from None


_REMEDY = "Name the file that `secfed audit canaries make` or `score` wrote."


def to_bytes(document: _Document) -> bytes:
    """The JSON text of a document; `load` reads it back."""
    return json.dumps(document.model_dump(mode="json", by_alias=True), indent=2).encode() + b"\n"


def save(result: CanaryResult | MechanismResult, ledger_dir: Path) -> Path:
    """Put a result beside the ledgers, 0600, under a name that tells it from all others.

    Returns:
        The file.

    Raises:
        StorageError: It cannot be written, or is there already.
    """
    data = to_bytes(result)
    directory = ledger_dir / AUDITS
    files.make_directory(directory)
    moment = result.date.replace("-", "").replace(":", "")
    path = directory / f"{result.kind}-{moment}-{hashlib.sha256(data).hexdigest()[:8]}.json"
    files.create_exclusive(path, data)
    return path


def canary_result(
    scores: Scores,
    found: tuple[Bound, Bound],
    *,
    delta: float,
    confidence: float,
    claim: Claim | None,
    date: str,
) -> CanaryResult:
    """What two bounds on one set of scores come to, beside the claim."""
    plain = found[0]
    return CanaryResult(
        date=date,
        method=f"one-run audit, {plain.source}",
        confidence=confidence,
        epsilon_lower=plain.epsilon_lower,
        delta=delta,
        ceiling=plain.ceiling,
        canaries=len(scores.scores),
        guesses=plain.guessed_in + plain.guessed_out,
        right=plain.right,
        job=scores.job,
        round=scores.round,
        adapter=scores.adapter,
        result=scores.result,
        job_plan=scores.job_plan,
        trainer=scores.trainer,
        base_model=scores.base_model,
        canaries_sha256=scores.canaries_sha256,
        claim=claim,
        verdict=verdict(plain.epsilon_lower, delta, None if claim is None else (claim.epsilon, claim.delta)),
        bounds=found,
    )


def file_sha256(data: bytes) -> str:
    """SHA-256 of a file's exact bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()
