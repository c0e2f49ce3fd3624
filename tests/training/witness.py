"""What each rank of a site really does, step by step: every process writes it down for itself.

`Witness.watch` goes into a process; `assert_one_draw_and_one_noise` reads what all of them wrote.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from secfed.crypto.labels import Label
from secfed.training.random import GRID_BITS, PoissonSampler, Stream

ERROR = 1e-9
"""Chance that noise that is right has a variance that is refused."""


class Witness:
    """Writes to FOLDER/rank-N, a line each: units, draws, sums, noise, and every use of a secret stream."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._file = folder / f"rank-{rank}"
        self._file.touch()

    def watch(self, put: Callable[..., None] = setattr) -> None:
        """From now on in this process."""
        from secfed.training import dpsgd, ranks
        from secfed.training.channel import Channel

        train, words, draw, gaussian = dpsgd.train, Stream.words, PoissonSampler.draw, dpsgd.gaussian
        add_noise, total = dpsgd.SecretNoiseOptimizer.add_noise, Channel.total

        def trained(model: Any, parameters: Any, task: Any, examples: Any, units: Any, **named: Any) -> None:
            self._note("units", _written(examples, units))
            train(model, parameters, task, examples, units, **named)

        def used(stream: Stream, count: int) -> Any:
            self._note("stream", stream._label.name)
            return words(stream, count)

        def drawn(sampler: PoissonSampler) -> Any:
            batch = draw(sampler)
            self._note("drawn", batch.tolist())
            return batch

        def noise(stream: Stream, count: int, std: float) -> Any:
            values = gaussian(stream, count, std)
            self._note("noise", values.tolist())
            return values

        def noised(optimizer: dpsgd.SecretNoiseOptimizer) -> None:
            before = optimizer.flat_sum().tolist()
            add_noise(optimizer)
            self._note("noised", [before, optimizer.flat_sum().tolist()])

        def joined(channel: Channel, own: Any) -> Any:
            self._note("own", own.tolist())
            return total(channel, own)

        for module in (dpsgd, ranks):
            put(module, "accumulate", self._summed(module.accumulate))
        put(dpsgd, "train", trained)
        put(dpsgd, "gaussian", noise)
        put(Stream, "words", used)
        put(PoissonSampler, "draw", drawn)
        put(dpsgd.SecretNoiseOptimizer, "add_noise", noised)
        put(Channel, "total", joined)

    def _summed(self, accumulate: Callable[..., None]) -> Callable[..., None]:
        def summed(model: Any, task: Any, examples: Any, units: Any, *rest: Any) -> None:
            self._note("summed", _written(examples, units))
            accumulate(model, task, examples, units, *rest)

        return summed

    def _note(self, what: str, said: Any) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps({what: said}) + "\n")


def _written(examples: Sequence[Any], units: Sequence[Sequence[int]]) -> list[list[Any]]:
    """Units by the tokens of their records."""
    return [[examples[record].tokens for record in unit] for unit in units]


def _read(path: Path) -> dict[str, list[Any]]:
    """What one rank wrote, by kind."""
    found: dict[str, list[Any]] = {}
    for line in path.read_text().splitlines():
        ((what, said),) = json.loads(line).items()
        found.setdefault(what, []).append(said)
    return found


def _count(units: Sequence[Any]) -> Counter[str]:
    return Counter(map(json.dumps, units))


def assert_one_draw_and_one_noise(folder: Path, *, rounds: int, steps: int, std: float) -> None:
    """Two ranks took so many steps: one Poisson draw and one vector of noise for each.

    - Rank 0 used the streams, in turns, and the other rank none.
    - The units that both summed are those drawn, each at one rank.
    - What the noise was put on is the sum of both ranks' sums, and what was released is that and one draw,
      whose variance is std^2, and not a rank more.
    """
    first, other = (_read(folder / f"rank-{rank}") for rank in (0, 1))
    assert not {"stream", "drawn", "noise", "noised"} & set(other)
    count = rounds * steps
    assert first["stream"] == [Label.STREAM_SAMPLING.name, Label.STREAM_NOISE.name] * count
    assert len(first["drawn"]) == len(first["noise"]) == len(first["noised"]) == count
    assert len(first["summed"]) == len(other["summed"]) == len(first["own"]) == len(other["own"]) == count
    assert len(first["units"]) == rounds
    grid = 2.0 ** (np.floor(np.log2(std)) - GRID_BITS)
    for step in range(count):
        units = first["units"][step // steps]
        assert max(_count(units).values()) == 1  # so that units can be told apart
        shares = first["summed"][step], other["summed"][step]
        assert _count([units[index] for index in first["drawn"][step]]) == _count([*shares[0], *shares[1]])
        before, after = map(np.array, first["noised"][step])
        own = np.array(first["own"][step]) + np.array(other["own"][step])
        assert np.array_equal(own, np.append(before, float(len(first["drawn"][step]))))
        assert np.abs(after - before - first["noise"][step]).max() <= grid
    assert all(sum(map(len, each["summed"])) > count for each in (first, other))
    noise = np.concatenate([np.subtract(*pair[::-1]) for pair in first["noised"]])
    low, high = stats.chi2.ppf([ERROR / 2, 1 - ERROR / 2], noise.size) / noise.size
    assert low < np.mean((noise / std) ** 2) < high < 2
