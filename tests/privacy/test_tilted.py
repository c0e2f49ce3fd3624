"""Composition in tilted masses: never below the truth, at any delta, and close to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.pld.pld_pmf import DensePLDPmf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from secfed.privacy.accountant import epsilon
from secfed.privacy.events import Q_DENOMINATOR, Gaussian, PoissonGaussian, Relation
from secfed.privacy.tilted import Composed, Release

REPLACE_ONE = NeighboringRelation.REPLACE_ONE
ADD_REMOVE = NeighboringRelation.ADD_OR_REMOVE_ONE


def exact_gaussian(mu: float, delta: float) -> float:
    """Epsilon of a Gaussian of sensitivity mu at unit noise (Balle and Wang 2018, arXiv:1805.06530)."""

    def excess(eps: float) -> float:
        lost = math.exp(eps + norm.logcdf(-mu / 2 - eps / mu))
        return float(norm.cdf(mu / 2 - eps / mu)) - lost - delta

    return 0.0 if excess(0) <= 0 else float(brentq(excess, 0, 500))


@pytest.mark.parametrize(
    ("delta", "true"),
    [(1e-8, 1.54794), (1e-9, 2.08412), (1e-10, 2.63259), (1e-11, 3.17657), (1e-12, 3.70804)],
)
def test_a_small_delta_is_not_lost_in_the_dust_of_a_transform(delta: float, true: float) -> None:
    """Truths by an independent composition; without tilts 3.508 was printed at 1e-12."""
    event = PoissonGaussian(round(1e-4 * Q_DENOMINATOR), "0.6", 20_000, "add-remove", "record")
    figure = epsilon([event], delta)
    assert figure.accountant == "PLD"
    assert true <= figure.epsilon <= true + 2e-3


@pytest.mark.parametrize(
    ("noise", "rate", "count", "relation", "delta"),
    [
        (1.0, 0.01, 1000, ADD_REMOVE, 1e-5),
        (0.6, 0.02, 50, ADD_REMOVE, 1e-5),
        (0.6, 0.0001, 20_000, ADD_REMOVE, 1e-6),
        (1.0, 0.01, 1000, REPLACE_ONE, 1e-5),
        (0.8, 0.001, 5000, REPLACE_ONE, 1e-6),
        (8.0, 1.0, 20, ADD_REMOVE, 1e-6),
        (8.0, 1.0, 20, ADD_REMOVE, 0.5),
        (20.0, 0.001, 1, ADD_REMOVE, 1e-5),
        (50.0, 0.001, 1000, ADD_REMOVE, 1e-6),  # few losses: the library keeps them in a dictionary
        (2.0, 0.3, 7, ADD_REMOVE, 1e-3),
    ],
)
def test_epsilon_is_the_librarys_where_delta_is_not_small(
    noise: float, rate: float, count: int, relation: NeighboringRelation, delta: float
) -> None:
    one = pld.from_gaussian_mechanism(
        noise, value_discretization_interval=1e-3, sampling_prob=rate, neighboring_relation=relation
    )
    theirs = float(one.self_compose(count).get_epsilon_for_delta(delta))
    ways = (one._pmf_remove, one._pmf_add)
    ours = max(Composed([(Release(way), count)]).epsilon(delta) for way in ways)
    assert theirs - 1e-9 <= ours <= theirs + 1e-4


@given(
    noise=st.sampled_from(["1", "3.3", "20", "50"]),
    count=st.sampled_from([1, 30, 2000]),
    log_delta=st.floats(-46, -2),
)
@settings(max_examples=4, deadline=None)
def test_many_gaussians_are_never_below_the_analytic_figure(noise: str, count: int, log_delta: float) -> None:
    """At q = 1 the truth is known, down to deltas of 1e-20; nor is a figure above the Rényi bound."""
    delta = math.exp(log_delta)
    if math.sqrt(count) / float(noise) > 15:
        count = 30
    figure = epsilon([Gaussian(noise, count, "add-remove", "record")], delta)
    true = exact_gaussian(math.sqrt(count) / float(noise), delta)
    assert true <= figure.epsilon <= figure.epsilon_rdp
    assert figure.accountant == "RDP" or figure.epsilon <= true * (1 + 1e-3) + 2e-3


@given(
    q=st.sampled_from([1e-5, 1e-3, 0.05, 0.4]),
    noise=st.sampled_from(["1", "2", "9"]),
    steps=st.sampled_from([1, 40, 3000]),
    log_delta=st.integers(-40, -3),
    relation=st.sampled_from(["add-remove", "replace-one"]),
)
@settings(max_examples=4, deadline=None)
def test_a_figure_is_never_above_the_renyi_bound_and_names_who_gave_it(
    q: float, noise: str, steps: int, log_delta: int, relation: Relation
) -> None:
    event = PoissonGaussian(round(q * Q_DENOMINATOR), noise, steps, relation, "record")
    figure = epsilon([event], math.exp(log_delta))
    assert 0 < figure.epsilon <= figure.epsilon_rdp
    assert figure.accountant in ("PLD", "RDP")


@given(
    weights=st.lists(st.integers(1, 1000), min_size=2, max_size=6),
    lowest=st.integers(-4, 0),
    counts=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    log_delta=st.floats(-30, -0.1),
)
@settings(max_examples=60, deadline=None)
def test_it_is_the_convolution_worked_out_by_products(
    weights: list[int], lowest: int, counts: tuple[int, int], log_delta: float
) -> None:
    """Against plain convolution, whose sums of positive products are right in every cell."""
    masses, step, delta = np.array(weights) / sum(weights), 0.25, math.exp(log_delta)
    other = masses[::-1].copy()
    whole = np.ones(1)
    for single in (*[masses] * counts[0], *[other] * counts[1]):
        whole = np.convolve(whole, single)
    losses = (sum(counts) * lowest + np.arange(len(whole))) * step
    releases = [Release(DensePLDPmf(step, lowest, single, 0.0, True)) for single in (masses, other)]
    ours = Composed(list(zip(releases, counts, strict=True))).epsilon(delta)
    above = losses > ours + 1e-12  # what a number near 10 may be rounded by
    assert whole[above] @ -np.expm1(ours + 1e-12 - losses[above]) <= delta
    less = ours - 1.001 * step  # and with a step of the grid less it is not: the figure is no looser
    above = losses > less
    assert less < 0 or whole[above] @ -np.expm1(less - losses[above]) > delta * (1 - 1e-4)


def test_no_tail_is_charged_for_where_nothing_is_cut_off() -> None:
    """All losses lie within the window, so that a delta below what may be cut has its figure by PLD too."""
    event = PoissonGaussian(round(1e-5 * Q_DENOMINATOR), "1", 40, "add-remove", "record")
    assert epsilon([event], math.exp(-40)).accountant == "PLD"


def test_mass_at_an_infinite_loss_has_no_epsilon_below_it() -> None:
    """Three releases of which each fails with 1e-3 have no epsilon at 2.9e-3."""
    release = Release(DensePLDPmf(0.1, -1, np.array([0.5, 0.2, 0.299]), 1e-3, True))
    composed = Composed([(release, 3)])
    assert math.isinf(composed.epsilon(2.9e-3))
    assert math.isfinite(composed.epsilon(3.1e-3))
