"""Tiny base models with random weights and a toy tokenizer, as folders; and the real ones, from the cache."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from secfed.aggregation.initial import initial_adapter
from secfed.aggregation.registry import by_name
from secfed.aggregation.spec import AdapterSpec
from secfed.rounds.plan import BaseModelSpec, DpoSpec, DpSpec, KtoSpec, LoraSpec, TrainSpec
from secfed.training.adapter import schema
from secfed.training.data import load
from secfed.training.models import model_folder, weights_sha256
from secfed.training.rows import FORMATS, Message
from secfed.training.trainer import LocalTrainer

sys.path.append(str(Path(__file__).parent))

torch.set_num_threads(1)

WORDS = ["<pad>", "<eos>", "<unk>", *(f"w{number}" for number in range(61))]
SEED = "5e" * 32
SITE_KEY = bytes(range(32))

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ('user', 'assistant') %}{{ raise_exception('role') }}{% endif %}"
    "{{ 'w58' if message['role'] == 'user' else 'w59' }} {{ message['content'] }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}w59 {% endif %}"
)
"""Turns of the toy chats: who speaks is a word, and each turn ends."""

TARGETS = {"bert": ("query", "value"), "llama": ("q_proj", "v_proj"), "gpt2": ("c_attn",)}


def _config(kind: str, layers: int) -> Any:
    size = {"vocab_size": len(WORDS), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    if kind == "gpt2":
        return transformers.GPT2Config(n_embd=32, n_layer=layers, n_head=2, n_positions=64, **size)
    common = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        **size,
    }
    if kind == "bert":
        return transformers.BertConfig(max_position_embeddings=64, **common)
    return transformers.LlamaConfig(num_key_value_heads=2, max_position_embeddings=64, **common)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a tiny base model of a kind: bert, llama or gpt2."""
    made: dict[tuple[str, int], Path] = {}

    def folder(kind: str, layers: int = 2) -> Path:
        if (kind, layers) not in made:
            torch.manual_seed(7)
            place = tmp_path_factory.mktemp(kind)
            auto = transformers.AutoModel if kind == "bert" else transformers.AutoModelForCausalLM
            auto.from_config(_config(kind, layers)).save_pretrained(place)
            words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
            words.pre_tokenizer = Whitespace()
            transformers.PreTrainedTokenizerFast(
                tokenizer_object=words,
                pad_token="<pad>",
                eos_token="<eos>",
                unk_token="<unk>",
                chat_template=None if kind == "bert" else CHAT_TEMPLATE,
            ).save_pretrained(place)
            made[kind, layers] = place
        return made[kind, layers]

    return folder


@pytest.fixture(scope="session")
def spec_of() -> Callable[[str], AdapterSpec]:
    """The adapter that is put on a tiny model."""

    def spec(kind: str, trainer: Any = None) -> AdapterSpec:
        trainer = trainer or ("classify" if kind == "bert" else "sft")
        labels = ("no", "yes") if trainer == "classify" else ()
        return AdapterSpec(f"tiny/{kind}", "main", trainer, TARGETS[kind], 2, 4, labels)

    return spec


@pytest.fixture(scope="session")
def train_spec(
    base_folder: Callable[..., Path], spec_of: Callable[[str], AdapterSpec]
) -> Callable[..., TrainSpec]:
    """A training section for a tiny model; keywords overwrite fields."""

    def make(kind: str, trainer: str | None = None, *, layers: int = 2, **changes: Any) -> TrainSpec:
        spec, place = spec_of(kind, trainer), base_folder(kind, layers)
        kto = changes.get("kto")
        spec = replace(spec, point=kto is not None and kto.kl == "ride-along")
        fields: dict[str, Any] = {
            "trainer": spec.trainer,
            "strategy": "ffa",
            "base": BaseModelSpec(id=spec.base_model, weights_sha256=weights_sha256(place)),
            "lora": LoraSpec(r=spec.r, alpha=spec.alpha, target_modules=spec.target_modules),
            "steps": 2,
            "learning_rate": "0.01",
            "max_length": 24,
            "adapter": schema(spec, place),
            "labels": spec.labels,
            "seed": SEED,
            "dpo": DpoSpec() if spec.trainer == "dpo" else None,
            "kto": KtoSpec(kl_value="0.5") if spec.trainer == "kto" else None,
        }
        return TrainSpec(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def dp_spec() -> Callable[..., DpSpec]:
    """A privacy section: 12 of 24 units a step; keywords overwrite fields."""

    def make(**changes: Any) -> DpSpec:
        fields: dict[str, Any] = {
            "unit": "record",
            "sampling_num": 2**63,
            "noise_multiplier": "1.0",
            "clip": "0.5",
            "nominal_units": 24,
            "delta": "0.00001",
        }
        return DpSpec(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def first_adapter() -> Callable[[TrainSpec], dict[str, Any]]:
    """The adapter a job starts from, with B moved off zero so that every gradient is non-trivial."""

    def make(train: TrainSpec) -> dict[str, Any]:
        arrays = initial_adapter(train.adapter, bytes.fromhex(train.seed))
        moved = initial_adapter(
            {f"{name}.lora_A.weight": shape for name, shape in train.adapter.items()},
            bytes.fromhex(train.seed),
        )
        return {
            name: moved[f"{name}.lora_A.weight"] if name.endswith("lora_B.weight") else value
            for name, value in arrays.items()
        }

    return make


@pytest.fixture(scope="session")
def rows_for() -> Callable[..., list[dict[str, Any]]]:
    """Toy rows for a kind of model, of different lengths; each row's words depend on its number alone."""

    def make(
        kind: str, count: int, persons: int | None = None, trainer: str | None = None
    ) -> list[dict[str, Any]]:
        rows = []
        for row in range(count):
            made = _row(row, trainer or ("classify" if kind == "bert" else "sft"))
            if persons is not None:
                made["person"] = f"p{row % persons}"
            rows.append(made)
        return rows

    return make


def _row(number: int, trainer: str) -> dict[str, Any]:
    words = " ".join(f"w{(number * 7 + place * 3) % 61}" for place in range(2 + number % 9))
    reply = " ".join(f"w{(number * 5 + place) % 61}" for place in range(1 + number % 5))
    other = " ".join(f"w{(number * 11 + 3 + place * 2) % 61}" for place in range(1 + number % 4))
    match trainer:
        case "classify":
            return {"text": words, "label": ("no", "yes")[number % 2]}
        case "dpo":
            return {"prompt": words, "chosen": reply, "rejected": other}
        case "kto":
            return {"prompt": words, "completion": reply, "label": number % 3 != 0}
        case _:
            return {"prompt": words, "completion": reply}


@pytest.fixture(scope="session")
def as_chat() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A row of prompt and responses with every text as a list of one message."""

    def convert(row: Mapping[str, Any]) -> dict[str, Any]:
        roles = {"prompt": "user", "completion": "assistant", "chosen": "assistant", "rejected": "assistant"}
        return {
            name: (Message(roles[name], value),) if name in roles else value for name, value in row.items()
        }

    return convert


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[[Sequence[Mapping[str, Any]]], Path]:
    """Rows as a .jsonl file."""

    def write(rows: Sequence[Mapping[str, Any]], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_trainer(
    base_folder: Callable[..., Path],
    rows_for: Callable[..., list[dict[str, Any]]],
    write_rows: Callable[..., Path],
    tmp_path: Path,
) -> Callable[..., LocalTrainer]:
    """A site that trains on toy rows: by record, or by person if they are of so many persons."""

    def make(
        kind: str,
        train: TrainSpec,
        dp: DpSpec | None,
        *,
        rows: int = 24,
        persons: int | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> LocalTrainer:
        unit = "record" if persons is None else "person"
        made = rows_for(kind, rows, persons, train.trainer)
        table = load(write_rows(made), FORMATS[train.trainer], scratch=tmp_path / "scratch", unit=unit)
        return LocalTrainer(train, dp, base_folder(kind), table, SITE_KEY, device=device, **options)

    return make


@pytest.fixture(scope="session")
def cache() -> Path:
    """The prepared assets; a missing one is a failure with its remedy, not a skip."""
    named = os.environ.get("SECFED_CACHE")
    if not named:
        pytest.fail("SECFED_CACHE is not set: run the tests with `make test`, which prepares the assets")
    return Path(named)


@pytest.fixture(scope="session")
def real_model(cache: Path) -> Callable[[str], Path]:
    """Folder of a real base model by its public id."""
    return lambda model_id: model_folder(cache, model_id)


@pytest.fixture(scope="session")
def trained_names() -> Callable[[TrainSpec], tuple[str, ...]]:
    """Names of the arrays that a training section trains."""
    return lambda train: by_name(train.strategy).trainable(train.adapter)
