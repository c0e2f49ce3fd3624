"""Local runs on tiny models, and the Contributor around them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy import stats

from secfed.aggregation.registry import by_name
from secfed.errors import ConfigError, DataError, PolicyRefusedError, SecfedError
from secfed.privacy.events import NonPrivate, PoissonGaussian
from secfed.rounds.contribution import encode
from secfed.rounds.plan import Deadlines, JobPlan, KtoSpec, PublicPair, RoundPlan
from secfed.rounds.proposal import vector_words
from secfed.training import trainer as trainer_module
from secfed.training.adapter import positions, task_of
from secfed.training.contributor import SiteSettings, TrainingContributor
from secfed.training.data import load
from secfed.training.evaluate import Evaluator, evaluate_folder
from secfed.training.rows import FORMATS
from secfed.training.trainer import LocalTrainer, clamp

KEY = bytes(range(32))
ERROR = 1e-9


@pytest.fixture
def start(first_adapter: Callable[..., Any]) -> Callable[..., Any]:
    return first_adapter


@pytest.mark.parametrize("trainer", ["classify", "sft", "dpo", "kto"])
@pytest.mark.parametrize("strategy", ["ffa", "fedavg"])
def test_a_run_gives_the_plans_shapes_and_the_planned_event(
    trainer: str, strategy: str, train_spec: Any, dp_spec: Any, make_trainer: Any, start: Any
) -> None:
    kind = "bert" if trainer == "classify" else "llama"
    train, dp = train_spec(kind, trainer, strategy=strategy, steps=3), dp_spec()
    seen: list[int] = []
    update = make_trainer(kind, train, dp).run(start(train), bound=1.0, on_step=seen.append)
    assert {name: value.shape for name, value in update.arrays.items()} == by_name(strategy).wire_shapes(
        train.adapter
    )
    assert update.event == PoissonGaussian(2**63, "1.0", 3, "add-remove", "record", 1)
    assert (update.weight, update.saturated, seen) == (1, 0, [1, 2, 3])
    assert all(value.dtype == np.float32 and value.any() for value in update.arrays.values())


def test_two_runs_differ_and_each_starts_at_the_base(
    train_spec: Any, dp_spec: Any, make_trainer: Any, start: Any
) -> None:
    train = train_spec("bert", optimizer="sgd", learning_rate="0.1")
    one = make_trainer("bert", train, dp_spec())
    first, second = one.run(start(train)), one.run(start(train))
    for name in first.arrays:
        assert not np.isclose(first.arrays[name], second.arrays[name], rtol=1e-6, atol=0).all()


def test_sigma_is_recovered_from_the_contribution(
    train_spec: Any, dp_spec: Any, make_trainer: Any, start: Any
) -> None:
    """SGD at rate lr over T empty batches moves lr sigma C sqrt(T) / B: chi-square at error 1e-9."""
    train = train_spec("bert", optimizer="sgd", learning_rate="2.0", steps=4, strategy="fedavg")
    dp = dp_spec(sampling_num=2**20, nominal_units=2**44, noise_multiplier="1.5", clip="0.25")
    assert dp.batch == 1.0
    one = make_trainer("bert", train, dp)
    values = np.concatenate(
        [v.ravel().astype(np.float64) for _ in range(20) for v in one.run(start(train)).arrays.values()]
    )
    square = float((values**2).sum() / (2.0 * 1.5 * 0.25) ** 2 / 4)
    assert values.size > 10_000
    assert stats.chi2.ppf(ERROR / 2, values.size) < square < stats.chi2.isf(ERROR / 2, values.size)


def test_one_row_more_changes_no_number_of_the_plan(
    train_spec: Any, dp_spec: Any, make_trainer: Any, start: Any
) -> None:
    """q, steps, B and event of n and n + 1 rows are the same, and so is all that is sent but its values:
    names, shapes and words; so is the noise's scale at the parameters.
    """
    train = train_spec("bert", optimizer="sgd", learning_rate="1.0", steps=1)
    dp = dp_spec(clip="0.0001", noise_multiplier="1000")  # all noise, of 0.1
    plan = plan_of(train, dp)
    spreads, events, sent = [], [], []
    for rows in (24, 25):
        update = make_trainer("bert", train, dp, rows=rows).run(start(train), bound=float(plan.bound))
        words = encode(plan, update).words
        sent.append(({name: value.shape for name, value in update.arrays.items()}, words.nbytes))
        assert words.size == vector_words(plan)
        values = np.concatenate([value.ravel() for value in update.arrays.values()]).astype(np.float64)
        spreads.append((values**2).mean() * dp.batch**2 / 0.01)
        events.append(update.event)
    assert (events[0], sent[0]) == (events[1], sent[1])
    assert all(abs(spread - 1) < 6.2 * (2 / values.size) ** 0.5 for spread in spreads)


def test_persons_are_units(train_spec: Any, dp_spec: Any, make_trainer: Any, start: Any) -> None:
    dp = dp_spec(unit="person", records_per_unit=3)
    update = make_trainer("llama", train_spec("llama"), dp, rows=30, persons=6).run(
        start(train_spec("llama"))
    )
    assert update.event == PoissonGaussian(2**63, "1.0", 2, "add-remove", "person", 3)
    with pytest.raises(DataError, match="person"):
        make_trainer("llama", train_spec("llama"), dp, rows=30)


def test_a_rounds_public_point_comes_from_the_adapter_that_it_starts_from(
    train_spec: Any, dp_spec: Any, make_trainer: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = PublicPair(prompt="w1 w2", completion="w3 w4")
    train = train_spec("llama", "kto", kto=KtoSpec(kl="public", kl_pairs=(pair,)))
    one, seen = make_trainer("llama", train, dp_spec()), []

    def watched(module: torch.nn.Module) -> None:
        begin(module)
        seen.append({name: value.copy() for name, value in one.model.arrays().items()})

    begin = one.task.begin
    monkeypatch.setattr(one.task, "begin", watched)
    base = start(train)
    for _ in range(2):
        one.run(base)
    assert len(seen) == 2
    assert all(np.array_equal(held[name], base[name]) for held in seen for name in base)


def test_conversations_are_rows_too(
    train_spec: Any,
    dp_spec: Any,
    start: Any,
    base_folder: Any,
    rows_for: Any,
    write_rows: Any,
    tmp_path: Path,
) -> None:
    """`messages` from a file; a chat that nothing can be learnt from changes no number of the plan."""
    chats = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ][: 1 + number % 4]
        }
        for number, row in enumerate(rows_for("llama", 24))
    ]
    table = load(write_rows(chats), FORMATS["sft"], scratch=tmp_path / "s")
    train = train_spec("llama")
    update = LocalTrainer(train, dp_spec(), base_folder("llama"), table, KEY, device="cpu").run(start(train))
    assert update.event == PoissonGaussian(2**63, "1.0", 2, "add-remove", "record", 1)


def test_without_dp_the_event_says_so(train_spec: Any, make_trainer: Any, start: Any) -> None:
    train = train_spec("bert", steps=8)
    one = make_trainer("bert", train.model_copy(update={"plain_batch": 8}), None, rows=8)
    base = start(train)
    update = one.run(base, bound=1e-9)
    assert isinstance(update.event, NonPrivate)
    assert update.saturated == 0
    assert max(np.abs(value).max() for value in update.arrays.values()) > 1e-9  # never clamped without DP
    again = one.run(base)
    assert all(
        np.allclose(update.arrays[name], again.arrays[name], atol=1e-4) for name in update.arrays
    )  # no noise


def test_a_stray_tensor_that_moves_is_caught(
    train_spec: Any, dp_spec: Any, make_trainer: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen weight of the base that changes while training is no contribution."""
    train = train_spec("bert")
    one = make_trainer("bert", train, dp_spec())
    inner = trainer_module.dpsgd.train

    def meddling(model: Any, *arguments: Any, **options: Any) -> None:
        inner(model, *arguments, **options)
        with torch.no_grad():
            next(p for n, p in model.module.named_parameters() if n.endswith("word_embeddings.weight"))[
                3, 4
            ] += 1e-3

    monkeypatch.setattr(trainer_module.dpsgd, "train", meddling)
    with pytest.raises(SecfedError, match="carries no noise"):
        one.run(start(train))


def test_an_adapter_that_stays_is_caught(
    train_spec: Any, dp_spec: Any, make_trainer: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a run that took fewer steps than were reserved is none."""
    train = train_spec("bert", learning_rate="0")
    with pytest.raises(SecfedError, match="did not move"):
        make_trainer("bert", train, dp_spec()).run(start(train))
    monkeypatch.setattr(trainer_module.dpsgd, "train", lambda *_, **options: options["sampler"].draw())
    with pytest.raises(SecfedError, match="not what the plan says"):
        make_trainer("bert", train, dp_spec()).run(start(train))


def test_clamp_counts_and_never_exceeds() -> None:
    bound = 0.1  # float32(0.1) is above 0.1
    cut, count = clamp({"a": np.array([-5, 0.05, 0.2, 0.1], np.float32)}, bound)
    assert float(np.abs(cut["a"]).max()) <= bound
    assert count == 3
    assert cut["a"][1] == np.float32(0.05)


# -- the contributor ---------------------------------------------------------------------------


@pytest.fixture
def site(
    base_folder: Callable[..., Path],
    rows_for: Callable[..., Any],
    write_rows: Callable[..., Path],
    tmp_path: Path,
) -> Callable[..., TrainingContributor]:
    def make(
        kind: str, folder_kind: str | None = None, trainer: str | None = None, **options: Any
    ) -> TrainingContributor:
        settings = SiteSettings(
            data=write_rows(rows_for(kind, 24, persons=6, trainer=trainer)),
            model_folder=lambda _: base_folder(folder_kind or kind),
            scratch=tmp_path / "scratch",
            device="cpu",
            **options,
        )
        return TrainingContributor(settings, KEY)

    return make


def plan_of(train: Any, dp: Any, **changes: Any) -> JobPlan:
    fields = {
        "federation": "ab" * 16,
        "job": "job",
        "kind": "train",
        "created": "2026-01-01T00:00:00Z",
        "created_by": "admin",
        "rounds": 2,
        "shapes": by_name(train.strategy).wire_shapes(train.adapter),
        "bound": "0.5",
        "training": train,
        "dp": dp,
    }
    return JobPlan(**(fields | changes))


def round_plan(job: str = "job") -> RoundPlan:
    return RoundPlan(job=job, job_plan="00" * 32, round=1, base="00" * 32, deadlines=Deadlines())


def test_contributor_reserves_what_it_does(train_spec: Any, dp_spec: Any, site: Any, start: Any) -> None:
    train = train_spec("bert")
    plan, here = plan_of(train, dp_spec()), site("bert")
    planned = here.planned_event(plan)
    here.check(plan)
    update = here.contribute(plan, round_plan(), start(train))
    assert update.event == planned
    assert {name: value.shape for name, value in update.arrays.items()} == plan.shapes
    with pytest.raises(ValueError, match="another"):
        here.contribute(plan, round_plan("other"), start(train))


@pytest.mark.parametrize("trainer", ["dpo", "kto"])
def test_preferences_are_contributed_with_persons_as_units(
    trainer: str, train_spec: Any, dp_spec: Any, site: Any, start: Any
) -> None:
    train = train_spec("llama", trainer)
    plan = plan_of(train, dp_spec(unit="person", records_per_unit=3))
    here = site("llama", trainer=trainer, unit="person")
    here.check(plan)
    update = here.contribute(plan, round_plan(), start(train))
    assert (
        update.event
        == here.planned_event(plan)
        == PoissonGaussian(2**63, "1.0", 2, "add-remove", "person", 3)
    )
    missing = "chosen" if trainer == "dpo" else "prompt"
    with pytest.raises(DataError, match=rf"no columns? .*'{missing}'"):
        site("bert", "llama", unit="person").check(plan)


def test_update_is_within_the_plans_bound(train_spec: Any, dp_spec: Any, site: Any, start: Any) -> None:
    train = train_spec("bert")
    plan = plan_of(train, dp_spec(), bound="0.001")
    update = site("bert").contribute(plan, round_plan(), start(train))
    assert max(float(np.abs(value).max()) for value in update.arrays.values()) <= 0.001
    assert update.saturated > 0


def test_what_does_not_fit_is_refused_before_training(train_spec: Any, dp_spec: Any, site: Any) -> None:
    train = train_spec("bert")
    with pytest.raises(ConfigError, match="weights"):
        site("bert", folder_kind="llama").check(plan_of(train, dp_spec()))
    smaller = {name: shape for name, shape in train.adapter.items() if "layer.0" in name or "head" in name}
    with pytest.raises(ConfigError, match="shapes"):
        site("bert").check(plan_of(train.model_copy(update={"adapter": smaller}), dp_spec()))
    with pytest.raises(ConfigError, match="shapes"):
        site("bert").check(plan_of(train, dp_spec(), shapes={"x": (1,)}))
    with pytest.raises(DataError, match=r"no columns? 'text'"):
        site("llama", folder_kind="bert").check(plan_of(train, dp_spec()))
    with pytest.raises(DataError, match="person"):
        site("bert").check(plan_of(train, dp_spec(unit="person")))
    vector = plan_of(train, None, kind="vector", training=None, shapes={"x": (1,)})
    with pytest.raises(ConfigError, match="trains nothing"):
        site("bert").planned_event(vector)


def test_a_tokenizer_beyond_the_bases_embeddings_is_refused_before_a_charge(
    train_spec: Any, dp_spec: Any, site: Any, base_folder: Any, tmp_path: Path
) -> None:
    """`check` is what stands before the reservation."""
    place = shutil.copytree(base_folder("llama"), tmp_path / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    tokenizer.add_tokens(["one-more"])
    tokenizer.save_pretrained(place)
    here = site("llama", trainer="sft")
    here._settings = replace(here._settings, model_folder=lambda _: place)
    with pytest.raises(ConfigError, match="one-more"):
        here.check(plan_of(train_spec("llama"), dp_spec()))


@pytest.mark.parametrize("dp", [True, False])
def test_a_plan_learns_nothing_of_labels_by_being_declined(
    dp: bool,
    train_spec: Any,
    dp_spec: Any,
    site: Any,
    start: Any,
) -> None:
    """Rows are labelled no and yes; a plan for other labels is carried out and charged as any other."""
    train = train_spec("bert", labels=("yes", "perhaps"))
    plan, here = plan_of(train, dp_spec() if dp else None), site("bert")
    here.check(plan)
    assert here.contribute(plan, round_plan(), start(train)).event == here.planned_event(plan)


def test_a_row_with_another_label_adds_nothing(train_spec: Any, dp_spec: Any, site: Any, start: Any) -> None:
    """Its unit is drawn and counted, its clipped gradient is zero: what is left is the noise."""
    train = train_spec("bert", labels=("a", "b"), optimizer="sgd", learning_rate="1.0", steps=1)
    dp = dp_spec(sampling_num=2**64, noise_multiplier="0.000001", clip="1")
    update = site("bert").contribute(plan_of(train, dp), round_plan(), start(train))
    assert max(float(np.abs(value).max()) for value in update.arrays.values()) < 1e-6
    known = train.model_copy(update={"labels": ("no", "yes")})
    update = site("bert").contribute(plan_of(known, dp), round_plan(), start(known))
    assert max(float(np.abs(value).max()) for value in update.arrays.values()) > 1e-3


def test_the_labels_that_a_site_declares_are_the_plans(train_spec: Any, dp_spec: Any, site: Any) -> None:
    """Compared with the configuration alone, in any order, before the file is opened."""
    plan = plan_of(train_spec("bert"), dp_spec())
    site("bert", labels=("yes", "no")).check(plan)
    for declared in (("yes", "no", "perhaps"), ("yes", "perhaps")):
        with pytest.raises(PolicyRefusedError, match="declares"):
            site("bert", labels=declared).check(plan)


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_rows_longer_than_the_models_positions_are_refused(
    kind: str, train_spec: Any, dp_spec: Any, site: Any, base_folder: Any
) -> None:
    """From the config alone: the tiny models have 64 positions, and no row here has as many tokens."""
    assert positions(base_folder(kind)) == 64
    if kind == "gpt2":  # its fused layers take no adapter of ours
        return
    site(kind).check(plan_of(train_spec(kind, max_length=64), dp_spec()))
    with pytest.raises(ConfigError, match="up to 65 tokens"):
        site(kind).check(plan_of(train_spec(kind, max_length=65), dp_spec()))


def test_positions_after_a_padding_token_are_fewer(tmp_path: Path) -> None:
    """RoBERTa counts from the padding token's id + 1: of its 514 positions 512 are for tokens."""
    transformers.RobertaConfig(max_position_embeddings=514, pad_token_id=1).save_pretrained(tmp_path)
    assert positions(tmp_path) == 512


def test_a_base_that_fails_on_the_plans_longest_row_is_refused_before_training(
    train_spec: Any, dp_spec: Any, site: Any, base_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the config does not tell: no row here has as many tokens, and no row decides."""
    monkeypatch.setattr("secfed.training.contributor.positions", lambda _folder: None)
    site("bert").check(plan_of(train_spec("bert", max_length=64), dp_spec()))
    with pytest.raises(ConfigError, match="rows of up to 65 tokens"):
        site("bert").check(plan_of(train_spec("bert", max_length=65), dp_spec()))


# -- evaluation --------------------------------------------------------------------------------


@pytest.mark.parametrize("trainer", ["classify", "sft", "dpo", "kto"])
def test_metric_by_hand_and_from_a_folder(
    trainer: str,
    train_spec: Any,
    make_trainer: Any,
    start: Any,
    base_folder: Any,
    rows_for: Any,
    write_rows: Any,
    tmp_path: Path,
) -> None:
    from secfed.aggregation import folder

    kind = "bert" if trainer == "classify" else "llama"
    train = train_spec(kind, trainer)
    one, arrays = make_trainer(kind, train, None), start(train)
    rows = rows_for(kind, 40, trainer=trainer)
    public = load(write_rows(rows, "public.jsonl"), one.task.formats, scratch=tmp_path)
    metric = Evaluator(one.model, one.task, public).measure(arrays)
    task = task_of(one.model.spec, base_folder(kind), train.max_length)
    top, bottom = 0.0, 0
    for row in public.rows:
        with torch.no_grad():
            part = task.measure(one.model.module, task.collate([task.example(row)]))
        top, bottom = top + part[0], bottom + part[1]
    assert metric.value == pytest.approx(top / bottom, rel=1e-5)
    assert metric.rows == 40
    assert metric.perplexity == (pytest.approx(np.exp(metric.value)) if trainer == "sft" else None)
    folder.write(tmp_path / "adapter", one.model.spec, arrays)
    again = evaluate_folder(
        tmp_path / "adapter", base_folder(kind), public, max_length=train.max_length, device="cpu"
    )
    assert again.value == pytest.approx(metric.value, rel=1e-6)
