"""What this site accepts: its policy file against a job plan, before anything is charged or trained.

The first rule that a plan breaks is named. Everything is decided from the plan's public parameters
and the policy, never from data, so a refusal tells nothing about anybody. The plan's own epsilon
figures are not believed: the cost is worked out here, over all its rounds and spare rounds, and a plan
that shows people a smaller figure than the true one is refused.

What a site declares for a vector that was made elsewhere is priced like a plan's own event, but takes
a rule of its own: nothing here saw how the vector was made. Where a plan asks for training under
noise, no declaration stands in for it.
"""

from __future__ import annotations

import math
from decimal import Decimal

from secfed.config import JobPolicy, PolicyConfig
from secfed.errors import LedgerError, PolicyRefusedError
from secfed.privacy import accountant, budget
from secfed.privacy.entries import Opening
from secfed.privacy.events import Event, Gaussian, NonPrivate, PoissonGaussian, declared
from secfed.rounds.charge import dp_event
from secfed.rounds.plan import DpSpec, JobPlan

__all__ = ["accept", "check_ledger", "check_promise", "priced"]


def accept(
    policy: PolicyConfig,
    plan: JobPlan,
    event: Event,
    *,
    min_cohort: int,
    policy_digest: str | None = None,
    ledger_delta: str | None = None,
) -> float:
    """Decide a job plan.

    Args:
        policy: The site's own.
        event: What one round of the plan will be charged as.
        min_cohort: The roster's floor.
        policy_digest: Digest of the site's policy text in hexadecimal; a plan that names the policy
            its consortium agreed on must name this one.
        ledger_delta: Of the ledger that would be charged, decimal text; None where there is no ledger yet.

    Returns:
        Epsilon of the whole plan, spare rounds included, at the plan's delta; infinite if not private. For a
        declared event, which no plan prices, the same at the ledger's delta or the policy's largest,
        whichever is smaller.

    Raises:
        PolicyRefusedError: Naming the first rule that is broken.
    """
    rules = policy.job
    _allowed("kind", plan.kind, rules.allowed_kinds)
    if plan.mode != "example":
        raise PolicyRefusedError(
            f"job {plan.job} wants noise shares (mode {plan.mode}), which this version does not build",
            hint="Plan the job with mode `example`: each site adds its own noise.",
        )
    if plan.policy is not None and plan.policy != policy_digest:
        raise PolicyRefusedError(f"job {plan.job} was planned under another policy text than this site's")
    floor = max(min_cohort, plan.min_cohort)
    if floor < rules.min_cohort:
        raise PolicyRefusedError(
            f"job {plan.job} opens sums of {floor} sites; the policy asks for {rules.min_cohort}"
        )
    if plan.training is not None:
        if rules.allowed_base_models:  # none named: every one that is installed here
            _allowed("base model", plan.training.base.id, rules.allowed_base_models)
        _allowed("trainer", plan.training.trainer, rules.allowed_trainers)
        _allowed("strategy", plan.training.strategy, rules.allowed_strategies)
    if plan.dp is not None:
        return _with_bound(rules, plan, plan.dp, event)
    if declared(event):
        return _as_declared(policy, plan, event, ledger_delta)
    return _without_bound(rules, plan, event)


def priced(rules: JobPolicy, job: str, event: PoissonGaussian | Gaussian, delta: float, rounds: int) -> float:
    """What so many rounds of a job cost, if the rules allow their unit, noise, delta and cost.

    Args:
        job: Its name, for the refusal.
        event: What one round is charged as.

    Returns:
        Epsilon by PLD at `delta`.

    Raises:
        PolicyRefusedError: Naming the first rule that is broken.
    """
    if rules.unit == "person" and event.unit != "person":
        raise PolicyRefusedError(f"job {job} protects a single record; the policy asks for a person")
    if Decimal(event.noise_multiplier) < Decimal(str(rules.min_noise_multiplier)):
        raise PolicyRefusedError(
            f"job {job} has noise multiplier {event.noise_multiplier}; "
            f"the policy asks for at least {rules.min_noise_multiplier}"
        )
    if delta > rules.max_delta:
        raise PolicyRefusedError(f"job {job} has delta {delta:g}; the policy allows {rules.max_delta:g}")
    try:
        cost = accountant.epsilon([event] * rounds, delta).epsilon
    except LedgerError as problem:
        raise PolicyRefusedError(f"the cost of job {job} cannot be bounded: {problem}") from problem
    if cost > rules.max_epsilon:
        raise PolicyRefusedError(
            f"job {job} costs epsilon {cost:.3f} over {rounds} rounds at delta {delta:g}; "
            f"the policy allows {rules.max_epsilon}"
        )
    return cost


def check_ledger(opening: Opening, plan: JobPlan, event: Event) -> None:
    """Refuse a plan that promises something else than the data set's ledger holds.

    Raises:
        PolicyRefusedError: Another unit or relation, more records of one unit, a delta under which a
            whole unit may be given away, or no budget at all.
    """
    check_promise(opening, plan.job, event, None if plan.dp is None else plan.dp.delta)


def check_promise(opening: Opening, job: str, event: Event, delta: str | None) -> None:
    """As `check_ledger`, for a job of this name and delta of which there is no plan yet."""
    if isinstance(event, NonPrivate):
        return
    if opening.budget is None:
        raise PolicyRefusedError(f"job {job} spends a budget, and this ledger has none")
    if (event.unit, event.relation) != (opening.unit, opening.relation):
        raise PolicyRefusedError(
            f"job {job} protects a {event.unit} under {event.relation}, this site's data set "
            f"a {opening.unit} under {opening.relation}"
        )
    if delta is not None and Decimal(delta) * opening.budget.public_n >= 1:
        raise PolicyRefusedError(
            f"job {job} has delta {delta}, which is not below one over the "
            f"{opening.budget.public_n} units that this site's data set is said to have"
        )
    if isinstance(event, PoissonGaussian) and event.records_per_unit > opening.records_per_unit:
        raise PolicyRefusedError(
            f"job {job} lets {event.records_per_unit} records of one {event.unit} count, "
            f"this site's data set {opening.records_per_unit}"
        )


def _without_bound(rules: JobPolicy, plan: JobPlan, event: Event) -> float:
    if not isinstance(event, NonPrivate):
        raise PolicyRefusedError(f"job {plan.job} has no dp section, but would be charged as {event.kind}")
    if not rules.allow_non_private:
        raise PolicyRefusedError(
            f"job {plan.job} releases without a privacy bound, and the policy does not allow that",
            hint="Set `allow_non_private = true` in policy.toml if its owner agrees to an infinite epsilon.",
        )
    return math.inf


def _as_declared(policy: PolicyConfig, plan: JobPlan, event: Event, ledger_delta: str | None) -> float:
    """An event that is the site's own word; it may come once for each round that the plan can have."""
    rules = policy.job
    if not rules.allow_declared:
        raise PolicyRefusedError(
            f"an event was declared for job {plan.job}, and the policy does not allow that",
            hint="Set `allow_declared = true` in policy.toml if its owner vouches for what is declared.",
        )
    if not isinstance(event, PoissonGaussian | Gaussian):
        raise PolicyRefusedError(f"no bound is known for the declared {event.kind}")
    if ledger_delta is not None:
        delta = float(ledger_delta)
    else:
        wanted = policy.budget.delta
        delta = float(budget.default_delta(1)) if wanted is None else wanted
    return priced(rules, plan.job, event, min(delta, rules.max_delta), plan.rounds + plan.spare_rounds)


def _with_bound(rules: JobPolicy, plan: JobPlan, dp: DpSpec, event: Event) -> float:
    if declared(event):
        raise PolicyRefusedError(
            f"job {plan.job} asks for training under noise, and a declared event does not stand in for it",
            hint="Take part with `secfed client run`, or offer the vector to a job of kind vector.",
        )
    planned = dp_event(plan)
    if planned is None or event != planned:
        raise PolicyRefusedError(
            f"a round of job {plan.job} would be charged as something else than it plans"
        )
    cost = priced(rules, plan.job, planned, float(dp.delta), plan.rounds + plan.spare_rounds)
    _check_curve(plan, dp, planned)
    return cost


def _check_curve(plan: JobPlan, dp: DpSpec, event: Event) -> None:
    """The figures that status and manifests will show are not smaller than the true ones."""
    if not plan.epsilon_by_round:
        return
    true = accountant.running([event] * plan.rounds, float(dp.delta))
    for number, (said, point) in enumerate(zip(plan.epsilon_by_round, true, strict=True), start=1):
        if float(said) < point.epsilon - accountant.ROUNDING:
            raise PolicyRefusedError(
                f"job {plan.job} promises epsilon {said} after round {number}; it is {point.epsilon:.3f}"
            )


def _allowed(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        named = ", ".join(allowed) or "none"
        raise PolicyRefusedError(f"{what} {value!r} is not among those that the policy allows: {named}")
