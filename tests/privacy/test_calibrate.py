"""The least noise that keeps a target, and no target that cannot be kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from secfed.errors import BudgetExceededError, LedgerError
from secfed.privacy import accountant, rdp
from secfed.privacy.accountant import epsilon
from secfed.privacy.calibrate import STEP, noise_multiplier
from secfed.privacy.events import Q_DENOMINATOR, PoissonGaussian

Make = Callable[..., PoissonGaussian]


@pytest.mark.parametrize(
    ("target", "steps", "q"),
    [pytest.param(3.0, 24, 0.064, marks=pytest.mark.slow), (0.2, 100, 0.01)],
)
def test_the_target_is_kept_and_with_one_step_less_noise_it_is_not(
    event: Make, target: float, steps: int, q: float
) -> None:
    found = noise_multiplier(target, event(steps, "1", q), 1e-5)
    assert found.figure == epsilon([found.event], 1e-5)
    assert found.figure.epsilon <= target
    less = replace(found.event, noise_multiplier=format(Decimal(found.event.noise_multiplier) - STEP, "f"))
    assert epsilon([less], 1e-5).epsilon > target


def test_the_reference_setting_needs_noise_one(event: Make) -> None:
    found = noise_multiplier(1.829, event(1000, "7"), 1e-5)
    assert 0.999 <= float(found.event.noise_multiplier) <= 1


def test_a_generous_target_gets_the_least_noise_that_is_accounted(event: Make) -> None:
    assert noise_multiplier(10_000, event(1), 1e-5).event.noise_multiplier == "0.050"


def test_where_little_noise_cannot_be_bounded_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below some noise no bound is worked out, and above it the search goes on."""
    person = PoissonGaussian(round(0.001 * Q_DENOMINATOR), "1", 2, "add-remove", "person", 3, "record")
    monkeypatch.setattr(rdp, "_POINTS_MAX", 6000)
    rdp._divergences.cache_clear()
    with pytest.raises(LedgerError, match="too small"):
        epsilon([replace(person, noise_multiplier="0.05")], 1e-5)
    found = noise_multiplier(50.0, person, 1e-5)
    less = format(Decimal(found.event.noise_multiplier) - STEP, "f")
    with pytest.raises(LedgerError, match="too small"):
        epsilon([replace(person, noise_multiplier=less)], 1e-5)
    rdp._divergences.cache_clear()


@pytest.mark.parametrize(("event", "delta"), [("no relation", 1e-5), ("fine", 1.0)])
def test_a_question_without_an_answer_is_refused_at_once(event: str, delta: float) -> None:
    """Not searched for: what cannot be bounded with any noise."""
    records = 2 if event == "no relation" else 1
    unit, sampling = ("person", "record") if records > 1 else ("record", "unit")
    asked = PoissonGaussian(2**60, "1", 10, "replace-one", unit, records, sampling)  # type: ignore[arg-type]
    with pytest.raises(LedgerError):
        noise_multiplier(1.0, asked, delta)


def test_figures_that_rise_with_the_noise_are_refused(event: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    falling = iter((0.9, 0.8))

    def wrong(_events: list[PoissonGaussian], delta: float, **_: object) -> accountant.Figure:
        return accountant.Figure(next(falling), delta, "PLD", "a test", "add-remove", 1.0, 1.1)

    monkeypatch.setattr(accountant, "epsilon", wrong)
    with pytest.raises(LedgerError, match="under less noise"):
        noise_multiplier(1.0, event(2), 1e-5)


def test_a_target_out_of_reach_is_refused(event: Make) -> None:
    with pytest.raises(BudgetExceededError, match="out of reach"):
        noise_multiplier(0.0005, event(1000), 1e-5)


@pytest.mark.parametrize("target", [0, -1, float("inf"), float("nan")])
def test_a_target_must_be_a_positive_number(event: Make, target: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        noise_multiplier(target, event(), 1e-5)
