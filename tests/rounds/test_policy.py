"""A plan against a site's policy: each rule alone refuses, and is named."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from secfed.config import BudgetPolicy, JobPolicy, PolicyConfig
from secfed.errors import PolicyRefusedError
from secfed.privacy import accountant
from secfed.privacy.cache import FigureCache
from secfed.privacy.entries import Budget, Opening
from secfed.privacy.events import NonPrivate, PoissonGaussian
from secfed.rounds import policy
from secfed.rounds.charge import dp_event
from secfed.rounds.plan import BaseModelSpec, DpSpec, JobPlan, LoraSpec, NoiseShares, TrainSpec

SHAPES = {"x.lora_B.weight": (2, 2)}
FREE = NonPrivate("a test")


def dp(**changes):
    fields = {
        "unit": "record",
        "sampling_num": 2**64 // 100,
        "noise_multiplier": "1.0",
        "clip": "1",
        "nominal_units": 1000,
        "delta": "0.00001",
    }
    return DpSpec(**(fields | changes))


def plan(**changes):
    training = TrainSpec(
        trainer="sft",
        strategy="ffa",
        base=BaseModelSpec(id="public/model", weights_sha256="ab" * 32),
        lora=LoraSpec(r=2, alpha=4, target_modules=("x",)),
        adapter=SHAPES,
        steps=50,
        learning_rate="0.01",
        seed="cd" * 32,
    )
    fields = {
        "federation": "0" * 32,
        "job": "train-1",
        "kind": "train",
        "created": "2026-03-01T12:00:00Z",
        "created_by": "office",
        "rounds": 20,
        "shapes": SHAPES,
        "bound": "1",
        "training": training,
        "dp": dp(),
    }
    return JobPlan(**(fields | changes))


def vector(**changes):
    return plan(kind="vector", training=None, dp=None, **changes)


def rules(**changes):
    return PolicyConfig(budget=BudgetPolicy(epsilon=8.0), job=JobPolicy(**changes))


def accept(site, job, event=None, min_cohort=3, digest=None):
    return policy.accept(
        site, job, event or dp_event(job) or FREE, min_cohort=min_cohort, policy_digest=digest
    )


def test_the_cost_is_worked_out_over_all_rounds():
    """20 rounds of 50 steps at q = .01, sigma = 1, delta = 1e-5: 1.828, whatever the plan says."""
    honest = plan()
    assert 1.827 <= accept(rules(), honest) <= 1.840
    with pytest.raises(PolicyRefusedError, match=r"costs epsilon 1\.8"):
        accept(rules(max_epsilon=1.8), plan(epsilon_by_round=("0.1",) * 20))


def test_a_plan_that_promises_less_than_it_costs_is_refused():
    """Each figure that people are shown is worked out again; one below the true one by 0.002 is too low."""
    job = plan(rounds=3)
    true = [point.epsilon for point in accountant.running([dp_event(job)] * 3, 1e-5)]

    def promising(*less):
        said = (f"{figure - cut:.3f}" for figure, cut in zip(true, less, strict=True))
        return plan(rounds=3, epsilon_by_round=tuple(said))

    assert accept(rules(), promising(0, 0, 0)) == accept(rules(), job)
    accept(rules(), promising(-1, 0.001, 0))
    with pytest.raises(PolicyRefusedError, match="after round 2"):
        accept(rules(), promising(0, 0.002, 0))


def test_a_curve_belongs_to_noise_and_to_few_rounds():
    with pytest.raises(ValueError, match="dp section"):
        plan(dp=None, epsilon_by_round=("1",) * 20)
    with pytest.raises(ValueError, match="100 at most"):
        plan(rounds=101, epsilon_by_round=("9",) * 101)


def test_spare_rounds_are_part_of_the_cost():
    assert accept(rules(), plan(rounds=15, spare_rounds=5)) == accept(rules(), plan())


def test_a_vector_job_costs_infinity_and_needs_the_policys_word():
    assert math.isinf(accept(rules(allow_non_private=True), vector()))
    with pytest.raises(PolicyRefusedError, match="without a privacy bound"):
        accept(rules(), vector())
    with pytest.raises(PolicyRefusedError, match="without a privacy bound"):
        accept(rules(), plan(dp=None))


@pytest.mark.parametrize(
    ("site", "job", "rule"),
    [
        (rules(allowed_kinds=("train",)), vector(), "kind"),
        (rules(allowed_kinds=("vector",)), plan(), "kind"),
        (rules(allowed_base_models=("public/other",)), plan(), "base model"),
        (rules(allowed_trainers=("classify",)), plan(), "trainer"),
        (rules(allowed_strategies=("fedavg",)), plan(), "strategy"),
        (rules(min_cohort=5), plan(), "5"),
        (rules(unit="person"), plan(), "person"),
        (rules(min_noise_multiplier=1.1), plan(), "noise multiplier"),
        (rules(max_delta=1e-6), plan(), "delta"),
        (rules(max_epsilon=1.0), plan(), "epsilon"),
        (rules(), plan(dp=dp(noise_multiplier="0.01"), training=plan().training), "noise multiplier"),
        (rules(min_noise_multiplier=0.001), plan(dp=dp(noise_multiplier="0.01")), "cannot be bounded"),
        (
            rules(),
            plan(
                mode="client",
                noise_shares=NoiseShares(sigma_total="1", scale="1", honest_min=2),
                survivors_min=3,
            ),
            "does not build",
        ),
        (rules(), plan(policy="ab" * 32), "another policy text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_rule_refuses_by_itself(site, job, rule):
    with pytest.raises(PolicyRefusedError, match=rule):
        accept(site, job)


def test_the_same_plan_passes_where_no_rule_is_broken():
    """The refusals above are for their rule: without it the plan is taken."""
    accept(rules(allowed_base_models=("public/model",)), plan())
    accept(rules(min_cohort=5), plan(min_cohort=5))
    accept(rules(min_cohort=5), plan(), min_cohort=5)  # the roster's floor counts too
    accept(rules(unit="person"), plan(dp=dp(unit="person", records_per_unit=2)))
    accept(rules(), plan(policy="ab" * 32), digest="ab" * 32)


def test_noise_beyond_what_is_accounted_is_no_plan():
    dp(noise_multiplier="1000")
    with pytest.raises(ValueError, match="at most 1000"):
        dp(noise_multiplier="1000.1")


def test_a_charge_that_is_not_the_plans_is_refused():
    other = dp_event(plan(dp=dp(noise_multiplier="2.0")))
    with pytest.raises(PolicyRefusedError, match="something else"):
        accept(rules(), plan(), other)
    with pytest.raises(PolicyRefusedError, match="something else"):
        accept(rules(allow_non_private=True), plan(), FREE)
    with pytest.raises(PolicyRefusedError, match="no dp section"):
        accept(rules(allow_non_private=True), plan(dp=None), other)


def test_a_declared_event_does_not_stand_in_for_the_training_that_a_plan_asks_for():
    """Not even one that says just what the plan says."""
    job = plan()
    said = replace(dp_event(job), declared=True)
    with pytest.raises(PolicyRefusedError, match="does not stand in"):
        accept(rules(allow_declared=True, allow_non_private=True), job, said)


def test_a_declared_event_is_priced_over_all_rounds_at_the_smaller_delta():
    said = PoissonGaussian(dp_event(plan()).q_num, "1", 50, "add-remove", "record", declared=True)
    job = vector(rounds=15, spare_rounds=5)
    for site, delta in (
        (rules(allow_declared=True), 1e-6),
        (rules(allow_declared=True, max_delta=1e-7), 1e-7),
    ):
        assert accept(site, job, said) == accountant.epsilon([said] * 20, delta).epsilon
    own = PolicyConfig(budget=BudgetPolicy(epsilon=8.0, delta=1e-8), job=JobPolicy(allow_declared=True))
    assert accept(own, job, said) == accountant.epsilon([said] * 20, 1e-8).epsilon
    with pytest.raises(PolicyRefusedError, match="declared"):
        accept(rules(allow_non_private=True), job, said)


def test_a_declared_event_is_priced_at_the_delta_of_the_ledger_that_it_is_charged_to():
    """A large data set's ledger has a smaller delta than the default of a small one, so epsilon is larger."""
    said = PoissonGaussian(dp_event(plan()).q_num, "1", 50, "add-remove", "record", declared=True)
    for site in (rules(allow_declared=True), rules(allow_declared=True, max_delta=1e-3)):
        cost = policy.accept(site, vector(), said, min_cohort=3, ledger_delta="0.0000000001")
        assert cost == accountant.epsilon([said] * vector().rounds, 1e-10).epsilon


def test_what_decides_is_worked_out_and_never_looked_up(monkeypatch):
    """Neither a policy nor the gate ever asks the figures on disk."""
    monkeypatch.setattr(FigureCache, "read", lambda *_: pytest.fail("a figure was looked up"))
    assert accept(rules(), plan()) > 0


def opening(**changes):
    fields = {
        "ledger": "ab" * 32,
        "site": "hosp-a",
        "unit": "person",
        "records_per_unit": 2,
        "relation": "add-remove",
        "budget": Budget("8", "0.000001", 1000),
        "at": "2026-03-01T12:00:00Z",
    }
    return Opening(**(fields | changes))


def test_a_ledger_takes_only_what_it_promises():
    person = plan(dp=dp(unit="person", records_per_unit=2))
    event = dp_event(person)
    policy.check_ledger(opening(), person, event)
    policy.check_ledger(opening(budget=None), vector(), FREE)
    for refused, rule in (
        (opening(unit="record", records_per_unit=1), "protects a person"),
        (opening(relation="replace-one"), "replace-one"),
        (opening(records_per_unit=1), "records of one person"),
        (opening(budget=None), "none"),
    ):
        with pytest.raises(PolicyRefusedError, match=rule):
            policy.check_ledger(refused, person, event)


def test_a_delta_that_gives_away_a_whole_unit_is_refused():
    """delta = 1e-5 over 100 000 units or more."""
    job = plan()
    record = {"unit": "record", "records_per_unit": 1}
    policy.check_ledger(opening(budget=Budget("8", "0.000001", 99_999), **record), job, dp_event(job))
    with pytest.raises(PolicyRefusedError, match=r"delta 0\.00001"):
        policy.check_ledger(opening(budget=Budget("8", "0.000001", 100_000), **record), job, dp_event(job))
