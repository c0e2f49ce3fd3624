"""k and t of the ring: the published values, the conditions written out plainly, and none smaller."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from secfed.errors import InfeasibleCohortError
from secfed.limits import NEIGHBOURS_MAX
from secfed.secagg.degree import corrupt_among, degree

SECURE, LIVE = Fraction(1, 2**82), Fraction(1, 2**20)


@pytest.mark.parametrize(
    ("clients", "corrupt", "losses", "neighbours", "threshold"),
    [
        (1000, 50, 50, 70, 53),
        (1000, 100, 100, 132, 97),
        (1000, 200, 100, 196, 152),
        (10_000, 500, 500, 84, 63),
        (10_000, 1000, 1000, 166, 121),
        (10_000, 2000, 1000, 256, 196),
    ],
)
def test_the_reference_values(
    clients: int, corrupt: int, losses: int, neighbours: int, threshold: int
) -> None:
    found = degree(clients, corrupt, losses)
    assert (found.neighbours, found.threshold) == (neighbours, threshold)


def at_least(members: int, marked: int, drawn: int, x: int) -> Fraction:
    """P[Hyp(members, marked, drawn) >= x], term by term."""
    ways = sum(
        comb(marked, i) * comb(members - marked, drawn - i)
        for i in range(max(x, 0), min(marked, drawn) + 1)
        if drawn - i <= members - marked
    )
    return Fraction(ways, comb(members, drawn))


def fewest(n: int, a: int, k: int) -> int:
    """x of the first condition."""
    return next(x for x in range(k + 2) if n * at_least(n - 1, a, k, x) <= SECURE)


def meets_all(n: int, a: int, d: int, k: int, t: int) -> bool:
    """The four conditions as they are written."""
    return (
        t <= k
        and t >= (k + fewest(n, a, k) - 1) // 2 + 1
        and n * (1 - at_least(n - 1, n - d - 1, k, t)) <= LIVE
        and Fraction(n * (n - k - 1), 2) * at_least(n - 1, a, k // 2, t - k // 2) ** 2 <= SECURE
    )


@pytest.mark.parametrize(
    ("n", "a", "d"), [(129, 1, 0), (129, 13, 12), (130, 7, 13), (150, 30, 3), (301, 3, 6)]
)
def test_k_and_t_are_the_smallest_that_meet_every_condition(n: int, a: int, d: int) -> None:
    """Against a plain reading in fractions, for every k below and every t at k."""
    found = degree(n, a, d)
    k, t = found.neighbours, found.threshold
    assert next(each for each in range(1, k + 1) if meets_all(n, a, d, k, each)) == t
    for fewer in range(2, k, 2):
        assert not any(meets_all(n, a, d, fewer, each) for each in range(fewer // 2, fewer + 1))


@pytest.mark.parametrize(("n", "a", "k"), [(129, 1, 26), (200, 10, 76), (1000, 50, 70), (1000, 200, 196)])
def test_corrupt_neighbours_are_fewer_than_x(n: int, a: int, k: int) -> None:
    assert corrupt_among(n, a, k) == fewest(n, a, k) - 1


def test_where_everybody_is_a_neighbour_all_corrupt_members_may_be() -> None:
    """An odd cohort whose k is n - 1 is the complete graph again, with its t and without a cut."""
    assert corrupt_among(129, 13, 128) == 13
    assert meets_all(129, 13, 0, 128, (128 + 13) // 2 + 1)


def test_what_no_ring_can_bear_is_refused_with_its_numbers() -> None:
    words = f"no ring of 1000 members with up to {NEIGHBOURS_MAX} neighbours .* against 400 .* with 290 lost"
    with pytest.raises(InfeasibleCohortError, match=words):
        degree(1000, 400, 290)
