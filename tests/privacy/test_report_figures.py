"""The account's figures: worked out once however many sites share them, and never below the truth."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest

from secfed.privacy import accountant
from secfed.privacy.events import PoissonGaussian
from secfed.privacy.report.figures import Figures, asks, compose, points_for
from secfed.privacy.report.plan import recompute

Make = Callable[..., PoissonGaussian]

DELTA = 1e-5


def test_what_sites_share_is_worked_out_once(event: Make) -> None:
    one, other = event(1, "4"), event(1, "5")
    spent = (one,) * 4 + (other,) * 2
    with mock.patch.object(accountant, "epsilon", wraps=accountant.epsilon) as worked:
        wanted = [ask for _ in range(4) for ask in asks(spent, [spent], DELTA, (1e-6,))]
        figures = Figures(wanted)
        prepared = worked.call_count
        for _ in range(4):
            figures.running(spent, DELTA)
            figures.of(compose(reversed(spent)), DELTA)
    assert worked.call_count == prepared == len(set(wanted)) == 6 + 1 + 1  # prefixes, `other` alone, 1e-6


@pytest.mark.parametrize("count", [1, 5, 21])
def test_a_running_figure_is_a_pld_figure_or_a_bound_above_it(event: Make, count: int) -> None:
    spent = tuple(event(1, "4") for _ in range(count))
    row = Figures().running(spent, DELTA)
    values = [value for value, _ in row]
    assert len(row) == count
    assert values == sorted(values)
    assert row[-1] == (accountant.epsilon(spent, DELTA).epsilon, True)
    assert sum(exact for _, exact in row) <= accountant.CURVE_POINTS + 1
    for place in range(0, count, 10):
        true = accountant.epsilon(spent[: place + 1], DELTA).epsilon
        assert values[place] == true if row[place][1] else values[place] >= true
    if count <= accountant.CURVE_POINTS:
        assert all(exact for _, exact in row)


def test_a_plan_is_worked_out_again_beside_what_it_says(event: Make) -> None:
    true = [f"{point.epsilon:.3f}" for point in accountant.running([event(10, "2")] * 4, DELTA)]
    account = recompute(event(10, "2"), 4, 2, DELTA, true)
    assert account.wrong == ()
    assert [f"{line.epsilon_so_far:.3f}" for line in account.lines] == true
    assert account.whole == accountant.epsilon([event(10, "2")] * 6, DELTA)
    assert account.lines[0].epsilon_round == account.lines[0].epsilon_so_far
    assert all(line.filter_so_far >= line.epsilon_so_far for line in account.lines)


@pytest.mark.parametrize("shift", [-0.01, 0.01])
def test_a_plan_that_says_another_figure_is_found(event: Make, shift: float) -> None:
    true = [point.epsilon for point in accountant.running([event(10, "2")] * 4, DELTA)]
    said = [f"{value + (shift if place == 2 else 0):.3f}" for place, value in enumerate(true)]
    assert [line.round for line in recompute(event(10, "2"), 4, 0, DELTA, said).wrong] == [3]


def test_a_plan_without_figures_says_nothing_wrong(event: Make) -> None:
    account = recompute(event(10, "2"), 3, 0, DELTA, ())
    assert [line.stated for line in account.lines] == [None] * 3
    assert account.wrong == ()


def test_many_ledgers_have_fewer_points_each(event: Make) -> None:
    spent = tuple(event(1, "4") for _ in range(21))
    few = Figures(points=points_for(20)).running(spent, DELTA)
    assert sum(exact for _, exact in few) <= 6
    assert few[-1] == Figures(points=points_for(1)).running(spent, DELTA)[-1]
