"""A federation on real sockets for every test of the transport."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path += [
    str(Path(__file__).parents[depth] / name) for depth, name in ((0, ""), (1, "wire"), (1, "vectors"))
]

from townhall import Town

_MEMORY = Path("/dev/shm")


@pytest.fixture
def quiet_town(disk: Path) -> Iterator[Town]:
    """A federation whose daemon a test starts itself."""
    town = Town(disk)
    yield town
    town.shut()


@pytest.fixture(scope="module")
def shared_town() -> Iterator[Town]:
    """A federation that the tests of a module share; its daemon they start themselves."""
    where = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=where, prefix="secfed-town-") as name:
        town = Town(Path(name))
        yield town
        town.shut()


@pytest.fixture
def town(quiet_town: Town) -> Town:
    """A federation with its daemon running."""
    quiet_town.start()
    return quiet_town


def wait_until(reached: Callable[[], object], within_s: float = 120) -> None:
    """Poll for something that happens on another thread."""
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def until() -> Callable[..., None]:
    """`wait_until`."""
    return wait_until
