"""The least noise that keeps a target, and no target that cannot be kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from secfed.errors import BudgetExceededError
from secfed.privacy.accountant import epsilon
from secfed.privacy.calibrate import STEP, noise_multiplier
from secfed.privacy.events import PoissonGaussian

Make = Callable[..., PoissonGaussian]


@pytest.mark.parametrize(("target", "steps", "q"), [(3.0, 24, 0.064), (0.2, 100, 0.01)])
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


def test_a_target_out_of_reach_is_refused(event: Make) -> None:
    with pytest.raises(BudgetExceededError, match="out of reach"):
        noise_multiplier(0.0005, event(1000), 1e-5)


@pytest.mark.parametrize("target", [0, -1, float("inf"), float("nan")])
def test_a_target_must_be_a_positive_number(event: Make, target: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        noise_multiplier(target, event(), 1e-5)
