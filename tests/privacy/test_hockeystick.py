"""Epsilon at delta looked up in running sums is dp_accounting's, found by its loop, to 1e-9."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.pld.pld_pmf import DensePLDPmf
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed.privacy.hockeystick import HockeyStick

DELTAS = (0.999, 0.5, 1e-2, 1e-5, 1e-6, 1e-10, 1e-14)
ADD_REMOVE = NeighboringRelation.ADD_OR_REMOVE_ONE


def agree(distribution: pld.PrivacyLossDistribution) -> None:
    stick = HockeyStick(distribution)
    for delta in DELTAS:
        theirs = float(distribution.get_epsilon_for_delta(delta))
        assert stick.epsilon(delta) == pytest.approx(theirs, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("noise", "rate", "count", "relation"),
    [
        (1.0, 0.01, 1000, ADD_REMOVE),
        (0.6, 0.02, 50, ADD_REMOVE),
        (8.0, 1.0, 20, ADD_REMOVE),
        (1.0, 0.01, 100, NeighboringRelation.REPLACE_ONE),
        (20.0, 0.001, 1, ADD_REMOVE),
    ],
)
def test_epsilon_is_the_librarys(
    noise: float, rate: float, count: int, relation: NeighboringRelation
) -> None:
    one = pld.from_gaussian_mechanism(
        noise, value_discretization_interval=1e-3, sampling_prob=rate, neighboring_relation=relation
    )
    agree(one.self_compose(count))


@settings(max_examples=60)
@given(
    weights=st.lists(st.floats(0, 1), min_size=1, max_size=40),
    lowest=st.integers(-20, 20),
    infinite=st.sampled_from((0.0, 1e-12, 1e-3)),
    step=st.sampled_from((0.01, 1.0, 30.0)),
)
def test_any_masses_give_the_librarys_epsilon(
    weights: list[float], lowest: int, infinite: float, step: float
) -> None:
    """Losses on both sides of 0, cells without mass, and losses beyond where exp has a number."""
    masses = np.array(weights) / max(1e-9, math.fsum(weights)) * (1 - infinite)
    agree(pld.PrivacyLossDistribution(DensePLDPmf(step, lowest, masses, infinite, True)))


def test_mass_at_an_infinite_loss_has_no_epsilon_below_it() -> None:
    pmf = DensePLDPmf(0.1, -1, np.array([0.5, 0.2, 0.2]), 0.1, True)
    stick = HockeyStick(pld.PrivacyLossDistribution(pmf))
    assert math.isinf(stick.epsilon(0.05))
    assert math.isfinite(stick.epsilon(0.15))


def test_a_delta_that_equals_the_infinite_mass_is_the_librarys_too() -> None:
    """There the divergence at the last finite loss is the delta itself, and epsilon is not 0."""
    distribution = pld.from_gaussian_mechanism(
        50.0, value_discretization_interval=1e-4, sampling_prob=0.001
    ).self_compose(1000)
    delta = float(distribution.get_delta_for_epsilon(math.inf))
    theirs = float(distribution.get_epsilon_for_delta(delta))
    assert theirs > 0.01
    assert HockeyStick(distribution).epsilon(delta) == pytest.approx(theirs, rel=1e-9)
