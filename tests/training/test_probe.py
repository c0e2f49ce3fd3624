"""No adapter, however made up, lets the rounding of one record's gradient follow the other records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secfed.errors import ConfigError
from secfed.training import dpsgd, probe
from secfed.training.adapter import AdapterModel, build, task_of
from secfed.training.dpsgd import ClippingOptimizer, accumulate, per_record_gradients
from secfed.training.pieces import Ladder, micro_batches, pieces
from secfed.training.task import IGNORED, Example, Task
from secfed.training.trainer import LocalTrainer

LONGEST = 24
LENGTHS = (*range(2, LONGEST + 1), LONGEST, LONGEST, LONGEST)
CLIP = 0.5


class Site:
    """A tiny model with a task, and made-up records of all lengths."""

    def __init__(self, model: AdapterModel, task: Task) -> None:
        self.model, self.task = model, task
        self.names = sorted(model.parameters)
        numbers = np.random.default_rng(5)
        self.examples = []
        for length in LENGTHS:
            tokens = tuple(int(token) for token in numbers.integers(3, 64, size=length))
            targets = (length % 2,) if model.spec.trainer == "classify" else (IGNORED, *tokens[1:])
            self.examples.append(Example(tokens, targets, cut=0))

    def ladder(self, size: int = 16) -> Ladder:
        return probe.look(
            self.model, self.task, self.names, size=size, max_length=LONGEST, records_per_unit=1, records=1000
        )

    def clipped_sum(self, records: Sequence[int], ladder: Ladder) -> np.ndarray:
        self.task.begin(self.model.module)
        with self.model.trainable(self.names) as parameters, per_record_gradients(self.model.module):
            optimizer = ClippingOptimizer(torch.optim.SGD(parameters.values(), lr=0.0), clip=CLIP)
            optimizer.zero_grad()
            units = [(record,) for record in records]
            accumulate(self.model, self.task, self.examples, units, optimizer, ladder)
            return optimizer.flat_sum().copy()


@pytest.fixture
def site(base_folder: Callable[..., Path], spec_of: Callable[..., Any]) -> Callable[[str], Site]:
    def make(kind: str) -> Site:
        spec = spec_of(kind)
        model = build(spec, base_folder(kind), device="cpu")
        return Site(model, task_of(spec, base_folder(kind), LONGEST))

    return make


def features(site: Site, arrays: dict[str, np.ndarray], layer: int) -> list[np.ndarray]:
    """Hidden states of every record under an adapter; what a sender works out on texts of its own."""
    site.model.load(arrays)
    base = next(each for each in site.model.module.modules() if isinstance(each, PreTrainedModel))
    found = []
    with torch.no_grad():
        for example in site.examples:
            output = base(input_ids=torch.tensor([example.tokens]), output_hidden_states=True)
            found.append(output.hidden_states[layer][0].double().numpy())
    return found


def crafted(site: Site) -> dict[str, np.ndarray]:
    """An adapter under which every record's last states are one vector and rounding, and the head sees
    the rounding alone.
    """
    numbers = np.random.default_rng(3)
    arrays = site.model.arrays()
    layer = "base_model.model.encoder.layer.1.attention.self.value.lora_"
    mean = np.concatenate(features(site, arrays, 1)).mean(axis=0)
    down, up = arrays[f"{layer}A.weight"], arrays[f"{layer}B.weight"]
    down[:], up[:] = 0, 0
    down[0] = mean / (mean @ mean)
    up[:16, 0] = 1e9 * numbers.standard_normal(16)
    states = np.stack([each.mean(axis=0) for each in features(site, arrays, 2)])
    constant = states.mean(axis=0)
    across = numbers.standard_normal(32)
    across -= constant * (across @ constant) / (constant @ constant)
    weight = arrays["head.weight"]
    weight[0], weight[1] = 3e9 * across, -3e9 * across
    middle = np.median(states.astype(np.float32) @ weight[0])
    arrays["head.bias"][:] = -middle, middle
    return arrays


def in_mixed_pieces(units: Sequence[Sequence[int]], lengths: Sequence[int], ladder: Ladder) -> Any:
    """Pieces whose shapes follow from all records of a batch."""
    ordered = sorted(units, key=lambda unit: lengths[unit[0]])
    return micro_batches(ordered, lengths, ladder.size)


def moved(site: Site, ladder: Ladder) -> float:
    """Most that a record moves the sum of others by, as a multiple of C, and of what it adds by itself."""
    batch = list(range(18))
    before = site.clipped_sum(batch, ladder)
    found = []
    for added in (18, 22, 25):
        alone = site.clipped_sum([added], ladder)
        for place in (0, 7):
            after = site.clipped_sum([*batch[:place], added, *batch[place:]], ladder)
            found += [np.linalg.norm(after - before), CLIP + np.linalg.norm(after - before - alone)]
    return float(max(found)) / CLIP


def test_a_made_up_adapter_does_not_couple_records(
    site: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adding any record, of any length and at any place, moves the noiseless sum by at most C.

    All numbers of rows are used: the head too takes a record alone as it takes it beside others.
    """
    here = site("bert")
    ladder = here.ladder()
    assert ladder == Ladder(16, LONGEST)
    here.model.load(crafted(here))
    assert moved(here, ladder) <= 1 + 1e-6
    monkeypatch.setattr(dpsgd, "pieces", in_mixed_pieces)
    assert moved(here, ladder) > 1 + 1e-3  # the control


def test_loud_weights_do_not_couple_the_records_of_a_decoder(site: Callable[[str], Site]) -> None:
    here = site("llama")
    ladder = here.ladder()
    numbers = np.random.default_rng(3)
    loud = {name: 1e4 * numbers.standard_normal(part.shape) for name, part in here.model.arrays().items()}
    here.model.load({name: part.astype(np.float32) for name, part in loud.items()})
    assert moved(here, ladder) <= 1 + 1e-6


class ByPlace(nn.Module):
    """Adds to a record's states what follows from its place in the batch, or from how many there are."""

    def __init__(self, step: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.step = step

    def forward(self, states: Tensor) -> Tensor:
        return states * (1 + 1e-7 * self.step(len(states)))[:, None]


def adds_up(here: Site, ladder: Ladder) -> None:
    """A tenth record moves the sum of nine by what it adds to nothing."""
    before, after = here.clipped_sum(range(9), ladder), here.clipped_sum(range(10), ladder)
    assert np.linalg.norm(after - before - here.clipped_sum([9], ladder)) < 1e-12 * CLIP


def test_a_length_at_which_the_last_bit_follows_the_piece_is_not_shared(site: Callable[[str], Site]) -> None:
    here, step = site("bert"), lambda rows: (torch.arange(rows) == rows - 1).float()
    here.model.module.head.register_forward_pre_hook(lambda _layer, inputs: (ByPlace(step)(inputs[0]),))
    ladder = here.ladder()
    assert ladder == Ladder(16, LONGEST, frozenset({16, 24}))
    adds_up(here, ladder)


@pytest.mark.parametrize("odd", [{1, 2, 3}, {16, 12}])
def test_numbers_of_rows_at_which_the_last_bit_is_another_are_not_used(
    site: Callable[[str], Site], odd: set[int]
) -> None:
    here, step = site("bert"), lambda rows: torch.full((rows,), float(rows in odd))
    here.model.module.head.register_forward_pre_hook(lambda _layer, inputs: (ByPlace(step)(inputs[0]),))
    ladder = here.ladder()
    assert ladder == Ladder(16, LONGEST, apart=frozenset((rung, rows) for rung in (16, 24) for rows in odd))
    adds_up(here, ladder)


def test_a_model_whose_numbers_decide_what_it_does_shares_nothing(site: Callable[[str], Site]) -> None:
    here = site("bert")
    base = next(each for each in here.model.module.modules() if isinstance(each, PreTrainedModel))

    def cut(_layer: nn.Module, _inputs: Any, states: Tensor) -> Tensor:
        return states.clamp(-1e4, 1e4) if float(states.detach().abs().max()) > 1e4 else states

    base.get_submodule("encoder.layer.1.intermediate").register_forward_hook(cut)
    ladder = here.ladder()
    assert ladder.alone == {16, 24}
    assert ladder.rung(5) is None


def test_what_does_not_fit_is_found_on_made_up_rows(
    make_trainer: Callable[..., LocalTrainer],
    train_spec: Callable[..., Any],
    dp_spec: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the site's rows are, and before anything is charged."""
    add = ClippingOptimizer.clip_and_accumulate

    def in_little_memory(self: ClippingOptimizer, piece: Any) -> None:
        if piece.rows >= 16:
            raise torch.OutOfMemoryError
        add(self, piece)

    monkeypatch.setattr(ClippingOptimizer, "clip_and_accumulate", in_little_memory)
    with pytest.raises(ConfigError, match="16 made-up rows") as refusal:
        make_trainer("llama", train_spec("llama", steps=9), dp_spec(), rows=1)
    assert "max_length" in refusal.value.hint
    make_trainer("llama", train_spec("llama", steps=9), dp_spec(), rows=1, micro_batch=8)


def test_few_records_a_round_are_not_worth_a_look_at_shared_pieces(
    make_trainer: Callable[..., LocalTrainer], train_spec: Callable[..., Any], dp_spec: Callable[..., Any]
) -> None:
    few, many = (
        make_trainer("bert", train_spec("bert", steps=steps), dp_spec(), rows=1).ladder for steps in (8, 9)
    )
    assert few is not None
    assert many is not None
    assert (few.alone, many.alone) == (set(few.rungs), set())
    assert few.rungs == many.rungs != ()


def test_the_pieces_of_a_length_are_those_that_cost_least() -> None:
    """A piece more costs as much as 32 tokens: of short rows one is filled up, of long ones two are cut."""

    def rows(records: int, length: int) -> list[int]:
        units = [(record,) for record in range(records)]
        return [piece.rows for piece in pieces(units, [length] * records, Ladder(16))]

    assert [rows(7, length) for length in (10, 20, 60)] == [[8], [8], [6, 1]]
    assert [rows(15, length) for length in (10, 20, 60)] == [[16], [16], [8, 6, 1]]
    assert rows(40, 20) == [16, 16, 8]
    assert [rows(count, 20) for count in (1, 3, 9)] == [[1], [3], [8, 1]]


def test_single_rows_share_nothing() -> None:
    """Pieces of one row have the record's own length."""
    assert Ladder(1).rungs == ()
    assert Ladder(16, apart=frozenset({(16, 1), (16, 8)})).counts(16) == (16, 12, 6, 5, 4, 3, 2)


def test_pieces_of_single_records_follow_from_each_length_alone() -> None:
    lengths = [*LENGTHS, 300, 128, 128, 128, 128]
    ladder = Ladder(16, None, frozenset({16}))
    seen = []
    for piece in pieces([(record,) for record in range(len(lengths))], lengths, ladder):
        seen += piece.records
        wide = [lengths[record] for record in piece.records]
        if piece.shape is None:
            assert len(wide) == 1
            assert wide[0] > 128 or wide[0] < 16
            continue
        rows, rung = piece.shape
        assert {ladder.rung(each) for each in wide} == {rung}
        assert rows in ladder.counts(rung)
        assert len(wide) <= rows
        assert all((length == rung) == piece.full for length in wide)  # all have padding, or none
    assert sorted(seen) == list(range(len(lengths)))


def test_a_unit_of_several_records_shares_no_piece() -> None:
    units = [(0, 1, 2), (3,), (4, 5), (6,)]
    for piece in pieces(units, [5] * 7, Ladder(4)):
        assert piece.shape is not None or piece.records in {(0, 1, 2), (4, 5)}
