"""Secret streams: the laws they follow, with stated error, and what they do not depend on."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from scipy import stats

from secfed.crypto.labels import Label
from secfed.privacy.events import PoissonGaussian
from secfed.training.random import GRID_BITS, PoissonSampler, Stream, Streams, gaussian, snap

ERROR = 1e-9
"""Chance that one statistical test below fails although the law holds."""


def counter_entropy() -> object:
    """Entropy that counts, for tests that must repeat."""
    numbers = itertools.count()
    return lambda size: next(numbers).to_bytes(size, "big")


def test_gaussian_variance_and_shape() -> None:
    """Chi-square of 200 000 values, and Kolmogorov-Smirnov, each at error 1e-9."""
    values = gaussian(Stream(Label.STREAM_NOISE), 200_001, 3.0)
    assert values.shape == (200_001,)
    square = float((values**2).sum() / 9.0)
    assert stats.chi2.ppf(ERROR / 2, values.size) < square < stats.chi2.isf(ERROR / 2, values.size)
    assert stats.kstest(values / 3.0, "norm").pvalue > ERROR
    # the two halves of each Box-Muller pair are independent
    assert abs(np.corrcoef(values[:100_000], values[100_001:])[0, 1]) < 6.2 / 100_000**0.5


def test_extreme_words_stay_finite() -> None:
    class Edge(Stream):
        def words(self, count: int) -> np.ndarray:
            return np.resize(np.array([0, 2**64 - 1], np.uint64), count)

    values = gaussian(Edge(Label.STREAM_NOISE), 8, 1.0)
    assert np.isfinite(values).all()
    assert np.abs(values).max() == pytest.approx(9.42, abs=0.01)


def test_draws_differ_and_repeat_under_one_entropy() -> None:
    stream = Stream(Label.STREAM_NOISE, counter_entropy())
    first, second = stream.words(64), stream.words(64)
    assert not set(first) & set(second)
    again = Stream(Label.STREAM_NOISE, counter_entropy())
    assert np.array_equal(again.words(64), first)


def test_streams_share_nothing_whatever_the_libraries_are_seeded_with() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(42)
        np.random.seed(42)
        random.seed(42)
        streams = Streams.fresh()
        drawn += [streams.noise.words(100), streams.sampling.words(100)]
    for left, right in itertools.combinations(drawn, 2):
        assert not set(left) & set(right)


def test_two_purposes_under_the_same_entropy_differ() -> None:
    same = lambda size: bytes(size)  # noqa: E731
    streams = Streams.fresh(same)
    assert not set(streams.noise.words(50)) & set(streams.sampling.words(50))


def test_nothing_secret_in_repr() -> None:
    stream = Stream(Label.STREAM_NOISE, lambda size: b"\xaa" * size)
    assert repr(stream) == "Stream(STREAM_NOISE)"
    assert repr(Streams.fresh()) == "Streams()"


def test_snap_is_a_grid_below_the_noise() -> None:
    std = 0.37
    values = gaussian(Stream(Label.STREAM_NOISE), 1000, std)
    snapped = snap(values, std)
    step = 2.0 ** (-2 - GRID_BITS)
    assert np.array_equal(snapped / step, np.rint(snapped / step))
    assert np.abs(snapped - values).max() <= step / 2


@pytest.mark.parametrize("q_num", [2**64 // 100, 2**63, 2**64])
def test_sampling_rate_is_recovered(q_num: int) -> None:
    """Binomial interval of 100 000 coins, error 1e-9; exactly all at q = 1."""
    sampler = PoissonSampler(1000, q_num, Stream(Label.STREAM_SAMPLING))
    drawn = sum(len(sampler.draw()) for _ in range(100))
    low, high = stats.binom.interval(1 - ERROR, 100_000, q_num / 2**64)
    assert low <= drawn <= high


def test_threshold_is_exact_at_tiny_rates() -> None:
    """Float thresholds would be a fifth off at q = 1e-7; words just below and at the threshold decide."""
    q_num = 2**64 // 10**7

    class Edge(Stream):
        def words(self, count: int) -> np.ndarray:
            return np.array([q_num - 1, q_num, q_num + 1, 0], np.uint64)[:count]

    assert PoissonSampler(4, q_num, Edge(Label.STREAM_SAMPLING)).draw().tolist() == [0, 3]


def test_units_are_drawn_independently() -> None:
    """Two units at q = 1/2: over 4000 draws each of the four outcomes comes equally often; error 1e-9."""
    sampler = PoissonSampler(2, 2**63, Stream(Label.STREAM_SAMPLING))
    outcomes = [0] * 4
    for _ in range(4000):
        drawn = sampler.draw()
        outcomes[int((1 << drawn).sum())] += 1
    assert stats.chisquare(outcomes).pvalue > ERROR


def test_event_is_what_was_drawn() -> None:
    sampler = PoissonSampler(10, 2**62, Stream(Label.STREAM_SAMPLING))
    for _ in range(7):
        sampler.draw()
    event = sampler.event(noise_multiplier="1.1", relation="add-remove", unit="person", records_per_unit=4)
    assert event == PoissonGaussian(2**62, "1.1", 7, "add-remove", "person", 4)


def test_rate_out_of_range_is_refused() -> None:
    for q_num in (0, 2**64 + 1):
        with pytest.raises(ValueError, match="q_num"):
            PoissonSampler(1, q_num, Stream(Label.STREAM_SAMPLING))
