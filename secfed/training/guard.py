"""Refuse a model in which units couple, or in which something moves that carries no noise.

The claim of DP-SGD is about a sum of gradients of single units, each clipped. It is void when a
unit's gradient depends on other units' rows (batch statistics, auxiliary losses of a mixture of
experts, layers that see the tokens of all records as one long row, positions or convolutions that
follow the longest row of a batch), and it says nothing of weights that are trained beside the
noised ones. `inspect` looks at the model as it was loaded, before a
row is drawn; no training row decides. Options that people bring from other trainers are refused by
name where they are read (`secfed.config.refused`), and the trainer checks after a run that exactly
the noised tensors moved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NoReturn

import peft
import torch
import transformers
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from secfed.config.refused import Refusal, init_refusal
from secfed.errors import ConfigError
from secfed.training.point import ReferencePoint

__all__ = ["inspect"]

_AUXILIARY: Final = (
    "output_router_logits", "router_aux_loss_coef", "aux_loss_coef", "aux_loss_alpha",
    "router_z_loss_coef", "moe_loss_weight",
)  # fmt: skip
"""Fields of transformers' configs that ask for a loss over the routing of the whole batch."""

_ORIGINAL_LENGTHS: Final = ("original_max_position_embeddings", "max_position_embeddings")
"""Fields of transformers' configs that say up to which length rotary frequencies stay as they are."""

_RECORDS, _TOKENS = 3, 2
"""Shape of the probe; the numbers differ from each other and from their product."""

_TOLERANCE: Final = 1e-4
"""Relative difference that rounding (some 1e-6 in float32) stays below and coupling exceeds."""

_OTHER_LAYER: Final = "choose other target_modules: plain linear layers that see each record by itself"
_OTHER_BASE: Final = "choose a base model without it"
_PLAIN_LORA: Final = "attach plain LoRA to plain linear layers, and nothing else"


def inspect(module: nn.Module, noised: Mapping[str, nn.Parameter], *, max_length: int) -> None:
    """Hold a model against what per-unit gradients and their noise need.

    Args:
        module: The base with its adapter, as it will be trained: the parameters that take gradients
            are marked, and its layers are in the mode of training.
        noised: The parameters that will be clipped and noised, by name.
        max_length: Longest row of the plan, in tokens; the model is run on a made-up row of that length.

    Raises:
        ConfigError: What was found, with the reason; the hint is the remedy.
    """
    covered = {id(parameter) for parameter in noised.values()}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and id(parameter) not in covered:
            _refuse(name, "it takes gradients and would move without noise", _PLAIN_LORA)
    for name, layer in module.named_modules():
        _inspect_layer(name, layer, covered)
        if isinstance(layer, peft.PeftModel):
            _inspect_adapters(layer.peft_config)
        if isinstance(layer, transformers.PreTrainedModel):
            _inspect_config(layer.config.to_dict())
            _inspect_rope(layer.config.to_dict(), max_length)
    _probe_records(module, noised)
    _probe_lengths(module, max_length)


def _refuse(what: str, reason: str, remedy: str) -> NoReturn:
    """One form for every refusal."""
    raise ConfigError(f"{what} is refused: {reason}", hint=f"{remedy[0].upper()}{remedy[1:]}.")


def _inspect_layer(name: str, layer: nn.Module, covered: set[int]) -> None:
    """Kinds of layers that couple records, hide their gradients, or hold weights of their own."""
    if isinstance(layer, _BatchNorm) or (isinstance(layer, _InstanceNorm) and layer.track_running_stats):
        _refuse(name, "its statistics are taken over the batch, so records change each other", _OTHER_BASE)
    if isinstance(layer, LoraLayer) and not isinstance(layer, LoraLinear):
        kind = type(layer).__name__
        _refuse(name, f"LoRA on {kind} leaves no gradients of single records", _OTHER_LAYER)
    if isinstance(layer, AuxiliaryTrainingWrapper):
        own = [part for part, _ in layer.named_parameters() if not part.startswith("original_module.")]
        parts = dict(layer.named_parameters())
        if any(id(parts[part]) not in covered for part in own):
            _refuse(name, "PEFT would train and save a copy of it that carries no noise", _PLAIN_LORA)
    if getattr(layer, "gradient_checkpointing", False) and not _is_reentrant(layer):
        _refuse(
            name,
            "non-reentrant gradient checkpointing leaves no gradients of single records",
            "switch gradient checkpointing off; micro-batches bound the memory",
        )


def _is_reentrant(layer: nn.Module) -> bool:
    """Whether a layer's checkpointing was asked to be reentrant."""
    function = getattr(layer, "_gradient_checkpointing_func", None)
    options: Mapping[str, Any] = getattr(function, "keywords", {})
    return options.get("use_reentrant") is True


def _inspect_adapters(configs: Mapping[str, Any]) -> None:
    """PEFT's configurations of the adapters on one model."""
    if len(configs) > 1:
        _refuse(
            f"the adapter {sorted(configs)[-1]!r}",
            "a second adapter that learns without noise inside the shared loop leaks through the first",
            "keep one adapter; personalise at the site after the last round, and send nothing of it",
        )
    for config in configs.values():
        if getattr(config, "use_dora", False):
            _refuse("DoRA", "its magnitudes have no gradients of single records", _PLAIN_LORA)
        if getattr(config, "bias", "none") != "none" or getattr(config, "lora_bias", False):
            _refuse("bias", "it trains biases that carry no noise", _PLAIN_LORA)
        refusal: Refusal | None = init_refusal(getattr(config, "init_lora_weights", True))
        if refusal is not None:
            _refuse(f"init_lora_weights = {config.init_lora_weights!r}", refusal.reason, refusal.remedy)


def _inspect_config(config: Mapping[str, Any]) -> None:
    """A base model's config, and the configs inside it."""
    for name, value in config.items():
        if name in _AUXILIARY and value:
            _refuse(
                f"{name} = {value!r} in the base's config",
                "the auxiliary loss of a mixture of experts is a statistic of the whole batch",
                f"set {name} to {'false' if value is True else 0} in the base's config.json; "
                "its weights stay as they are",
            )
        if isinstance(value, Mapping):
            _inspect_config(value)


def _inspect_rope(config: Mapping[str, Any], max_length: int, around: Collection[int] = ()) -> None:
    """Rotary positions whose frequencies are those of the batch's longest row, from some length on.

    transformers' `dynamic_rope_update` decides by the type, and its configs nest: by model, by kind of
    layer. The smallest length on the way down is taken.

    Args:
        config: A config, or a part of one.
        max_length: Longest row, in tokens.
        around: Lengths that the configs around this part name.
    """
    lengths = [*around, *(config[name] for name in _ORIGINAL_LENGTHS if isinstance(config.get(name), int))]
    kind = config.get("rope_type")
    if isinstance(kind, str) and (kind == "longrope" or "dynamic" in kind):
        kept = min(lengths, default=0)
        if max_length > kept:
            _refuse(
                f"rope_type = {kind!r} in the base's config",
                f"beyond {kept} tokens the longest row of a batch sets the frequencies of all its rows",
                f"plan a max_length of {kept} or less" if kept else _OTHER_BASE,
            )
    for value in config.values():
        if isinstance(value, Mapping):
            _inspect_rope(value, max_length, lengths)


def _probe_records(module: nn.Module, noised: Mapping[str, nn.Parameter]) -> None:
    """Two forward passes over made-up tokens: each layer sees records first, and none sees another.

    The first record is the same in both passes, the others differ; what comes out for it must not.
    """
    owners = dict(_owners(module, {id(parameter) for parameter in noised.values()}))
    seen: dict[str, int] = {}
    handles = [
        layer.register_forward_pre_hook(
            lambda _layer, inputs, name=name: seen.update({name: inputs[0].shape[0]})
        )
        for name, layer in owners.items()
    ]
    tokens, _ = _made_up(module, 2 * _RECORDS - 1, _TOKENS)
    batches = tokens[:_RECORDS], torch.cat([tokens[:1], tokens[_RECORDS:]])
    try:
        (first,), (second,) = (_outputs(module, batch, torch.ones_like(batch), 1) for batch in batches)
    finally:
        for handle in handles:
            handle.remove()
    for name in owners:
        if seen.get(name) != _RECORDS:
            _refuse(
                f"an adapter on {name}",
                "this layer does not see each record by itself, so no record has a gradient of its own there",
                _OTHER_LAYER,
            )
    if not _alike(first, second):
        _refuse("this model", "what it makes of one record depends on the others of the batch", _OTHER_BASE)


def _probe_lengths(module: nn.Module, max_length: int) -> None:
    """A few tokens and half a row, padded beside the longest row that the plan allows, and then alone.

    The few tokens have all their padding near, the half row has positions far from each other. A
    model that fails on the longest row, or keeps something of a row in a buffer, would else fail
    after a charge, for the lengths of private rows.
    """
    lengths = (min(_TOKENS, max_length), (max_length + 1) // 2, max_length)
    tokens, padding = _made_up(module, len(lengths), max_length)
    mask = torch.ones_like(tokens)
    for record, own in enumerate(lengths):
        tokens[record, own:], mask[record, own:] = padding, 0
    together = _outputs(module, tokens, mask, len(lengths) - 1)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for record, beside in enumerate(together):
        row = slice(record, record + 1), slice(lengths[record])
        (alone,) = _outputs(module, tokens[row], mask[row], 1)
        if not _alike(beside, alone):
            _refuse(
                "this model",
                "what it makes of one record depends on its padding, and so on the longest row of the batch",
                _OTHER_BASE,
            )
    for name, buffer in module.named_buffers():
        if name not in buffers or not torch.equal(buffer, buffers[name]):
            _refuse(name, "it follows the rows that the model saw, and carries no noise", _OTHER_BASE)


def _owners(module: nn.Module, wanted: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """The layers that hold noised parameters themselves; a point sees figures of records, and no tokens."""
    for name, layer in module.named_modules():
        if not isinstance(layer, ReferencePoint) and any(
            id(parameter) in wanted for parameter in layer.parameters(recurse=False)
        ):
            yield name, layer


def _made_up(module: nn.Module, records: int, tokens: int) -> tuple[Tensor, int]:
    """Token ids without the padding id, shape (records, tokens), and the padding id."""
    base = next(layer for layer in module.modules() if isinstance(layer, transformers.PreTrainedModel))
    embedding = base.get_input_embeddings()
    vocabulary, padding = len(embedding.weight), getattr(embedding, "padding_idx", None) or 0
    ids = torch.arange(records * tokens, device=embedding.weight.device) + vocabulary // 2
    ids = ids % vocabulary
    return ids.where(ids != padding, (padding + 1) % vocabulary).reshape(records, tokens), padding


def _outputs(module: nn.Module, tokens: Tensor, mask: Tensor, count: int) -> list[Tensor]:
    """What the model makes of the first records: a vector for each of their own tokens, or for all."""
    try:
        with torch.no_grad():
            output = module(input_ids=tokens, attention_mask=mask)
        # a classifier gives its logits; a transformers model an output that begins with logits or states
        records: Tensor = output if isinstance(output, Tensor) else output[0]
        own = [int(line.sum()) if records.dim() > 2 else None for line in mask[:count]]
        return [records[place, :end].float().cpu() for place, end in enumerate(own)]
    except Exception as error:
        raise ConfigError(
            f"the base model fails on {len(tokens)} made-up rows of up to {tokens.shape[1]} tokens "
            f"({type(error).__name__})",
            hint="Plan a smaller max_length, or choose another base model.",
        ) from error


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs for one record differ by rounding alone."""
    return torch.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE * float(one.abs().max()))
