"""A plan's training section: one text for each plan, and public constants that fit together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from secfed.aggregation.strategy import POINT
from secfed.limits import PUBLIC_PAIRS_MAX, PUBLIC_TEXT_MAX
from secfed.rounds.plan import (
    BaseModelSpec,
    DpoSpec,
    JobPlan,
    KtoSpec,
    LoraSpec,
    PublicMessage,
    PublicPair,
    TrainSpec,
)
from secfed.store import jsontext

PAIR = PublicPair(prompt="one", completion="two")
CHAT = PublicPair(
    prompt=(PublicMessage(role="user", content="one"),),
    completion=(PublicMessage(role="assistant", content="two"),),
)

RIDE_ALONG = KtoSpec(kl="ride-along", kl_pairs=(PAIR,))

ADAPTER: dict[str, tuple[int, ...]] = {"m.q.lora_A.weight": (2, 4), "m.q.lora_B.weight": (4, 2)}

BEFORE_PREFERENCES = (
    '{"adapter":{"m.q.lora_A.weight":[2,4],"m.q.lora_B.weight":[4,2]},"base":{"id":"org/model",'
    f'"revision":"main","weights_sha256":"{"0d" * 32}"}},"labels":[],"learning_rate":"0.01",'
    '"lora":{"alpha":4,"r":2,"target_modules":["q"]},"max_length":128,"optimizer":"adamw","plain_batch":16,'
    f'"seed":"{"5e" * 32}","steps":2,"strategy":"ffa","trainer":"sft"}}'
).encode()
"""A training section as it was written before there were `dpo` and `kto`."""


def section(trainer: str, **options: Any) -> TrainSpec:
    return TrainSpec(
        trainer=trainer,
        strategy="ffa",
        base=BaseModelSpec(id="org/model", weights_sha256="0d" * 32),
        lora=LoraSpec(r=2, alpha=4, target_modules=("q",)),
        steps=2,
        learning_rate="0.01",
        seed="5e" * 32,
        **({"adapter": ADAPTER} | options),
    )


def test_plans_from_before_preferences_keep_their_bytes() -> None:
    """Sites compare digests: the same text is read, and the same plan is written as that text."""
    read = TrainSpec.model_validate_json(BEFORE_PREFERENCES)
    assert read == section("sft")
    assert jsontext.compact(read.model_dump(mode="json")) == BEFORE_PREFERENCES


@pytest.mark.parametrize(
    "spec",
    [
        section("dpo", dpo=DpoSpec(loss_type="robust", beta="0.5", label_smoothing="0.1")),
        section("kto", kto=KtoSpec(kl="public", kl_pairs=(PAIR, CHAT))),
        section("kto", kto=RIDE_ALONG, adapter=ADAPTER | {POINT: (1,)}),
    ],
)
def test_a_preference_section_is_read_as_it_was_written(spec: TrainSpec) -> None:
    text = jsontext.compact(spec.model_dump(mode="json"))
    again = TrainSpec.model_validate_json(text)
    assert again == spec
    assert again.preference == (spec.dpo or spec.kto)
    assert jsontext.compact(again.model_dump(mode="json")) == text


@pytest.mark.parametrize(
    ("trainer", "options"),
    [
        ("dpo", {}),
        ("kto", {}),
        ("sft", {"dpo": DpoSpec()}),
        ("dpo", {"kto": KtoSpec()}),
        ("kto", {"kto": KtoSpec(), "dpo": DpoSpec()}),
        ("dpo", {"dpo": DpoSpec(), "labels": ("a", "b")}),
    ],
)
def test_a_trainer_has_its_own_section_and_no_other(trainer: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"section of their name|labels are given"):
        section(trainer, **options)


@pytest.mark.parametrize(
    ("loss", "shape"), [(RIDE_ALONG, None), (RIDE_ALONG, (2,)), (KtoSpec(), (1,)), (KtoSpec(), (2,))]
)
def test_a_point_is_one_number_of_the_adapter_where_it_rides_along_and_nowhere_else(
    loss: KtoSpec, shape: tuple[int, ...] | None
) -> None:
    with pytest.raises(ValidationError, match="one number, is there for kl = ride-along"):
        section("kto", kto=loss, adapter=ADAPTER | ({} if shape is None else {POINT: shape}))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"loss_type": "aot"}, "loss_type"),
        ({"beta": "0"}, "beta must be above 0"),
        ({"beta": 0.1}, "beta"),
        ({"label_smoothing": "0.1"}, "belongs to loss_type = robust"),
        ({"loss_type": "robust", "label_smoothing": "0.5"}, "below 0.5"),
    ],
)
def test_dpo_constants_in_range(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        DpoSpec(**options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"loss_type": "bco"}, "loss_type"),
        ({"kl": "batch"}, "kl"),
        ({"beta": "0"}, "beta must be above 0"),
        ({"desirable_weight": "0", "undesirable_weight": "0"}, "must be above 0"),
        ({"loss_type": "apo_zero_unpaired", "kl_value": "1"}, "belong to loss_type = kto"),
        ({"loss_type": "apo_zero_unpaired", "kl": "public", "kl_pairs": (PAIR,)}, "belong to loss_type"),
        ({"kl": "public"}, "public pairs are given for kl = public"),
        ({"kl_pairs": (PAIR,)}, "public pairs are given for kl = public"),
        ({"kl": "ride-along"}, "public pairs are given for kl = public"),
        ({"kl": "ride-along", "kl_pairs": (PAIR,), "kl_value": "1"}, "kl_value belongs to kl = fixed"),
        ({"loss_type": "apo_zero_unpaired", "kl": "ride-along", "kl_pairs": (PAIR,)}, "belong to loss_type"),
        ({"kl": "public", "kl_pairs": (PAIR,), "kl_value": "1"}, "kl_value belongs to kl = fixed"),
        ({"kl": "public", "kl_pairs": (PAIR,) * (PUBLIC_PAIRS_MAX + 1)}, "at most"),
    ],
)
def test_kto_constants_in_range(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        KtoSpec(**options)


def test_public_texts_are_bounded_in_all_and_not_empty() -> None:
    half = "x" * (PUBLIC_TEXT_MAX // 2)
    said = (PublicMessage(role="user", content=half),)
    KtoSpec(kl="public", kl_pairs=(PublicPair(prompt=half, completion=half),))
    for prompt in (half + "x", said):
        pair = PublicPair(prompt=prompt, completion=half)
        with pytest.raises(ValidationError, match="at most 65536 characters"):
            KtoSpec(kl="public", kl_pairs=(pair,))
    with pytest.raises(ValidationError):
        PublicPair(prompt="", completion="two")


@pytest.mark.parametrize("mark", ["\x1b[2K", "\r", "\n", "\x9b", "\u202e", "\u2066", "\u2028"])
def test_what_is_printed_of_a_plan_is_text_and_no_more(mark: str) -> None:
    """Names, classes and arrays stand on terminals, in logs and in model cards."""
    word = f"m.{mark}lora_A.weight"
    for wrong in (
        lambda: BaseModelSpec(id=word, weights_sha256="0d" * 32),
        lambda: BaseModelSpec(id="org/model", revision=word, weights_sha256="0d" * 32),
        lambda: LoraSpec(r=2, alpha=4, target_modules=(word,)),
        lambda: section("sft", adapter=ADAPTER | {word: (2, 4)}),
        lambda: section("classify", labels=("good", word)),
        lambda: vector_plan(created=word),
        lambda: vector_plan(shapes={word: (3,)}),
        lambda: vector_plan(bound="1" + mark),
    ):
        with pytest.raises(ValidationError):
            wrong()


def test_classes_may_be_of_any_script() -> None:
    labels = ("sagt „nein“", "می\u200cخواهم", "क्\u200dष", "良い", "👩\u200d⚕️")
    assert section("classify", labels=labels).labels == labels


@pytest.mark.parametrize("name", ['m"; import os; x = "', "a b", "", "-m", "../m", "m" * 201, "möbel"])
def test_a_base_models_name_is_a_public_id(name: str) -> None:
    """It stands in the code of the model card."""
    with pytest.raises(ValidationError, match="pattern"):
        BaseModelSpec(id=name, weights_sha256="0d" * 32)


def test_numbers_are_written_in_ascii() -> None:
    with pytest.raises(ValidationError, match="pattern"):
        vector_plan(bound="\u0661")


def vector_plan(**options: Any) -> JobPlan:
    fields: dict[str, Any] = {
        "federation": "ab" * 16, "job": "sum", "kind": "vector", "created": "2026-01-01T00:00:00Z",
        "created_by": "admin", "rounds": 1, "shapes": {"a": (3,)}, "bound": "1",
    }  # fmt: skip
    return JobPlan(**(fields | options))


def test_a_vector_plan_has_no_section() -> None:
    with pytest.raises(ValidationError, match="training section"):
        vector_plan(training=section("sft"))
