"""What one round of a plan is charged as, from the plan's public constants alone.

The one place where a plan becomes an event: a site's charge, its policy's check, the aggregator's
figures and a trainer's own account are all this event.
"""

from __future__ import annotations

from secfed.privacy.events import PoissonGaussian
from secfed.rounds.plan import DpSpec, JobPlan

__all__ = ["dp_event", "steps_event"]


def dp_event(plan: JobPlan) -> PoissonGaussian | None:
    """The event that every included site charges for one round; None for a job without a dp section."""
    if plan.dp is None or plan.training is None:
        return None
    return steps_event(plan.dp, plan.training.steps)


def steps_event(dp: DpSpec, steps: int) -> PoissonGaussian:
    """The event of so many noisy steps; those of several rounds together are one event as well."""
    return PoissonGaussian(
        q_num=dp.sampling_num,
        noise_multiplier=dp.noise_multiplier,
        steps=steps,
        relation=dp.relation,
        unit=dp.unit,
        records_per_unit=dp.records_per_unit,
    )
