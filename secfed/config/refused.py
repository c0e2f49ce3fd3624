"""Options of other trainers that secfed refuses by name, each with its reason and its remedy.

Who comes from TRL, transformers or PEFT writes their option names into `JOB.toml`. Most that are
missing here are merely unknown; those of this table are missing on purpose, because they let one
unit's rows change what another unit contributes, or move or release something that carries no
noise. They are then told why, instead of that the key is unknown. Knows neither torch nor files.

Option names: TRL 1.16 (SFTConfig, DPOConfig, KTOConfig), transformers 5 (TrainingArguments), PEFT
0.21 (LoraConfig).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["BASE_CHANGING_INITS", "DATA_DRIVEN_INITS", "Refusal", "init_refusal", "refused_option"]

DATA_DRIVEN_INITS: Final = ("eva", "corda", "lora_ga")
"""Initialisations of an adapter that look at activations or gradients of training rows."""

BASE_CHANGING_INITS: Final = ("pissa", "olora", "loftq")
"""Initialisations from the base's weights alone: no row is looked at, but the base is rewritten."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something is refused, and what to do instead; each one line, without a full stop.

    Attributes:
        reason: What it would do.
        remedy: The way that is open.
    """

    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Rule:
    """Option names, the values of them that are refused, and what is said then."""

    names: tuple[str, ...]
    refused: Callable[[object], bool]
    refusal: Refusal


def refused_option(name: str, value: object) -> Refusal | None:
    """Look up an option as a person wrote it.

    Args:
        name: The key.
        value: Its value, as TOML has it.

    Returns:
        The refusal, or None where secfed has nothing against this option with this value (it may
        still not know it).
    """
    if name == "init_lora_weights":
        return init_refusal(value)
    for rule in _RULES:
        if name in rule.names and rule.refused(value):
            return rule.refusal
    return None


def init_refusal(value: object) -> Refusal | None:
    """What there is against an adapter's initialisation (PEFT's `init_lora_weights`), if anything.

    PiSSA, OLoRA and LoftQ read no row, so privacy has nothing against them. They are refused since
    they take out of the base's weights what they put into the adapter.
    """
    if not isinstance(value, str):
        return None
    kind = value.lower()
    if kind.startswith(DATA_DRIVEN_INITS):
        return Refusal(
            "an initialisation from training rows is a release of those rows without noise",
            "leave it out: every site starts from the values that the plan's seed gives",
        )
    if kind.startswith(BASE_CHANGING_INITS):
        return Refusal(
            "this initialisation rewrites the base's weights, so the adapter would fit no public base",
            "leave it out: every site starts from the values that the plan's seed gives",
        )
    return None


def _is_set(value: object) -> bool:
    """Anything but off, none, zero or empty."""
    return bool(value)


def _one_of(*words: str) -> Callable[[object], bool]:
    """Whether the value is one of these words, or a list that holds one."""

    def test(value: object) -> bool:
        given = value if isinstance(value, list | tuple) else (value,)
        return any(isinstance(each, str) and each.lower() in words for each in given)

    return test


def _is_on(value: object) -> bool:
    """A choice other than "no" and "none"."""
    return bool(value) and not _one_of("no", "none", "off")(value)


def _not_reentrant(value: object) -> bool:
    """Keyword arguments that do not ask for reentrant checkpointing."""
    return not (isinstance(value, dict) and value.get("use_reentrant") is True)


_RULES: Final = (
    # -- one unit changes what another contributes ---------------------------------------------
    _Rule(
        ("packing", "eval_packing", "packing_strategy"),
        _is_set,
        Refusal(
            "packing puts rows of several units into one sequence, and one unit's row into several",
            "leave it out: every row is a sequence of its own, cut to max_length",
        ),
    ),
    _Rule(
        ("padding_free",),
        _is_set,
        Refusal(
            "padding-free batches are one long sequence, in which no unit has a gradient of its own",
            "leave it out: micro-batches bound the memory that padding takes",
        ),
    ),
    _Rule(
        ("group_by_length", "length_column_name"),
        _is_set,
        Refusal(
            "grouping by length makes the draw of a unit depend on the lengths of the others",
            "leave it out: units are drawn independently (Poisson sampling)",
        ),
    ),
    _Rule(
        ("train_sampling_strategy",),
        _one_of("group_by_length", "batch_rebalance", "sequential", "random"),
        Refusal(
            "fixed, shuffled or grouped batches are not the independent draws that the account assumes",
            "leave it out: units are drawn independently (Poisson sampling)",
        ),
    ),
    _Rule(
        ("average_tokens_across_devices", "num_items_in_batch", "token_normalizer"),
        _is_set,
        Refusal(
            "a loss divided by the batch's tokens scales every unit by the lengths of the others",
            "leave it out: each record's loss is the mean over its own tokens",
        ),
    ),
    _Rule(
        ("router_aux_loss_coef", "aux_loss_coef", "output_router_logits"),
        _is_set,
        Refusal(
            "the auxiliary loss of a mixture of experts is a statistic of the whole batch",
            "leave it out, and set router_aux_loss_coef = 0 and output_router_logits = false in the "
            "base's config.json",
        ),
    ),
    _Rule(
        ("loss_type",),
        _one_of("aot", "aot_pair", "aot_unpaired"),
        Refusal(
            "AOT losses sort the log-ratios of the batch, so that each unit's loss depends on all others",
            'use loss_type = "sigmoid", or another loss of single pairs',
        ),
    ),
    _Rule(
        ("loss_type",),
        _one_of("bco"),
        Refusal(
            "BCO shifts every reward by a running mean over the rewards of other rows",
            'use trainer = "kto" with a public constant, or loss_type = "apo_zero_unpaired"',
        ),
    ),
    _Rule(
        ("loss_type",),
        _one_of("sft"),
        Refusal(
            "this term is a mean over the batch's tokens, so it scales every unit by the others' lengths",
            'train with trainer = "sft" first, then with trainer = "dpo"',
        ),
    ),
    _Rule(
        ("kl", "kl_estimator", "z0"),
        _one_of("batch"),
        Refusal(
            "a reference point estimated from the batch moves every unit's weight by the others' rows",
            'use kl = "fixed", "public" or "ride-along" (inside the clip and the noise), '
            'or loss_type = "apo_zero_unpaired", which needs none',
        ),
    ),
    _Rule(
        ("class_weight", "class_weights", "label_weights"),
        _is_set,
        Refusal(
            "weights taken from label counts depend on every row",
            "leave it out; desirable_weight and undesirable_weight (kto) are public constants",
        ),
    ),
    _Rule(
        ("per_device_train_batch_size", "auto_find_batch_size", "gradient_accumulation_steps"),
        _is_set,
        Refusal(
            "a batch of fixed size is not the independent draw of units that the account assumes",
            "set batch in [privacy]: the expected number of units of a step; memory is bounded elsewhere",
        ),
    ),
    _Rule(
        ("num_train_epochs",),
        _is_set,
        Refusal(
            "a number of epochs makes the number of steps show how many rows a site has",
            "set steps here and rounds above: public constants, the same at every site",
        ),
    ),
    _Rule(
        ("max_grad_norm",),
        _is_set,
        Refusal(
            "it clips the batch's gradient as a whole, which bounds no unit's part in it",
            "set clip in [privacy]: the clipping norm of each unit",
        ),
    ),
    _Rule(
        ("seed", "data_seed"),
        lambda value: value is not None,
        Refusal(
            "draws and noise that follow a known seed can be subtracted by whoever knows it",
            "leave it out: every site draws from the secrets of its operating system",
        ),
    ),
    # -- something moves that carries no noise -------------------------------------------------
    _Rule(
        ("modules_to_save", "trainable_token_indices", "lora_bias"),
        _is_set,
        Refusal(
            "it trains weights beside the adapter that are neither clipped nor noised",
            "leave it out; a classifier's head is trained, clipped and noised jointly with the adapter",
        ),
    ),
    _Rule(
        ("bias",),
        _is_on,
        Refusal(
            "it trains biases of the base that are neither clipped nor noised",
            "leave it out: adapters are trained without biases",
        ),
    ),
    _Rule(
        ("use_dora",),
        _is_set,
        Refusal(
            "DoRA's magnitudes couple an adapter's arrays, and no gradient of single records covers them",
            "leave it out: plain LoRA",
        ),
    ),
    _Rule(
        ("local_modules", "personal_modules", "personalization", "local_adapter"),
        _is_on,
        Refusal(
            "personal state that learns without noise inside the shared loop leaks through the shared part",
            "leave it out: personalise at the site, after the last round, and send nothing of it",
        ),
    ),
    _Rule(
        ("sync_ref_model",),
        _is_set,
        Refusal(
            "a reference that follows the trained model differs from site to site",
            "leave it out: the reference is the base with the adapter switched off",
        ),
    ),
    _Rule(
        ("gradient_checkpointing",),
        _is_set,
        Refusal(
            "gradient checkpointing, non-reentrant by default, leaves no gradients of single records",
            "leave it out: micro-batches bound the memory",
        ),
    ),
    _Rule(
        ("gradient_checkpointing_kwargs",),
        _not_reentrant,
        Refusal(
            "non-reentrant gradient checkpointing leaves no gradients of single records",
            "leave it out: micro-batches bound the memory",
        ),
    ),
    # -- something is released without a charge ------------------------------------------------
    _Rule(
        ("load_best_model_at_end", "metric_for_best_model", "early_stopping_patience"),
        _is_set,
        Refusal(
            "choosing the best checkpoint on private rows is a release of its own, without noise",
            "leave it out: choose a round with `secfed eval` on public rows",
        ),
    ),
    _Rule(
        ("save_strategy",),
        _one_of("best"),
        Refusal(
            "choosing the best checkpoint on private rows is a release of its own, without noise",
            "leave it out: every round's adapter is kept; choose with `secfed eval` on public rows",
        ),
    ),
    _Rule(
        ("eval_strategy", "evaluation_strategy", "do_eval", "eval_steps", "eval_on_start"),
        _is_on,
        Refusal(
            "a metric on private rows is a release of its own, without noise",
            "leave it out: measure a round's adapter with `secfed eval` on public rows",
        ),
    ),
)
