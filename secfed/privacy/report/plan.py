"""What a job's plan will cost, round by round, worked out again beside what the plan says of itself.

Whoever signed a plan wrote epsilon after each round into it, and status, manifests and model cards
repeat that figure. Here it is worked out from the plan's event alone, so that a person can see that
both agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secfed.privacy import accountant
from secfed.privacy.accountant import Figure, round_up
from secfed.privacy.events import Event
from secfed.privacy.rdp import Meter

__all__ = ["PlanAccount", "PlanLine", "recompute"]

_SLACK = 1.5e-3
"""How far two figures may differ: one unit of the last printed digit, and the rounding of two floats."""


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One round of a plan.

    Attributes:
        epsilon_round: Of this round alone. epsilon_so_far: Of all up to it, both by PLD.
        exact: False where a bound from above stands for the PLD figure in `epsilon_so_far`.
        filter_so_far: What the gate of a site that spent nothing before would count.
        stated: What the plan says in the place of `epsilon_so_far`; None where it says nothing.
    """

    round: int
    epsilon_round: float
    epsilon_so_far: float
    exact: bool
    filter_so_far: float
    stated: float | None

    @property
    def agrees(self) -> bool:
        """The plan says nothing else than what was worked out."""
        return self.stated is None or abs(self.stated - self.epsilon_so_far) <= _SLACK


@dataclass(frozen=True, slots=True)
class PlanAccount:
    """A plan's rounds, and the figure of all of them, spare rounds included."""

    lines: tuple[PlanLine, ...]
    whole: Figure

    @property
    def wrong(self) -> tuple[PlanLine, ...]:
        """The rounds of which the plan says something else."""
        return tuple(line for line in self.lines if not line.agrees)


def recompute(
    event: Event, rounds: int, spare_rounds: int, delta: float, stated: Sequence[str]
) -> PlanAccount:
    """Account for a plan.

    Args:
        event: What one round is charged as.
        stated: Epsilon after each round as the plan has it, decimal text; empty where it says nothing.

    Raises:
        LedgerError: As `accountant.epsilon`.
    """
    alone = accountant.epsilon([event], delta).epsilon
    gate, lines = Meter(delta), []
    for place, point in enumerate(accountant.running([event] * rounds, delta)):
        gate.add(event)
        lines.append(
            PlanLine(
                round=place + 1,
                epsilon_round=alone,
                epsilon_so_far=point.epsilon,
                exact=point.exact,
                filter_so_far=round_up(gate.epsilon),
                stated=float(stated[place]) if place < len(stated) else None,
            )
        )
    return PlanAccount(tuple(lines), accountant.epsilon([event] * (rounds + spare_rounds), delta))
