"""Before a job is charged: that its largest pieces fit, and whether records of a piece feel each other.

Which rows, columns and sums of a product a library computes in which order follows from shapes and
places, and not from values: there is one order a place, whatever the numbers are. So made-up rows show
it. `look` runs each shape of shared pieces forward and backward, by the code that trains, and holds one
row's gradients at every place and in every number of rows against each other, to the bit. Numbers of
rows that differ from most are not used at that length; where places differ, it goes through one record
at a time, for which nothing needs to be shown.

That values decide nothing is looked at as well: a model that reads a number out of its activations
(experts sort tokens, some models cut what has overflowed) shares no pieces at all.

All of it runs on made-up rows alone: that memory does not hold a plan's longest row, or a model
cannot be trained on it, is found out here, and says nothing of any site's rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secfed.errors import ConfigError
from secfed.training.adapter import AdapterModel
from secfed.training.dpsgd import ClippingOptimizer, accumulate, per_record_gradients, run_piece
from secfed.training.pieces import MOST_TOKENS, Ladder, MicroBatch
from secfed.training.reference import adapter_off
from secfed.training.responses import collate, log_likelihoods
from secfed.training.task import IGNORED, Example, Task

__all__ = ["look"]

_SEED: Final = 20201128
"""Of the made-up rows and adapter: public numbers, the same everywhere."""

_SPREAD: Final = 0.05
"""Of the made-up adapter: not zero, so that every product has numbers in it."""

_READS: Final = frozenset(
    f"aten::{name}"
    for name in (
        "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount",
        "repeat_interleave", "equal",
    )
)  # fmt: skip
"""What brings a number from a tensor into the program, or into a shape."""

_PAYS: Final = 100
"""Records a round from which shared pieces save more than it takes to look at them."""

_WATCHED: Final = 2
"""Most rows of the pieces that are watched for reads: watching costs time, and a read comes with any."""

_PRODUCTS: Final = frozenset({"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"})


def look(
    model: AdapterModel,
    task: Task,
    names: Sequence[str],
    *,
    size: int,
    max_length: int,
    records_per_unit: int,
    records: float,
) -> Ladder:
    """Run every shape of piece that private training can meet; the adapter is left as it was.

    Where a round has few records, each goes through by itself: that costs less than a look at all shapes.

    Args:
        model: As it will be trained.
        task: Its task.
        names: The arrays that will be trained.
        size: Most records of a piece.
        max_length: Longest row of the plan, in tokens.
        records_per_unit: Most records of a unit, which has pieces of its own if it has several.
        records: How many a round draws by the plan.

    Returns:
        The shapes that may be used.

    Raises:
        ConfigError: A piece does not go through the model.
    """
    ladder = Ladder(size, max_length)
    before = model.arrays()
    numbers = np.random.default_rng(_SEED)
    model.load(
        {name: numbers.normal(0, _SPREAD, part.shape).astype(np.float32) for name, part in before.items()}
    )
    rows = 1
    try:
        task.begin(model.module)
        with model.trainable(names) as parameters, per_record_gradients(model.module):
            pieces = _Pieces(model, task, list(parameters.values()))
            most = max(2, min(size, records_per_unit))
            for rows in (1, *([most] if records_per_unit > 1 and size > 1 else [])):
                length = max_length if rows == 1 else min(max_length, max(1, MOST_TOKENS // rows))
                pieces.whole([pieces.row(length) for _ in range(rows)], ladder)
            if records < _PAYS:
                return Ladder(size, max_length, frozenset(ladder.rungs))
            alone, apart = set(), set()
            for rung in ladder.rungs:
                counts = ladder.counts(rung)
                rows = counts[0]
                even = set(counts)
                for full in (False, True) if rung == ladder.rungs[-1] else (False,):
                    even &= pieces.even(rung, counts, full=full)
                if max(even, default=1) == 1:
                    alone.add(rung)
                else:
                    apart |= {(rung, count) for count in counts if count not in even}
            if pieces.reads:
                return Ladder(size, max_length, frozenset(ladder.rungs))
            return Ladder(size, max_length, frozenset(alone), frozenset(apart))
    except Exception as error:
        raise ConfigError(
            f"training fails on pieces of {rows} made-up rows, with up to {max_length} tokens a row "
            f"({type(error).__name__})",
            hint="Plan a smaller max_length or rank, or train where there is more memory.",
        ) from error
    finally:
        model.load(before)


class _Group:
    """Numbers of rows in which two rows have the same gradients.

    Args:
        found: The gradients of both, array by array.
    """

    def __init__(self, found: list[list[Tensor]]) -> None:
        self._known = found
        self.counts: list[int] = []

    def takes(self, found: Sequence[Sequence[Tensor]]) -> bool:
        """Whether these are the same; a row that was not there differs from none."""
        pairs = [pair for two in zip(self._known, found, strict=True) for pair in zip(*two, strict=True)]
        return all(not (len(one) and len(other)) or torch.equal(one, other) for one, other in pairs)


class _Pieces:
    """Runs pieces of made-up rows through a model."""

    def __init__(self, model: AdapterModel, task: Task, parameters: Sequence[nn.Parameter]) -> None:
        self._model, self._task, self._parameters = model, task, parameters
        self._bases = [
            layer for layer in model.module.modules() if isinstance(layer, transformers.PreTrainedModel)
        ]
        self._vocabulary = len(self._bases[0].get_input_embeddings().weight)
        self._random = np.random.default_rng(_SEED)
        self.reads = False

    def row(self, length: int) -> Example:
        """A row that has all that any trainer's rows have."""
        return self._sequence(length, self._sequence(length), self._sequence(length))

    def whole(self, rows: Sequence[Example], ladder: Ladder) -> None:
        """One unit of these rows, clipped and summed: what the most memory is needed for."""
        optimizer = self._optimizer()
        optimizer.zero_grad()
        accumulate(self._model, self._task, rows, [range(len(rows))], optimizer, Ladder(ladder.size, 1))

    def even(self, rung: int, counts: Sequence[int], *, full: bool) -> frozenset[int]:
        """In which numbers of rows a row's gradients are the same, at every place of each.

        Two rows stand at every second place each, and in the fewest also the other way round. They have
        padding, a little and more, or all the tokens of the rung if it is `full`.

        Returns:
            The largest set of such numbers; none if places differ in its fewest rows.
        """
        rows = [self.row(rung if full else max(1, length)) for length in (rung - 1, 2 * rung // 3)]
        groups: list[_Group] = []
        for count in counts:
            found = self._of_two(rows, rung, count, full=full)
            if found is None:
                continue
            group = next((group for group in groups if group.takes(found)), None)
            if group is None:
                groups.append(group := _Group(found))
            group.counts.append(count)
        if not groups:
            return frozenset()
        most = max(groups, key=lambda group: len(group.counts))
        for count in most.counts[-2:]:
            turned = self._of_two(rows[::-1], rung, count, full=full)
            if turned is None or not most.takes(turned[::-1]):
                return frozenset()
        return frozenset(most.counts)

    def _of_two(
        self, rows: Sequence[Example], rung: int, count: int, *, full: bool
    ) -> list[list[Tensor]] | None:
        """What each of two rows gives that stand at every second place; None if places differ.

        Of a single row, the second gives nothing.
        """
        records = [rows[place % 2] for place in range(count)]
        with self._watched() if count <= _WATCHED else nullcontext():
            samples = self._samples(records, rung, full=full)
        for part in samples:
            if not all(bool((part[place::2] == part[place : place + 1]).all()) for place in (0, 1)):
                return None
        return [[part[place : place + 1].clone() for part in samples] for place in (0, 1)]

    def _samples(self, records: Sequence[Example], rung: int, *, full: bool) -> list[Tensor]:
        """Each record's gradients, array by array, and what the base alone says of it."""
        count = len(records)
        piece = MicroBatch(
            tuple(range(count)), tuple(range(count)), (1.0,) * count, count, (count, rung), full
        )
        optimizer = self._optimizer()
        optimizer.zero_grad()
        run_piece(self._model, self._task, records, piece)
        samples: list[Tensor] = []
        for parameter in self._parameters:
            part: Any = parameter
            samples.append(part.grad_sample.flatten(1).cpu())
        optimizer.clip_and_accumulate(piece)
        if self._model.spec.trainer in ("dpo", "kto"):
            batch = {name: part.to(self._model.device) for name, part in collate(records, 0, rung).items()}
            with torch.no_grad(), adapter_off(self._model.module):
                samples.append(log_likelihoods(self._model.module, batch)[0][:, None].cpu())
        return samples

    def _optimizer(self) -> ClippingOptimizer:
        point = self._model.point
        return ClippingOptimizer(
            torch.optim.SGD(self._parameters, lr=0.0), clip=1.0, point=None if point is None else point.value
        )

    def _sequence(
        self, length: int, rejected: Example | None = None, beside: Example | None = None
    ) -> Example:
        tokens = tuple(int(token) for token in self._random.integers(self._vocabulary, size=length))
        targets = (0,) if self._model.spec.trainer == "classify" else (IGNORED, *tokens[1:])
        return Example(tokens, targets, cut=0, rejected=rejected, beside=beside)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """See whether the base reads a number once its first product is taken."""
        watch = _Watch()
        handles = [
            handle
            for base in self._bases
            for handle in (
                base.register_forward_pre_hook(lambda *_: watch.enter()),
                base.register_forward_hook(lambda *_: watch.leave()),
            )
        ]
        try:
            with watch:
                yield
        finally:
            for handle in handles:
                handle.remove()
        self.reads |= watch.found


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Notes reads of numbers that follow from the adapter: what comes before all products does not."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._depth = 0
        self._product = False
        self.found = False

    def enter(self) -> None:
        """A forward pass of a base begins, or of a part of it."""
        self._product = self._product and self._depth > 0
        self._depth += 1

    def leave(self) -> None:
        """It ends."""
        self._depth -= 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        if self._depth > 0:
            self._product |= name in _PRODUCTS
            self.found |= self._product and name in _READS
        return func(*args, **(kwargs or {}))
