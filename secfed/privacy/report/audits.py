"""What audits measured, read from the files they left beside a ledger (`audits/*.json`).

An audit tries from outside what the account claims from inside. Its file is neither chained nor signed,
so a report shows what it says as the site's own measurement, and one of an unknown form as just that.
What follows from its figures is worked out here: a verdict that stands in a file is not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from secfed.errors import StorageError
from secfed.store.files import storage_errors

__all__ = [
    "AUDITS", "Audit", "Canaries", "Claim", "Mechanism", "Unread", "Verdict", "in_words", "read", "verdict",
]  # fmt: skip

AUDITS = "audits"
"""The folder beside the ledgers."""

_BYTES_MAX = 1 << 20
"""Longest file that is read: far above any audit's."""

_Text = Annotated[str, Field(max_length=300, pattern=r"^[\x20-\x7e]*$")]
"""Printable, so that it cannot disturb a terminal."""

_Count = Annotated[int, Field(ge=0)]


class _Read(BaseModel):
    """Fields that are not shown are ignored: an audit may say more than a report does."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return self.model_dump(mode="json", by_alias=True)


Verdict = Literal["consistent", "refuted", "no claim", "not comparable"]
"""What a lower bound does to a claim."""


def verdict(lower: float, delta: float, claimed: tuple[float | None, float] | None) -> Verdict:
    """Hold a lower bound on epsilon at `delta` against a claim; it says nothing of one at another delta.

    Args:
        claimed: Epsilon, None where nothing private was claimed, and its delta; None for no claim at all.
    """
    epsilon, at = claimed or (None, delta)
    if epsilon is None:
        return "no claim"
    if delta != at:
        return "not comparable"
    return "refuted" if lower > epsilon else "consistent"


class Claim(_Read):
    """What an audit was held against; no epsilon where nothing private was claimed."""

    epsilon: float | None
    delta: float


class Canaries(_Read):
    """A lower bound on epsilon, from guessing which planted rows were trained on.

    Attributes:
        epsilon_lower: Holds with `confidence` at `delta`; 0 where nothing was found.
        ceiling: The most that so many guesses can show.
    """

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["canaries"]
    date: _Text
    method: _Text
    confidence: float
    epsilon_lower: float
    delta: float
    ceiling: float
    canaries: _Count
    guesses: _Count
    right: _Count
    job: _Text | None
    round: int | None
    adapter: _Text
    claim: Claim | None

    @property
    def verdict(self) -> Verdict:
        """See `verdict`."""
        claim = self.claim
        return verdict(
            self.epsilon_lower, self.delta, None if claim is None else (claim.epsilon, claim.delta)
        )

    def to_json(self) -> dict[str, object]:
        """As a JSON object, with the verdict."""
        return {**super().to_json(), "verdict": self.verdict}


class Check(_Read):
    """One check of a mechanism: its figure must lie between two bounds."""

    name: _Text
    figure: float
    low: float | None
    high: float | None
    passed: bool


class Mechanism(_Read):
    """Whether the noise and the clipping are what they are said to be; without a check it says nothing."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["mechanism"]
    date: _Text
    job: _Text | None
    trainer: _Text
    base_model: _Text
    error: float
    passed: bool
    checks: tuple[Check, ...] = Field(min_length=1)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed; of none, where only the audit as a whole says so."""
        return tuple(check.name for check in self.checks if not check.passed)

    @property
    def verdict(self) -> Literal["passed", "failed"]:
        """An audit that says of itself or of one of its checks that it failed, failed."""
        return "passed" if self.passed and not self.failed else "failed"

    def to_json(self) -> dict[str, object]:
        """As a JSON object, with the verdict."""
        return {**super().to_json(), "verdict": self.verdict}


class Unread(_Read):
    """A file that is no audit of a known form."""

    kind: Literal["unknown"] = "unknown"
    name: str


Audit = Canaries | Mechanism | Unread

_KNOWN: TypeAdapter[Canaries | Mechanism] = TypeAdapter(
    Annotated[Canaries | Mechanism, Field(discriminator="kind")]
)


def read(folder: Path) -> tuple[Audit, ...]:
    """All audits of a folder in the order of their dates, unknown ones last; none where there is no folder.

    Raises:
        StorageError: A file cannot be read.
    """
    with storage_errors(folder):
        paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    audits = [_read(path) for path in paths]
    return tuple(sorted(audits, key=lambda audit: (1, "") if isinstance(audit, Unread) else (0, audit.date)))


def _read(path: Path) -> Audit:
    with storage_errors(path), path.open("rb") as file:
        data = file.read(_BYTES_MAX + 1)
    try:
        if len(data) > _BYTES_MAX:
            raise StorageError(f"{path} is longer than {_BYTES_MAX} bytes")
        return _KNOWN.validate_json(data)
    except (ValidationError, StorageError):
        return Unread(name=ascii(path.name)[1:-1])


def in_words(audit: Audit) -> str:
    """What an audit found, in a sentence or two."""
    match audit:
        case Canaries():
            where = "" if audit.job is None else f" of job {audit.job}"
            where += "" if audit.round is None else f", round {audit.round}"
            return (
                f"{audit.date[:10]}, guessing{where}: with {100 * audit.confidence:g} of 100 confidence "
                f"epsilon is at least {audit.epsilon_lower:.3f} at delta {audit.delta:g} ({audit.right} of "
                f"{audit.guesses} guesses right, {audit.canaries} planted rows, {audit.method}); "
                f"{_claimed(audit.claim)}: {audit.verdict}. So many guesses could not show more than "
                f"{audit.ceiling:.3f}."
            )
        case Mechanism():
            failed = ", ".join(audit.failed) or "the audit as a whole"
            end = "all passed" if audit.verdict == "passed" else f"FAILED: {failed}"
            return (
                f"{audit.date[:10]}, the noise of trainer {audit.trainer} on {audit.base_model}: "
                f"checks {len(audit.checks)}, {end}."
            )
        case Unread():
            return f"An audit of an unknown format: {audit.name}."


def _claimed(claim: Claim | None) -> str:
    if claim is None:
        return "no figure was claimed"
    if claim.epsilon is None:
        return "nothing private was claimed"
    return f"claimed was {claim.epsilon:.3f} at delta {claim.delta:g}"
