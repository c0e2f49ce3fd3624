"""The mechanism audit: the code that trains, run on made-up rows, gives the noise that is charged for.

Everything goes through `training.dpsgd` as in a round: the Poisson sampler, Opacus' per-record
gradients, the clipping, the secret noise, the public denominator. Only the inner optimiser is
plain gradient descent, so that what it is given can be read off the adapter. Figures are in units
of the clipping norm C.

- Rows that nothing can be learnt from have a gradient of zero: what is released is noise alone,
  with standard deviation sigma, normal, and new in every step and run; with no rows at all it is
  the same.
- A canary with a gradient far above C moves the release by exactly C (less the rounding margin of
  1e-6): two runs under the same secret keys have the same noise, so their difference is the canary.
- Where the reference point of `kto` rides along, the same canary moves it by its share of C, and the
  whole still by C.
- One unit added or removed moves the sum of clipped gradients by at most C, one swapped by at most
  2 C, whatever the other units are and however the batch is cut.

Statistical checks together fail a right mechanism with a probability of at most `ERROR`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from secfed.audit.result import Check
from secfed.audit.workbench import ROWS, Bench, Mechanism
from secfed.privacy.events import Q_DENOMINATOR
from secfed.training.point import SHARE
from secfed.training.task import NOTHING

__all__ = ["ERROR", "audit"]

ERROR = 1e-6
"""Chance that a right mechanism fails one of the statistical checks."""

_STATISTICAL = 3
"""Checks that share the error."""

_COORDINATES = 100_000
"""Released coordinates that are looked at, at least: 1 / sqrt(2 N) of their variance is 0.22 %."""

_RUNS_MAX = 400
"""More runs than this only a rank-1 adapter of a tiny model would need."""

_STEPS = (1, 2)
"""Noisy steps of a run, in turn: noise drawn once and used twice has twice the variance of two draws, and
the law of a single draw is seen best alone."""

_UNITS_MAX = 6
"""Units beside the one that is added, removed or swapped."""

_MARGIN = 1e-6
"""Relative slack for rounding; clipping itself stays below C by as much."""

_LOUDEST = 4
"""The first trial's gradients are some 10^4 times C: all are clipped."""

_AROUND = (-1.0, 1.5)
"""The others' are from a tenth to thirty times C: rows that are not clipped show whether one moves others."""


def audit(
    mechanism: Mechanism,
    *,
    trials: int = 100,
    device: str = "cpu",
    entropy: Callable[[int], bytes] = os.urandom,
) -> tuple[Check, ...]:
    """Measure a mechanism; no private row is read.

    Args:
        mechanism: What to measure.
        trials: Random data sets to which a unit is added, or in which one is swapped.
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
        entropy: Where keys, rows and trials come from.

    Raises:
        ConfigError: The base model is not there or does not fit.
        SecfedError: The made-up rows cannot be trained on.
    """
    bench = Bench(mechanism, device, entropy)
    return (*_noise(bench), *_canary_shift(bench), *_sensitivity(bench, trials))


# -- the checks --------------------------------------------------------------------------------


def _noise(bench: Bench) -> tuple[Check, ...]:
    """Releases of rows without a gradient, and of no rows, against the noise that is charged for."""
    silent = [NOTHING] * ROWS
    rows = [(number,) for number in range(ROWS)]
    cases = [(units, steps) for steps in _STEPS for units in (rows, [])]
    runs: list[NDArray[np.float64]] = []
    single: list[NDArray[np.float64]] = []
    taken = charged = 0
    while len(runs) < len(cases) or (len(runs) < _RUNS_MAX and len(runs) * bench.coordinates < _COORDINATES):
        units, steps = cases[len(runs) % len(cases)]
        released, counted, _ = bench.release(
            silent, units, key=bench.entropy(32), sampling_num=bench.dp.sampling_num, steps=steps
        )
        runs.append(released / (bench.sigma * math.sqrt(steps)))
        if steps == 1:
            single.append(runs[-1])
        taken += steps
        charged += counted
    drawn = np.concatenate(runs)
    share = ERROR / _STATISTICAL
    low, high = (float(stats.chi2.ppf(tail, drawn.size)) / drawn.size for tail in (share / 2, 1 - share / 2))
    reach = float(stats.norm.isf(share / 2)) / math.sqrt(drawn.size - runs[0].size) * _SLACK
    first, second = np.concatenate(runs[:-1]), np.concatenate(runs[1:])
    return (
        _check(
            "noise variance", float(np.mean(drawn**2)), low, high,
            f"variance of {drawn.size} released coordinates over sigma^2 C^2, without any gradient",
        ),
        _check(
            "noise normality", float(stats.kstest(np.concatenate(single), "norm").pvalue), share, None,
            "p-value of single steps' noise under the normal law (Kolmogorov and Smirnov)",
        ),
        _check(
            "noise independence", _correlation(first, second), -reach, reach,
            f"correlation of the noise of each of {len(runs)} runs with the next one's",
        ),
        _check(
            "steps charged", charged / taken, 1.0, 1.0,
            f"steps that the sampler vouches for over the {taken} that were taken, empty batches included",
        ),
    )  # fmt: skip


_SLACK = 1.01
"""The correlation of n pairs is normal up to terms of order 1/n; this covers them."""


def _canary_shift(bench: Bench) -> Iterator[Check]:
    """Two runs with the same noise, one of them with a canary whose gradient is far above C."""
    key = bench.entropy(32)
    others = [(number,) for number in range(3)]
    canary = (ROWS - 1,)
    factor = 10 * bench.saturating(canary[0])
    common: dict[str, Any] = {"key": key, "sampling_num": Q_DENOMINATOR, "steps": 1, "factor": factor}
    without, _, lost = bench.release(bench.examples, others, **common)
    with_it, _, lost_too = bench.release(bench.examples, [*others, canary], **common)
    slack = lost + lost_too
    moved, riding = with_it - without, bench.riding
    yield _check(
        "canary shift", float(np.linalg.norm(moved)), 1 - 2 * _MARGIN - slack, 1 + slack,
        "how far one canary with ten times the norm moves the release, in units of C; "
        f"rounding explains {slack:.1e}",
    )  # fmt: skip
    if riding is not None:
        yield _check(
            "point shift", abs(float(moved[riding])), SHARE * (1 - 2 * _MARGIN) - slack, SHARE + slack,
            "how far the same canary moves the reference point that rides along, in units of C",
        )  # fmt: skip


def _sensitivity(bench: Bench, trials: int) -> tuple[Check, Check]:
    """The largest move of the clipped sum over random data sets, units, sizes of gradient and cuts."""
    saturating = bench.saturating(0)
    added = swapped = 0.0
    with bench.summing(bench.clip) as clipped_sum:
        for trial in range(trials):
            *others, unit, instead = _random_units(bench)
            reach = _LOUDEST if trial == 0 else bench.random.uniform(*_AROUND)
            factor = saturating * 10**reach
            without, with_it, with_another = (
                clipped_sum(units, factor, int(bench.random.integers(1, 9)))
                for units in (others, [*others, unit], [*others, instead])
            )
            added = max(added, float(np.linalg.norm(with_it - without)) / bench.clip)
            swapped = max(swapped, float(np.linalg.norm(with_another - with_it)) / bench.clip)
    return (
        _check(
            "add or remove one", added, 0.9, 1 + _MARGIN,
            f"how far one {bench.dp.unit} more or less moves the clipped sum, in units of C, {trials} trials",
        ),
        _check(
            "swap one", swapped, None, 2 * (1 + _MARGIN),
            f"how far another {bench.dp.unit} instead moves the clipped sum, in units of C, {trials} trials",
        ),
    )  # fmt: skip


def _random_units(bench: Bench) -> list[tuple[int, ...]]:
    """From 2 to 8 units of 1 to k records, without a record in two of them."""
    order: list[int] = bench.random.permutation(ROWS).tolist()
    units = []
    for _ in range(2 + int(bench.random.integers(0, _UNITS_MAX + 1))):
        size = int(bench.random.integers(1, min(bench.dp.records_per_unit, 3) + 1))
        units.append(tuple(order[:size]))
        order = order[size:]
    return units


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Pearson's, of centred noise; 1 if one of them is no noise at all."""
    if not (first.any() and second.any()):
        return 1.0
    return float(first @ second / math.sqrt(float(first @ first) * float(second @ second)))


def _check(name: str, figure: float, low: float | None, high: float | None, about: str) -> Check:
    """A figure within its range passes; one that is no number does not."""
    passed = (low is None or figure >= low) and (high is None or figure <= high)
    return Check(name=name, figure=figure, low=low, high=high, passed=passed, about=about)
