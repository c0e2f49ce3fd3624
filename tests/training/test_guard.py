"""What couples units or moves without noise is refused, with reason and remedy, on real models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from secfed.aggregation.spec import AdapterSpec
from secfed.errors import ConfigError
from secfed.training import guard
from secfed.training.adapter import AdapterModel, build
from secfed.training.classify import PooledClassifier

pytestmark = [  # of PEFT about transformers' names, and about an initialisation that is refused here
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*eva:UserWarning"),
]

SIZE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
EXPERTS: dict[str, dict[str, Any]] = {
    "MixtralConfig": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen2MoeConfig": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
}


def base(kind: str = "LlamaConfig", **changes: Any) -> Any:
    torch.manual_seed(3)
    config = getattr(transformers, kind)(**SIZE, **EXPERTS.get(kind, {}), **changes)
    return transformers.AutoModelForCausalLM.from_config(config)


def with_lora(model: Any, **changes: Any) -> Any:
    options: dict[str, Any] = {"r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    return get_peft_model(model, LoraConfig(**(options | changes))).eval()


def noised(module: nn.Module) -> dict[str, nn.Parameter]:
    """The plain LoRA arrays: what secfed clips and noises."""
    return {
        name: parameter
        for name, parameter in module.named_parameters()
        if ".lora_A.default.weight" in name or ".lora_B.default.weight" in name
    }


def look(module: nn.Module, noise: Mapping[str, nn.Parameter], max_length: int = 24) -> None:
    """The guard's look at a model, for a plan with rows of so many tokens."""
    guard.inspect(module, noise, max_length=max_length)


def refused(
    module: nn.Module,
    *expected: str,
    noise: Mapping[str, nn.Parameter] | None = None,
    max_length: int = 24,
) -> str:
    """The refusal's remedy; its reason says all that is expected."""
    with pytest.raises(ConfigError) as refusal:
        look(module, noised(module) if noise is None else noise, max_length)
    said = str(refusal.value)
    assert [each for each in expected if each not in said] == []
    assert refusal.value.hint.endswith(".")
    return refusal.value.hint


@pytest.fixture
def adapted(
    base_folder: Callable[[str], Path], spec_of: Callable[[str], AdapterSpec]
) -> Callable[[str], AdapterModel]:
    """secfed's own model of a kind."""
    return lambda kind: build(spec_of(kind), base_folder(kind), device="cpu")


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_the_models_that_secfed_builds_pass(adapted: Callable[[str], AdapterModel], kind: str) -> None:
    model = adapted(kind)
    with model.trainable(list(model.parameters)) as parameters:
        look(model.module, parameters)
    frozen = [name for name in model.parameters if "lora_A" not in name]
    with model.trainable(frozen) as parameters:
        look(model.module, parameters)
    assert all(not layer._forward_pre_hooks for layer in model.module.modules())


def test_what_takes_gradients_without_noise_is_named(adapted: Callable[[str], AdapterModel]) -> None:
    model = adapted("llama")
    with model.trainable(list(model.parameters)) as parameters:
        norm = next(p for name, p in model.module.named_parameters() if name.endswith("norm.weight"))
        norm.requires_grad_(True)
        refused(model.module, "norm.weight", "without noise", noise=parameters)


# -- batch statistics --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(32), nn.SyncBatchNorm(32), nn.InstanceNorm1d(32, track_running_stats=True)],
    ids=lambda layer: type(layer).__name__,
)
def test_batch_statistics_are_refused(adapted: Callable[[str], AdapterModel], layer: nn.Module) -> None:
    model = adapted("bert")
    model.module.encoder.get_base_model().add_module("extra", layer.requires_grad_(False))
    with model.trainable(list(model.parameters)) as parameters:
        refused(model.module, "extra", "statistics", noise=parameters)


class InBatchMean(nn.Module):
    """Takes the batch's mean off, as contrastive heads do: no parameter and no known kind of layer."""

    def forward(self, states: Tensor) -> Tensor:
        return states - states.mean(dim=0)


def test_a_layer_of_unknown_kind_that_couples_records_is_found_by_the_probe(
    adapted: Callable[[str], AdapterModel],
) -> None:
    model = adapted("bert")
    assert isinstance(model.module, PooledClassifier)
    head = model.module.head
    with model.trainable(list(model.parameters)) as parameters:
        model.module.head = nn.Sequential(InBatchMean(), head)  # type: ignore[assignment]
        refused(model.module, "depends on the others", noise=parameters)
        model.module.head = nn.Sequential(nn.LayerNorm(32), head).requires_grad_(False)  # type: ignore[assignment]
        head.requires_grad_(True)
        look(model.module, parameters)


# -- the longest row of a batch -------------------------------------------------------------------


ROPES: dict[str, tuple[dict[str, Any], int]] = {
    "longrope": (
        {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "original_max_position_embeddings": 32},
        32,
    ),
    "dynamic": ({"factor": 4.0}, 128),
}
"""Options of rotary positions, and the length up to which the frequencies stay, of 128 positions."""


def with_rope(kind: str, **changes: Any) -> Any:
    rope = {"rope_type": kind, "rope_theta": 10000.0} | ROPES[kind][0]
    return with_lora(base(max_position_embeddings=128, rope_parameters=rope, **changes))


@pytest.mark.parametrize("kind", list(ROPES))
def test_rotary_positions_that_follow_the_longest_row_are_refused(kind: str) -> None:
    """Only where the plan's rows can be long enough to move them."""
    kept = ROPES[kind][1]
    remedy = refused(with_rope(kind), repr(kind), f"beyond {kept} tokens", max_length=kept + 1)
    assert f"max_length of {kept} or less" in remedy
    model = with_rope(kind)
    look(model, noised(model), kept)


@pytest.mark.parametrize("kind", list(ROPES))
def test_rotary_positions_of_one_kind_of_layer_are_found_in_the_config(kind: str) -> None:
    """Options nest by kind of layer, and configs by model; without a length on the way none is safe."""
    rope = {"rope_type": kind} | ROPES[kind][0]
    nested = {"text": {"max_position_embeddings": 128, "rope_parameters": {"sliding_attention": rope}}}
    kept = ROPES[kind][1]
    guard._inspect_rope(nested, kept)
    with pytest.raises(ConfigError, match=f"beyond {kept} tokens"):
        guard._inspect_rope(nested, kept + 1)
    with pytest.raises(ConfigError, match="rope_type"):
        guard._inspect_rope({"rope_parameters": {"rope_type": kind}}, 1)


@pytest.mark.parametrize("kind", list(ROPES))
def test_the_probe_finds_them_without_the_config(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_inspect_rope", lambda *_: None)
    refused(with_rope(kind), "depends on its padding", max_length=ROPES[kind][1] * 2)


def classifier(kind: str, **changes: Any) -> PooledClassifier:
    """secfed's classifier around an encoder of a kind that no fixture makes."""
    torch.manual_seed(3)
    options = {name: value for name, value in SIZE.items() if name != "num_key_value_heads"} | changes
    encoder = transformers.AutoModel.from_config(getattr(transformers, kind)(**options))
    adapted = with_lora(encoder, target_modules=["query", "value"], task_type="FEATURE_EXTRACTION")
    return PooledClassifier(adapted, 32, 2).requires_grad_(False).eval()


@pytest.mark.parametrize("max_length", [3, 24])
def test_a_convolution_over_padding_is_refused(max_length: int) -> None:
    refused(
        classifier("ConvBertConfig", embedding_size=32),
        "depends on its padding",
        "longest row",
        max_length=max_length,
    )


@pytest.mark.parametrize("max_length", [1, 2])
def test_rows_of_one_length_have_no_padding_to_look_at(max_length: int) -> None:
    model = classifier("BertConfig")
    look(model, noised(model), max_length)


class Counter(nn.Module):
    """Counts the rows that it saw, and changes nothing of what it is given."""

    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(()))

    def forward(self, states: Tensor) -> Tensor:
        self.rows += len(states)
        return states


def test_a_buffer_that_follows_the_rows_is_refused(adapted: Callable[[str], AdapterModel]) -> None:
    """The trainer would refuse to send what was trained, after the charge."""
    model = adapted("bert")
    assert isinstance(model.module, PooledClassifier)
    head = model.module.head
    with model.trainable(list(model.parameters)) as parameters:
        model.module.head = nn.Sequential(Counter(), head)  # type: ignore[assignment]
        refused(model.module, "rows is refused", "follows the rows", noise=parameters)


@pytest.mark.parametrize(
    "kind", ["RobertaConfig", "XLMRobertaXLConfig", "Data2VecTextConfig", "RobertaPreLayerNormConfig"]
)
def test_rows_that_a_model_fails_on_are_refused_whatever_its_kind(kind: str) -> None:
    """Positions begin after the padding id, 1: of 34 positions 32 are for tokens."""
    model = classifier(kind, max_position_embeddings=34, pad_token_id=1)
    look(model, noised(model), 32)
    for too_long in (33, 34):
        remedy = refused(model, f"fails on 3 made-up rows of up to {too_long} tokens", max_length=too_long)
        assert "smaller max_length" in remedy


# -- mixtures of experts -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["MixtralConfig", "Qwen2MoeConfig"])
@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({}, "router_aux_loss_coef", 0),
        ({"router_aux_loss_coef": 0.0, "output_router_logits": True}, "output_router_logits", "false"),
    ],
)
def test_an_auxiliary_loss_is_refused(kind: str, changes: dict[str, Any], field: str, value: object) -> None:
    remedy = refused(with_lora(base(kind, **changes)), field, "statistic of the whole batch")
    assert f"set {field} to {value}" in remedy.lower()


@pytest.mark.parametrize("kind", ["MixtralConfig", "Qwen2MoeConfig"])
def test_experts_without_an_auxiliary_loss_pass_with_lora_on_the_attention(kind: str) -> None:
    model = with_lora(base(kind, router_aux_loss_coef=0.0))
    look(model, noised(model))


def test_a_layer_that_sees_all_tokens_in_one_row_is_refused() -> None:
    """A shared expert is a plain linear layer, but what it is given has no dimension of records."""
    model = with_lora(base("Qwen2MoeConfig", router_aux_loss_coef=0.0), target_modules=["up_proj"])
    refused(model, "shared_expert.up_proj", "each record by itself")


def test_lora_on_fused_experts_is_refused() -> None:
    model = with_lora(
        base("MixtralConfig", router_aux_loss_coef=0.0), target_parameters=["mlp.experts.down_proj"]
    )
    refused(model, "ParamWrapper", noise=dict(_all_lora(model)))


# -- adapters ----------------------------------------------------------------------------------


def _all_lora(model: nn.Module) -> Any:
    return ((name, each) for name, each in model.named_parameters() if each.requires_grad)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"use_dora": True}, ("DoRA", "single records")),
        ({"bias": "all"}, ("bias", "no noise")),
        ({"bias": "lora_only"}, ("bias", "no noise")),
        ({"lora_bias": True}, ("bias", "no noise")),
        ({"target_modules": ["q_proj", "embed_tokens"]}, ("embed_tokens", "LoRA on Embedding")),
    ],
)
def test_adapters_beyond_plain_lora_are_refused(changes: dict[str, Any], expected: tuple[str, ...]) -> None:
    model = with_lora(base(attention_bias=True), **changes)
    refused(model, *expected, noise=dict(_all_lora(model)))


@pytest.mark.parametrize(
    "changes", [{"modules_to_save": ["lm_head"]}, {"trainable_token_indices": {"embed_tokens": [1, 2]}}]
)
def test_saved_modules_are_refused_unless_they_are_noised(changes: dict[str, Any]) -> None:
    model = with_lora(base(), **changes)
    refused(model, "without noise")
    model.requires_grad_(False)  # frozen for the time being, but PEFT would save its copy
    refused(model, "no noise")


def test_a_saved_module_that_is_noised_passes() -> None:
    model = with_lora(base(), modules_to_save=["lm_head"])
    look(model, dict(_all_lora(model)))


def test_initialisation_from_rows_is_refused_and_from_weights_for_another_reason() -> None:
    model = with_lora(base(), init_lora_weights="eva")
    remedy = refused(model, "'eva'", "release of those rows")
    assert "seed" in remedy
    refused(with_lora(base(), init_lora_weights="pissa"), "'pissa'", "rewrites the base's weights")
    for harmless in ("gaussian", "orthogonal", True):
        model = with_lora(base(), init_lora_weights=harmless)
        look(model, noised(model))


def test_personal_state_beside_the_shared_adapter_is_refused() -> None:
    model = with_lora(base())
    model.add_adapter("mine", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.requires_grad_(False)
    assert "personalise" in refused(model, "'mine'", "second adapter").lower()


# -- gradient checkpointing --------------------------------------------------------------------


def test_checkpointing_must_be_reentrant() -> None:
    model = with_lora(base())
    model.get_base_model().gradient_checkpointing_enable()
    assert "switch gradient checkpointing off" in refused(model, "non-reentrant").lower()
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": True})
    model.requires_grad_(False)
    look(model, noised(model))
