"""What one round of a plan is charged as, from the plan's public constants alone."""

from __future__ import annotations

from secfed.privacy.events import PoissonGaussian
from secfed.rounds.plan import JobPlan

__all__ = ["dp_event"]


def dp_event(plan: JobPlan) -> PoissonGaussian | None:
    """The event that every included site charges for one round; None for a job without a dp section."""
    if plan.dp is None or plan.training is None:
        return None
    return PoissonGaussian(
        q_num=plan.dp.sampling_num,
        noise_multiplier=plan.dp.noise_multiplier,
        steps=plan.training.steps,
        relation=plan.dp.relation,
        unit=plan.dp.unit,
        records_per_unit=plan.dp.records_per_unit,
    )
