"""A declared event takes a rule of its own, is charged like any other, and excuses from nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from secfed.config import BudgetPolicy, JobPolicy, PolicyConfig
from secfed.errors import BudgetExceededError, DifferenceRuleError, PolicyRefusedError
from secfed.privacy import budget
from secfed.privacy.entries import Budget
from secfed.privacy.events import Gaussian, PoissonGaussian
from secfed.privacy.ledger import Ledger
from secfed.rounds.exchange import Declined, Ready, Refused
from secfed.rounds.vector import VectorContributor

SAID = PoissonGaussian(2**64 // 100, "1", 500, "add-remove", "record", declared=True)


def policy(**rules):
    return PolicyConfig(budget=BudgetPolicy(epsilon=8.0), job=JobPolicy(**rules))


def declare(machine, event=SAID, epsilon="8", **rules):
    """The site declares an event for its file, under a policy that allows nothing without a bound."""
    machine.policy = policy(**({"allow_declared": True} | rules))
    machine.budget = Budget(epsilon, "0.000001", 1000)
    vector = VectorContributor(machine.update, event=event)
    machine.make = lambda _plan: vector
    return machine


def declare_all(federation, **changes):
    return [declare(machine, **changes) for machine in federation.machines.values()]


def bodies(machine):
    return [json.loads(line)["body"] for line in machine.ledger_path.read_bytes().splitlines()]


def offered(federation, plan, machines, number=1):
    for machine in machines:
        rounds = machine.rounds if hasattr(machine, "rounds") else machine.start()
        assert isinstance(rounds.hear(federation.offer(plan, number)), Ready), rounds.refusal


def test_it_is_charged_before_anything_leaves_and_marked_in_the_ledger(federation):
    """RESERVE with the event as declared, then SENT; the filter counts it as if it had been enforced."""
    plan = federation.plan(rounds=1)
    machines = declare_all(federation)
    offered(federation, plan, machines)
    assert [body["type"] for body in bodies(machines[0])] == ["open", "reserve"]
    host = federation.begin(plan, 1, machines)
    host.run(machines)
    assert all(end.included for end in host.finish(machines))
    machine = machines[0]
    _, reserve, sent = bodies(machine)
    assert (reserve["event"]["declared"], reserve["event"]["steps"], sent["type"]) == (True, 500, "sent")
    machine.stop()
    with Ledger.open(machine.ledger_path, key=machine.key) as ledger:
        assert ledger.state.spent == (SAID,)
        (charge,) = ledger.state.charges
        fresh = replace(ledger.state, charges=())
        enforced = budget.authorize(fresh, replace(SAID, declared=False)).after
        assert charge.voided is None
        assert budget.spent(ledger.state) == enforced > 0


def test_it_does_not_excuse_from_the_difference_rule(build_federation):
    """Nobody enforced the noise: the same vectors with one member fewer are refused, as without it."""
    federation = build_federation(5)
    plan = federation.plan()
    machines = declare_all(federation, event=replace(SAID, steps=100))
    offered(federation, plan, machines)
    host = federation.begin(plan, 1, machines)
    host.run(machines)
    host.finish(machines)
    four = machines[:4]
    offered(federation, plan, four, 2)
    second = federation.begin(plan, 2, four)
    second.run(four, until="confirm")
    assert isinstance(second.pass_on(four[0]), Refused)
    errors = [facts["error"] for word, facts in four[0].notes.heard if word == "refused"]
    assert errors == [DifferenceRuleError.__name__]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"allow_declared": False}, "declared"),
        ({"allow_declared": False, "allow_non_private": True}, "declared"),
        ({"event": replace(SAID, noise_multiplier="0.4")}, "noise multiplier"),
        ({"unit": "person"}, "person"),
        ({"max_epsilon": 1.0}, "costs epsilon"),
        ({"event": replace(SAID, relation="replace-one")}, "replace-one"),
        ({"event": replace(SAID, unit="person")}, "person"),
        ({"event": Gaussian("0.5", 10**6, "add-remove", "record", declared=True)}, "costs epsilon"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_policy_that_does_not_take_it_refuses_before_a_charge(federation, changes, rule):
    machine = declare(next(iter(federation.machines.values())), **changes)
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(federation.plan(rounds=1))), Declined)
    assert isinstance(rounds.refusal, PolicyRefusedError)
    assert rule in str(rounds.refusal)
    if machine.ledger_path.exists():  # the promise is compared with an open ledger
        assert [body["type"] for body in bodies(machine)] == ["open"]


def test_it_is_priced_at_the_delta_of_the_ledger_that_it_is_charged_to(federation):
    """One round costs 1.581 at 1e-6, and 2.741 at the 1e-10 of a data set of a billion."""
    machine = declare(next(iter(federation.machines.values())), max_epsilon=2.5)
    machine.budget = Budget("8", "0.0000000001", 10**9)
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(federation.plan(rounds=1, spare_rounds=0))), Declined)
    assert isinstance(rounds.refusal, PolicyRefusedError)
    assert "costs epsilon 2.74" in str(rounds.refusal)


def test_the_cap_holds_for_it(federation):
    """Allowed by the policy, beyond the data set's budget: no charge, and the refusal names the cap."""
    machine = declare(next(iter(federation.machines.values())), epsilon="1")
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(federation.plan(rounds=1))), Declined)
    assert isinstance(rounds.refusal, BudgetExceededError)
    assert "cap of 1" in str(rounds.refusal)
    assert [body["type"] for body in bodies(machine)] == ["open"]


def test_a_scratch_ledger_takes_no_declaration(federation):
    machine = declare(next(iter(federation.machines.values())))
    machine.budget = None
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(federation.plan(rounds=1))), Declined)
    assert "this ledger has none" in str(rounds.refusal)


def test_a_restart_under_a_policy_that_was_tightened_sends_nothing(federation):
    machine = declare(next(iter(federation.machines.values())))
    plan = federation.plan(rounds=1)
    offered(federation, plan, [machine])
    machine.stop()
    machine.policy = policy()
    rounds = machine.start()
    assert isinstance(rounds.hear(federation.offer(plan)), Declined)
    assert "declared" in str(rounds.refusal)
    assert [body["type"] for body in bodies(machine)] == ["open", "reserve"]
