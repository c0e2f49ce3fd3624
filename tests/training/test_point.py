"""The reference point of `kto` that rides along: what it adds, what it costs, and that it finds z0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secfed.aggregation.registry import by_name
from secfed.aggregation.strategy import POINT
from secfed.crypto.labels import Label
from secfed.errors import ConfigError, DataError, SecfedError
from secfed.privacy.events import NonPrivate, PoissonGaussian
from secfed.rounds.plan import KtoSpec, PublicPair
from secfed.training import trainer as trainer_module
from secfed.training.adapter import AdapterModel, build, task_of
from secfed.training.data import load
from secfed.training.dpsgd import SecretNoiseOptimizer, accumulate, per_record_gradients
from secfed.training.point import MOST_NATS, RATE, SHARE, ReferencePoint
from secfed.training.random import Stream
from secfed.training.rows import FORMATS, Message
from secfed.training.spec import update_bound
from secfed.training.trainer import LocalTrainer

PUBLIC = tuple(PublicPair(prompt="w1", completion=f"w{number} w5 w{2 * number}") for number in (11, 17, 23))
RIDE_ALONG = KtoSpec(kl="ride-along", kl_pairs=PUBLIC, beta="0.5")
ROWS = 24
CLIP = 0.5
ERROR_STDS = 6.2
"""Standard deviations of a normal figure that a sound build passes with a chance below 1e-9."""


@pytest.fixture
def rows(rows_for: Callable[..., Any]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = rows_for("llama", ROWS, trainer="kto")
    return made


@pytest.fixture
def train(train_spec: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **changes: train_spec("llama", "kto", **({"kto": RIDE_ALONG} | changes))


@pytest.fixture
def start(first_adapter: Callable[..., Any]) -> Callable[..., Any]:
    """An adapter that gains and loses whole nats on what is beside the prompts."""
    return lambda plan: {name: value * np.float32(4) for name, value in first_adapter(plan).items()}


@pytest.fixture
def model(base_folder: Any, spec_of: Any, train: Any, start: Any) -> AdapterModel:
    made = build(replace(spec_of("llama", "kto"), point=True), base_folder("llama"), device="cpu")
    made.load(start(train()))
    return made


@pytest.fixture
def site(base_folder: Any, rows: Any, write_rows: Any, tmp_path: Path) -> Callable[..., LocalTrainer]:
    def make(plan: Any, dp: Any) -> LocalTrainer:
        table = load(write_rows(rows), FORMATS["kto"], scratch=tmp_path / "s")
        return LocalTrainer(plan, dp, base_folder("llama"), table, bytes(32), device="cpu")

    return make


@pytest.fixture
def point_of(model: AdapterModel) -> ReferencePoint:
    assert model.point is not None
    return model.point


def gains_beside(model: AdapterModel, task: Any, rows: Any) -> np.ndarray:
    """Gain of each prompt with its public completion, one row at a time, apart from the trainer's batches."""
    found = []
    for row in rows:
        with torch.no_grad():
            batch = task.collate([task.example(row).beside])
            found.append(float(task._gain(model.module, batch)))
    return np.array(found)


def test_losses_are_those_of_a_fixed_point_and_the_point_is_pulled_to_each_records_gain(
    model: AdapterModel, point_of: ReferencePoint, base_folder: Any, spec_of: Any, rows: Any
) -> None:
    """By hand: gradient of (z - m)^2 / 2 in the layer's units, and no value added to any loss."""
    point_of.scale(bound=0.04, clip=CLIP)
    with torch.no_grad():
        point_of.value.fill_(0.002)  # of 0.04, which is 20 nats
    assert point_of.point == pytest.approx(1.0, rel=1e-6)
    riding = task_of(spec_of("llama", "kto"), base_folder("llama"), 24, RIDE_ALONG)
    fixed = task_of(spec_of("llama", "kto"), base_folder("llama"), 24, KtoSpec(beta="0.5", kl_value="1"))
    riding.begin(model.module)
    batch = riding.collate([riding.example(row) for row in rows])
    with model.trainable([POINT]):
        losses = riding.losses(model.module, batch)
        (pull,) = torch.autograd.grad(losses.sum(), [point_of.value])
    with torch.no_grad():
        plain = fixed.losses(model.module, fixed.collate([fixed.example(row) for row in rows]))
    assert torch.allclose(losses.detach(), plain, atol=1e-6)
    gains = gains_beside(model, riding, rows)
    assert np.ptp(gains) > 0.5
    expected = SHARE * CLIP / MOST_NATS * (1.0 - gains).sum()
    assert float(pull) == pytest.approx(expected, rel=1e-4)


def test_a_row_pulls_by_its_share_at_most_and_not_at_all_if_nothing_can_be_learnt(
    model: AdapterModel, point_of: ReferencePoint, base_folder: Any, spec_of: Any, as_chat: Any, rows: Any
) -> None:
    far = torch.tensor([-1e9, 0.0, 1e9, float("inf")])
    point_of.scale(bound=0.04, clip=CLIP)
    with model.trainable([POINT]):
        assert point_of.pulls(far).tolist() == pytest.approx([SHARE * CLIP, 0, -SHARE * CLIP, -SHARE * CLIP])
    chats = tuple(
        PublicPair.model_validate(
            {"prompt": ({"role": "user", "content": "w1"},),
             "completion": ({"role": "assistant", "content": pair.completion},)}
        )
        for pair in PUBLIC
    )  # fmt: skip
    task = task_of(
        spec_of("llama", "kto"), base_folder("llama"), 24, KtoSpec(kl="ride-along", kl_pairs=chats)
    )
    deaf = as_chat(rows[0]) | {"completion": (Message("user", "w2"),)}
    with torch.no_grad():
        point_of.value.fill_(0.02)
    task.begin(model.module)
    for row, moves in ((deaf, False), (as_chat(rows[0]), True)):
        with model.trainable([POINT]):
            loss = task.losses(model.module, task.collate([task.example(row)])).sum()
            (pull,) = torch.autograd.grad(loss, [point_of.value])
        assert bool(pull.any()) is moves


def test_texts_and_chats_are_not_put_together(
    base_folder: Any, spec_of: Any, as_chat: Any, rows: Any
) -> None:
    task = task_of(spec_of("llama", "kto"), base_folder("llama"), 24, RIDE_ALONG)
    with pytest.raises(DataError, match="not both texts or both chats") as refused:
        task.example(as_chat(rows[0]))
    assert "kl_file" in refused.value.hint


def test_point_and_adapter_are_clipped_apart_and_to_c_together(
    model: AdapterModel, point_of: ReferencePoint, base_folder: Any, spec_of: Any, rows: Any
) -> None:
    """A record that saturates both counts exactly C; the adapter's clip does not shorten the point's pull."""
    clip = 1e-6
    point_of.scale(bound=1.0, clip=clip)
    with torch.no_grad():
        point_of.value.fill_(1.5)  # 30 nats: beyond what any record pulls to
    task = task_of(spec_of("llama", "kto"), base_folder("llama"), 24, RIDE_ALONG)
    task.begin(model.module)
    with model.trainable(list(model.parameters)) as parameters, per_record_gradients(model.module):
        optimizer = SecretNoiseOptimizer(
            torch.optim.SGD(parameters.values()), noise_multiplier=1.0, clip=clip, batch=1.0,
            noise=Stream(Label.STREAM_NOISE), point=point_of.value,
        )  # fmt: skip
        optimizer.zero_grad()
        accumulate(model, task, [task.example(row) for row in rows], [(2,)], optimizer, 8)
        sums = {name: parameter.summed_grad.numpy() for name, parameter in parameters.items()}
    pull = sums.pop(POINT)
    rest = np.concatenate(list(sums.values()))
    exact = clip * (1 - 1e-6)
    assert np.linalg.norm(pull) == pytest.approx(SHARE * exact, rel=1e-6)
    assert np.linalg.norm(rest) == pytest.approx((1 - SHARE**2) ** 0.5 * exact, rel=1e-9)
    assert np.hypot(np.linalg.norm(pull), np.linalg.norm(rest)) <= clip


def test_the_point_must_be_one_of_the_trained_arrays(point_of: ReferencePoint) -> None:
    other = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match="one of the trained"):
        SecretNoiseOptimizer(
            torch.optim.SGD([other]), noise_multiplier=1.0, clip=1.0, batch=1.0,
            noise=Stream(Label.STREAM_NOISE), point=point_of.value,
        )  # fmt: skip


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", "0.0001"), ("adamw", "0.000001")])
def test_the_point_is_recovered_within_the_noises_error(
    train: Any, dp_spec: Any, site: Any, start: Any, rows: Any, optimizer: str, rate: str
) -> None:
    """Every unit in every batch, an adapter that all but stands still: what is left is the noise. That
    gradients of the adapter are far above C shortens no pull.

    After T steps z is m (1 - (1 - a)^T), m the mean gain, with a standard deviation of
    a sigma MOST_NATS / (SHARE B) sqrt((1 - (1 - a)^2T) / (1 - (1 - a)^2)).
    """
    steps, sigma, clip = 25, 0.004, "0.01"
    plan = train(steps=steps, learning_rate=rate, optimizer=optimizer)
    dp = dp_spec(sampling_num=2**64, noise_multiplier=str(sigma), clip=clip, nominal_units=ROWS)
    here, base = site(plan, dp), start(plan)
    update = here.run(base)
    assert update.event == PoissonGaussian(2**64, str(sigma), steps, "add-remove", "record", 1)
    here.model.load(base)
    mean = float(gains_beside(here.model, here.task, rows).mean())
    left = (1 - RATE) ** steps
    std = RATE * sigma * MOST_NATS / (SHARE * dp.batch) * ((1 - left**2) / (1 - (1 - RATE) ** 2)) ** 0.5
    found = float(update.arrays[POINT][0]) / update_bound(plan, dp) * MOST_NATS
    assert abs(found - mean * (1 - left)) < ERROR_STDS * std + 1e-3
    assert abs(mean) > 2 * ERROR_STDS * std  # a point that stayed at 0 would fail


def test_a_rounds_point_follows_from_the_sum_of_the_round_before(
    train: Any, dp_spec: Any, site: Any, start: Any
) -> None:
    """It is fixed within the round, whatever the site's own parameter does meanwhile."""
    plan, dp = train(steps=3), dp_spec()
    here, base = site(plan, dp), start(plan)
    assert (base[POINT].tolist(), base[POINT].shape) == ([0.0], (1,))
    used: list[float] = []
    losses = here.task.losses

    def watched(module: torch.nn.Module, batch: Any) -> torch.Tensor:
        used.append(here.task._point)  # type: ignore[attr-defined]
        return losses(module, batch)

    here.task.losses = watched  # type: ignore[method-assign]
    update = here.run(base, bound=update_bound(plan, dp))
    assert set(used) == {0.0}
    strategy = by_name(plan.strategy)
    assert {name: value.shape for name, value in update.arrays.items()} == strategy.wire_shapes(plan.adapter)
    assert update.arrays[POINT].shape == (1,)
    assert update.arrays[POINT].any()
    used.clear()
    share = 0.25  # of the bound: a sum over sites that says 5 nats
    mean = dict(update.arrays) | {POINT: np.full(1, share * update_bound(plan, dp), np.float32)}
    here.run(strategy.apply(base, mean))
    assert set(used) == {used[0]}
    assert used[0] == pytest.approx(share * MOST_NATS, rel=1e-6)


@pytest.mark.parametrize(("share", "point"), [(-0.5, 0.0), (1.5, MOST_NATS)])
def test_a_point_that_noise_carried_away_is_cut_where_it_is_used(
    point_of: ReferencePoint, share: float, point: float
) -> None:
    """The parameter goes on from where it stands, so that its noise is not made to lean one way."""
    point_of.scale(bound=0.04, clip=CLIP)
    with torch.no_grad():
        point_of.value.fill_(share * 0.04)
    assert point_of.point == point
    assert point_of.nats == pytest.approx(share * MOST_NATS, rel=1e-6)


def test_without_dp_the_point_follows_the_batches_mean(train: Any, site: Any, start: Any, rows: Any) -> None:
    plan = train(steps=5, learning_rate="0.000001", plain_batch=ROWS)
    here, base = site(plan, None), start(plan)
    update = here.run(base)
    assert isinstance(update.event, NonPrivate)
    here.model.load(base)
    mean = gains_beside(here.model, here.task, rows).mean()
    found = float(update.arrays[POINT][0]) / update_bound(plan, None) * MOST_NATS
    assert found == pytest.approx(mean * (1 - (1 - RATE) ** 5), rel=1e-3)


def test_an_adapter_that_stays_is_caught_though_the_point_moved(
    train: Any, dp_spec: Any, site: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lazy(model: AdapterModel, *_: Any, **options: Any) -> None:
        assert model.point is not None
        for _step in range(options["steps"]):
            options["sampler"].draw()
        with torch.no_grad():
            model.point.value.add_(0.001)

    plan = train()
    monkeypatch.setattr(trainer_module.dpsgd, "train", lazy)
    with pytest.raises(SecfedError, match="did not move"):
        site(plan, dp_spec()).run(start(plan))


def test_a_plan_that_lets_no_coordinate_move_is_refused_before_training(
    train: Any, dp_spec: Any, site: Any
) -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        site(train(learning_rate="0"), dp_spec())
