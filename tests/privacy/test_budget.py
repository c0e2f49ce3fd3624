"""The gate: what fits goes on, what does not is refused, from parameters alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from secfed.errors import BudgetExceededError, LedgerError, PolicyRefusedError
from secfed.ids import Digest, JobId
from secfed.privacy.accountant import epsilon
from secfed.privacy.budget import authorize, default_delta, remaining, rounds_that_fit, spent
from secfed.privacy.entries import Budget
from secfed.privacy.events import DiscreteGaussianSum, NonPrivate, PoissonGaussian
from secfed.privacy.ledger import Ledger
from secfed.privacy.rdp import Meter

Make = Callable[..., Ledger]
Event = Callable[..., PoissonGaussian]
Reserve = Callable[..., object]

JOB, PLAN = JobId("reviews"), Digest(bytes(32))


def test_the_cap_is_reached_in_the_round_that_was_foretold(make: Make, event: Event, charge: Reserve) -> None:
    """At the reference setting 1000 steps cost 2.405 by the filter, so 3 is reached after some 1500."""
    ledger = make()
    foretold = rounds_that_fit(ledger.state, event(100), 50)
    for number in range(1, foretold + 1):
        charge(ledger, event(100), number)
    with pytest.raises(BudgetExceededError, match="cap of 3"):
        authorize(ledger.state, event(100))
    assert 10 < foretold < 20
    assert rounds_that_fit(ledger.state, event(100), 50) == 0
    spent = Meter(1e-5)
    for each in ledger.state.spent:
        spent.add(each)
    assert spent.epsilon <= 3
    assert epsilon(ledger.state.spent, 1e-5).epsilon < spent.epsilon


def test_a_plan_that_fits_as_a_whole_is_said_to_fit(make: Make, event: Event) -> None:
    assert rounds_that_fit(make().state, event(10), 5) == 5


def test_a_refusal_writes_nothing_and_a_smaller_charge_may_still_fit(make: Make, event: Event) -> None:
    ledger = make()
    head = ledger.head
    with pytest.raises(BudgetExceededError):
        authorize(ledger.state, event(100_000))
    assert ledger.head == head
    assert authorize(ledger.state, event(100)).after <= 3


def test_the_cap_itself_may_be_reached(make: Make, event: Event) -> None:
    meter = Meter(1e-5)
    meter.add(event(1000))
    for nudge, fits in ((1e-9, True), (-1e-9, False)):
        cap = format(meter.epsilon + nudge, ".12f")
        ledger = make(f"site-{'ab'[fits]}", budget=Budget(cap, "0.00001", 10_000))
        if fits:
            assert authorize(ledger.state, event(1000)).after == meter.epsilon
        else:
            with pytest.raises(BudgetExceededError):
                authorize(ledger.state, event(1000))


def test_what_is_left_counts_what_is_still_to_come(make: Make, event: Event, charge: Reserve) -> None:
    """Foretold and then done: the same figure, rounded down."""
    ledger = make()
    planned = [event(50)] * 3
    foretold = remaining(ledger.state, planned)
    assert foretold < remaining(ledger.state) == 3
    for number, each in enumerate(planned, start=1):
        charge(ledger, each, number)
    assert remaining(ledger.state) == foretold <= 3 - spent(ledger.state) < foretold + 0.001
    assert remaining(ledger.state, [event(10**6)]) == 0
    assert remaining(ledger.state, [NonPrivate("a test")]) == 0


def test_a_ledger_of_twenty_rounds_of_fifty_steps_holds_a_thousand_steps(
    make: Make, event: Event, charge: Reserve
) -> None:
    ledger = make()
    for number in range(1, 21):
        charge(ledger, event(50), number)
    assert epsilon(ledger.state.spent, 1e-5) == epsilon([event(1000)], 1e-5)


def test_a_declared_event_is_gated_like_any_other(make: Make, event: Event, charge: Reserve) -> None:
    ledger = make()
    charge(ledger, replace(event(1400), declared=True))
    assert spent(ledger.state) == authorize(make("hosp-b").state, event(1400)).after
    with pytest.raises(BudgetExceededError):
        authorize(ledger.state, replace(event(1400), declared=True))


def test_a_voided_charge_makes_room_again(
    make: Make, event: Event, charge: Reserve, void: Callable[..., None]
) -> None:
    ledger = make()
    reserved = charge(ledger, event(1400))
    with pytest.raises(BudgetExceededError):
        authorize(ledger.state, event(1400))
    void(ledger, reserved, "called off before training")
    assert authorize(ledger.state, event(1400)).after <= 3


def test_a_non_private_release_needs_the_policy_and_ends_the_budget(make: Make, event: Event) -> None:
    ledger, release = make(), NonPrivate("a vector trained elsewhere")
    with pytest.raises(PolicyRefusedError):
        authorize(ledger.state, release)
    leave = authorize(ledger.state, release, allow_non_private=True)
    assert leave.after == math.inf
    ledger.reserve(JOB, 1, PLAN, leave)
    with pytest.raises(BudgetExceededError, match="infinity"):
        authorize(ledger.state, event(1), allow_non_private=True)


def test_what_has_no_bound_is_not_gated(make: Make) -> None:
    with pytest.raises(LedgerError):
        authorize(make().state, DiscreteGaussianSum(2**60, "1000", "80.5", 4, 10, "add-remove", "record"))


def test_a_scratch_ledger_has_nothing_to_hold_a_charge_against(make: Make, event: Event) -> None:
    with pytest.raises(LedgerError, match="scratch"):
        authorize(make(budget=None).state, event(1))


def test_the_filter_uses_the_orders_of_the_first_entry(make: Make, event: Event) -> None:
    """Orders that a later version would choose otherwise still gate a ledger opened under them."""
    state = make().state
    older = replace(state, opening=replace(state.opening, filter_orders=(3, 5)))
    meter = Meter(1e-5, orders=(3, 5))
    meter.add(event(100))
    assert authorize(older, event(100)).after == meter.epsilon > authorize(state, event(100)).after


@pytest.mark.parametrize(
    ("public_n", "delta"),
    [
        (1, "0.000001"),
        (99_999, "0.000001"),
        (100_000, "0.000001"),
        (1_000_000, "0.0000001"),
        (3_000_000, "0.000000033333"),
    ],
)
def test_the_default_delta_is_a_millionth_or_a_tenth_of_one_unit(public_n: int, delta: str) -> None:
    assert float(default_delta(public_n)) == float(delta)
    Budget("1", default_delta(public_n), public_n)


@pytest.mark.parametrize("public_n", [0, -1, 10**11])
def test_a_public_number_out_of_range_is_refused(public_n: int) -> None:
    with pytest.raises(LedgerError):
        default_delta(public_n)
