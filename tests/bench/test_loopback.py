"""What a round over the network is held against, by hand: the survivors' sum, the lost, and the time."""

from __future__ import annotations

import numpy as np
import pytest

from secfed.bench.cohort import Setting
from secfed.bench.loopback import is_true
from secfed.bench.timed_clients import Mark, TimedRound, lost_of
from secfed.bench.timed_link import Stay, Step


def test_the_published_sum_is_the_survivors_to_the_last_step_of_the_grid() -> None:
    """Five members, one lost, a grid of 2 bits from -1 to 1: steps of 2/3."""
    setting, steps = Setting(5, 3, dropouts=1, bits=2), np.array([0, 5, 12])
    published = steps * (2 / 3) - 4
    assert is_true(setting, published, steps)
    assert not is_true(setting, published, steps + np.array([0, 1, 0]))
    assert not is_true(Setting(5, 3, bits=2), published, steps)


def test_the_lost_are_spread_and_never_the_one_that_is_measured() -> None:
    sites = Setting(10, 1).sites
    assert lost_of(sites, 0) == frozenset()
    assert lost_of(sites, 3) == {sites[1], sites[4], sites[7]}
    assert lost_of(sites, 9) == frozenset(sites[1:])


def test_a_stage_of_the_aggregator_is_from_one_mark_to_the_next() -> None:
    """Two clients, one of them lost in `mask`: its request counts among the bytes, and it has no journey."""
    marks = [Mark("encode", 0, 1.0, 0), Mark("advertise", 2, 1.5, 3.0), Mark("mask", 5, 2.5, 4.0)]
    marks += [Mark("unmask", 6, 4.5, 9.0), Mark("outcome", 8, 5.0, 5.0), Mark("over", 9, 5.25, 2.0)]
    whole = [Step("advertise", 2.0, 10, 2.5, 2.5, 20), Step("mask", 5.0, 30, 5.2, 5.5, 400)]
    whole.append(Step("outcome", 8.5, 1, 8.6, 8.6, 2))
    stay = Stay(whole, [(2.5, 5.0), (5.2, 8.5)])
    lost = Stay([Step("advertise", 2.1, 10, 2.6, 2.6, 20), Step("mask", 5.1, 30)])
    seen = TimedRound([stay, lost], marks)
    readings = seen.readings()
    assert list(readings) == ["open", "advertise", "mask", "unmask and sum", "outcome"]
    mask = readings["mask"]
    assert (mask.cpu_s, mask.wall_s, mask.peak_mib) == (2.0, 1, 9.0)
    assert (mask.bytes_up, mask.bytes_down) == (400, 60)
    assert (seen.cpu_s, seen.wall_s) == (3.75, 6.5)
    (journey,) = seen.journeys(empty_s=0.1)
    assert journey.protocol_s == pytest.approx(6.5 - 2.5 - 3.3)
    assert journey.wire_s == pytest.approx(0.3 + 2 * 0.1)
