"""What a signed plan must fit before an aggregator takes it on: nothing of it is durable before."""

from __future__ import annotations

from typing import Any

import pytest

from secfed.aggregation import registry
from secfed.aggregation.strategy import POINT
from secfed.errors import ConfigError, EncodingError
from secfed.limits import ADAPTER_MAX
from secfed.rounds.plan import BaseModelSpec, JobPlan, KtoSpec, LoraSpec, PublicPair, TrainSpec
from secfed.rounds.publish import check_plan

A, B, WEIGHT, BIAS = "m.lora_A.weight", "m.lora_B.weight", "head.weight", "head.bias"
PAIR: dict[str, tuple[int, ...]] = {A: (2, 4), B: (4, 2)}
SIDE = 1 << 28


def plan(adapter: dict[str, tuple[int, ...]], *, strategy: str = "ffa", **options: Any) -> JobPlan:
    spec: dict[str, Any] = {
        "trainer": "sft", "strategy": strategy,
        "base": BaseModelSpec(id="org/model", weights_sha256="0d" * 32),
        "lora": LoraSpec(r=2, alpha=4, target_modules=("m",)), "steps": 1, "learning_rate": "0.1",
        "adapter": adapter, "seed": "5e" * 32,
    }  # fmt: skip
    return JobPlan(
        federation="ab" * 16, job="train", kind="train", created="2026-01-01T00:00:00Z", created_by="admin",
        rounds=1, shapes=registry.by_name(strategy).wire_shapes(adapter), bound="1",
        training=TrainSpec(**(spec | options)),
    )  # fmt: skip


def classify(rows: int, bias: int | None, labels: tuple[str, ...] = ("no", "yes")) -> JobPlan:
    head: dict[str, tuple[int, ...]] = {WEIGHT: (rows, 4)} | ({} if bias is None else {BIAS: (bias,)})
    return plan(PAIR | head, trainer="classify", labels=labels)


@pytest.mark.parametrize(
    "frozen", [(SIDE, SIDE), (ADAPTER_MAX // 16, 17), (ADAPTER_MAX + 1, 1), (1 << 31, 1 << 31)]
)
def test_the_size_of_frozen_arrays_counts_too(frozen: tuple[int, int]) -> None:
    """They are in no contribution, but the aggregator makes them: a plan of 1 KiB asked for 2^58 bytes."""
    with pytest.raises((ConfigError, EncodingError), match=r"numbers, frozen arrays included|at most"):
        check_plan(plan(PAIR | {A: frozen}))


def test_an_adapter_of_the_largest_size_is_taken_on() -> None:
    check_plan(plan({A: (2, (ADAPTER_MAX - 8) // 2), B: (4, 2)}))
    with pytest.raises(ConfigError, match=f"has {ADAPTER_MAX + 1} numbers"):
        check_plan(plan({A: (1, ADAPTER_MAX - 7), B: (4, 2)}))


@pytest.mark.parametrize("shapes", [{A: ()}, {A: (8,)}, {A: (2, 2, 2)}, {B: ()}, {B: (2, 2, 2)}])
def test_arrays_have_the_dimensions_of_their_kind(shapes: dict[str, tuple[int, ...]]) -> None:
    """The first adapter of a factor without sides could not be made, at each start again."""
    with pytest.raises(ConfigError, match="dimensions, an array of its kind has 2"):
        check_plan(plan(PAIR | shapes))


def test_a_head_has_a_row_for_each_label() -> None:
    check_plan(classify(2, 2))
    for rows, bias in ((3, 3), (2, 3), (3, 2), (1, 1), (2, None)):
        with pytest.raises(ConfigError, match="the plan has 2 labels"):
            check_plan(classify(rows, bias))
    with pytest.raises(ConfigError, match="the plan has 0 labels"):
        check_plan(plan(PAIR | {WEIGHT: (2, 4), BIAS: (2,)}))


def test_a_point_that_rides_along_is_taken_on() -> None:
    kto = KtoSpec(kl="ride-along", kl_pairs=(PublicPair(prompt="one", completion="two"),))
    check_plan(plan(PAIR | {POINT: (1,)}, trainer="kto", kto=kto))
