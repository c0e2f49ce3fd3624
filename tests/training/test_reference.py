"""The reference of preference losses: the base model itself, asked once for each response."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from secfed.training.adapter import AdapterModel, build, task_of
from secfed.training.reference import Reference, adapter_off
from secfed.training.responses import collate, log_likelihoods
from secfed.training.sft import Completions

KINDS = ("llama", "gpt2")


@pytest.fixture
def model(
    base_folder: Callable[..., Path],
    spec_of: Callable[..., Any],
    train_spec: Callable[..., Any],
    first_adapter: Callable[..., Any],
) -> Callable[[str], AdapterModel]:
    def make(kind: str) -> AdapterModel:
        made = build(spec_of(kind), base_folder(kind), device="cpu")
        made.load(first_adapter(train_spec(kind)))
        return made

    return make


@pytest.fixture
def examples(
    base_folder: Callable[..., Path], spec_of: Callable[..., Any], rows_for: Callable[..., Any]
) -> list[Any]:
    task = task_of(spec_of("llama"), base_folder("llama"), 24)
    assert isinstance(task, Completions)
    return [task.example(row) for row in rows_for("llama", 8)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_base_model(
    kind: str, model: Callable[..., AdapterModel], base_folder: Callable[..., Path], examples: list[Any]
) -> None:
    """Equal to a base model that never saw an adapter; the adapter itself gives other figures."""
    here, reference, batch = model(kind), Reference(), collate(examples, 1)
    found = reference.log_likelihoods(here.module, batch, reference.numbers(examples))
    base = transformers.AutoModelForCausalLM.from_pretrained(base_folder(kind), dtype=torch.float32).eval()
    with torch.no_grad():
        expected, _ = log_likelihoods(base, batch)
        adapted, _ = log_likelihoods(here.module, batch)
    assert torch.allclose(found, expected, rtol=1e-6)
    assert (found - adapted).abs().min() > 1e-4
    assert not found.requires_grad


def test_every_response_is_asked_once(model: Callable[..., AdapterModel], examples: list[Any]) -> None:
    """Also across batches of one width, and under another adapter: the base does not change."""
    here, reference, calls = model("llama"), Reference(), []
    watch = here.module.register_forward_pre_hook(
        lambda _module, _args, options: calls.append(len(options["input_ids"])), with_kwargs=True
    )

    def ask(part: list[Any], width: int | None = 24) -> torch.Tensor:
        batch = collate(part, 1, width)
        return reference.log_likelihoods(here.module, batch, reference.numbers(part, width))

    first = ask(examples[:5])
    with torch.no_grad():
        for parameter in here.parameters.values():
            parameter.mul_(3.0)
    again = ask(examples[1:5])
    assert calls == [5]
    ask(examples[:5], None)  # rounded by its own shape: not what the others are told
    ask(examples[1:5], None)
    ask(examples[:5], None)
    watch.remove()
    assert calls == [5, 5, 4]
    assert torch.equal(first[1:], again)


def test_switching_the_adapter_off_leaves_no_trace(model: Callable[..., AdapterModel]) -> None:
    """PEFT's switch alone would let frozen factors take gradients afterwards."""
    here = model("llama")
    names = [name for name in here.parameters if "lora_B" in name]
    with here.trainable(names):
        before = [(p.requires_grad, p.detach().clone()) for p in here.module.parameters()]
        modes = [layer.training for layer in here.module.modules()]
        with adapter_off(here.module):
            assert not any(layer.training for layer in here.module.modules())
        after = [(p.requires_grad, p.detach()) for p in here.module.parameters()]
        assert [flag for flag, _ in before] == [flag for flag, _ in after]
        assert sum(flag for flag, _ in after) == len(names)
        assert all(torch.equal(one, other) for (_, one), (_, other) in zip(before, after, strict=True))
        assert [layer.training for layer in here.module.modules()] == modes
        with here.module.disable_adapter():
            pass
        assert sum(p.requires_grad for p in here.module.parameters()) > len(names)  # what is guarded against
