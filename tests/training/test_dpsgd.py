"""DP-SGD as the mechanism it claims to be: gradients, clipping, noise, batches, denominators."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secfed.aggregation.spec import AdapterSpec
from secfed.crypto.labels import Label
from secfed.training.adapter import AdapterModel, build, task_of
from secfed.training.dpsgd import (
    ClippingOptimizer,
    MicroBatch,
    SecretNoiseOptimizer,
    accumulate,
    micro_batches,
    per_record_gradients,
    train,
)
from secfed.training.random import GRID_BITS, PoissonSampler, Stream
from secfed.training.task import Example, Task

ERROR = 1e-9
"""Chance that a statistical test below fails although the mechanism is right."""

KINDS = ("bert", "llama", "gpt2")


class Site:
    """A tiny model with toy rows, and the pieces of the loop in reach."""

    def __init__(
        self, model: AdapterModel, task: Task, examples: list[Example], names: Sequence[str]
    ) -> None:
        self.model, self.task, self.examples, self.names = model, task, examples, tuple(names)

    def optimizer(
        self, parameters: Any, *, clip: float = 0.5, sigma: float = 1.0, batch: float = 4.0, lr: float = 1.0
    ):
        inner = torch.optim.SGD(parameters.values(), lr=lr)
        noise = Stream(Label.STREAM_NOISE)
        return SecretNoiseOptimizer(inner, noise_multiplier=sigma, clip=clip, batch=batch, noise=noise)

    def clipped_sum(
        self, units: Sequence[Sequence[int]], *, clip: float, micro_batch: int = 64
    ) -> np.ndarray:
        """The noiseless sum of a logical batch, flat."""
        with self.model.trainable(self.names) as parameters, per_record_gradients(self.model.module):
            optimizer = self.optimizer(parameters, clip=clip)
            optimizer.zero_grad()
            accumulate(self.model, self.task, self.examples, units, optimizer, micro_batch)
            return np.concatenate([parameter.summed_grad.numpy() for parameter in parameters.values()])

    def single_gradient(self, record: int) -> np.ndarray:
        """One record's gradient by an ordinary backward pass of its own, flat, float64."""
        with self.model.trainable(self.names) as parameters:
            batch = self.task.collate([self.examples[record]])
            loss = self.task.losses(self.model.module, batch).sum()
            parts = torch.autograd.grad(loss, list(parameters.values()))
        return np.concatenate([part.numpy().ravel().astype(np.float64) for part in parts])


@pytest.fixture(scope="module")
def site(
    base_folder: Callable[[str], Path],
    spec_of: Callable[[str], AdapterSpec],
    train_spec: Callable[..., Any],
    first_adapter: Callable[..., Any],
    rows_for: Callable[..., Any],
    trained_names: Callable[..., Any],
) -> Callable[..., Site]:
    def make(kind: str, strategy: str = "fedavg", rows: int = 12) -> Site:
        plan = train_spec(kind, strategy=strategy)
        model = build(spec_of(kind), base_folder(kind), device="cpu")
        model.load(first_adapter(plan))
        task = task_of(spec_of(kind), base_folder(kind), plan.max_length)
        examples = [task.example(row) for row in rows_for(kind, rows)]
        return Site(model, task, examples, trained_names(plan))

    return make


def singles(count: int) -> list[tuple[int, ...]]:
    return [(record,) for record in range(count)]


# -- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["fedavg", "ffa"])
def test_per_record_norms_equal_a_loop_of_single_passes(
    site: Callable[..., Site], kind: str, strategy: str
) -> None:
    """Opacus' hooks on a padded batch against twelve backward passes, to 1e-5."""
    here = site(kind, strategy)
    with here.model.trainable(here.names) as parameters, per_record_gradients(here.model.module):
        here.task.losses(here.model.module, here.task.collate(here.examples)).sum().backward()
        norms = (
            torch.stack([p.grad_sample.flatten(1).double().square().sum(1) for p in parameters.values()])
            .sum(0)
            .sqrt()
        )
    expected = [np.linalg.norm(here.single_gradient(record)) for record in range(12)]
    np.testing.assert_allclose(norms.numpy(), expected, rtol=1e-5)
    assert min(expected) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_unclipped_sum_is_the_sum_of_units_means(site: Callable[..., Site], kind: str) -> None:
    """With a norm that clips nothing: the average within each unit, the sum over units."""
    here = site(kind)
    units = [(0, 1, 2), (3,), (4, 5)]
    expected = sum(np.mean([here.single_gradient(record) for record in unit], axis=0) for unit in units)
    found = here.clipped_sum(units, clip=1e6)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6 * np.abs(expected).max() * 10)


def test_a_record_does_not_feel_its_neighbours(site: Callable[..., Site]) -> None:
    """Lengths of other records change no record's loss: no token count of the batch gets in."""
    for kind in KINDS:
        here = site(kind)
        with torch.no_grad():
            alone = here.task.losses(here.model.module, here.task.collate(here.examples[:1]))
            together = here.task.losses(here.model.module, here.task.collate(here.examples))
        assert together[0].item() == pytest.approx(alone[0].item(), rel=1e-5)


# -- clipping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [1e-3, 0.05, 10.0])
def test_one_unit_moves_the_sum_by_at_most_c(site: Callable[..., Site], kind: str, clip: float) -> None:
    """Add one, remove one: at most C (1 + 1e-6). Swap one: at most 2 C (1 + 1e-6)."""
    here = site(kind)
    whole = here.clipped_sum(singles(8), clip=clip)
    for left_out in (0, 3, 7):
        fewer = here.clipped_sum([unit for unit in singles(8) if unit != (left_out,)], clip=clip)
        swapped = here.clipped_sum([(11,) if unit == (left_out,) else unit for unit in singles(8)], clip=clip)
        assert np.linalg.norm(whole - fewer) <= clip * (1 + 1e-6)
        assert np.linalg.norm(whole - swapped) <= 2 * clip * (1 + 1e-6)


def test_a_person_moves_the_sum_by_at_most_c(site: Callable[..., Site]) -> None:
    """Four records of one person are one unit: C in all, and not 4 C."""
    here = site("llama")
    others = [(0,), (1, 2)]
    moved = here.clipped_sum([*others, (3, 4, 5, 6)], clip=0.01) - here.clipped_sum(others, clip=0.01)
    assert 0.0099 < np.linalg.norm(moved) <= 0.01 * (1 + 1e-6)


def test_a_saturating_canary_counts_exactly_c(site: Callable[..., Site]) -> None:
    here = site("bert")
    shift = here.clipped_sum([(2,)], clip=1e-4)
    assert np.linalg.norm(shift) == pytest.approx(1e-4 * (1 - 1e-6), rel=1e-9)
    gradient = here.single_gradient(2)
    assert shift @ gradient / np.linalg.norm(shift) / np.linalg.norm(gradient) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_counts_as_zero(site: Callable[..., Site], bad: float) -> None:
    """One poisoned record takes its own unit out, and changes nothing for the others."""
    here = site("bert")
    piece = MicroBatch((0, 1, 2, 3), (0, 1, 1, 2), (1.0, 0.5, 0.5, 1.0), 3)
    clean = MicroBatch((0, 3), (0, 1), (1.0, 1.0), 2)
    sums = []
    with here.model.trainable(here.names) as parameters:
        for part, poisoned in ((piece, True), (clean, False)):
            optimizer = here.optimizer(parameters, clip=0.1)
            optimizer.zero_grad()
            for number, parameter in enumerate(parameters.values()):
                generator = torch.Generator().manual_seed(number)
                samples = torch.randn(4, *parameter.shape, generator=generator)
                if poisoned and number == 1:
                    samples[2].view(-1)[0] = bad
                parameter.grad_sample = samples if poisoned else samples[[0, 3]]
            optimizer.clip_and_accumulate(part)
            sums.append(np.concatenate([p.summed_grad.numpy() for p in parameters.values()]))
    assert np.array_equal(sums[0], sums[1])
    assert np.isfinite(sums[0]).all()


class Held(TorchDispatchMode):
    """Most bytes of tensors that were made and held at once."""

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.most = 0
        self._known = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in known}
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                ref = StorageWeakRef(tensor.untyped_storage())
                if ref.cdata not in self._known:
                    self._made[ref.cdata] = ref, tensor.untyped_storage().nbytes()
        self.most = max(self.most, sum(size for ref, size in self._made.values() if not ref.expired()))
        return result


def test_gradients_of_single_records_exist_once() -> None:
    """Clipping holds one array's in float64 at a time, also of factors whose gradients lie transposed."""
    records, out, rank = 4, 512, 8
    parameters = [torch.nn.Parameter(torch.zeros(out, rank)) for _ in range(8)]
    optimizer = ClippingOptimizer(torch.optim.SGD(parameters), clip=0.5)
    optimizer.zero_grad()
    for parameter in parameters:
        parameter.grad_sample = torch.ones(records, rank, out).transpose(1, 2)
    known = [each for parameter in parameters for each in (parameter.grad_sample, parameter.summed_grad)]
    with Held(known) as held:
        optimizer.clip_and_accumulate(MicroBatch((0, 1, 2, 3), (0, 1, 2, 3), (1.0,) * records, records))
    one = 8 * records * out * rank
    assert one <= held.most < 1.5 * one
    assert np.linalg.norm(optimizer.flat_sum()) == pytest.approx(records * 0.5, rel=1e-5)


def test_a_layer_without_gradients_is_an_error(site: Callable[..., Site]) -> None:
    here = site("bert")
    with here.model.trainable(here.names) as parameters:
        optimizer = here.optimizer(parameters)
        optimizer.zero_grad()
        with pytest.raises(RuntimeError, match="no gradient a record"):
            optimizer.clip_and_accumulate(MicroBatch((0,), (0,), (1.0,), 1))


# -- micro-batches -----------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=8),
    lengths=st.lists(st.integers(1, 99), min_size=56, max_size=56),
    size=st.integers(1, 9),
)
def test_pieces_cover_every_record_once(sizes: list[int], lengths: list[int], size: int) -> None:
    records = iter(range(100))
    units = [tuple(next(records) for _ in range(count)) for count in sizes]
    pieces = list(micro_batches(units, lengths, size))
    assert [record for piece in pieces for record in piece.records] == [
        record for unit in units for record in unit
    ]
    assert sum(piece.complete for piece in pieces) == len(units)
    assert sum(sum(piece.shares) for piece in pieces) == pytest.approx(len(units))
    for piece in pieces:
        assert len(piece.records) <= size
        assert piece.slots[-1] + 1 - piece.complete in (0, 1)


@given(
    lengths=st.lists(st.integers(1, 99), min_size=1, max_size=10),
    size=st.integers(1, 5),
    cuts=st.lists(st.booleans(), min_size=10, max_size=10),
)
def test_no_other_cut_has_less_padding_and_fewer_pieces(
    lengths: list[int], size: int, cuts: list[bool]
) -> None:
    """The pieces found are the cheapest: no other cut is better in one of them and no worse in the other."""

    def padded(pieces: Sequence[Sequence[int]]) -> tuple[int, int]:
        tokens = sum(len(piece) * max(lengths[record] for record in piece) for piece in pieces)
        return tokens, len(pieces)

    found = padded([piece.records for piece in micro_batches(singles(len(lengths)), lengths, size)])
    others: list[list[int]] = [[]]
    for record in range(len(lengths)):
        if others[-1] and (cuts[record] or len(others[-1]) == size):
            others.append([])
        others[-1].append(record)
    tokens, pieces = padded(others)
    assert not (tokens < found[0] and pieces <= found[1])
    assert not (tokens <= found[0] and pieces < found[1])


def test_micro_batches_change_nothing_but_memory(site: Callable[..., Site]) -> None:
    here = site("llama")
    units = [(0, 1, 2, 3, 4), (5,), (6, 7), (8,), (9, 10, 11)]
    whole = here.clipped_sum(units, clip=0.05)
    for size in (1, 2, 3, 5):
        np.testing.assert_allclose(here.clipped_sum(units, clip=0.05, micro_batch=size), whole, atol=2e-7)


# -- noise -------------------------------------------------------------------------------------


def noise_of(
    here: Site,
    *,
    sigma: float,
    clip: float,
    batch: float,
    drawn: Sequence[Sequence[int]] = (),
    micro: int = 64,
) -> np.ndarray:
    """Movement of the parameters in one step at learning rate 1, flat, less the clipped sum."""
    with here.model.trainable(here.names) as parameters, per_record_gradients(here.model.module):
        before = np.concatenate([p.detach().numpy().ravel().copy() for p in parameters.values()]).astype(
            np.float64
        )
        optimizer = here.optimizer(parameters, clip=clip, sigma=sigma, batch=batch)
        optimizer.zero_grad()
        accumulate(here.model, here.task, here.examples, drawn, optimizer, micro)
        total = np.concatenate([p.summed_grad.numpy().copy() for p in parameters.values()])
        optimizer.step()
        after = np.concatenate([p.detach().numpy().ravel() for p in parameters.values()]).astype(np.float64)
        with torch.no_grad():  # put the adapter back
            start = 0
            for p in parameters.values():
                p.copy_(torch.from_numpy(before[start : start + p.numel()]).view_as(p))
                start += p.numel()
    return (before - after) * batch - total


@pytest.mark.parametrize("drawn", [(), tuple(singles(9))], ids=["empty", "nine"])
@pytest.mark.parametrize("micro", [2, 64])
def test_noise_variance_is_recovered(
    site: Callable[..., Site], drawn: Sequence[tuple[int]], micro: int
) -> None:
    """sigma C from the released step, by chi-square at error 1e-9, whatever the batch and its pieces."""
    here = site("bert")
    sigma, clip = 1.3, 0.4
    values = np.concatenate(
        [noise_of(here, sigma=sigma, clip=clip, batch=6.0, drawn=drawn, micro=micro) for _ in range(20)]
    )
    square = float((values**2).sum() / (sigma * clip) ** 2)
    assert values.size > 10_000
    assert stats.chi2.ppf(ERROR / 2, values.size) < square < stats.chi2.isf(ERROR / 2, values.size)
    assert abs(values.mean()) < 6.2 * sigma * clip / values.size**0.5


def test_two_runs_share_no_noise_and_no_batch_under_equal_seeds(site: Callable[..., Site]) -> None:
    """Every library generator seeded alike: the noise is uncorrelated, the batches differ."""
    here = site("bert")
    noises, batches = [], []
    for _ in range(2):
        torch.manual_seed(42)
        np.random.seed(42)
        random.seed(42)
        noises.append(noise_of(here, sigma=1.0, clip=1.0, batch=1.0))
        batches.append(PoissonSampler(200, 2**63, Stream(Label.STREAM_SAMPLING)).draw().tolist())
    assert np.isclose(noises[0], noises[1], rtol=1e-9, atol=0).mean() < 0.01
    assert abs(np.corrcoef(*noises)[0, 1]) < 6.2 / noises[0].size ** 0.5
    assert batches[0] != batches[1]


def test_library_generators_are_left_alone(site: Callable[..., Site]) -> None:
    here = site("bert")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    noise_of(here, sigma=1.0, clip=1.0, batch=1.0, drawn=singles(3))
    assert torch.equal(torch.rand(3), expected)


def test_released_sums_lie_on_the_grid(site: Callable[..., Site]) -> None:
    """No low bits of the float sum are left beside the noise."""
    here = site("bert")
    with here.model.trainable(here.names) as parameters, per_record_gradients(here.model.module):
        optimizer = here.optimizer(parameters, clip=0.5, sigma=1.0)
        optimizer.zero_grad()
        accumulate(here.model, here.task, here.examples, singles(5), optimizer, 8)
        optimizer.add_noise()
        steps = np.concatenate([p.summed_grad.numpy() for p in parameters.values()]) / 2.0 ** (-1 - GRID_BITS)
    assert np.array_equal(steps, np.rint(steps))


def test_denominator_is_the_public_constant(site: Callable[..., Site]) -> None:
    """Three units or nine: the step is the noisy sum over the same B (noise made negligible)."""
    here = site("bert")
    for drawn in (singles(3), singles(9)):
        rest = noise_of(here, sigma=1e-7, clip=1e-2, batch=5.0, drawn=drawn)
        assert np.abs(rest).max() < 1e-6


# -- the loop ----------------------------------------------------------------------------------


def test_every_step_draws_once_and_empty_batches_step_too(site: Callable[..., Site]) -> None:
    here = site("bert")
    sampler = PoissonSampler(12, 1, Stream(Label.STREAM_SAMPLING))  # q = 2^-64: every batch is empty
    seen: list[int] = []
    with here.model.trainable(here.names) as parameters:
        before = here.model.arrays()
        optimizer = here.optimizer(parameters, lr=0.1)
        train(
            here.model, parameters, here.task, here.examples, singles(12),
            sampler=sampler, optimizer=optimizer, steps=3, micro_batch=4, on_step=seen.append,
        )  # fmt: skip
    assert seen == [1, 2, 3]
    event = sampler.event(noise_multiplier="1.0", relation="add-remove", unit="record", records_per_unit=1)
    assert event.steps == 3
    after = here.model.arrays()
    moved = [np.mean(after[name] != before[name]) for name in here.names]
    assert min(moved) >= 0.5  # less than a float's last bit shows nowhere: one number in 5000 runs


def test_noise_cannot_be_added_twice(site: Callable[..., Site]) -> None:
    here = site("bert")
    with here.model.trainable(here.names) as parameters:
        optimizer = here.optimizer(parameters)
        optimizer.zero_grad()
        optimizer.step()
        with pytest.raises(RuntimeError, match="once"):
            optimizer.step()


def test_unfinished_unit_cannot_be_released(site: Callable[..., Site]) -> None:
    here = site("bert")
    with here.model.trainable(here.names) as parameters:
        optimizer = here.optimizer(parameters)
        optimizer.zero_grad()
        for parameter in parameters.values():
            parameter.grad_sample = torch.zeros(1, *parameter.shape)
        optimizer.clip_and_accumulate(MicroBatch((0,), (0,), (0.5,), 0))
        with pytest.raises(RuntimeError, match="not complete"):
            optimizer.step()


@pytest.mark.parametrize("broken", [{"sigma": 0.0}, {"clip": 0.0}, {"batch": 0.0}, {"sigma": float("nan")}])
def test_no_optimizer_without_noise(site: Callable[..., Site], broken: dict[str, float]) -> None:
    here = site("bert")
    with here.model.trainable(here.names) as parameters, pytest.raises(ValueError, match="above 0"):
        here.optimizer(parameters, **broken)
