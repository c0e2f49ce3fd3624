"""Options of the whole suite, and where the federation in memory is found."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "sim"))
"""`simfed`, the federation in memory, serves the tests of several packages."""

_MEMORY = Path("/dev/shm")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, default=20.0, help="how long a slow, seeded run goes on")
    parser.addoption("--seed", type=int, default=None, help="replay one seed of the simulator")


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory for durable state: in memory where the system has one, because every write syncs."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None, prefix="secfed-") as name:
        yield Path(name)
