"""Adapters on tiny models: names, shapes, freezing, and folders that PEFT loads without secfed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing

from secfed.aggregation import folder
from secfed.aggregation.spec import AdapterSpec
from secfed.errors import ConfigError, EncodingError
from secfed.training.adapter import AdapterModel, build, choose_device, schema, task_of
from secfed.training.classify import Classification

KINDS = ("bert", "llama", "gpt2")


@pytest.fixture
def ready(
    base_folder: Callable[[str], Path],
    spec_of: Callable[[str], AdapterSpec],
    train_spec: Callable[..., Any],
    first_adapter: Callable[..., Any],
) -> Callable[[str], tuple[AdapterModel, dict[str, Any]]]:
    def make(kind: str) -> tuple[AdapterModel, dict[str, Any]]:
        model, arrays = build(spec_of(kind), base_folder(kind), device="cpu"), first_adapter(train_spec(kind))
        model.load(arrays)
        return model, arrays

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_give_back_what_was_loaded(ready: Callable[..., Any], kind: str) -> None:
    model, arrays = ready(kind)
    found = model.arrays()
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert list(found) == sorted(found)


@pytest.mark.parametrize("kind", KINDS)
def test_schema_needs_no_weights(
    kind: str,
    ready: Callable[..., Any],
    base_folder: Callable[..., Path],
    spec_of: Callable[..., Any],
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text((base_folder(kind) / "config.json").read_text())
    expected = {name: value.shape for name, value in ready(kind)[0].arrays().items()}
    assert schema(spec_of(kind), tmp_path) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_those_peft_saves(ready: Callable[..., Any], kind: str) -> None:
    model, arrays = ready(kind)
    adapted = model.module.encoder if kind == "bert" else model.module
    saved = peft.get_peft_model_state_dict(adapted)
    assert set(saved) == {name for name in arrays if not name.startswith("head.")}


def test_only_the_chosen_take_gradients(ready: Callable[..., Any]) -> None:
    model, arrays = ready("bert")
    chosen = [name for name in arrays if "lora_B" in name]
    with model.trainable(chosen) as parameters:
        assert list(parameters) == sorted(chosen)
        assert sum(p.requires_grad for p in model.module.parameters()) == len(chosen)
        assert not any(m.training for m in model.module.modules() if isinstance(m, torch.nn.Dropout))
    assert not any(p.requires_grad for p in model.module.parameters())
    assert not any(m.training for m in model.module.modules())


def test_wrong_adapter_is_refused(ready: Callable[..., Any]) -> None:
    model, arrays = ready("bert")
    with pytest.raises(EncodingError, match="does not fit"):
        model.load({name: value for name, value in arrays.items() if name != "head.bias"})
    with pytest.raises(EncodingError, match="shape"):
        model.load(arrays | {"head.bias": np.zeros(3, np.float32)})


def test_bad_base_target_and_device(
    tmp_path: Path, base_folder: Callable[..., Path], spec_of: Callable[..., Any]
) -> None:
    spec = spec_of("bert")
    with pytest.raises(ConfigError, match="no base model"):
        build(spec, tmp_path)
    with pytest.raises(ConfigError, match="no base model"):
        schema(spec, tmp_path)
    missing = AdapterSpec("tiny/bert", "main", "classify", ("nothing",), 2, 4, ("no", "yes"))
    with pytest.raises(ConfigError, match="LoRA"):
        build(missing, base_folder("bert"))
    embedding = AdapterSpec("tiny/bert", "main", "classify", ("word_embeddings",), 2, 4, ("no", "yes"))
    with pytest.raises(ConfigError, match="no strategy"):
        build(embedding, base_folder("bert"))
    with pytest.raises(ConfigError, match="unknown device"):
        choose_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA"):
            choose_device("cuda")


IDS = [[5, 9, 11, 30], [7, 8, 2, 0]]
MASK = [[1, 1, 1, 1], [1, 1, 1, 0]]

LOADER = """
import json, sys
sys.modules["secfed"] = None  # importing it raises
import torch, transformers, warnings
from peft import PeftModel
from safetensors.torch import load_file
ids, mask, found = torch.tensor(json.loads(sys.argv[1])), torch.tensor(json.loads(sys.argv[2])), {}
for base, place, kind in json.loads(sys.argv[3]):
    auto = transformers.AutoModel if kind == "bert" else transformers.AutoModelForCausalLM
    model = PeftModel.from_pretrained(auto.from_pretrained(base), place).eval()
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask)
        if kind == "bert":
            head, wide = load_file(place + "/head.safetensors"), mask.unsqueeze(-1)
            pooled = (output.last_hidden_state * wide).sum(1) / wide.sum(1)
            logits = pooled @ head["weight"].T + head["bias"]
        else:
            logits = output.logits
    found[kind] = logits.flatten().tolist()
try:
    import secfed
except ImportError:
    print(json.dumps(found))
"""


def test_folders_load_where_secfed_is_not_and_give_equal_logits(
    ready: Callable[..., Any], base_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """One process that has PEFT alone loads a folder of each kind of model."""
    ids, mask, expected = torch.tensor(IDS), torch.tensor(MASK), {}
    for kind in KINDS:
        model, arrays = ready(kind)
        folder.write(tmp_path / kind / "round-0001", model.spec, arrays)
        with torch.no_grad():
            output = model.module(input_ids=ids, attention_mask=mask)
        expected[kind] = output if kind == "bert" else output.logits
    folders = [(str(base_folder(kind)), str(tmp_path / kind / "round-0001"), kind) for kind in KINDS]
    command = [sys.executable, "-W", "ignore", "-c", LOADER, *map(json.dumps, (IDS, MASK, folders))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for kind in KINDS:
        np.testing.assert_allclose(found[kind], expected[kind].flatten().tolist(), rtol=1e-5, atol=1e-6)


def test_config_has_peft_keys_only(ready: Callable[..., Any], tmp_path: Path) -> None:
    model, arrays = ready("bert")
    folder.write(tmp_path, model.spec, arrays)
    keys = set(json.loads((tmp_path / folder.CONFIG_FILE).read_text()))
    assert keys <= set(peft.LoraConfig().to_dict())
    again = peft.LoraConfig.from_pretrained(str(tmp_path))
    assert (again.r, again.lora_alpha, again.target_modules) == (2, 4, {"query", "value"})


def test_completion_targets(base_folder: Callable[..., Path], spec_of: Callable[..., Any]) -> None:
    """Only the completion and its end count; too long loses the prompt's start first."""
    task = task_of(spec_of("llama"), base_folder("llama"), 24)
    example = task.example({"prompt": "w0 w1 w2", "completion": "w3 w4"})
    assert example.tokens == (3, 4, 5, 6, 7, 1)
    assert example.targets == (-100, -100, -100, 6, 7, 1)
    short = task_of(spec_of("llama"), base_folder("llama"), 4).example(
        {"prompt": "w0 w1 w2", "completion": "w3 w4"}
    )
    assert (short.tokens, short.cut) == ((5, 6, 7, 1), 2)
    tight = task_of(spec_of("llama"), base_folder("llama"), 2).example(
        {"prompt": "w0 w1 w2", "completion": "w3 w4"}
    )
    assert (tight.tokens, tight.targets) == ((5, 6), (-100, 6))


def test_completion_loss_is_the_models_own(
    ready: Callable[..., Any], base_folder: Callable[..., Path]
) -> None:
    """For a single record it equals the loss that transformers works out from labels."""
    model, _ = ready("llama")
    task = task_of(model.spec, base_folder("llama"), 24)
    batch = task.collate([task.example({"prompt": "w0 w1 w2", "completion": "w3 w4"})])
    with torch.no_grad():
        own = task.losses(model.module, batch)
        theirs = model.module(input_ids=batch["input_ids"], labels=batch["targets"]).loss
    assert own.item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.fixture
def tokenizer_folder(base_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """The tiny BERT's tokenizer, one that adds a token before and after each text; keywords change it."""

    def make(**changes: Any) -> Path:
        tokenizer = transformers.AutoTokenizer.from_pretrained(base_folder("bert"))
        around = TemplateProcessing(single="<eos> $A <eos>", special_tokens=[("<eos>", 1)])
        tokenizer.backend_tokenizer.post_processor = around
        for name, value in changes.items():
            setattr(tokenizer, name, value)
        tokenizer.save_pretrained(tmp_path)
        shutil.copy(base_folder("bert") / "config.json", tmp_path)
        return tmp_path

    return make


def test_texts_are_cut_to_the_length_or_the_length_is_refused(
    tokenizer_folder: Callable[..., Path], spec_of: Callable[..., Any]
) -> None:
    """With no room for a token of the text the tokenizer cuts nothing: the plan decides, not the row."""
    place = tokenizer_folder()
    row = {"text": "w0 w1 w2 w3 w4", "label": "no"}
    example = task_of(spec_of("bert"), place, 3).example(row)
    assert (example.tokens, example.cut) == ((1, 3, 1), 4)
    for too_short in (1, 2):
        with pytest.raises(ConfigError, match="hold no text") as refusal:
            task_of(spec_of("bert"), place, too_short)
        assert "max_length = 3" in refusal.value.hint


class Uncut:
    """A tokenizer that takes no notice of truncation."""

    pad_token_id = 0

    def num_special_tokens_to_add(self) -> int:
        return 0

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [3 + place for place, _ in enumerate(text.split())]}


def test_texts_are_cut_whatever_the_tokenizer_does() -> None:
    example = Classification(Uncut(), ("no", "yes"), 2).example({"text": "a b c d", "label": "yes"})
    assert (example.tokens, example.targets, example.cut) == ((3, 4), (1,), 2)


def test_a_tokenizer_without_the_token_to_pad_with_is_refused(
    tokenizer_folder: Callable[..., Path], spec_of: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match="no padding token"):
        task_of(spec_of("bert"), tokenizer_folder(pad_token=None), 24)
    unended = tokenizer_folder(eos_token=None)
    for trainer in ("sft", "dpo", "kto"):
        with pytest.raises(ConfigError, match="no end-of-text token"):
            task_of(spec_of("llama", trainer), unended, 24)


@pytest.mark.parametrize(("trainer", "kind"), [("classify", "bert"), ("sft", "llama"), ("dpo", "gpt2")])
def test_a_tokenizer_with_more_ids_than_the_base_has_embeddings_is_refused(
    trainer: str, kind: str, base_folder: Any, spec_of: Any, tmp_path: Path
) -> None:
    """The last id that has an embedding is fine, the next one is not, whether or not a row ever has it."""
    place = shutil.copytree(base_folder(kind), tmp_path / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    assert max(tokenizer.get_vocab().values()) == 63
    task_of(spec_of(kind, trainer), place, 24)
    tokenizer.add_tokens(["one-more"])
    tokenizer.save_pretrained(place)
    with pytest.raises(
        ConfigError, match="'one-more' the id 64; the base has embeddings for 64 ids"
    ) as refused:
        task_of(spec_of(kind, trainer), place, 24)
    assert "tokenizer" in refused.value.hint
