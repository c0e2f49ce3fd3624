"""May this be charged? Decided before training, from parameters alone, by the Rényi filter.

The filter stays true however later plans are chosen, because its orders were fixed when the ledger
was opened and delta is divided among them. A refusal follows from public parameters and the
site's own earlier charges, never from data. Loads no accountant.

Source: Feldman and Zrnic 2021, arXiv:2008.11193 (Rényi filter).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import ROUND_FLOOR, Decimal

from secfed.errors import BudgetExceededError, LedgerError, PolicyRefusedError
from secfed.privacy.book import LedgerState
from secfed.privacy.entries import PUBLIC_N_MAX, Opening
from secfed.privacy.events import Event, NonPrivate, check_whole
from secfed.privacy.ledger import Authorization
from secfed.privacy.rdp import Meter

__all__ = ["authorize", "default_delta", "open_meter", "remaining", "rounds_that_fit", "spent"]

_DELTA_MAX = Decimal("0.000001")
"""Largest default delta, whatever the size of the data set."""

_DELTA_STEP = Decimal("0.000000000001")
"""Last digit of a delta's decimal text."""


def authorize(state: LedgerState, planned: Event, *, allow_non_private: bool = False) -> Authorization:
    """Give leave to charge one event to a ledger as it stands.

    Args:
        allow_non_private: The site's policy accepts releases without any bound. The ledger's epsilon is
            infinite from then on, every report says so, and nothing private fits any more.

    Raises:
        BudgetExceededError: With the event, the filter would pass the cap.
        PolicyRefusedError: The event is not private, and the policy does not allow that.
        LedgerError: No bound is known for the event, so it cannot be gated; or a scratch ledger has no
            budget to hold it against.
    """
    if isinstance(planned, NonPrivate):
        if not allow_non_private:
            raise PolicyRefusedError(
                "the release has no privacy bound, and this site's policy does not allow that",
                hint="Declare an event, or set `allow_non_private = true`: epsilon is infinite from then on.",
            )
        return Authorization(planned, state.head, after=math.inf)
    after, cap = spent(state, [planned]), _cap(state.opening)
    if not after <= cap:
        before = _up(spent(state))
        raise BudgetExceededError(
            f"this charge would bring epsilon from {before} to {_up(after)}, above the cap of {cap:g}"
        )
    return Authorization(planned, state.head, after=after)


def rounds_that_fit(state: LedgerState, planned: Event, rounds: int) -> int:
    """How many charges of one event the remaining budget takes, up to `rounds`; errors as `authorize`.

    A plan that does not fit as a whole may still be accepted, with a warning that names the round.
    """
    if isinstance(planned, NonPrivate):
        return rounds
    meter, cap = open_meter(state.opening), _cap(state.opening)
    for event in state.spent:
        meter.add(event)
    for fitting in range(rounds):
        meter.add(planned)
        if not meter.epsilon <= cap:
            return fitting
    return rounds


def remaining(state: LedgerState, planned: Iterable[Event] = ()) -> float:
    """What the filter leaves of the cap, rounded down; 0 once a release was not private.

    Args:
        planned: Charges to come, which are taken off as well.

    Raises:
        LedgerError: A scratch ledger, which has no cap, or as `authorize`.
    """
    counted = spent(state, planned)
    if math.isinf(counted):
        return 0.0
    return max(0.0, math.floor(1000 * (_cap(state.opening) - counted)) / 1000)


def spent(state: LedgerState, planned: Iterable[Event] = ()) -> float:
    """What the filter counts, not rounded: what was charged, and charges to come; errors as `remaining`."""
    meter = open_meter(state.opening)
    for event in (*state.spent, *planned):
        meter.add(event)
    return meter.epsilon


def open_meter(opening: Opening) -> Meter:
    """The filter of a ledger, before its first charge.

    Raises:
        LedgerError: A scratch ledger, which has no delta.
    """
    if opening.budget is None:
        raise LedgerError("a scratch ledger has no budget and takes non-private releases only")
    return Meter(float(opening.budget.delta), orders=opening.filter_orders)


def default_delta(public_n: int) -> str:
    """min(1e-6, 1 / (10 public_n)) as decimal text, rounded down.

    Args:
        public_n: The site's public statement of how many units it has at least.

    Raises:
        LedgerError: Not a whole number from 1 to 10^10.
    """
    check_whole("public_n", public_n, PUBLIC_N_MAX)
    tenth = (1 / (10 * Decimal(public_n))).quantize(_DELTA_STEP, ROUND_FLOOR)
    return format(min(_DELTA_MAX, tenth), "f")


def _cap(opening: Opening) -> float:
    if opening.budget is None:
        raise LedgerError("a scratch ledger has no budget and takes non-private releases only")
    return float(opening.budget.epsilon)


def _up(epsilon: float) -> str:
    return "infinity" if math.isinf(epsilon) else f"{math.ceil(epsilon * 1000) / 1000:.3f}"
