"""From coins and scores to bounds: who is named, what a union bound costs, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from secfed.audit import bounds
from secfed.audit.canary import COUNT_MIN
from secfed.audit.guesses import choices, lower_bounds, right_guesses
from secfed.errors import ConfigError, DataError

COINS = np.array([True, False, True, True, False, False])
SCORES = np.array([3.0, 2.0, 1.0, 0.0, -1.0, -2.0])


@pytest.mark.parametrize(
    ("choice", "right"),
    [((1, 0), 1), ((2, 0), 1), ((3, 3), 4), ((0, 2), 2), ((0, 3), 2), ((2, 1), 2), ((6, 0), 3)],
)
def test_right_guesses_worked_by_hand(choice: tuple[int, int], right: int) -> None:
    assert right_guesses(COINS, SCORES, choice) == right


def test_equal_scores_go_by_number_and_not_by_coin() -> None:
    """With equal scores the first are named in, whatever their coins."""
    flat = np.zeros(6)
    assert right_guesses(COINS, flat, (2, 2)) == 1 + 2
    assert right_guesses(~COINS, flat, (2, 2)) == 1 + 0


def test_choices_fit_the_canaries() -> None:
    assert choices(1000) == ((500, 500), (166, 166), (50, 50), (0, 200))
    assert choices(COUNT_MIN) == ((10, 10),)


def test_a_choice_made_beforehand_gets_the_whole_error() -> None:
    coins, scores = np.arange(100) < 50, -np.arange(100.0)
    plain, curve = lower_bounds(coins, scores, delta=1e-5, tried=((40, 40),))
    assert (plain.guessed_in, plain.guessed_out, plain.right, plain.choices) == (40, 40, 80, 1)
    assert plain.level == pytest.approx(0.05)
    exact = bounds.epsilon_lower(1e-5, canaries=100, guesses=80, right=80, level=plain.level)
    assert 0 <= exact - plain.epsilon_lower < 1e-3
    assert curve.mu_lower == pytest.approx(bounds.mu_lower(canaries=100, guesses=80, right=80, level=0.05))
    assert plain.epsilon_lower <= plain.ceiling < curve.epsilon_lower == curve.ceiling


def test_several_choices_share_the_error() -> None:
    """The best of three is worked out at a third of 5 %, and so shows less than the same one alone."""
    coins, scores = np.arange(100) < 50, -np.arange(100.0)
    tried = ((50, 50), (20, 20), (5, 5))
    together = lower_bounds(coins, scores, delta=1e-5, tried=tried)[0]
    alone = lower_bounds(coins, scores, delta=1e-5, tried=((50, 50),))[0]
    assert together.level == pytest.approx(0.05 / 3)
    assert (together.guessed_in, together.guessed_out) == (50, 50)
    assert 0 < together.epsilon_lower < alone.epsilon_lower


def test_the_unasked_grid_covers_the_truth() -> None:
    """Scores of a Gaussian mechanism with mu = 1, at at delta 1e-3: seeded; both bounds, 40 runs.

    Each may exceed the truth in 5 % of runs; more than the bound below happens once in 10^6.
    """
    generator = np.random.default_rng(3)
    truth = bounds.gaussian_epsilon(1.0, 1e-3)
    over = np.zeros(2, dtype=int)
    runs = 40
    for _ in range(runs):
        coins = generator.integers(0, 2, 100).astype(bool)
        scores = np.where(coins, 0.5, -0.5) + generator.normal(size=100)
        over += [bound.epsilon_lower > truth for bound in lower_bounds(coins, scores, delta=1e-3)]
    assert (over <= stats.binom.isf(1e-6, runs, 0.05)).all()


def test_redrawn_coins_show_nothing() -> None:
    """Scores without privacy, held against coins that they never saw: 0, but for 5 % of redraws."""
    generator = np.random.default_rng(4)
    scores = np.where(generator.integers(0, 2, 200) == 1, 1.0, -1.0) + 1e-3 * generator.normal(size=200)
    shown = [
        [
            bound.epsilon_lower > 0
            for bound in lower_bounds(generator.integers(0, 2, 200) == 1, scores, delta=1e-5)
        ]
        for _ in range(60)
    ]
    assert (np.sum(shown, axis=0) <= stats.binom.isf(1e-6, 60, 0.05)).all()


def test_too_few_canaries_are_refused_with_a_remedy() -> None:
    with pytest.raises(DataError, match="19 canaries are too few: 20 are needed") as refusal:
        lower_bounds(np.ones(19, dtype=bool), np.zeros(19), delta=1e-5)
    assert "--count" in refusal.value.hint


@pytest.mark.parametrize("bad", [np.full(20, np.nan), np.full(20, np.inf), np.zeros(19)])
def test_scores_that_are_no_numbers_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="one score"):
        lower_bounds(np.ones(20, dtype=bool), bad, delta=1e-5)


@pytest.mark.parametrize("choice", [(0, 0), (20, 1), (-1, 5)])
def test_guesses_that_do_not_fit_are_refused(choice: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="do not fit 20 canaries"):
        lower_bounds(np.ones(20, dtype=bool), np.zeros(20), delta=1e-5, tried=(choice,))


@pytest.mark.parametrize(("delta", "confidence"), [(0.0, 0.9), (1.0, 0.9), (1e-5, 1.0), (1e-5, 0.0)])
def test_a_delta_or_confidence_out_of_range_is_refused(delta: float, confidence: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        lower_bounds(np.ones(20, dtype=bool), np.zeros(20), delta=delta, confidence=confidence)
