"""The figures that are known, the rules that any figure keeps, and that failures refuse."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from dp_accounting.pld.privacy_loss_distribution import from_mixture_gaussian_mechanism
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed.errors import LedgerError
from secfed.privacy import accountant, mixture
from secfed.privacy.accountant import CURVE_POINTS, curve, epsilon, round_down, round_up, running
from secfed.privacy.events import (
    Q_DENOMINATOR,
    DiscreteGaussianSum,
    Gaussian,
    NonPrivate,
    PoissonGaussian,
    Relation,
)

Make = Callable[..., PoissonGaussian]


def test_the_reference_setting(event: Make) -> None:
    figure = epsilon([event(1000)], 1e-5)
    assert 1.827 <= figure.epsilon <= 1.840
    assert 2.10 <= figure.epsilon_rdp <= 2.11
    assert 2.40 <= figure.epsilon_filter <= 2.41
    assert (figure.accountant, figure.relation) == ("PLD", "add-remove")
    assert figure.accountant_version.startswith("dp-accounting 0.6")


def test_less_noise(event: Make) -> None:
    assert 7.433 <= epsilon([event(1000, "0.6")], 1e-5).epsilon <= 7.45


def test_replace_one_of_a_single_gaussian_doubles_the_sensitivity() -> None:
    one = PoissonGaussian(Q_DENOMINATOR, "1", 1, "replace-one", "record")
    assert 9.997 <= epsilon([one], 1e-5).epsilon <= 10.02
    assert epsilon([Gaussian("1", 1, "replace-one", "record")], 1e-5) == epsilon([one], 1e-5)


def test_replace_one_under_sampling(event: Make) -> None:
    figure = epsilon([event(1000)], 1e-5, relation="replace-one")
    assert 2.843 <= figure.epsilon <= 2.86
    assert figure.relation == "replace-one"
    assert figure.epsilon < figure.epsilon_rdp < figure.epsilon_filter


def test_four_records_of_one_person(event: Make) -> None:
    person = PoissonGaussian(event().q_num, "1", 1000, "add-remove", "person", 4, "record")
    assert 8.89 <= epsilon([person], 1e-5).epsilon <= 8.92


def test_twenty_rounds_of_fifty_steps_are_a_thousand_steps(event: Make) -> None:
    assert epsilon([event(50)] * 20, 1e-5) == epsilon([event(1000)], 1e-5)


def test_many_gaussians_are_one_with_less_noise() -> None:
    """By hand: 16 releases at sigma 4 are one at sigma 1, whose epsilon at 1e-5 is 4.377."""
    assert epsilon([Gaussian("4", 16, "add-remove", "record")], 1e-5).epsilon == pytest.approx(
        4.378, abs=2e-3
    )


@pytest.mark.parametrize(
    ("steps", "noise", "q"), [(1010, "1", 0.01), (1000, "0.99", 0.01), (1000, "1", 0.0101)]
)
def test_more_steps_less_noise_or_more_sampling_never_costs_less(
    event: Make, steps: int, noise: str, q: float
) -> None:
    least, more = epsilon([event(1000)], 1e-5), epsilon([event(steps, noise, q)], 1e-5)
    assert more.epsilon > least.epsilon
    assert more.epsilon_rdp > least.epsilon_rdp
    assert more.epsilon_filter > least.epsilon_filter


@given(
    q=st.sampled_from([1e-4, 0.003, 0.05, 0.4, 1.0]),
    noise=st.sampled_from(["2", "3.3", "9", "40"]),
    steps=st.integers(1, 40),
    relation=st.sampled_from(["add-remove", "replace-one"]),
    worse=st.sampled_from(["q", "noise", "steps"]),
)
@settings(max_examples=6, deadline=None)
def test_the_figure_is_monotone(q: float, noise: str, steps: int, relation: Relation, worse: str) -> None:
    """More steps, more sampling or less noise never costs less by PLD, and no release costs nothing."""
    least = PoissonGaussian(round(q * Q_DENOMINATOR), noise, steps, relation, "record")
    more = {
        "q": replace(least, q_num=min(Q_DENOMINATOR, least.q_num * 11 // 10)),
        "noise": replace(least, noise_multiplier=f"{float(noise) * 0.9:.6f}"),
        "steps": replace(least, steps=steps * 11 // 10 + 1),
    }[worse]
    assert epsilon([more], 1e-5).epsilon >= epsilon([least], 1e-5).epsilon > 0


@pytest.mark.parametrize(
    "event",
    [
        PoissonGaussian(2**63, "8", 3, "replace-one", "record"),
        PoissonGaussian(2**63, "8", 3, "replace-one", "person", 4),
        Gaussian("8", 3, "replace-one", "person"),
    ],
    ids=["record", "person", "gaussian"],
)
def test_replace_one_is_accounted_for_what_is_drawn_whole(event: PoissonGaussian | Gaussian) -> None:
    """It costs more than add-remove and no more than twice the sensitivity would."""
    figure = epsilon([event], 1e-5)
    add_remove = replace(event, relation="add-remove")
    doubled = replace(add_remove, noise_multiplier="4")
    assert figure.relation == "replace-one"
    assert epsilon([add_remove], 1e-5).epsilon < figure.epsilon <= epsilon([doubled], 1e-5).epsilon
    assert figure.epsilon < figure.epsilon_rdp < figure.epsilon_filter


def test_replace_one_of_records_drawn_each_by_itself_is_refused() -> None:
    """No bound is known here: neither a figure nor a charge, and not by asking for the relation either."""
    person = PoissonGaussian(2**60, "1", 10, "add-remove", "person", 2, "record")
    with pytest.raises(LedgerError, match="replace-one"):
        epsilon([replace(person, relation="replace-one")], 1e-5)
    with pytest.raises(LedgerError, match="replace-one"):
        epsilon([person], 1e-5, relation="replace-one")


def test_what_is_declared_costs_what_it_would_if_it_were_enforced(event: Make) -> None:
    done = event(100)
    assert epsilon([replace(done, declared=True), done], 1e-5) == epsilon([done, done], 1e-5)


@pytest.mark.parametrize(("q", "records"), [(0.05, 3), (0.5, 2), (1.0, 2)])
def test_a_mixture_is_dp_accountings_own(q: float, records: int) -> None:
    """The same divergences as the library, which inverts the loss point by point."""
    drawn = range(records + 1)
    chances = [math.comb(records, j) * q**j * (1 - q) ** (records - j) for j in drawn]
    ours = mixture.distribution(1.5, chances, 0.01)
    theirs = from_mixture_gaussian_mechanism(
        1.5, [float(j) for j in drawn], chances, value_discretization_interval=0.01
    )
    for eps in (0.0, 0.1, 0.5, 1.0, 3.0):
        assert ours.get_delta_for_epsilon(eps) == pytest.approx(
            theirs.get_delta_for_epsilon(eps), rel=1e-9, abs=1e-15
        )


def test_only_no_event_costs_nothing() -> None:
    assert epsilon([], 1e-5).epsilon == 0
    assert epsilon([PoissonGaussian(1, "1000", 1, "add-remove", "record")], 0.5).epsilon == 0.001


def test_one_non_private_release_makes_the_figure_infinite(event: Make) -> None:
    figure = epsilon([event(), NonPrivate("pushed")], 1e-5)
    assert (figure.epsilon, figure.epsilon_rdp, figure.epsilon_filter) == (math.inf,) * 3
    text = figure.to_json()
    assert text["epsilon"] is None
    assert "not private" in str(text["reason"])


def test_the_curve_rises_as_delta_falls(event: Make) -> None:
    values = curve([event(1000)], [1e-5, 1e-6, 1e-7, 1e-8])
    assert values[0] == epsilon([event(1000)], 1e-5).epsilon
    assert list(values) == sorted(set(values))


def test_a_running_row_is_exact_where_it_says_so_and_never_falls(event: Make) -> None:
    count = CURVE_POINTS + 5
    row = running([event(50)] * count, 1e-5)
    figures = [epsilon([event(50 * (place + 1))], 1e-5).epsilon for place in range(count)]
    assert sum(point.exact for point in row) == CURVE_POINTS
    assert row[-1].exact
    assert all(point.epsilon == figure for point, figure in zip(row, figures, strict=True) if point.exact)
    assert all(point.epsilon >= figure for point, figure in zip(row, figures, strict=True))
    assert [point.epsilon for point in row] == sorted(point.epsilon for point in row)
    assert running([], 1e-5) == ()


def test_a_hopeless_setting_is_still_bounded_and_never_below_a_better_one(event: Make) -> None:
    """Where the PLD's arrays would grow without use, the Rényi bound is the figure."""
    hopeless = epsilon([event(100, "0.1")], 1e-5)
    assert hopeless.accountant == "RDP"
    assert hopeless.epsilon == hopeless.epsilon_rdp > 200 > epsilon([event(5, "0.3")], 1e-5).epsilon


def test_an_event_without_a_bound_is_refused() -> None:
    with pytest.raises(LedgerError, match="discrete_gaussian_sum"):
        epsilon([DiscreteGaussianSum(2**60, "1000", "80.5", 4, 10, "add-remove", "record")], 1e-5)


def test_any_failure_of_the_library_refuses(event: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise FloatingPointError("overflow")

    monkeypatch.setattr(accountant, "_pld_epsilon", fail)
    with pytest.raises(LedgerError, match="overflow"):
        epsilon([event()], 1e-5)


@pytest.mark.parametrize("nonsense", [math.nan, -1.0])
def test_a_figure_that_is_no_epsilon_refuses(
    event: Make, monkeypatch: pytest.MonkeyPatch, nonsense: float
) -> None:
    monkeypatch.setattr(accountant, "_pld_epsilon", lambda *_: nonsense)
    with pytest.raises(LedgerError, match="no epsilon"):
        epsilon([event()], 1e-5)


@pytest.mark.parametrize("loose", [100.0, math.inf])
def test_the_renyi_bound_is_the_figure_where_it_is_the_smaller_one(
    event: Make, monkeypatch: pytest.MonkeyPatch, loose: float
) -> None:
    """A sound bound is at hand, so nothing is refused; who gave the figure is named."""
    monkeypatch.setattr(accountant, "_pld_epsilon", lambda *_: loose)
    figure = epsilon([event()], 1e-5)
    assert figure.accountant == "RDP"
    assert figure.epsilon == figure.epsilon_rdp < figure.epsilon_filter
    assert [point.exact for point in running([event()], 1e-5)] == [False]


def test_a_figure_that_falls_with_more_releases_refuses(event: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a row of rounds, and in one composition against a release of its own."""
    falling = iter((0.2, 0.1))
    monkeypatch.setattr(accountant, "_pld_epsilon", lambda *_: next(falling))
    with pytest.raises(LedgerError, match="after more releases"):
        running([event(50)] * 2, 1e-5)
    monkeypatch.undo()

    class Little:
        def epsilon(self, _delta: float) -> float:
            return 0.001

    monkeypatch.setattr(accountant, "_composed", lambda _: Little())
    with pytest.raises(LedgerError, match="for one of them"):
        epsilon([Gaussian("3", 2, "add-remove", "record")], 1e-5)


def test_figures_are_rounded_against_the_reader() -> None:
    assert (round_up(1.8281), round_up(1.828), round_up(math.inf)) == (1.829, 1.829, math.inf)
    assert (round_up(1.5), round_down(1.8289), round_down(-0.0001)) == (1.5, 1.828, -0.001)


def test_the_gate_loads_no_accountant() -> None:
    """Events, ledger, filter and budget, and the accountant's own import, stay light; a figure loads it."""
    light = "import sys, secfed.privacy.budget, secfed.privacy.report.account, secfed.privacy.calibrate; "
    loaded = "sys.exit(any(m.split('.')[0] in ('dp_accounting', 'scipy', 'torch') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", light + loaded], check=False).returncode == 0
    heavy = "from secfed.privacy.events import Gaussian; from secfed.privacy.accountant import epsilon; "
    heavy += "epsilon([Gaussian('1', 1, 'add-remove', 'record')], 1e-5); "
    assert subprocess.run([sys.executable, "-c", light + heavy + loaded], check=False).returncode == 1


def test_very_many_releases_are_bounded_quickly() -> None:
    """A hostile plan's 10^10 steps must not keep a site busy: Rényi's bound is the figure."""
    event = PoissonGaussian(
        q_num=2**64, noise_multiplier="1000000", steps=10**9, relation="add-remove", unit="record",
        records_per_unit=1,
    )  # fmt: skip
    figure = accountant.epsilon([event] * 10, 1e-6)
    assert figure.accountant == "RDP"
    assert 0 < figure.epsilon == figure.epsilon_rdp < 1
