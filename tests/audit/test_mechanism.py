"""The mechanism audit: what trains passes, for every trainer; and each fault that is put in is named."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from scipy import stats

from secfed.aggregation.spec import AdapterSpec, Trainer
from secfed.audit import mechanism
from secfed.audit.canary import WORDS
from secfed.audit.mechanism import ERROR, audit
from secfed.audit.result import Check
from secfed.audit.small_model import SMALL_POSITIONS, target_modules, write_small_model
from secfed.audit.workbench import Bench, Mechanism, made_up_pairs
from secfed.errors import ConfigError
from secfed.rounds.plan import DpSpec, KtoSpec, PublicPair
from secfed.training import dpsgd
from secfed.training.classify import Classification
from secfed.training.point import SHARE
from secfed.training.random import PoissonSampler

NAMES = (
    "noise variance", "noise normality", "noise independence", "steps charged",
    "canary shift", "add or remove one", "swap one",
)  # fmt: skip


PAIRS = tuple(PublicPair(prompt=prompt, completion=answer) for prompt, answer in made_up_pairs())


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer coordinates than an operator gets: the variance is known to 1 %."""
    monkeypatch.setattr(mechanism, "_COORDINATES", 10_000)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Mechanism]:
    """A mechanism on the small model of a trainer; keywords overwrite the privacy section."""
    folders: dict[str, Path] = {}

    def make(trainer: str, strategy: str = "fedavg", *, rides: bool = False, **changes: Any) -> Mechanism:
        if trainer not in folders:
            folders[trainer] = tmp_path_factory.mktemp(trainer)
            write_small_model(folders[trainer], trainer, WORDS)
        labels = ("no", "yes") if trainer == "classify" else ()
        fields: dict[str, Any] = {
            "unit": "record",
            "sampling_num": 2**62,
            "noise_multiplier": "0.75",
            "clip": "0.3",
            "nominal_units": 100,
            "delta": "0.00001",
        }
        return Mechanism(
            adapter=AdapterSpec(
                "small/random", "main", trainer, target_modules(trainer), 4, 8, labels, point=rides
            ),
            base_folder=folders[trainer],
            strategy=strategy,
            dp=DpSpec(**(fields | changes)),
            max_length=SMALL_POSITIONS,
            preference=KtoSpec(kl="ride-along", kl_pairs=PAIRS) if rides else None,
        )

    return make


def failed(checks: tuple[Check, ...]) -> set[str]:
    return {check.name for check in checks if not check.passed}


@pytest.mark.parametrize("trainer", get_args(Trainer))
def test_what_trains_passes(made: Callable[..., Mechanism], trainer: str) -> None:
    """Errs once in 10^6."""
    checks = audit(made(trainer), trials=10)
    assert tuple(check.name for check in checks) == NAMES
    assert failed(checks) == set()
    assert all(check.about for check in checks)


def test_persons_and_frozen_halves_pass(made: Callable[..., Mechanism]) -> None:
    """Units of up to three records, FFA-LoRA, and a rate of 1: one unit still moves C and no more.

    And a range that is said to fail a right mechanism with a third of the error does just that.
    """
    checks = audit(made("classify", "ffa", unit="person", records_per_unit=3, sampling_num=2**64), trials=20)
    assert failed(checks) == set()
    spread, count = checks[0], int(checks[0].about.split()[2])
    inside = stats.chi2.cdf(spread.high * count, count) - stats.chi2.cdf(spread.low * count, count)
    assert 1 - inside == pytest.approx(ERROR / 3, rel=1e-3)
    assert count >= 10_000
    moved = next(check for check in checks if check.name == "add or remove one")
    assert moved.figure == pytest.approx(1 - 1e-6, abs=1e-7)
    assert "person" in moved.about


def test_a_point_that_rides_along_passes(made: Callable[..., Mechanism]) -> None:
    """It is noised as all else, has its share of C, and with it a canary moves C. Errs once in 10^6."""
    checks = {check.name: check for check in audit(made("kto", rides=True), trials=10)}
    assert set(checks) == {*NAMES, "point shift"}
    assert failed(tuple(checks.values())) == set()
    assert checks["point shift"].figure == pytest.approx(SHARE, rel=1e-3)
    assert checks["canary shift"].figure == pytest.approx(1.0, rel=1e-3)


# -- faults ------------------------------------------------------------------------------------

SEED = 4
"""Of the trials' data sets: under it sixty of them show what few would (4 C where C is claimed)."""


def _weak(patch: pytest.MonkeyPatch) -> None:
    """Five per cent less noise than is charged."""
    right = dpsgd.gaussian
    patch.setattr(dpsgd, "gaussian", lambda stream, count, std: 0.95 * right(stream, count, std))


def _seeded(patch: pytest.MonkeyPatch) -> None:
    """A generator that a library seeded with a constant: the same noise in every step and at every site."""
    patch.setattr(
        dpsgd, "gaussian", lambda _stream, count, std: np.random.default_rng(42).normal(0, std, count)
    )


def _uniform(patch: pytest.MonkeyPatch) -> None:
    """The right variance, without tails."""
    right = dpsgd.gaussian

    def draw(stream: Any, count: int, std: float) -> np.ndarray:
        return (2 * stats.norm.cdf(right(stream, count, 1.0)) - 1) * np.sqrt(3) * std

    patch.setattr(dpsgd, "gaussian", draw)


def _skipping(patch: pytest.MonkeyPatch) -> None:
    """No noise where there is nothing to hide."""
    right = dpsgd.SecretNoiseOptimizer.add_noise

    def add_noise(self: Any) -> None:
        if any(bool(parameter.summed_grad.any()) for parameter in self.params):
            right(self)

    patch.setattr(dpsgd.SecretNoiseOptimizer, "add_noise", add_noise)


def _loose(patch: pytest.MonkeyPatch) -> None:
    """Clipped a hundredth above C."""
    patch.setattr(dpsgd, "ROUNDING_MARGIN", 1.01)


def _unclipped(patch: pytest.MonkeyPatch) -> None:
    """Clipping left out, noise as charged."""
    right = dpsgd.SecretNoiseOptimizer.clip_and_accumulate

    def accumulate(self: Any, piece: Any) -> None:
        clip, self.max_grad_norm = self.max_grad_norm, 1e12
        right(self, piece)
        self.max_grad_norm = clip

    patch.setattr(dpsgd.SecretNoiseOptimizer, "clip_and_accumulate", accumulate)


def _mean(patch: pytest.MonkeyPatch) -> None:
    """The sum divided by what came and not by the public B, noise and all."""
    right = dpsgd.SecretNoiseOptimizer.scale_grad

    def scale(self: Any) -> None:
        batch, self._batch = self._batch, self._batch / 2
        right(self)
        self._batch = batch

    patch.setattr(dpsgd.SecretNoiseOptimizer, "scale_grad", scale)


def _forgetful(patch: pytest.MonkeyPatch) -> None:
    """A sampler that does not count empty batches."""
    right = PoissonSampler.draw

    def draw(self: Any) -> np.ndarray:
        found = right(self)
        self._draws -= len(found) == 0
        return found

    patch.setattr(PoissonSampler, "draw", draw)


def _averaged(patch: pytest.MonkeyPatch) -> None:
    """Losses divided by how many came: one row more makes all others count less."""
    right = Classification.losses

    def losses(self: Any, module: Any, batch: Any) -> Any:
        return right(self, module, batch) / len(batch["targets"])

    patch.setattr(Classification, "losses", losses)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (_weak, {"noise variance", "noise normality"}),
        (_seeded, {"noise variance", "noise independence"}),
        (_uniform, {"noise normality"}),
        (_skipping, {"noise variance"}),
        (_loose, {"canary shift", "add or remove one"}),
        (_unclipped, {"canary shift", "add or remove one", "swap one"}),
        (_mean, {"noise variance"}),
        (_forgetful, {"steps charged"}),
        (_averaged, {"add or remove one"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_each_fault_is_found(
    fault: Callable[[pytest.MonkeyPatch], None],
    named: set[str],
    made: Callable[..., Mechanism],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault(monkeypatch)
    trials = 60 if fault is _averaged else 10
    found = failed(audit(made("classify"), trials=trials, entropy=random.Random(SEED).randbytes))
    assert found & named
    if fault in (_loose, _unclipped, _forgetful, _averaged):
        assert found >= named


def _larger_share(patch: pytest.MonkeyPatch) -> None:
    """A point that takes most of C: no more than C in all, but not what the plan's noise was made for."""
    patch.setattr(dpsgd, "SHARE", 0.9)


def _besides(patch: pytest.MonkeyPatch) -> None:
    """C for the adapter, and a share for the point besides: together more than C."""
    right = dpsgd.SecretNoiseOptimizer._scales

    def scales(self: Any, norms: Any) -> list[Any]:
        whole = (1 - SHARE**2) ** 0.5
        return [s if i == self._riding else s / whole for i, s in enumerate(right(self, norms))]

    patch.setattr(dpsgd.SecretNoiseOptimizer, "_scales", scales)


@pytest.mark.parametrize(
    ("fault", "named"),
    [(_larger_share, {"point shift"}), (_besides, {"canary shift"})],
    ids=["a larger share", "a share besides"],
)
def test_each_fault_of_a_point_is_found(
    fault: Callable[[pytest.MonkeyPatch], None],
    named: set[str],
    made: Callable[..., Mechanism],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault(monkeypatch)
    bench = Bench(made("kto", rides=True), "cpu", random.Random(SEED).randbytes)
    assert failed(tuple(mechanism._canary_shift(bench))) == named


def test_a_base_model_that_is_not_there_is_refused(made: Callable[..., Mechanism], tmp_path: Path) -> None:
    gone = made("classify")
    with pytest.raises(ConfigError, match="no base model"):
        audit(Mechanism(gone.adapter, tmp_path, gone.strategy, gone.dp))
