"""A base model of some thousand weights, drawn at random, as a folder that transformers loads.

The mechanism does not depend on what the model knows: clipping and noise are the same on this one
and on one of a billion weights, and here they are measured in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from secfed.aggregation.spec import Trainer

__all__ = ["SMALL_POSITIONS", "target_modules", "write_small_model"]

SMALL_POSITIONS = 64
"""Most tokens that it takes."""

_SPECIAL = ("<pad>", "<eos>", "<unk>")

_SIZE = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}


def target_modules(trainer: Trainer) -> tuple[str, ...]:
    """The linear layers of the small model that carry an adapter."""
    return ("query", "value") if trainer == "classify" else ("q_proj", "v_proj")


def write_small_model(folder: Path, trainer: Trainer, words: Sequence[str]) -> None:
    """Write model and tokenizer: an encoder for `classify`, a causal language model for the others.

    Args:
        folder: New or empty.
        trainer: What it is for.
        words: The vocabulary; any other word is unknown to it.
    """
    vocabulary = {word: number for number, word in enumerate((*_SPECIAL, *dict.fromkeys(words)))}
    common = _SIZE | {
        "vocab_size": len(vocabulary),
        "max_position_embeddings": SMALL_POSITIONS,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 1,
    }
    transformers.utils.logging.disable_progress_bar()
    config: Any
    if trainer == "classify":
        config, auto = transformers.BertConfig(**common), transformers.AutoModel
    else:
        config, auto = (
            transformers.LlamaConfig(num_key_value_heads=2, **common),
            transformers.AutoModelForCausalLM,
        )
    with torch.random.fork_rng():  # the process's own generator stays as it was
        auto.from_config(config).save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=_SPECIAL[2]))
    tokenizer.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_SPECIAL[0], eos_token=_SPECIAL[1], unk_token=_SPECIAL[2]
    ).save_pretrained(folder)
