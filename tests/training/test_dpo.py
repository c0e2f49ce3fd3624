"""`dpo` by hand: the five losses, what a pair that cannot be learnt from does, and the metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from secfed.rounds.plan import DpoSpec
from secfed.training.adapter import AdapterModel, build, task_of
from secfed.training.dpo import Pairs, dpo_loss
from secfed.training.rows import Message
from secfed.training.task import UnlearnableError


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("sigmoid", -math.log(sigmoid(1.0))),  # beta 0.5, rho 3 and 1: a margin of 2
        ("hinge", 0.0),
        ("ipo", (3 / 6 - 1 / 2 - 1 / (2 * 0.5)) ** 2),  # six and two tokens
        ("robust", (0.1 * math.log(sigmoid(-1.0)) - 0.9 * math.log(sigmoid(1.0))) / 0.8),
        ("apo_zero", 1 - sigmoid(1.5) + sigmoid(0.5)),
    ],
)
def test_losses_by_hand(loss_type: Any, expected: float) -> None:
    loss = DpoSpec(loss_type=loss_type, beta="0.5", label_smoothing="0.1" if loss_type == "robust" else "0")
    found = dpo_loss(loss, *(torch.tensor([value]) for value in (3.0, 1.0, 6.0, 2.0)))
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def model(
    base_folder: Callable[..., Path],
    spec_of: Callable[..., Any],
    train_spec: Callable[..., Any],
    first_adapter: Callable[..., Any],
) -> AdapterModel:
    made = build(spec_of("llama", "dpo"), base_folder("llama"), device="cpu")
    made.load(first_adapter(train_spec("llama", "dpo")))
    return made


@pytest.fixture
def task(base_folder: Callable[..., Path], spec_of: Callable[..., Any]) -> Pairs:
    made = task_of(spec_of("llama", "dpo"), base_folder("llama"), 24, DpoSpec(beta="0.3"))
    assert isinstance(made, Pairs)
    return made


def test_a_pair_that_cannot_be_learnt_from_has_no_gradient(model: AdapterModel, task: Pairs) -> None:
    """One response without an assistant's turn: the whole pair counts as zero, and only its owner hears."""
    said, reply = (Message("user", "w0"),), (Message("assistant", "w1"),)
    row = {"prompt": said, "chosen": reply, "rejected": (Message("user", "w2"),)}
    with pytest.raises(UnlearnableError):
        task.check(row)
    with model.trainable(model.parameters) as parameters:
        batch = task.collate([task.example(row)])
        task.losses(model.module, batch).sum().backward()
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in parameters.values())
        batch = task.collate([task.example(row | {"rejected": (Message("assistant", "w2"),)})])
        task.losses(model.module, batch).sum().backward()
        assert any(parameter.grad.any() for parameter in parameters.values())


@pytest.mark.parametrize("chat", [False, True], ids=["texts", "chat"])
def test_a_prompt_at_the_beginning_of_both_responses_is_a_prompt(
    task: Pairs, rows_for: Callable[..., Any], as_chat: Any, chat: bool
) -> None:
    """The same tokens, targets and loss as with a column of prompts; `check` says nothing against it."""
    for row in rows_for("llama", 9, trainer="dpo"):
        stated = row | {"chosen": f"<unk> {row['chosen']}"}  # texts part at the beginning of a word
        whole = as_chat(stated) if chat else stated
        between = () if chat else " "
        implied = {side: whole["prompt"] + between + whole[side] for side in ("chosen", "rejected")}
        task.check(implied)
        assert task.example(implied) == task.example(whole)


def test_reward_accuracy_counts_pairs_and_half_of_ties(
    model: AdapterModel, task: Pairs, rows_for: Callable[..., Any]
) -> None:
    """Turning a pair round turns a right one into a wrong one; the base model alone ties."""
    rows = rows_for("llama", 9, trainer="dpo")
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    with torch.no_grad():
        right, count = task.measure(model.module, task.collate([task.example(row) for row in rows]))
        wrong, _ = task.measure(model.module, task.collate([task.example(row) for row in turned]))
        for name, parameter in model.parameters.items():
            if "lora_B" in name:
                parameter.zero_()
        ties, _ = task.measure(model.module, task.collate([task.example(row) for row in rows]))
    assert (count, right + wrong, ties) == (9, 9.0, 4.5)
    assert right not in (0.0, 4.5, 9.0)
