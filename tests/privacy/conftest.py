"""What the tests of the account share: a fixed clock, a key, and ledgers in the making."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from secfed.crypto.signing import SigningKey
from secfed.ids import ClientId, Digest, JobId
from secfed.privacy import book
from secfed.privacy.budget import authorize
from secfed.privacy.entries import Budget, Voided
from secfed.privacy.events import Event, PoissonGaussian
from secfed.privacy.ledger import Ledger

PLAN = Digest(b"\x01" * 32)
JOB = JobId("reviews")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

BUDGET = Budget("3", "0.00001", 10_000)

Charge = Callable[..., object]


def dp_sgd(steps: int = 50, noise: str = "1", q: float = 0.01) -> PoissonGaussian:
    """DP-SGD over records, at the reference setting."""
    return PoissonGaussian(round(q * 2**64), noise, steps, "add-remove", "record")


@pytest.fixture
def event() -> Callable[..., PoissonGaussian]:
    return dp_sgd


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.from_seed(bytes(range(32)))


@pytest.fixture
def make(tmp_path: Path, key: SigningKey) -> Iterator[Callable[..., Ledger]]:
    """Makes ledgers of records with a budget of 3 at 1e-5, each in its own file, closed at the end."""
    made: list[Ledger] = []

    def create(name: str = "hosp-a", budget: Budget | None = BUDGET, **more: object) -> Ledger:
        settings: dict[str, object] = {
            "unit": "record",
            "records_per_unit": 1,
            "relation": "add-remove",
        } | more
        ledger = Ledger.create(
            tmp_path / f"{name}.ledger",
            key=key,
            site=ClientId(name),
            budget=budget,
            now=lambda: NOW,
            **settings,
        )
        made.append(ledger)
        return ledger

    yield create
    for ledger in made:
        ledger.close()


@pytest.fixture(scope="session")
def void() -> Callable[[Ledger, book.Charge, str], None]:
    """Takes a charge back, as a ledger's form allows; no command does."""

    def write(ledger: Ledger, charged: book.Charge, reason: str) -> None:
        reserved = charged.reserved
        at = f"{NOW:%Y-%m-%dT%H:%M:%SZ}"
        ledger._write(Voided(charged.number, reserved.job, reserved.round, reason, at))

    return write


@pytest.fixture
def charge() -> Charge:
    """Authorizes and reserves one event."""

    def reserve(ledger: Ledger, event: Event, round_number: int = 1, job: JobId = JOB) -> object:
        leave = authorize(ledger.state, event, allow_non_private=True)
        return ledger.reserve(job, round_number, PLAN, leave)

    return reserve
