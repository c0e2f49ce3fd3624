"""What follows from a job plan's training section alone: adapter, event, bound. No torch, no data.

Everything here is a function of public constants, so a client can authorise a charge, and anybody
can recompute it, before a row is read.
"""

from __future__ import annotations

import math

from secfed.aggregation.spec import AdapterSpec
from secfed.errors import ConfigError
from secfed.privacy.events import Event, NonPrivate
from secfed.rounds.charge import steps_event
from secfed.rounds.plan import DpSpec, TrainSpec

__all__ = ["PLAIN_REASON", "adapter_spec", "planned_event", "update_bound"]

PLAIN_REASON = "trained without differential privacy"
"""Reason of the event of a job without a `dp` section."""

ADAM_BETAS = (0.9, 0.999)
"""Decay rates of the local AdamW; its moments start afresh every round."""

NOISE_TAIL = 9.5
"""The noise stream yields at most 9.42 standard deviations (64-bit Box-Muller)."""


def adapter_spec(train: TrainSpec) -> AdapterSpec:
    """The adapter that a training section describes."""
    return AdapterSpec(
        base_model=train.base.id,
        revision=train.base.revision,
        trainer=train.trainer,
        target_modules=train.lora.target_modules,
        r=train.lora.r,
        alpha=train.lora.alpha,
        labels=train.labels,
        point=train.point_rides,
    )


def planned_event(train: TrainSpec, dp: DpSpec | None) -> Event:
    """The event that one round's local training will be, to be reserved before it starts."""
    if dp is None:
        return NonPrivate(PLAIN_REASON)
    return steps_event(dp, train.steps)


def update_bound(train: TrainSpec, dp: DpSpec | None) -> float:
    """A bound on every coordinate of one round's update, from public constants.

    For AdamW it cannot be exceeded: with w_i and u_i the weights of step i in the two moments,
    |m| / sqrt(v) <= sqrt(sum of w_i^2 / u_i) by Cauchy and Schwarz. For SGD it allows every step
    twice the nominal batch, all units pulling one way, and the noise's whole tail; beyond it a
    coordinate is clamped.

    Returns:
        The bound in model units, above 0.

    Raises:
        ConfigError: SGD of a job that is not private: no clipping norm bounds its steps.
    """
    rate = float(train.learning_rate)
    if train.optimizer == "adamw":
        return rate * sum(_adam_step_bound(step) for step in range(1, train.steps + 1))
    if dp is None:
        raise ConfigError("sgd without a clipping norm has no bound", hint='Use optimizer = "adamw".')
    clip, noise = float(dp.clip), float(dp.noise_multiplier)
    pull = 2 * train.steps * max(dp.batch, 1.0) * clip
    tail = NOISE_TAIL * noise * clip * math.sqrt(train.steps)
    return rate * (pull + tail) / dp.batch


def _adam_step_bound(step: int) -> float:
    """Largest |m| / sqrt(v) of bias-corrected Adam after `step` gradients, whatever they are."""
    first, second = ADAM_BETAS
    total = 0.0
    for age in range(step):
        weight = (1 - first) * first**age / (1 - first**step)
        total += weight * weight * (1 - second**step) / ((1 - second) * second**age)
    return math.sqrt(total)
