"""t, q, D: the published table by hand, and the two inequalities that everything rests on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.errors import InfeasibleCohortError
from secfed.secagg.params import COMPLETE_GRAPH_MAX, Params


@pytest.mark.parametrize(
    ("clients", "threshold", "quorum", "losses"),
    [
        (3, 2, 3, 0),
        (4, 3, 3, 0),
        (5, 3, 4, 1),
        (6, 4, 4, 1),
        (7, 4, 5, 2),
        (8, 5, 5, 2),
        (9, 5, 6, 3),
        (10, 6, 6, 3),
        (11, 6, 7, 4),
        (12, 7, 7, 4),
    ],
)
def test_small_cohorts_with_one_corrupt_member(
    clients: int, threshold: int, quorum: int, losses: int
) -> None:
    """k = n - 1, t = floor((k + 1)/2) + 1, q = floor((n + 1)/2) + 1, worked by hand."""
    params = Params.complete(clients, 1, min_cohort=3)
    assert (params.threshold, params.quorum, params.losses) == (threshold, quorum, losses)
    assert params.floor == clients - losses


def test_the_floors_of_plan_and_noise_count() -> None:
    assert Params.complete(10, 1, min_cohort=9).losses == 1
    assert Params.complete(10, 1, min_cohort=3, survivors_min=10).losses == 0


@pytest.mark.parametrize(
    ("clients", "corrupt", "min_cohort", "survivors_min", "reason"),
    [
        (2, 1, 2, 0, "below the floor of 3"),
        (4, 1, 5, 0, "below the floor of 5"),
        (COMPLETE_GRAPH_MAX + 1, 1, 3, 0, "needs the ring"),
        (5, 0, 3, 0, "at least one corrupt member"),
        (3, 3, 3, 0, "cannot defend themselves"),
        (5, 1, 3, 6, "cannot defend themselves"),
    ],
)
def test_infeasible_cohorts_are_refused(
    clients: int, corrupt: int, min_cohort: int, survivors_min: int, reason: str
) -> None:
    with pytest.raises(InfeasibleCohortError, match=reason):
        Params.complete(clients, corrupt, min_cohort=min_cohort, survivors_min=survivors_min)


def test_ten_members_four_corrupt_do_not_survive_three_losses() -> None:
    assert Params.complete(10, 4, min_cohort=3).losses == 2


@given(st.integers(3, 128), st.integers(1, 40), st.integers(3, 20))
def test_no_secret_opens_twice_and_no_two_sets_are_certified(
    clients: int, corrupt: int, min_cohort: int
) -> None:
    """2t > k + A, 2q > n + A, and D is the largest number that still opens and certifies."""
    try:
        params = Params.complete(clients, corrupt, min_cohort=min_cohort)
    except InfeasibleCohortError:
        return
    assert 2 * params.threshold > params.neighbours + corrupt
    assert 2 * params.quorum > clients + corrupt

    def bearable(losses: int) -> bool:
        left = clients - losses
        return params.threshold <= left - 1 and params.quorum <= left and max(3, min_cohort) <= left

    assert bearable(params.losses)
    assert not bearable(params.losses + 1)


def test_in_words() -> None:
    assert Params.complete(10, 1, min_cohort=3).in_words() == (
        "10 sites: any 1 may collude with the aggregator; 6 shares open a secret, "
        "6 signatures certify the survivors, 3 may be lost in an attempt"
    )
    assert "none may be lost" in Params.complete(3, 1, min_cohort=3).in_words()
    assert "1 may be lost" in Params.complete(5, 1, min_cohort=3).in_words()
