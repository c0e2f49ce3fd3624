"""A base model from a local folder with a LoRA adapter on it, and its arrays by PEFT name.

`load` and `arrays` are inverses. The initial values come from the job (`aggregation.initial`),
never from torch's generator, so that all sites start from the same bits.

Source: LoRA, Hu et al. 2021, arXiv:2106.09685; the PEFT library's names and folder format.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from torch import nn

from secfed.aggregation.spec import AdapterSpec
from secfed.aggregation.strategy import HEAD_BIAS, HEAD_WEIGHT, POINT, NamedArrays, is_known
from secfed.errors import ConfigError, EncodingError
from secfed.rounds.plan import DpoSpec, KtoSpec
from secfed.training.classify import Classification, Head, PooledClassifier
from secfed.training.dpo import Pairs
from secfed.training.kto import Thumbs
from secfed.training.lora_gradients import LoraFactor, use_factors
from secfed.training.point import POINT_LAYER, ReferencePoint
from secfed.training.sft import Completions
from secfed.training.task import Task

__all__ = ["AdapterModel", "build", "choose_device", "positions", "schema", "task_of"]

_SILENT_ADAPTER = ".default."
"""PEFT puts the adapter's name into parameter names, but not into what it saves."""

_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
"""Model types whose table of positions begins after the padding token's id, so that fewer are left."""

_LORA = ".lora_"
"""Marks every parameter that PEFT adds."""


class AdapterModel:
    """A frozen base model and the parameters of its adapter.

    Attributes:
        module: What a `Task` calls: a PeftModel, or a classifier around one.
        spec: What the adapter is.
        device: Where it lives.
        parameters: Every array of the adapter by PEFT name, in sorted order.
        point: The reference point that rides along, if one does.
    """

    def __init__(self, module: nn.Module, spec: AdapterSpec, device: torch.device) -> None:
        self.module = module
        self.spec = spec
        self.device = device
        self.parameters: dict[str, nn.Parameter] = dict(sorted(_adapter_parameters(module)))
        self.point = (
            next(each for each in module.children() if isinstance(each, ReferencePoint))
            if spec.point
            else None
        )
        module.requires_grad_(False)
        module.eval()

    def load(self, arrays: NamedArrays) -> None:
        """Overwrite the adapter.

        Raises:
            EncodingError: Names or shapes are not exactly those of this adapter.
        """
        if set(arrays) != set(self.parameters):
            wrong = ", ".join(sorted(set(arrays) ^ set(self.parameters)))
            raise EncodingError(f"the adapter does not fit the base model: {wrong}")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if arrays[name].shape != tuple(parameter.shape):
                    raise EncodingError(
                        f"{name!r} has shape {arrays[name].shape}, the model has {tuple(parameter.shape)}"
                    )
                parameter.copy_(torch.from_numpy(np.array(arrays[name], dtype=np.float32)))

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """A copy of the adapter, float32."""
        return {
            name: parameter.detach().to("cpu", torch.float32).numpy().copy()
            for name, parameter in self.parameters.items()
        }

    def round_base(self) -> None:
        """Round the frozen base to bfloat16, for good; the adapter and what stands beside it stay float32."""
        kept = {id(parameter) for parameter in self.parameters.values()}
        for parameter in self.module.parameters():
            if id(parameter) not in kept and parameter.is_floating_point():
                parameter.data = parameter.data.to(torch.bfloat16)

    @contextmanager
    def trainable(self, names: Collection[str]) -> Iterator[dict[str, nn.Parameter]]:
        """Let the named arrays, and nothing else, take gradients.

        Dropout stays off: only the layers that own a trained array are put in training mode,
        which is what their per-sample hooks look at.

        Raises:
            ConfigError: A trained array belongs to a layer that is not plainly linear.
        """
        chosen = {name: self.parameters[name] for name in sorted(names)}
        owners = [layer for layer in self.module.modules() if _owns(layer, chosen.values())]
        for layer in owners:
            if type(layer) not in (nn.Linear, Head, LoraFactor, ReferencePoint):
                raise ConfigError(f"LoRA on {type(layer).__name__} is not covered; choose linear layers")
        try:
            for parameter in chosen.values():
                parameter.requires_grad_(True)
            for layer in owners:
                layer.train()
            yield chosen
        finally:
            self.module.requires_grad_(False)
            self.module.eval()


def build(spec: AdapterSpec, folder: Path, *, device: str = "auto") -> AdapterModel:
    """Load a base model from a local folder and attach an adapter to it.

    Args:
        spec: The adapter.
        folder: transformers' folder of the base model, safetensors.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: The folder holds no such model, or the target modules are not in it.
    """
    place = choose_device(device)
    transformers.utils.logging.disable_progress_bar()
    try:
        base = _auto_class(spec).from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"no base model in {folder}: {error}") from error
    return AdapterModel(_attach(base.to(place), spec).to(place), spec, place)


def schema(spec: AdapterSpec, folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the whole adapter, from the base model's config alone (no weights)."""
    with torch.device("meta"):
        module = _attach(_auto_class(spec).from_config(_config(folder)), spec)
    return {name: tuple(parameter.shape) for name, parameter in sorted(_adapter_parameters(module))}


def positions(folder: Path) -> int | None:
    """Most tokens that a base model takes, from its config alone; None where it sets no limit.

    Other model types lose positions as well: what is left for them shows when `guard.inspect` runs
    the longest row.
    """
    config = _config(folder)
    limit: int | None = getattr(config, "max_position_embeddings", None)
    if limit is not None and config.model_type in _OFFSET_POSITIONS:
        limit -= (config.pad_token_id or 0) + 1
    return limit


def task_of(
    spec: AdapterSpec, folder: Path, max_length: int, preference: DpoSpec | KtoSpec | None = None
) -> Task:
    """The task of an adapter, with the base model's tokenizer.

    Args:
        preference: The loss of `dpo` and `kto`; a metric needs none.

    Raises:
        ConfigError: The folder holds no tokenizer, or one that does not fit base, task and length.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no tokenizer in {folder}: {error}") from error
    _check_vocabulary(tokenizer, folder)
    if spec.trainer != "classify" and tokenizer.eos_token_id is None:
        raise ConfigError(
            "the base's tokenizer has no end-of-text token, which responses end with",
            hint="Choose a base model whose tokenizer has one.",
        )
    match spec.trainer:
        case "classify":
            return Classification(tokenizer, spec.labels, max_length)
        case "dpo":
            return Pairs(tokenizer, max_length, preference if isinstance(preference, DpoSpec) else DpoSpec())
        case "kto":
            return Thumbs(tokenizer, max_length, preference if isinstance(preference, KtoSpec) else KtoSpec())
        case "sft":
            return Completions(tokenizer, max_length)


def _check_vocabulary(tokenizer: Any, folder: Path) -> None:
    """Refuse a tokenizer with an id beyond the base's embeddings: a row with that token would end training,
    after its charge, and so tell of itself.
    """
    rows: int | None = getattr(_config(folder).get_text_config(), "vocab_size", None)
    token, largest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1], default=("", -1))
    if rows is not None and largest >= rows:
        raise ConfigError(
            f"the base's tokenizer gives {token!r} the id {largest}; the base has embeddings for {rows} ids",
            hint="Put the tokenizer beside the base that belongs to it, or choose another base model.",
        )


def choose_device(wanted: str) -> torch.device:
    """The device of that name; `auto` takes CUDA where there is one.

    Raises:
        ConfigError: There is no such device here.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {wanted!r}", hint="Use auto, cpu, cuda or cuda:N.") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("this machine has no CUDA device", hint='Set device = "auto" or "cpu".')
    return place


def _config(folder: Path) -> Any:
    """transformers' config of a base model."""
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no base model in {folder}: {error}") from error


def _auto_class(spec: AdapterSpec) -> Any:
    """transformers' class for the task: the bare encoder, or the causal language model."""
    return transformers.AutoModel if spec.trainer == "classify" else transformers.AutoModelForCausalLM


def _attach(base: Any, spec: AdapterSpec) -> nn.Module:
    """Put LoRA layers into a base model that is on its device already."""
    config = LoraConfig(
        task_type="FEATURE_EXTRACTION" if spec.trainer == "classify" else "CAUSAL_LM",
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=0.0,
        target_modules=list(spec.target_modules),
        bias="none",
    )
    hidden = base.config.hidden_size
    try:
        with warnings.catch_warnings():
            # of PEFT about transformers' names, and about GPT-2's layers, which it then handles rightly
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
            adapted: nn.Module = get_peft_model(base, config)
    except ValueError as error:
        raise ConfigError(f"LoRA cannot be attached: {error}") from error
    use_factors(adapted)
    if spec.point:
        adapted.add_module(POINT_LAYER, ReferencePoint())
    return PooledClassifier(adapted, hidden, len(spec.labels)) if spec.trainer == "classify" else adapted


def _adapter_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of the adapter, and a head or point beside it, under the names PEFT saves them by."""
    for name, parameter in module.named_parameters():
        public = name.removeprefix("encoder.").replace(_SILENT_ADAPTER, ".")
        if name in (HEAD_WEIGHT, HEAD_BIAS, POINT) or (_LORA in name and is_known(public)):
            yield public, parameter
        elif _LORA in name:
            raise ConfigError(f"PEFT made {public!r}, which no strategy carries; choose plain linear layers")


def _owns(layer: nn.Module, parameters: Collection[nn.Parameter]) -> bool:
    """Whether a layer holds one of these parameters itself."""
    wanted = {id(parameter) for parameter in parameters}
    return any(id(parameter) in wanted for parameter in layer.parameters(recurse=False))
