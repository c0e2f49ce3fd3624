"""One unit's share of a clipped sum, for every trainer on two architectures with real adapters."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from secfed.aggregation.strategy import POINT
from secfed.crypto.labels import Label
from secfed.rounds.plan import KtoSpec, PublicPair
from secfed.training.adapter import AdapterModel, build, task_of
from secfed.training.dpsgd import SecretNoiseOptimizer, accumulate, per_record_gradients
from secfed.training.random import Stream
from secfed.training.sft import Completions
from secfed.training.task import IGNORED, Example, Task

TRAINERS = ("sft", "dpo", "kto", "classify")
RIDE_ALONG = "kto, ride-along"
"""`kto` with its reference point among the coordinates that are clipped."""

KINDS = ("llama", "gpt2")
ROWS = 40
PUBLIC = tuple(PublicPair(prompt="w1", completion=f"w{number} w5 w{2 * number}") for number in (11, 17, 23))
"""Public completions that stand beside private prompts."""

FAR = np.full(1, 1.01, dtype=np.float32)
"""A point so far from every record that all pull with the whole share of C that is the point's."""

TRIALS = 200
"""Changes on each of the two models: in all, 200 of a unit's presence and 200 exchanges a trainer."""


class Bench:
    """A tiny model, a task and tokenised rows, with clipped sums through the training path itself."""

    def __init__(self, model: AdapterModel, task: Task, rows: Sequence[Any], names: Sequence[str]) -> None:
        self.model, self.task, self.names = model, task, tuple(names)
        self.examples: list[Example] = [task.example(row) for row in rows]

    @contextmanager
    def clipping(self, clip: float) -> Iterator[Callable[..., np.ndarray]]:
        """A function from units and micro-batch size to the noiseless sum of that batch, flat."""
        with self.model.trainable(self.names) as parameters, per_record_gradients(self.model.module):
            optimizer = SecretNoiseOptimizer(
                torch.optim.SGD(parameters.values()),
                noise_multiplier=1.0, clip=clip, batch=1.0, noise=Stream(Label.STREAM_NOISE),
                point=None if self.model.point is None else self.model.point.value,
            )  # fmt: skip
            if self.model.point is not None:
                self.model.point.scale(bound=1.0, clip=clip)

            def clipped_sum(units: Sequence[Sequence[int]], micro_batch: int) -> np.ndarray:
                optimizer.zero_grad()
                accumulate(self.model, self.task, self.examples, units, optimizer, micro_batch)
                return np.concatenate([parameter.summed_grad.numpy() for parameter in parameters.values()])

            yield clipped_sum

    def single_gradient(self, record: int, *, point: bool = True) -> np.ndarray:
        """One record's gradient by an ordinary backward pass of its own, flat, float64."""
        names = [name for name in self.names if point or name != POINT]
        with self.model.trainable(names) as parameters:
            batch = self.task.collate([self.examples[record]])
            loss = self.task.losses(self.model.module, batch).sum()
            parts = torch.autograd.grad(loss, list(parameters.values()))
        return np.concatenate([part.numpy().ravel().astype(np.float64) for part in parts])


@pytest.fixture(scope="module")
def bench(
    base_folder: Callable[..., Path],
    spec_of: Callable[..., Any],
    train_spec: Callable[..., Any],
    first_adapter: Callable[..., Any],
    rows_for: Callable[..., Any],
    trained_names: Callable[..., Any],
) -> Callable[..., Bench]:
    made: dict[tuple[str, str, int], Bench] = {}

    def make(trainer: str, kind: str, layers: int = 2) -> Bench:
        if (trainer, kind, layers) not in made:
            rides, name = trainer == RIDE_ALONG, trainer.partition(",")[0]
            loss = KtoSpec(kl="ride-along", kl_pairs=PUBLIC) if rides else KtoSpec(kl_value="0.5")
            changes = {"kto": loss} if name == "kto" else {}
            plan = train_spec(kind, name, layers=layers, strategy="fedavg", **changes)
            spec, folder = replace(spec_of(kind, name), point=rides), base_folder(kind, layers)
            model = build(spec, folder, device="cpu")
            model.load(first_adapter(plan))
            task = task_of(spec, folder, plan.max_length, plan.preference)
            task.begin(model.module)
            if rides:
                model.load(model.arrays() | {POINT: FAR})
            rows = rows_for(kind, ROWS, trainer=name)
            made[trainer, kind, layers] = Bench(model, task, rows, trained_names(plan))
        return made[trainer, kind, layers]

    return make


@pytest.mark.parametrize(("trainer", "kind"), [*product(TRAINERS, KINDS), (RIDE_ALONG, "llama")])
def test_norms_equal_a_loop_of_single_passes(bench: Callable[..., Bench], trainer: str, kind: str) -> None:
    """Per record in a padded batch, to 1e-5; a pair's two responses are one gradient."""
    here = bench(trainer, kind)
    with here.model.trainable(here.names) as parameters, per_record_gradients(here.model.module):
        batch = here.task.collate(here.examples[:12])
        here.task.losses(here.model.module, batch).sum().backward()
        squares = [p.grad_sample.flatten(1).double().square().sum(1) for p in parameters.values()]
    expected = [np.linalg.norm(here.single_gradient(record)) for record in range(12)]
    np.testing.assert_allclose(torch.stack(squares).sum(0).sqrt().numpy(), expected, rtol=1e-5)
    assert min(expected) > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_persons_records_are_averaged(bench: Callable[..., Bench], trainer: str, kind: str) -> None:
    """With a norm that clips nothing: the mean within each unit, summed, for every micro-batch size."""
    here = bench(trainer, kind)
    units = [(0, 1, 2), (3,), (4, 5)]
    expected = sum(np.mean([here.single_gradient(record) for record in unit], axis=0) for unit in units)
    with here.clipping(1e6) as clipped_sum:
        found = [clipped_sum(units, micro_batch) for micro_batch in (1, 2, 3, 64)]
    assert max(np.linalg.norm(each - expected) for each in found) <= 1e-5 * np.linalg.norm(expected)


def walk(here: Bench, trials: int, chance: random.Random, share: float = 0.5) -> dict[str, list[float]]:
    """How far random changes of one unit move the sum, in multiples of C, by what was changed.

    Steps by turns take a unit of one or two records out or add one, and exchange one for another; each
    compares the sum with the one before, under micro-batches of random size. C is this share of the
    median norm of the adapter's gradients.
    """
    norms = [np.linalg.norm(here.single_gradient(record, point=False)) for record in range(ROWS)]
    clip = share * float(np.median(norms))

    def unit() -> tuple[int, ...]:
        return tuple(chance.sample(range(ROWS), chance.choice((1, 1, 2))))

    batch = [unit(), unit()]
    moved: dict[str, list[float]] = {"presence": [], "exchange": []}
    with here.clipping(clip) as clipped_sum:
        before = clipped_sum(batch, 64)
        for trial in range(trials):
            place, change = chance.randrange(len(batch)), ("presence", "exchange")[trial % 2]
            if change == "exchange":
                batch[place] = unit()
            elif len(batch) == 1 or (len(batch) < 4 and chance.random() < 0.5):
                batch.append(unit())
            else:
                batch.pop(place)
            after = clipped_sum(batch, chance.choice((3, 64, 64)))
            moved[change].append(float(np.linalg.norm(after - before)) / clip)
            before = after
    return moved


@pytest.mark.parametrize(("trainer", "kind"), [*product(TRAINERS, KINDS), (RIDE_ALONG, "llama")])
def test_one_unit_moves_the_sum_by_at_most_its_bound(
    bench: Callable[..., Bench], trainer: str, kind: str
) -> None:
    """One unit more or less moves by C (1 + 1e-6) at most, one exchanged by 2 C: 100 random changes of each.

    Units do reach C, and an exchange more than C: a bound a little lower would not hold. One layer with
    adapters on it will do: that gradients are right through two of them, the tests above say.
    """
    moved = walk(bench(trainer, kind, layers=1), TRIALS, random.Random(f"{trainer} {kind}"))
    assert max(moved["presence"]) <= 1 + 1e-6
    assert max(moved["exchange"]) <= 2 * (1 + 1e-6)
    assert max(moved["presence"]) > 0.999
    assert max(moved["exchange"]) > 1.1
    assert [len(each) for each in moved.values()] == [TRIALS // 2] * 2


class TokenMean(Completions):
    """`sft` as common trainers have it: the mean over the batch's tokens."""

    def losses(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Losses that depend on how long the other records are."""
        counts = (batch["targets"] != IGNORED).sum(dim=1)
        return super().losses(module, batch) * counts / counts.float().mean()


def test_a_mean_over_the_batchs_tokens_would_be_seen(
    bench: Callable[..., Bench], base_folder: Callable[..., Path], rows_for: Callable[..., Any]
) -> None:
    """The control: where one record's length scales the others' losses, the same walk passes the bound."""
    honest = bench("sft", "llama", layers=1)
    task = TokenMean(transformers.AutoTokenizer.from_pretrained(base_folder("llama", 1)), 24)
    shared = Bench(honest.model, task, rows_for("llama", ROWS, trainer="sft"), honest.names)
    moved = walk(shared, TRIALS, random.Random(1), share=1.0)
    assert max(moved["presence"]) > 1.05
