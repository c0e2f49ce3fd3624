"""Options of other trainers in JOB.toml: the reason and the remedy instead of an unknown key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secfed.config import load
from secfed.config.job import JobFile
from secfed.config.refused import refused_option
from secfed.errors import ConfigError

JOB = """name = "tune"
rounds = 3

[training]
trainer = "dpo"
base_model = "org/base"
target_modules = ["q_proj"]
{training}

[privacy]
unit = "record"
nominal_units = 1000
batch = 64.0
noise_multiplier = 1.0
{privacy}
"""


def refusal(folder: Path, *, training: str = "", privacy: str = "") -> ConfigError:
    path = folder / "JOB.toml"
    path.write_text(JOB.format(training=training, privacy=privacy))
    with pytest.raises(ConfigError) as refused:
        load(path, JobFile)
    return refused.value


@pytest.mark.parametrize(
    ("line", "reason", "remedy"),
    [
        ("packing = true", "several units into one sequence", "every row is a sequence of its own"),
        ('packing_strategy = "bfd"', "several units into one sequence", "every row is a sequence of its own"),
        ("padding_free = true", "no unit has a gradient of its own", "micro-batches"),
        ('loss_type = "aot"', "sort the log-ratios of the batch", "single pairs"),
        ('loss_type = "bco"', "running mean", "public constant"),
        ("group_by_length = true", "lengths of the others", "drawn independently"),
        ('train_sampling_strategy = "group_by_length"', "independent draws", "Poisson"),
        ("average_tokens_across_devices = true", "scales every unit", "mean over its own tokens"),
        ("num_items_in_batch = 512", "scales every unit", "mean over its own tokens"),
        ("router_aux_loss_coef = 0.001", "statistic of the whole batch", "router_aux_loss_coef = 0"),
        ("output_router_logits = true", "statistic of the whole batch", "output_router_logits = false"),
        ("class_weights = [0.2, 0.8]", "depend on every row", "public constants"),
        ('modules_to_save = ["lm_head"]', "neither clipped nor noised", "classifier's head"),
        ("trainable_token_indices = [1]", "neither clipped nor noised", "leave it out"),
        ('bias = "all"', "neither clipped nor noised", "without biases"),
        ("use_dora = true", "no gradient of single records", "plain LoRA"),
        ('init_lora_weights = "eva"', "release of those rows", "the plan's seed"),
        ('init_lora_weights = "corda"', "release of those rows", "the plan's seed"),
        ('init_lora_weights = "lora_ga"', "release of those rows", "the plan's seed"),
        ('init_lora_weights = "pissa_niter_16"', "rewrites the base's weights", "the plan's seed"),
        ('local_modules = ["lm_head"]', "leaks through the shared part", "after the last round"),
        ("load_best_model_at_end = true", "release of its own", "secfed eval"),
        ('metric_for_best_model = "loss"', "release of its own", "secfed eval"),
        ("early_stopping_patience = 3", "release of its own", "secfed eval"),
        ('eval_strategy = "steps"', "release of its own", "secfed eval"),
        ('save_strategy = "best"', "release of its own", "secfed eval"),
        ("gradient_checkpointing = true", "no gradients of single records", "micro-batches"),
        ("gradient_checkpointing_kwargs = { use_reentrant = false }", "non-reentrant", "micro-batches"),
        ("num_train_epochs = 3", "how many rows a site has", "set steps"),
        ("per_device_train_batch_size = 8", "fixed size", "set batch in [privacy]"),
        ("max_grad_norm = 1.0", "bounds no unit's part", "set clip in [privacy]"),
        ("seed = 42", "can be subtracted", "secrets of its operating system"),
        ("sync_ref_model = true", "differs from site to site", "adapter switched off"),
    ],
)
def test_an_option_that_breaks_privacy_is_answered_with_reason_and_remedy(
    tmp_path: Path, line: str, reason: str, remedy: str
) -> None:
    error = refusal(tmp_path, training=line)
    name = line.partition(" ")[0]
    assert f"JOB.toml:8 {name!r} in [training] is refused: " in str(error)
    assert reason in str(error)
    assert remedy in error.hint


@pytest.mark.parametrize(
    ("section", "line", "reason", "remedy"),
    [
        ("dpo", 'loss_type = "aot"', "sort the log-ratios of the batch", 'loss_type = "sigmoid"'),
        ("dpo", 'loss_type = "aot_unpaired"', "sort the log-ratios", "single pairs"),
        ("dpo", 'loss_type = "sft"', "mean over the batch's tokens", 'trainer = "sft"'),
        ("kto", 'kl = "batch"', "moves every unit's weight", "apo_zero_unpaired"),
    ],
)
def test_a_loss_that_couples_units_is_answered_with_reason_and_remedy(
    tmp_path: Path, section: str, line: str, reason: str, remedy: str
) -> None:
    error = refusal(tmp_path, training=f"[training.{section}]\n{line}")
    assert f"JOB.toml:9 {line.partition(' ')[0]!r} in [training.{section}] is refused: " in str(error)
    assert reason in str(error)
    assert remedy in error.hint


def test_privacy_options_of_other_trainers_are_answered_too(tmp_path: Path) -> None:
    error = refusal(tmp_path, privacy="max_grad_norm = 1.0")
    assert "'max_grad_norm' in [privacy] is refused" in str(error)


@pytest.mark.parametrize("line", ["packing = false", "packking = true", 'bias = "none"', "use_rslora = true"])
def test_other_keys_are_merely_unknown(tmp_path: Path, line: str) -> None:
    error = refusal(tmp_path, training=line)
    assert "unknown key" in str(error)
    assert error.hint == ConfigError.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("packing", False),
        ("loss_type", "sigmoid"),
        ("loss_type", ["sigmoid", "ipo"]),
        ("init_lora_weights", True),
        ("init_lora_weights", "gaussian"),
        ("gradient_checkpointing_kwargs", {"use_reentrant": True}),
        ("eval_strategy", "no"),
        ("modules_to_save", []),
        ("router_aux_loss_coef", 0.0),
        ("beta", 0.1),
    ],
)
def test_nothing_is_said_against_harmless_values(name: str, value: Any) -> None:
    assert refused_option(name, value) is None


def test_a_list_of_losses_is_refused_for_one_of_them() -> None:
    found = refused_option("loss_type", ["sigmoid", "aot"])
    assert found is not None
    assert "AOT" in found.reason
