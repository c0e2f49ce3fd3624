"""Rényi bounds against closed forms, another library and an adaptive integrator."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import logsumexp

from secfed.errors import LedgerError
from secfed.privacy.events import (
    Q_DENOMINATOR,
    DiscreteGaussianSum,
    Event,
    Gaussian,
    NonPrivate,
    PoissonGaussian,
    Relation,
)
from secfed.privacy.rdp import FILTER_ORDERS, Mechanism, Meter, _divergences, tally


def poisson(
    q: float, noise: str, steps: int, relation: Relation = "add-remove", records: int = 1
) -> PoissonGaussian:
    unit = "record" if records == 1 else "person"
    sampling = "unit" if records == 1 else "record"
    return PoissonGaussian(round(q * Q_DENOMINATOR), noise, steps, relation, unit, records, sampling)


def filtered(*events: Event, delta: float = 1e-5) -> float:
    meter = Meter(delta)
    for event in events:
        meter.add(event)
    return meter.epsilon


@pytest.mark.parametrize(("relation", "sensitivity"), [("add-remove", 1), ("replace-one", 2)])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 7.5])
def test_without_sampling_it_is_the_gaussian_by_hand(
    relation: Relation, sensitivity: int, sigma: float
) -> None:
    """alpha (sensitivity / sigma)^2 / 2; replace-one doubles the sensitivity."""
    found = _divergences(Mechanism(Q_DENOMINATOR, sigma, relation), FILTER_ORDERS)
    by_hand = np.array(FILTER_ORDERS) * sensitivity**2 / (2 * sigma**2)
    np.testing.assert_allclose(found, by_hand, rtol=1e-10)
    assert np.all(found >= by_hand)


@pytest.mark.parametrize("q", [1e-6, 1e-4, 0.01, 0.3, 0.99])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
def test_integer_orders_match_the_binomial_formula_of_dp_accounting(q: float, sigma: float) -> None:
    accountant = RdpAccountant(FILTER_ORDERS)
    accountant.compose(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)))
    found = _divergences(Mechanism(round(q * Q_DENOMINATOR), sigma, "add-remove"), FILTER_ORDERS)
    np.testing.assert_allclose(found, accountant.rdp, rtol=1e-9, atol=1.1e-12)
    assert np.all(found >= accountant.rdp * (1 - 1e-9))


@pytest.mark.parametrize("order", [1.5, 7.8, 16.0])
@pytest.mark.parametrize(("relation", "records"), [("add-remove", 1), ("replace-one", 1), ("add-remove", 3)])
def test_every_pair_matches_adaptive_quadrature(relation: Relation, records: int, order: float) -> None:
    """The larger of both directions of the dominating pair, written out again."""
    q, sigma = 0.05, 1.2

    def log_density(x: float, sign: int) -> float:
        drawn = range(records + 1)
        weights = [math.comb(records, j) * q**j * (1 - q) ** (records - j) for j in drawn]
        return float(logsumexp([-((x - sign * j) ** 2) / (2 * sigma**2) for j in drawn], b=weights))

    def divergence(p: int, other: int) -> float:
        def integrand(x: float) -> float:
            return math.exp(order * log_density(x, p) + (1 - order) * log_density(x, other))

        value, _ = quad(
            integrand, -60, 60, epsabs=0, epsrel=1e-10, limit=500, points=[0, 3, order, order * records]
        )
        return math.log(value / (sigma * math.sqrt(2 * math.pi))) / (order - 1)

    other = -1 if relation == "replace-one" else 0
    by_quad = max(divergence(1, other), divergence(other, 1))
    found = _divergences(Mechanism(round(q * Q_DENOMINATOR), sigma, relation, records), (order,))
    assert found[0] == pytest.approx(by_quad, rel=1e-8)


@pytest.mark.parametrize("angle", [60, 120, 150, 180])
@pytest.mark.parametrize("length", [0.0, 0.5, 1.0])
def test_no_other_replacement_costs_more_than_the_pair(angle: float, length: float) -> None:
    """One unit at (1, 0), the one in its place anywhere within the clip: by quadrature in the plane."""
    q, sigma, order = 0.3, 1.1, 3
    side = np.arange(-14, 14, 0.1)
    x, y = np.meshgrid(side, side)

    def log_density(at: tuple[float, float]) -> NDArray[np.float64]:
        peaks = [(np.log1p(-q), 0.0, 0.0), (np.log(q), *at)]
        logs = [weight - ((x - u) ** 2 + (y - v) ** 2) / (2 * sigma**2) for weight, u, v in peaks]
        return np.logaddexp(*logs) - np.log(2 * np.pi * sigma**2)

    turn = math.radians(angle)
    one, other = log_density((1, 0)), log_density((length * math.cos(turn), length * math.sin(turn)))
    bound = _divergences(Mechanism(round(q * Q_DENOMINATOR), sigma, "replace-one"), (order,))[0]
    for p, without in ((one, other), (other, one)):
        integral = np.sum(np.exp(order * p + (1 - order) * without)) * 0.1**2
        assert math.log(integral) / (order - 1) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("relation", ["add-remove", "replace-one"])
@given(
    q=st.floats(1e-6, 0.99),
    noise=st.integers(300, 5000),
    steps=st.integers(1, 10**6),
    worse=st.sampled_from(["q", "noise", "steps"]),
)
@settings(max_examples=40, deadline=None)
def test_the_filter_is_monotone(relation: Relation, q: float, noise: int, steps: int, worse: str) -> None:
    """More steps, more sampling or less noise never costs less, wherever one starts."""
    more = {"q": q, "noise": noise, "steps": steps}
    more[worse] = {"q": min(1.0, q * 1.01), "noise": noise - 1, "steps": steps + 1}[worse]
    least = filtered(poisson(q, f"{noise / 1000:.3f}", steps, relation))
    assert (
        filtered(poisson(more["q"], f"{more['noise'] / 1000:.3f}", int(more["steps"]), relation)) >= least > 0
    )


def test_an_order_that_is_too_costly_to_integrate_holds_nothing_and_the_others_do() -> None:
    """32 records at noise 1: order 64 has no bound, order 2 has the one that it has alone."""
    many = Mechanism(round(0.01 * Q_DENOMINATOR), 1.0, "add-remove", 32)
    found = _divergences(many, (2, 256))
    assert found[0] == pytest.approx(_divergences(many, (2,))[0], rel=1e-12)
    assert found[1] == math.inf
    assert math.isfinite(filtered(poisson(0.01, "1", 1, records=32)))


def test_the_reference_setting_costs_what_is_known() -> None:
    """q .01, sigma 1, 1000 steps, delta 1e-5: filter 2.40, best order 2.10."""
    assert 2.40 <= filtered(poisson(0.01, "1", 1000)) <= 2.41
    best = Meter(1e-5, fixed_in_advance=True)
    best.add(poisson(0.01, "1", 1000))
    assert 2.10 <= best.epsilon <= 2.11


def test_several_records_of_one_unit_cost_more_than_one_and_less_than_all_at_once() -> None:
    one = filtered(poisson(0.01, "1", 1000))
    four = filtered(poisson(0.01, "1", 1000, records=4))
    at_once = filtered(poisson(1 - 0.99**4, "0.25", 1000))
    assert 4 * one < four < at_once


def test_a_unit_that_is_sampled_as_a_whole_costs_the_same_for_any_k() -> None:
    record = poisson(0.01, "1", 1000)
    person = PoissonGaussian(record.q_num, "1", 1000, "add-remove", "person", 8)
    assert filtered(person) == filtered(record)


@pytest.mark.parametrize(
    "worse", [poisson(0.01, "1", 1001), poisson(0.0101, "1", 1000), poisson(0.01, "0.999", 1000)]
)
def test_more_steps_more_sampling_or_less_noise_never_costs_less(worse: PoissonGaussian) -> None:
    assert filtered(worse) > filtered(poisson(0.01, "1", 1000))


def test_replace_one_costs_more_than_add_remove_and_no_more_than_half_the_noise() -> None:
    replaced = filtered(poisson(0.01, "1", 1000, "replace-one"))
    assert filtered(poisson(0.01, "1", 1000)) < replaced < filtered(poisson(0.01, "0.5", 1000))


def test_only_no_event_costs_nothing() -> None:
    assert filtered() == 0
    assert filtered(poisson(1e-9, "1000", 1)) > 0


def test_no_release_is_rounded_to_nothing() -> None:
    """Below what the quadrature resolves a step still costs something, so many steps do."""
    assert np.all(_divergences(Mechanism(1, 1000.0, "add-remove"), FILTER_ORDERS) >= 1e-12)


def test_one_non_private_release_makes_it_infinite() -> None:
    assert filtered(NonPrivate("declared by the site"), poisson(0.01, "1", 1)) == math.inf
    assert tally([NonPrivate("x"), poisson(0.01, "1", 1)]).non_private


def test_equal_releases_are_counted_together_whatever_their_order() -> None:
    a, b = poisson(0.01, "1", 50), poisson(0.02, "1.0", 7)
    assert tally([a, b, a]) == tally([b, poisson(0.01, "1.00", 100)])


@pytest.mark.parametrize(
    "events",
    [
        [DiscreteGaussianSum(2**60, "1000", "80.5", 4, 10, "add-remove", "record")],
        [poisson(0.01, "0.049", 1)],
        [poisson(0.01, "1", 1, "replace-one", records=2)],
        [poisson(0.01, "1", 1), poisson(0.01, "1", 1, "replace-one")],
        [poisson(0.01, "1", 1), Gaussian("1", 1, "add-remove", "person")],
        [poisson(0.01, "0.05", 1, records=1024)],
    ],
    ids=["no bound", "too little noise", "no pair", "two relations", "two units", "too large"],
)
def test_what_cannot_be_bounded_is_refused(events: list[Event]) -> None:
    with pytest.raises(LedgerError):
        filtered(*events)


@pytest.mark.parametrize("delta", [0, 1, -1e-5, math.nan])
def test_a_delta_out_of_range_is_refused(delta: float) -> None:
    with pytest.raises(LedgerError):
        Meter(delta)
