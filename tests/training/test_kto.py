"""`kto` by hand: the loss, where its reference point comes from, and the metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from secfed.errors import DataError
from secfed.rounds.plan import KtoSpec, PublicMessage, PublicPair
from secfed.training.adapter import AdapterModel, build, task_of
from secfed.training.kto import Thumbs
from secfed.training.responses import log_likelihoods


@pytest.fixture
def model(
    base_folder: Callable[..., Path],
    spec_of: Callable[..., Any],
    train_spec: Callable[..., Any],
    first_adapter: Callable[..., Any],
) -> AdapterModel:
    made = build(spec_of("llama", "kto"), base_folder("llama"), device="cpu")
    made.load(first_adapter(train_spec("llama", "kto")))
    return made


@pytest.fixture
def task_with(base_folder: Callable[..., Path], spec_of: Callable[..., Any]) -> Callable[..., Thumbs]:
    def make(**options: Any) -> Thumbs:
        made = task_of(spec_of("llama", "kto"), base_folder("llama"), 24, KtoSpec(**options))
        assert isinstance(made, Thumbs)
        return made

    return make


@pytest.fixture
def gains(model: AdapterModel, task_with: Callable[..., Thumbs]) -> Callable[..., torch.Tensor]:
    """rho of rows, worked out apart from the trainer: with the adapter, and with its factors at zero."""

    def measure(rows: list[Any]) -> torch.Tensor:
        task = task_with()
        batch, kept = task.collate([task.example(row) for row in rows]), model.arrays()
        with torch.no_grad():
            adapted, _ = log_likelihoods(model.module, batch)
            model.load({name: value * 0 for name, value in kept.items()})
            base, _ = log_likelihoods(model.module, batch)
        model.load(kept)
        return adapted - base

    return measure


def test_loss_by_hand(
    model: AdapterModel, task_with: Callable[..., Thumbs], gains: Any, rows_for: Callable[..., Any]
) -> None:
    """Up: 1 - sig(beta (rho - z0)), down: 1 - sig(beta (z0 - rho)), each with its constant weight."""
    rows = rows_for("llama", 7, trainer="kto")
    task = task_with(beta="0.6", kl_value="0.4", desirable_weight="1.5", undesirable_weight="0.25")
    with torch.no_grad():
        found = task.losses(model.module, task.collate([task.example(row) for row in rows]))
    rho = gains(rows)
    expected = torch.stack(
        [
            1.5 * (1 - torch.sigmoid(0.6 * (gain - 0.4)))
            if row["label"]
            else 0.25 * (1 - torch.sigmoid(0.6 * (0.4 - gain)))
            for row, gain in zip(rows, rho, strict=True)
        ]
    )
    assert torch.allclose(found, expected, rtol=1e-5)
    assert {row["label"] for row in rows} == {True, False}


def test_a_point_of_zero_is_apo_zero_unpaired(
    model: AdapterModel, task_with: Callable[..., Thumbs], rows_for: Callable[..., Any]
) -> None:
    rows, found = rows_for("llama", 7, trainer="kto"), []
    for loss_type in ("kto", "apo_zero_unpaired"):
        task = task_with(loss_type=loss_type)
        with torch.no_grad():
            found.append(task.losses(model.module, task.collate([task.example(row) for row in rows])))
    assert torch.equal(*found)


def test_a_public_point_follows_the_broadcast_adapter(
    model: AdapterModel, task_with: Callable[..., Thumbs], gains: Any, rows_for: Callable[..., Any]
) -> None:
    """Mean gain of the plan's texts, not below zero: worked out anew at the start of every round."""
    rows = rows_for("llama", 50, trainer="kto")
    rho = gains(rows)
    grown = [row for row, gain in zip(rows, rho, strict=True) if gain > 0]
    shrunk = [row for row, gain in zip(rows, rho, strict=True) if gain < 0]
    assert 8 < len(grown) <= 32  # more than go through the model at once
    for public, expected in ((shrunk[:9], 0.0), (grown, float(rho[rho > 0].mean()))):
        pairs = tuple(PublicPair(prompt=row["prompt"], completion=row["completion"]) for row in public)
        task, fixed = task_with(kl="public", kl_pairs=pairs), task_with(kl_value=f"{expected:.9f}")
        batch = task.collate([task.example(row) for row in rows[:5]])
        with pytest.raises(ValueError, match="begin"):
            task.losses(model.module, batch)
        task.begin(model.module)
        with torch.no_grad():
            found, wanted = task.losses(model.module, batch), fixed.losses(model.module, batch)
        assert torch.allclose(found, wanted, atol=1e-6)
    trained = model.arrays()
    model.load({name: value * 0 for name, value in trained.items()})
    task.begin(model.module)
    with torch.no_grad():
        again = task.losses(model.module, batch)
    assert torch.allclose(again, torch.full_like(again, 0.5), atol=1e-6)  # no gain, and none to compare with


def test_public_pairs_may_be_chats(
    model: AdapterModel,
    task_with: Callable[..., Thumbs],
    gains: Any,
    as_chat: Any,
    rows_for: Callable[..., Any],
) -> None:
    """Written with the model's template as private chats are; one that cannot be is refused at once."""
    rows = [as_chat(row) for row in rows_for("llama", 20, trainer="kto")]
    row, gain = max(zip(rows, gains(rows).tolist(), strict=True), key=lambda each: each[1])

    def public(value: Any, role: str) -> tuple[PublicMessage, ...]:
        return tuple(PublicMessage(role=role, content=message.content) for message in value)

    prompt = public(row["prompt"], "user")
    pair = PublicPair(prompt=prompt, completion=public(row["completion"], "assistant"))
    task = task_with(kl="public", kl_pairs=(pair,))
    task.begin(model.module)
    assert task._point == pytest.approx(gain, rel=1e-4)
    assert gain > 0.01
    deaf = PublicPair(prompt=prompt, completion=public(row["completion"], "user"))
    with pytest.raises(DataError, match="no turn of role"):
        task_with(kl="public", kl_pairs=(deaf,))


def test_thumbs_right_by_hand(
    model: AdapterModel, task_with: Callable[..., Thumbs], gains: Any, rows_for: Callable[..., Any]
) -> None:
    """A row is right if its likelihood moved the way of its thumb; one that stayed counts half."""
    rows, task = rows_for("llama", 9, trainer="kto"), task_with()
    expected = sum((gain > 0) == row["label"] for row, gain in zip(rows, gains(rows).tolist(), strict=True))
    with torch.no_grad():
        assert task.measure(model.module, task.collate([task.example(row) for row in rows])) == (expected, 9)
        model.load({name: value * 0 for name, value in model.arrays().items()})
        assert task.measure(model.module, task.collate([task.example(row) for row in rows])) == (4.5, 9)
    assert 0 < expected < 9
