"""Coins and scores to bounds: who is named as in, who as out, and how many guesses were right.

The canaries with the highest scores are named as in, those with the lowest as out, and about the
rest nothing is said: fewer, surer guesses often show more. Numbers of guesses are fixed before the
coins are looked at; of several that are tried each gets its part of the error (union bound).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secfed.audit import bounds
from secfed.audit.canary import COUNT_MIN
from secfed.errors import ConfigError, DataError
from secfed.privacy.accountant import round_down

__all__ = ["GAUSSIAN", "PLAIN", "Bound", "Choice", "choices", "lower_bounds", "right_guesses"]

GUESSES_MIN = 10
"""Fewest guesses that are tried unasked."""

_PARTS = (1, 3, 10)
"""Unasked, all canaries are named, a third of them, and a tenth, as many in as out."""

_OUT_PART = 5
"""And a fifth is named as out alone: of few classes one that was left out may get the right one by luck,
but one that was learnt hardly ever gets a wrong one."""

PLAIN = "Steinke, Nasr and Jagielski 2023, arXiv:2305.08846, Theorem 5.2"
GAUSSIAN = "Mahloujifar, Melis and Chaudhuri 2024, arXiv:2410.22235, for Gaussian trade-off curves"

_IF_GAUSSIAN = "the mechanism's trade-off curve is Gaussian"

Choice = tuple[int, int]
"""How many canaries are named as in, and how many as out."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One lower bound on epsilon; it holds by itself with the confidence asked for.

    Attributes:
        name: `plain` or `gaussian`.
        source: Where the method stands.
        epsilon_lower: At the delta asked for, rounded down to 3 decimals; 0 where nothing was found.
        ceiling: The same if all guesses had been right: more this audit cannot show.
        guessed_in: Canaries named as in; the choice that gave the bound.
        guessed_out: Canaries named as out.
        right: Guesses of both kinds that were right.
        level: The part of the error that this choice was given.
        choices: How many choices shared the error.
        mu_lower: The Gaussian curve that is refuted; None for `plain`.
        assumption: What must hold beside the sampling of coins; None for nothing.
    """

    name: str
    source: str
    epsilon_lower: float
    ceiling: float
    guessed_in: int
    guessed_out: int
    right: int
    level: float
    choices: int
    mu_lower: float | None
    assumption: str | None


def choices(canaries: int) -> tuple[Choice, ...]:
    """The numbers of guesses that are tried unasked."""
    halves = [canaries // part // 2 for part in _PARTS]
    tried = [*((half, half) for half in halves), (0, canaries // _OUT_PART)]
    return tuple(choice for choice in tried if sum(choice) >= GUESSES_MIN)


def right_guesses(included: NDArray[np.bool_], scores: NDArray[np.float64], choice: Choice) -> int:
    """How many of the guesses are right.

    Args:
        included: The coins, shape (m,).
        scores: Shape (m,), higher for what was rather in; equal ones go by the canary's number,
            which knows nothing of its coin.
        choice: How many are named as in, from the top, and as out, from the bottom.
    """
    guessed_in, guessed_out = choice
    order = np.argsort(-scores, kind="stable")
    top, bottom = order[:guessed_in], order[len(order) - guessed_out :]
    return int(included[top].sum()) + int((~included[bottom]).sum())


def lower_bounds(
    included: NDArray[np.bool_],
    scores: NDArray[np.float64],
    *,
    delta: float,
    confidence: float = 0.95,
    tried: Sequence[Choice] | None = None,
) -> tuple[Bound, Bound]:
    """The plain and the Gaussian bound.

    Args:
        included: The coins, shape (m,).
        scores: Shape (m,), finite.
        delta: In (0, 1), at which epsilon is bounded.
        confidence: In (0, 1), of each bound by itself.
        tried: Numbers of guesses, fixed before the coins were seen; `choices` if None.

    Raises:
        DataError: Too few canaries, or a score that is no number.
        ConfigError: More guesses than canaries, or none; a delta or confidence out of range.
    """
    count = len(included)
    if count < COUNT_MIN:
        raise DataError(
            f"{count} canaries are too few: {COUNT_MIN} are needed",
            hint="Make more of them; some hundreds are usual (`secfed audit canaries make --count 1000`).",
        )
    if len(scores) != count or not np.isfinite(scores).all():
        raise DataError("every canary needs one score, a number", hint="Score the canaries again.")
    if not (0 < delta < 1 and 0 < confidence < 1):
        raise ConfigError("delta and confidence lie between 0 and 1")
    picked = choices(count) if tried is None else tuple(tried)
    for guessed_in, guessed_out in picked:
        if min(guessed_in, guessed_out) < 0 or not 1 <= guessed_in + guessed_out <= count:
            raise ConfigError(f"{guessed_in} and {guessed_out} guesses do not fit {count} canaries")
    level = (1 - confidence) / len(picked)
    rights = [right_guesses(included, scores, choice) for choice in picked]

    def plain(choice: Choice, right: int) -> float:
        return bounds.epsilon_lower(delta, canaries=count, guesses=sum(choice), right=right, level=level)

    def curve(choice: Choice, right: int) -> float:
        return bounds.mu_lower(canaries=count, guesses=sum(choice), right=right, level=level)

    best, found = _best(picked, rights, plain)
    best_curve, mu = _best(picked, rights, curve)
    highest = max(bounds.gaussian_ceiling(count, sum(choice), level) for choice in picked)
    return (
        Bound(
            name="plain",
            source=PLAIN,
            epsilon_lower=round_down(found),
            ceiling=round_down(max(bounds.ceiling(sum(choice), level) for choice in picked)),
            guessed_in=picked[best][0],
            guessed_out=picked[best][1],
            right=rights[best],
            level=level,
            choices=len(picked),
            mu_lower=None,
            assumption=None,
        ),
        Bound(
            name="gaussian",
            source=GAUSSIAN,
            epsilon_lower=round_down(bounds.gaussian_epsilon(mu, delta)),
            ceiling=round_down(bounds.gaussian_epsilon(highest, delta)),
            guessed_in=picked[best_curve][0],
            guessed_out=picked[best_curve][1],
            right=rights[best_curve],
            level=level,
            choices=len(picked),
            mu_lower=mu,
            assumption=_IF_GAUSSIAN,
        ),
    )


def _best(
    picked: Sequence[Choice], rights: Sequence[int], figure: Callable[[Choice, int], float]
) -> tuple[int, float]:
    """The choice with the largest figure, the first of equals; and the figure."""
    figures = [figure(choice, right) for choice, right in zip(picked, rights, strict=True)]
    best = int(np.argmax(figures))
    return best, figures[best]
