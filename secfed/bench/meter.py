"""Where processor time and memory go: by stage, and within a stage by the kind of work.

The parts are found by wrapping the very functions that do the work, for as long as a measurement
lasts, in whichever thread they run. A part's time is its own: what it calls of other parts counts
there. A wrapped call costs about a microsecond more, so only work that takes longer is told apart;
the rest of a stage has no name.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["Meter", "Parts", "Reading", "Target", "forget_peak", "memory_mib"]

Target = tuple[ModuleType | type, str]
"""Where a function is found by those who call it, and its name there."""

_KIB_A_MIB = 1024


@dataclass(slots=True)
class Reading:
    """What a stage has cost so far.

    Attributes:
        peak_mib: Most memory held in the stage above what the meter found at its start.
        parts: Processor seconds by kind of work.
        work: For each kind, what was called: for each function how often, and with how many bytes in all.
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    peak_mib: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    work: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def parts_s(self) -> dict[str, float]:
        """Processor seconds by part; what belongs to none is `rest`."""
        return self.parts | {"rest": max(0.0, self.cpu_s - sum(self.parts.values()))}


class _Thread(threading.local):
    """What one thread is about: for each part that is being timed, the time of parts inside it."""

    def __init__(self) -> None:
        self.inner: list[float] = []


class Parts:
    """Enters the time of functions under a name, once they are wrapped.

    Args:
        targets: For each kind of work, the functions that do it.
        spread: Kinds whose functions hand work to threads of their own, and run while nothing else does.
    """

    def __init__(self, targets: dict[str, tuple[Target, ...]], spread: Collection[str] = ()) -> None:
        self._targets = targets
        self._spread = frozenset(spread)
        self._into: Reading | None = None
        self._lock = threading.Lock()
        self._thread = _Thread()
        self._former: list[tuple[ModuleType | type, str, object]] = []

    def wrap(self) -> None:
        """Wrap all that was named; `unwrap` takes it back."""
        for name, targets in self._targets.items():
            for owner, attribute in targets:
                found = vars(owner)[attribute]
                self._former.append((owner, attribute, found))
                label = f"{owner.__name__.rpartition('.')[2]}.{attribute}"
                setattr(owner, attribute, self._wrapped(name, label, found))

    def unwrap(self) -> None:
        """Everything is what it was."""
        while self._former:
            owner, attribute, found = self._former.pop()
            setattr(owner, attribute, found)

    def enter_in(self, into: Reading | None) -> None:
        """Enter what happens from here on in this account; in none, nothing is timed."""
        self._into = into

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a piece of the measuring program's own as a part."""
        clock = time.process_time if name in self._spread else time.thread_time
        begin = clock()
        self._thread.inner.append(0.0)
        try:
            yield
        finally:
            self._enter(name, clock() - begin)

    def _wrapped(self, name: str, label: str, found: Any) -> Any:
        if isinstance(found, classmethod):
            return classmethod(self._timed(name, label, found.__func__))
        if isinstance(found, staticmethod):
            return staticmethod(self._timed(name, label, found.__func__))
        return self._timed(name, label, found)

    def _timed(self, name: str, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            if self._into is None:
                return function(*arguments, **named)
            with self.part(name):
                given = function(*arguments, **named)
            self._count(name, label, sum(map(_size_bytes, arguments)) or _size_bytes(given))
            return given

        return timed

    def _count(self, name: str, label: str, size_bytes: int) -> None:
        with self._lock:
            if self._into is not None:
                of_part = self._into.work.setdefault(name, {})
                calls, before = of_part.get(label, (0, 0))
                of_part[label] = calls + 1, before + size_bytes

    def _enter(self, name: str, spent: float) -> None:
        inner = self._thread.inner
        own = spent - inner.pop()
        if inner:
            inner[-1] += spent
        with self._lock:
            if self._into is not None:
                self._into.parts[name] = self._into.parts.get(name, 0.0) + own


class Meter:
    """Readings by stage, of one process in which nothing else runs.

    Args:
        parts: What is told apart within a stage, once it is wrapped.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._idle_mib = memory_mib("VmRSS")
        self._running: tuple[Reading, float, float] | None = None
        self.readings: dict[str, Reading] = defaultdict(Reading)

    @contextmanager
    def stage(self, name: str) -> Iterator[Reading]:
        """Time what happens inside; a stage may come in several pieces."""
        reading = self.enter(name)
        try:
            yield reading
        finally:
            self.leave()

    def enter(self, name: str) -> Reading:
        """End the stage that is running, if one is, and begin this one or go on with it."""
        self.leave()
        reading = self.readings[name]
        forget_peak()
        self._running = reading, time.perf_counter(), time.process_time()
        self._parts.enter_in(reading)
        return reading

    def leave(self) -> None:
        """End the stage that is running, if one is."""
        if self._running is None:
            return
        self._parts.enter_in(None)
        reading, wall, cpu = self._running
        self._running = None
        reading.cpu_s += time.process_time() - cpu
        reading.wall_s += time.perf_counter() - wall
        reading.peak_mib = max(reading.peak_mib, memory_mib("VmHWM") - self._idle_mib)

    def clear(self) -> None:
        """Begin again; what counts as idle stays."""
        self.readings.clear()


def memory_mib(name: str, process: int | str = "self") -> float:
    """Memory of a process, by the name that Linux has for it: `VmRSS` now, `VmHWM` at most so far."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    (found,) = re.findall(rf"{name}:\s+(\d+) kB", status)
    return int(found) / _KIB_A_MIB


def forget_peak(process: int | str = "self") -> None:
    """Let the kernel count the most memory held from now on; where it cannot, peaks are of the whole run."""
    with suppress(OSError):
        Path(f"/proc/{process}/clear_refs").write_text("5", encoding="ascii")


def _size_bytes(value: object) -> int:
    """Of bytes, or of an array; 0 of anything else."""
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value)
    size = getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0
