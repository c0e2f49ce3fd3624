"""Options of the whole suite, and where the federation in memory is found."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import settings

settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("roam", derandomize=False, deadline=None)
settings.load_profile("suite")
"""The same examples in every run, however slow the machine; `--hypothesis-profile roam` looks for others."""

sys.path.append(str(Path(__file__).parent / "sim"))
"""`simfed`, the federation in memory, serves the tests of several packages."""

_MEMORY = Path("/dev/shm")

_ROOM_BYTES = 2 << 30
"""Memory that must be free for the temporary folders of a whole run, which take a small part of it."""

_LONG = ("training", "sim", "audit", "attack", "cli")
"""Folders whose files compute for long: what is short comes last, so that all workers end together."""

_WAITING = ("e2e", "transport")
"""Folders whose tests mostly wait, for processes of their own or for a deadline."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, default=20.0, help="how long a slow, seeded run goes on")
    parser.addoption("--seed", type=int, default=None, help="replay one seed of the simulator")
    parser.addoption("--message", default=None, help="send one malformed message again, as CALL/TAPE")


_STINT = "stint"
"""Under which name a slow run's report says how far it came."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Temporary folders lie in memory, because every write syncs; `--basetemp DIR` keeps them on a disk."""
    given = config.option.basetemp is not None  # also in a worker, whose folder is a part of the run's
    if not given and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES:
        config.option.basetemp = tempfile.mkdtemp(dir=_MEMORY, prefix="secfed-tests-")
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By turns a file that waits and one that computes, long ones first; each file stays as it is.

    With one worker more than cores, what one waits for costs the others nothing.
    """

    def rank(path: Path) -> int:
        folder = path.parent.name
        return _LONG.index(folder) if folder in _LONG else len(_LONG)

    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    waiting = [path for path in files if path.parent.name in _WAITING]
    others = sorted((path for path in files if path not in waiting), key=rank)
    turns = chain.from_iterable(zip_longest(waiting, others))
    items[:] = chain.from_iterable(files[path] for path in turns if path is not None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How far slow runs came, of whichever process."""
    for report in chain.from_iterable(terminalreporter.stats.values()):
        said = report.user_properties if getattr(report, "when", "") == "call" else ()
        for text in [text for name, text in said if name == _STINT]:
            terminalreporter.write_line(text)


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory for durable state: in memory where the system has one, because every write syncs."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None, prefix="secfed-") as name:
        yield Path(name)


class Stint(Protocol):
    """See the fixture `stint`."""

    def __call__(self, what: str, first: int, lane: int = 0, lanes: int = 1) -> Iterator[int]: ...


@pytest.fixture
def stint(request: pytest.FixtureRequest) -> Stint:
    """A slow run in pieces: numbers from the first one not done yet, for `--minutes`; then the total.

    What a loop over them ends with is done; one in which it fails comes first the next time. The total
    outlives the run, in pytest's cache, and `--cache-clear` forgets it. Tests that share the numbers of
    one thing among them take a lane each, and may run side by side.
    """

    def numbers(what: str, first: int, lane: int = 0, lanes: int = 1) -> Iterator[int]:
        """Every `lanes`-th number of `what`; those below `first` are part of every run of the tests."""
        cache, name = request.config.cache, what.replace(" ", "-")
        assert cache is not None
        tracks = [f"-{each}-of-{lanes}" if lanes > 1 else "" for each in range(lanes)]
        keys = [f"secfed/{name}{track}-done" for track in tracks]

        def following(each: int) -> int:
            """The first number of a lane that is not done yet."""
            return max(first + each, int(cache.get(keys[each], 0)))

        begin = number = following(lane)
        ends = time.monotonic() + 60 * request.config.getoption("--minutes")
        while time.monotonic() < ends:
            yield number
            number += lanes
            cache.set(keys[lane], number)
        total = first + sum((following(each) - first - each) // lanes for each in range(lanes))
        done = f"{what}: {(number - begin) // lanes} in this run, {total} done in all"
        request.node.user_properties.append((_STINT, done))

    return numbers
