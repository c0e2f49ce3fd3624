"""Epsilon at delta looked up in running sums is dp_accounting's, found by its loop, to 1e-9."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld.pld_pmf import DensePLDPmf
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed.privacy.hockeystick import HockeyStick

DELTAS = (0.999, 0.5, 1e-2, 1e-5, 1e-6, 1e-10, 1e-14)


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
    losses = (lowest + np.arange(len(masses))) * step
    above = losses > 0
    stick = HockeyStick(losses[above], masses[above], infinite=infinite)
    library = DensePLDPmf(step, lowest, masses, infinite, True)
    for delta in DELTAS:
        theirs = float(library.get_epsilon_for_delta(delta))
        assert stick.epsilon(delta) == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def test_mass_at_an_infinite_loss_has_no_epsilon_below_it() -> None:
    stick = HockeyStick(np.array([0.1]), np.array([0.2]), infinite=0.1)
    assert math.isinf(stick.epsilon(0.05))
    assert math.isfinite(stick.epsilon(0.15))


def test_no_epsilon_is_given_below_the_losses_that_are_known() -> None:
    losses, masses = np.array([1.0, 1.1]), np.array([0.01, 0.01])
    assert HockeyStick(losses, masses).epsilon(0.9) == 0
    assert HockeyStick(losses, masses, least=1.0).epsilon(0.9) == 1.0


def test_a_delta_that_equals_the_infinite_mass_has_the_last_loss() -> None:
    """There the divergence at the last finite loss is the delta itself, and epsilon is not 0."""
    stick = HockeyStick(np.array([0.5, 1.0]), np.array([0.2, 0.1]), infinite=1e-3)
    assert stick.epsilon(1e-3) == pytest.approx(1.0)
