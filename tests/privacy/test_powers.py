"""Composing one release with itself gives the masses of dp_accounting's own `self_compose`, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution as pld

from secfed.privacy.powers import Powers


@pytest.mark.parametrize(
    ("noise", "rate", "interval", "relation"),
    [
        (1.0, 0.01, 1e-3, NeighboringRelation.ADD_OR_REMOVE_ONE),
        (8.0, 1.0, 1e-3, NeighboringRelation.ADD_OR_REMOVE_ONE),
        (1.0, 0.01, 1e-3, NeighboringRelation.REPLACE_ONE),
        (50.0, 0.001, 1e-2, NeighboringRelation.ADD_OR_REMOVE_ONE),  # few losses: not a dense one
    ],
)
def test_powers_are_the_librarys(
    noise: float, rate: float, interval: float, relation: NeighboringRelation
) -> None:
    one = pld.from_gaussian_mechanism(
        noise, value_discretization_interval=interval, sampling_prob=rate, neighboring_relation=relation
    )
    powers = Powers(one)
    for count in (1, 7, 400):
        ours, theirs = powers.times(count), one.self_compose(count)
        assert ours._symmetric == theirs._symmetric
        for own, other in (
            (ours._pmf_remove, theirs._pmf_remove),
            (ours._pmf_add, theirs._pmf_add),
        ):
            dense, wanted = own.to_dense_pmf(), other.to_dense_pmf()
            assert np.array_equal(dense._probs, wanted._probs)
            assert (dense._lower_loss, dense._infinity_mass) == (wanted._lower_loss, wanted._infinity_mass)
            assert own._pessimistic_estimate
