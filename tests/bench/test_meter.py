"""Time by the kind of work: a part's own time, wrapped only for as long as it is measured."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import pytest

from secfed.bench.meter import Meter, Parts

SPIN_S = 0.02


def spin(seconds: float) -> None:
    """Use so much processor time of this thread."""
    ends = time.thread_time() + seconds
    while time.thread_time() < ends:
        pass


class Work:
    """A method, class methods and a static one."""

    def outer(self) -> None:
        spin(SPIN_S)
        self.inner()
        self.inner()

    @classmethod
    def inner(cls) -> None:
        spin(SPIN_S)

    @classmethod
    def fan(cls) -> None:
        """Work in threads of its own."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(spin, [SPIN_S] * 4))

    @staticmethod
    def aside(value: int) -> int:
        return value + 1


PARTS = {"outer": ((Work, "outer"),), "inner": ((Work, "inner"),), "aside": ((Work, "aside"),)}


def test_a_part_counts_its_own_time_alone() -> None:
    """The outer one spins once, the inner ones twice; their sum is no more than the whole."""
    parts = Parts(PARTS)
    meter = Meter(parts)
    parts.wrap()
    try:
        with meter.stage("one"):
            Work().outer()
    finally:
        parts.unwrap()
    reading = meter.readings["one"]
    assert reading.parts["outer"] >= SPIN_S
    assert reading.parts["inner"] >= 2 * SPIN_S
    assert sum(reading.parts.values()) <= reading.cpu_s
    assert sum(reading.parts_s().values()) == pytest.approx(reading.cpu_s)


def test_nothing_stays_wrapped_and_nothing_is_entered_outside_a_stage() -> None:
    """Whatever a function is, it is put back as it was; between stages calls cost nobody."""
    before = dict(vars(Work))
    parts = Parts(PARTS)
    meter = Meter(parts)
    parts.wrap()
    assert vars(Work)["outer"] is not before["outer"]
    assert Work.aside(1) == 2
    Work.inner()
    parts.unwrap()
    assert dict(vars(Work)) == before
    with meter.stage("later"):
        Work().outer()
    assert meter.readings["later"].parts == {}


def test_functions_of_modules_and_pieces_of_the_measuring_program_are_parts_too() -> None:
    module = ModuleType("made")
    vars(module)["work"] = spin
    parts = Parts({"module": ((module, "work"),)})
    meter = Meter(parts)
    parts.wrap()
    with meter.stage("one"):
        with parts.part("own"):
            spin(SPIN_S)
        vars(module)["work"](SPIN_S)
    parts.unwrap()
    assert meter.readings["one"].parts.keys() == {"own", "module"}


def test_calls_and_their_bytes_are_counted_by_function() -> None:
    """What goes in counts, arrays by their bytes; where nothing goes in, what comes out."""
    module = ModuleType("made")
    vars(module).update(work=lambda *_: b"", draw=lambda count: bytes(count))
    parts = Parts({"part": ((module, "work"), (module, "draw"), (Work, "aside"))})
    meter = Meter(parts)
    parts.wrap()
    with meter.stage("one"):
        vars(module)["work"](b"four", bytearray(3), np.zeros(2, np.uint32))
        vars(module)["work"](b"")
        vars(module)["draw"](5)
        Work.aside(1)
    vars(module)["work"](b"outside of a stage")
    parts.unwrap()
    counted = {"made.work": (2, 15), "made.draw": (1, 5), "Work.aside": (1, 0)}
    assert meter.readings["one"].work == {"part": counted}


def test_a_stage_that_is_entered_ends_the_one_before() -> None:
    """Each has its own time; what comes after the last belongs to none."""
    meter = Meter(Parts({}))
    meter.enter("one")
    spin(SPIN_S)
    meter.enter("two")
    meter.leave()
    spin(2 * SPIN_S)
    meter.leave()
    assert meter.readings["one"].cpu_s >= SPIN_S
    assert meter.readings["two"].cpu_s < 2 * SPIN_S


def test_work_of_several_threads_is_each_threads_own() -> None:
    """Eight turns in four threads at once: none counts another's time, which would be four times as much.
    What hands its work to threads of its own is counted whole.
    """
    parts = Parts({"inner": ((Work, "inner"),), "fan": ((Work, "fan"),)}, spread=["fan"])
    meter = Meter(parts)
    parts.wrap()
    try:
        with meter.stage("beside"), ThreadPoolExecutor(4) as pool:
            for turn in [pool.submit(Work.inner) for _ in range(8)]:
                turn.result()
        with meter.stage("inside"):
            Work.fan()
    finally:
        parts.unwrap()
    beside, inside = meter.readings["beside"], meter.readings["inside"]
    assert 8 * SPIN_S <= beside.parts["inner"] < 1.5 * beside.cpu_s
    assert 2 * SPIN_S <= inside.parts["fan"] <= inside.cpu_s


@pytest.mark.skipif(sys.platform != "linux", reason="peaks by stage are Linux's")
def test_the_peak_is_of_its_stage_and_above_the_idle_process() -> None:
    """64 MiB that one stage holds are not seen in the next."""
    meter = Meter(Parts({}))
    with meter.stage("large"):
        held = bytearray(64 << 20)
        held[:: 1 << 12] = bytes(len(held) >> 12)
        del held
    with meter.stage("small"):
        pass
    assert meter.readings["large"].peak_mib >= 60
    assert meter.readings["small"].peak_mib < 32
