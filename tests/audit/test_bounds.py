"""The statistics of the one-run audit: against exact tails, mechanisms at the limit, and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from secfed.audit.bounds import (
    ceiling,
    epsilon_lower,
    gaussian_ceiling,
    gaussian_epsilon,
    gaussian_refuted,
    mu_lower,
    p_value,
)

LEVEL = 0.05


def success(epsilon: float) -> float:
    """How often randomised response tells the truth."""
    return 1 / (1 + math.exp(-epsilon))


# -- (epsilon, delta) --------------------------------------------------------------------------


def test_worked_by_hand() -> None:
    """Ten guesses, all right, delta 0: p = (e^eps / (1 + e^eps))^10, refuted below .05 up to 1.0519."""
    assert p_value(1.0, 0.0, canaries=10, guesses=10, right=10) == pytest.approx(success(1.0) ** 10)
    assert ceiling(10, LEVEL) == pytest.approx(math.log(0.05**0.1 / (1 - 0.05**0.1)))
    assert epsilon_lower(0.0, canaries=10, guesses=10, right=10, level=LEVEL) == pytest.approx(
        1.0519, abs=1e-4
    )


def test_delta_worked_by_hand() -> None:
    """m = 3, one guess, right, eps 0: P[W >= 1] = 1/2, and the largest of P[1 > W >= 1 - i] / i is 1/2."""
    assert p_value(0.0, 0.01, canaries=3, guesses=1, right=1) == pytest.approx(0.5 + 2 * 3 * 0.01 * 0.5)


@given(
    guesses=st.integers(1, 60),
    epsilon=st.floats(0, 6),
    share=st.floats(0, 1),
)
def test_randomised_response_reaches_the_plain_bound(guesses: int, epsilon: float, share: float) -> None:
    """With delta 0 the bound is the tail of randomised response itself: tight, and never below it."""
    right = round(share * guesses)
    tail = stats.binom.sf(right - 1, guesses, success(epsilon))
    assert p_value(epsilon, 0.0, canaries=60, guesses=guesses, right=right) == pytest.approx(tail)


@given(canaries=st.integers(2, 200), delta=st.floats(1e-6, 0.2))
def test_a_mechanism_that_names_some_outright_stays_within_the_bound(canaries: int, delta: float) -> None:
    """Each canary's coin is told with probability delta, else nothing: (0, delta)-DP.

    An auditor who is told j coins names them; for r guesses those beyond are tossed.
    """
    for guesses in {1, canaries // 2 or 1}:
        told = np.arange(canaries + 1)
        weights = stats.binom.pmf(told, canaries, delta)
        tossed = np.maximum(guesses - told, 0)
        for right in {guesses, (guesses + 1) // 2, guesses * 3 // 4}:
            tail = float(weights @ stats.binom.sf(right - 1 - np.minimum(told, guesses), tossed, 0.5))
            bound = p_value(0.0, delta, canaries=canaries, guesses=guesses, right=right)
            assert tail <= bound * (1 + 1e-9)


@given(guesses=st.integers(1, 200), delta=st.sampled_from([0.0, 1e-6, 1e-3]), share=st.floats(0, 1))
def test_what_is_refuted_ends_at_the_result(guesses: int, delta: float, share: float) -> None:
    right = round(share * guesses)
    facts = {"canaries": 200, "guesses": guesses, "right": right}
    found = epsilon_lower(delta, level=LEVEL, **facts)
    assert p_value(found + 1e-6, delta, **facts) >= LEVEL
    if found > 0:
        assert p_value(found * (1 - 1e-9), delta, **facts) < LEVEL
    assert found <= ceiling(guesses, LEVEL) + 1e-9


def test_more_right_guesses_never_show_less() -> None:
    for delta in (0.0, 1e-2):
        found = [
            epsilon_lower(delta, canaries=60, guesses=40, right=right, level=LEVEL) for right in range(41)
        ]
        assert found == sorted(found)
        assert found[20] == 0.0


def test_the_bound_grows_with_the_confidence_given_up() -> None:
    facts = {"canaries": 500, "guesses": 100, "right": 80}
    found = [epsilon_lower(1e-5, level=level, **facts) for level in (0.001, 0.01, 0.05, 0.2)]
    assert found == sorted(found)
    assert len(set(found)) == 4


# -- Gaussian trade-off curves -----------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("guesses", [1, 5, 40, 200])
def test_the_gaussian_mechanism_is_never_refuted_at_its_own_tail(mu: float, guesses: int) -> None:
    """Independent Gaussian canaries, all of them guessed: v or more right has exactly a binomial probability.

    At a level of just that probability the curve must stand, for every v: else the bound claims a
    tail smaller than a mechanism of this very curve has.
    """
    accuracy = stats.norm.cdf(mu / 2)
    for right in range(guesses + 1):
        tail = float(stats.binom.sf(right - 1, guesses, accuracy))
        if tail > 1e-12:
            assert not gaussian_refuted(mu, canaries=guesses, guesses=guesses, right=right, level=tail)


@pytest.mark.parametrize("guesses", [1, 2, 10])
def test_one_guess_among_many_canaries_stands_too(guesses: int) -> None:
    """The best of m canaries: a guess is right with a probability that a simulation gives (error 1e-6)."""
    generator = np.random.default_rng(5)
    canaries, runs, mu = 20, 40_000, 1.0
    coins = generator.integers(0, 2, (runs, canaries)) * 2 - 1
    seen = coins * mu / 2 + generator.normal(size=(runs, canaries))
    surest = np.argsort(-np.abs(seen), axis=1)[:, :guesses]
    hits = np.take_along_axis(np.sign(seen) == coins, surest, axis=1).sum(axis=1)
    for right in range(guesses // 2 + 1, guesses + 1):
        least = stats.beta.ppf(1e-6, (hits >= right).sum(), runs - (hits >= right).sum() + 1)
        assert not gaussian_refuted(mu, canaries=canaries, guesses=guesses, right=right, level=float(least))


def test_one_guess_worked_by_hand() -> None:
    """m = r = v = 1: at level p it is refuted if p + F^-1(p) > 1; for mu = 0 that is p > 1/2."""
    assert gaussian_refuted(0.0, canaries=1, guesses=1, right=1, level=0.51)
    assert not gaussian_refuted(0.0, canaries=1, guesses=1, right=1, level=0.49)
    # A right guess has a probability of at most Phi(mu / 2): mu = 1 gives .6915.
    assert gaussian_refuted(1.0, canaries=1, guesses=1, right=1, level=0.692)
    assert not gaussian_refuted(1.0, canaries=1, guesses=1, right=1, level=0.691)


def test_a_curve_without_privacy_is_found() -> None:
    """All of 1000 right: mu above 2, epsilon at 1e-5 above what 1000 plain guesses can show."""
    most = gaussian_ceiling(1000, 1000, LEVEL)
    assert 2.0 < most < 20.0
    assert gaussian_epsilon(most, 1e-5) > ceiling(1000, LEVEL)
    assert mu_lower(canaries=1000, guesses=1000, right=500, level=LEVEL) == 0.0


@pytest.mark.parametrize(("mu", "delta", "epsilon"), [(1.0, 1e-5, 4.377), (2.0, 1e-5, 9.997)])
def test_epsilon_of_a_gaussian_curve(mu: float, delta: float, epsilon: float) -> None:
    """One Gaussian release at sigma 1 is G_1, and G_2 under replace-one."""
    assert gaussian_epsilon(mu, delta) == pytest.approx(epsilon, abs=2e-3)


@given(mu=st.floats(0.01, 15), delta=st.sampled_from([1e-12, 1e-6, 1e-3, 0.3]))
def test_epsilon_and_delta_of_a_gaussian_curve_agree(mu: float, delta: float) -> None:
    found = gaussian_epsilon(mu, delta)
    normal = stats.norm
    excess = normal.cdf(mu / 2 - found / mu) - math.exp(found + normal.logcdf(-mu / 2 - found / mu))
    assert excess <= delta * (1 + 1e-6)
    if found > 0:
        assert excess == pytest.approx(delta, rel=1e-4)


# -- coverage, by simulation -------------------------------------------------------------------

RUNS = 400
MOST = int(stats.binom.isf(1e-6, RUNS, LEVEL))
"""Runs that may exceed the truth, of 400 with a chance of 5 % each: more happens once in 10^6."""


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 4.0])
def test_the_plain_bound_covers_randomised_response(epsilon: float) -> None:
    """Seeded; m = 100, all guessed. Not vacuous: the bound reaches a quarter of the truth on average."""
    generator = np.random.default_rng(round(10 * epsilon))
    right = generator.binomial(100, success(epsilon), RUNS)
    found = {
        v: epsilon_lower(1e-6, canaries=100, guesses=100, right=v, level=LEVEL) for v in set(right.tolist())
    }
    shown = np.array([found[v] for v in right.tolist()])
    assert (shown > epsilon).sum() <= MOST
    assert shown.mean() >= epsilon / 4


@pytest.mark.parametrize("mu", [0.5, 1.5])
def test_the_gaussian_bound_covers_the_gaussian_mechanism(mu: float) -> None:
    """Seeded; m = 200, the 20 highest named in, the 20 lowest out."""
    generator = np.random.default_rng(round(10 * mu))
    coins = generator.integers(0, 2, (RUNS, 200)).astype(bool)
    seen = np.where(coins, mu / 2, -mu / 2) + generator.normal(size=coins.shape)
    order = np.argsort(-seen, axis=1)
    ranked = np.take_along_axis(coins, order, axis=1)
    right = ranked[:, :20].sum(axis=1) + (~ranked[:, -20:]).sum(axis=1)
    found = {v: mu_lower(canaries=200, guesses=40, right=v, level=LEVEL) for v in set(right.tolist())}
    shown = np.array([found[v] for v in right.tolist()])
    assert (shown > mu).sum() <= MOST
    assert shown.max() > 0.1 * mu


@pytest.mark.parametrize(("guesses", "right"), [(0, 0), (11, 3), (5, 6), (5, -1)])
def test_impossible_counts_are_a_callers_bug(guesses: int, right: int) -> None:
    with pytest.raises(ValueError, match="at most"):
        p_value(1.0, 0.0, canaries=10, guesses=guesses, right=right)
    with pytest.raises(ValueError, match="at most"):
        gaussian_refuted(1.0, canaries=10, guesses=guesses, right=right, level=LEVEL)
