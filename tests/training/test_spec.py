"""What follows from public constants alone, and that it does not need torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from secfed.privacy.events import NonPrivate, PoissonGaussian
from secfed.training.spec import planned_event, update_bound


def test_planned_event(train_spec: Callable[..., Any], dp_spec: Callable[..., Any]) -> None:
    train = train_spec("bert", steps=5)
    dp = dp_spec(unit="person", records_per_unit=3, noise_multiplier="0.9")
    assert planned_event(train, dp) == PoissonGaussian(2**63, "0.9", 5, "add-remove", "person", 3)
    assert isinstance(planned_event(train, None), NonPrivate)


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_adam_never_passes_the_bound(
    train_spec: Callable[..., Any], dp_spec: Callable[..., Any], steps: int
) -> None:
    """Gradients that grow, shrink, spike and stay: torch's own AdamW moves no coordinate further."""
    train = train_spec("bert", steps=steps, learning_rate="0.01")
    bound = update_bound(train, dp_spec())
    times = np.arange(steps)
    rows = [
        1.5**times,
        0.9**times,
        np.ones(steps),
        np.where(times == steps - 1, 1e6, 1e-3),
        0.5 / 0.999 ** (times / 2),
    ]
    parameter = torch.nn.Parameter(torch.zeros(len(rows), dtype=torch.float64))
    optimizer = torch.optim.AdamW([parameter], lr=0.01, weight_decay=0.0)
    for step in range(steps):
        parameter.grad = torch.tensor([row[step] for row in rows], dtype=torch.float64)
        optimizer.step()
    assert parameter.abs().max().item() <= bound * (1 + 1e-9)
    assert bound <= 0.01 * steps * 7.3


def test_sgd_bound_holds_nominal_steps(train_spec: Callable[..., Any], dp_spec: Callable[..., Any]) -> None:
    """2 units a step all pulling one way, and no more noise than the stream has."""
    train = train_spec("bert", steps=4, learning_rate="0.5", optimizer="sgd")
    dp = dp_spec(noise_multiplier="1.0", clip="0.5", sampling_num=2**62, nominal_units=8)
    bound = update_bound(train, dp)
    assert bound == pytest.approx(0.5 * (2 * 4 * 2 * 0.5 + 9.5 * 0.5 * 2) / 2)


def test_no_torch_for_plans_models_and_folders() -> None:
    """Whoever has no torch (the aggregator) can still read specs and write folders."""
    code = (
        "import sys, secfed.training.spec, secfed.training.models, secfed.training.rows, "
        "secfed.aggregation.folder, secfed.aggregation.registry, secfed.aggregation.initial; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'peft', 'opacus', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
