"""Gradients of LoRA's factors: of a batch, of each record, and none where none is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleHooks, GradSampleModule
from torch import Tensor, nn

from secfed.aggregation.spec import AdapterSpec
from secfed.training import dpsgd
from secfed.training.adapter import AdapterModel, build, task_of
from secfed.training.classify import Head
from secfed.training.lora_gradients import LoraFactor, factor_gradients, per_record, use_factors
from secfed.training.task import Task

KINDS = ("bert", "llama", "gpt2")
ROWS = 9


class Ready:
    """A tiny model with its adapter off zero, and one batch of rows of different lengths."""

    def __init__(self, model: AdapterModel, task: Task, rows: Sequence[Any]) -> None:
        self.model, self.task = model, task
        self.examples = [task.example(row) for row in rows]

    def losses(self, records: slice = slice(None)) -> Tensor:
        return self.task.losses(self.model.module, self.task.collate(self.examples[records]))

    @property
    def names(self) -> list[str]:
        return list(self.model.parameters)


@pytest.fixture(scope="module")
def ready(
    base_folder: Callable[[str], Path],
    spec_of: Callable[[str], AdapterSpec],
    train_spec: Callable[..., Any],
    first_adapter: Callable[..., Any],
    rows_for: Callable[..., Any],
) -> Callable[[str], Ready]:
    def make(kind: str) -> Ready:
        plan = train_spec(kind, strategy="fedavg")
        model = build(spec_of(kind), base_folder(kind), device="cpu")
        model.load(first_adapter(plan))
        return Ready(model, task_of(spec_of(kind), base_folder(kind), plan.max_length), rows_for(kind, ROWS))

    return make


def factors_of(module: nn.Module) -> list[LoraFactor]:
    return [layer for layer in module.modules() if isinstance(layer, LoraFactor)]


def as_peft_makes_them(module: nn.Module) -> None:
    """Put plain linear layers back in the place of the factors; they share the weights."""
    for layer in module.modules():
        if isinstance(layer, peft.tuners.lora.Linear):
            for group in (layer.lora_A, layer.lora_B):
                for name, factor in group.items():
                    plain = nn.Linear(factor.in_features, factor.out_features, bias=False)
                    plain.weight = factor.weight
                    group[name] = plain


# -- one factor --------------------------------------------------------------------------------


@given(
    records=st.integers(1, 4),
    middle=st.lists(st.integers(1, 5), max_size=2),
    wide=st.integers(1, 12),
    narrow=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_a_factor_is_the_linear_layer_it_replaces(
    records: int, middle: list[int], wide: int, narrow: int, seed: int
) -> None:
    """Output, gradient of the input and of the weight, for any shape and either long side."""
    generator = torch.Generator().manual_seed(seed)
    plain = nn.Linear(wide, narrow, bias=False)
    factor = LoraFactor(plain)
    x = torch.randn(records, *middle, wide, generator=generator)
    back = torch.randn(records, *middle, narrow, generator=generator)
    results = []
    for layer in (plain, factor):
        inputs = x.clone().requires_grad_(True)
        output = layer(inputs)
        results.append((output, *torch.autograd.grad(output, [inputs, layer.weight], back)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    singles = torch.stack(
        [torch.autograd.grad(plain(x[n : n + 1]), plain.weight, back[n : n + 1])[0] for n in range(records)]
    )
    found = factor_gradients(factor, [x], back)[factor.weight]
    torch.testing.assert_close(found, singles, rtol=1e-5, atol=1e-5)


def test_a_frozen_factor_has_no_gradients() -> None:
    factor = LoraFactor(nn.Linear(5, 2, bias=False))
    factor.weight.requires_grad_(False)
    assert factor_gradients(factor, [torch.ones(3, 4, 5)], torch.ones(3, 4, 2)) == {}


def test_a_batch_gradient_is_left_out_only_while_asked_for() -> None:
    layers = nn.Sequential(LoraFactor(nn.Linear(5, 2, bias=False)))
    with per_record(layers):
        output = layers(torch.ones(3, 4, 5)).sum()
        assert torch.autograd.grad(output, list(layers.parameters()), allow_unused=True) == (None,)
    layers(torch.ones(3, 4, 5)).sum().backward()
    assert layers[0].weight.grad is not None


def test_calls_of_one_batch_add_up() -> None:
    """A task may call the model several times for a record; another number of records is no such call."""
    layers = nn.Sequential(LoraFactor(nn.Linear(5, 2, bias=False)))
    weight = layers[0].weight
    inputs = [torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    with per_record(layers):
        (layers(inputs[0]).sum() + layers(inputs[1]).sum()).backward()
        expected = torch.stack([(inputs[0][n] + inputs[1][n]).sum(0).expand(2, 5) for n in range(3)])
        torch.testing.assert_close(weight.grad_sample, expected)
        with pytest.raises(RuntimeError, match="different numbers of records"):
            layers(inputs[0][:2]).sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_no_factor_gets_hooks(ready: Callable[[str], Ready], kind: str) -> None:
    here = ready(kind)
    with here.model.trainable(here.names), dpsgd.per_record_gradients(here.model.module):
        hooked = [layer for layer in here.model.module.modules() if layer._backward_hooks]
    assert [type(layer) for layer in hooked] == ([Head] if kind == "bert" else [])


# -- in models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_linear_lora_layer_has_factors_under_pefts_names(
    ready: Callable[[str], Ready], kind: str
) -> None:
    here = ready(kind)
    layers = [part for part in here.model.module.modules() if isinstance(part, peft.tuners.lora.Linear)]
    assert len(factors_of(here.model.module)) == 2 * len(layers) > 0
    adapted = here.model.module.encoder if kind == "bert" else here.model.module
    saved = peft.get_peft_model_state_dict(adapted)
    assert set(saved) == {name for name in here.names if not name.startswith("head.")}
    use_factors(here.model.module)  # a second time changes nothing
    assert len(factors_of(here.model.module)) == 2 * len(layers)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_batch_gradients_are_those_of_pefts_layers(
    ready: Callable[[str], Ready], kind: str
) -> None:
    here = ready(kind)
    found = []
    for _ in range(2):
        with here.model.trainable(here.names) as parameters:
            losses = here.losses()
            gradients = torch.autograd.grad(losses.sum(), list(parameters.values()))
        found.append((losses.detach(), *gradients))
        as_peft_makes_them(here.model.module)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_each_records_gradient_equals_a_backward_pass_of_its_own(
    ready: Callable[[str], Ready], kind: str
) -> None:
    """Every array of every record, A and B, also in GPT-2's transposed layers, to 1e-5."""
    here = ready(kind)
    with here.model.trainable(here.names) as parameters:
        arrays = list(parameters.values())
        with dpsgd.per_record_gradients(here.model.module):
            here.losses().sum().backward()
            together = [parameter.grad_sample for parameter in arrays]
            # the head alone is not a factor
            assert {name for name in parameters if parameters[name].grad is not None} <= {
                "head.weight",
                "head.bias",
            }
        for record in range(ROWS):
            alone = torch.autograd.grad(here.losses(slice(record, record + 1)).sum(), arrays)
            for found, expected in zip(together, alone, strict=True):
                limit = 1e-5 * max(float(expected.norm()), 1e-6)
                assert float((found[record] - expected).norm()) <= limit


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # the base below is frozen
@pytest.mark.parametrize("kind", KINDS)
def test_opacus_own_sampler_finds_the_same(ready: Callable[[str], Ready], kind: str) -> None:
    here = ready(kind)
    with here.model.trainable(here.names) as parameters, dpsgd.per_record_gradients(here.model.module):
        here.losses().sum().backward()
        ours = [parameter.grad_sample.clone() for parameter in parameters.values()]
    as_peft_makes_them(here.model.module)
    with here.model.trainable(here.names) as parameters:
        hooks = GradSampleHooks(here.model.module, loss_reduction="sum")
        here.losses().sum().backward()
        theirs = [parameter.grad_sample for parameter in parameters.values()]
        hooks.cleanup()
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("kind", KINDS)
def test_opacus_calls_this_sampler_and_finds_what_its_generic_one_does(
    ready: Callable[[str], Ready], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its GradSampleModule around the factors, and around plain layers that it has to vmap, to rounding."""
    here = ready(kind)
    asked: list[nn.Module] = []

    def noted(layer: LoraFactor, activations: Sequence[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
        asked.append(layer)
        return factor_gradients(layer, activations, backprops)

    samplers = GradSampleModule.GRAD_SAMPLERS
    assert samplers[LoraFactor] is factor_gradients
    monkeypatch.setitem(samplers, LoraFactor, noted)
    factors, found = factors_of(here.model.module), []
    for generic in (False, True):
        with here.model.trainable(here.names) as parameters:
            wrapped = GradSampleModule(here.model.module, loss_reduction="sum", force_functorch=generic)
            here.task.losses(wrapped, here.task.collate(here.examples)).sum().backward()
            found.append([parameter.grad_sample for parameter in parameters.values()])
            wrapped.to_standard_module()
        assert set(asked) == set(factors)
        assert len(asked) == len(factors)  # once each, and none once they are gone
        as_peft_makes_them(here.model.module)
    for ours, generic in zip(*found, strict=True):
        assert len(ours) == ROWS
        np.testing.assert_allclose(ours, generic, rtol=1e-4, atol=1e-5 * float(generic.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_computed_for_frozen_weights(ready: Callable[[str], Ready], kind: str) -> None:
    """With A frozen, no gradient reaches the base, A, or anything below the first trained layer."""
    here = ready(kind)
    reached: list[str] = []
    names = [name for name in here.names if "lora_A" not in name]
    with here.model.trainable(names) as parameters, dpsgd.per_record_gradients(here.model.module):
        first = factors_of(here.model.module)[0]  # A of the lowest adapted layer
        handle = first.register_full_backward_hook(lambda *_: reached.append("the lowest A"))
        losses = here.losses()
        losses.sum().backward()
        handle.remove()
        trained = {id(parameter) for parameter in parameters.values()}
        others = [part for part in here.model.module.parameters() if id(part) not in trained]
        assert all(part.grad is None and getattr(part, "grad_sample", None) is None for part in others)
        assert all(parameter.grad_sample is not None for parameter in parameters.values())
    assert reached == []
    assert _leaves(losses) == trained


def _leaves(losses: Tensor) -> set[int]:
    """Which tensors the backward pass accumulates into, by a walk over its whole graph."""
    waiting, seen, leaves = [losses.grad_fn], set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting += [before for before, _ in node.next_functions]
    return leaves
