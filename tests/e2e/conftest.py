"""Federations of real processes for the end-to-end tests."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from loopback import Loopback

_MEMORY = Path("/dev/shm")


def _build(stack: ExitStack) -> Callable[..., Loopback]:
    """Builds running federations of named sites, which are gone once the stack is closed."""

    def make(*sites: str, kind: type[Loopback] = Loopback) -> Loopback:
        # In memory where the system has some, because every process syncs what it writes.
        where = _MEMORY if _MEMORY.is_dir() else None
        root = stack.enter_context(tempfile.TemporaryDirectory(dir=where, prefix="secfed-e2e-"))
        play = stack.enter_context(kind(Path(root), threads=1))
        play.open(sites)
        return play

    return make


@pytest.fixture
def build() -> Iterator[Callable[..., Loopback]]:
    """Builds a federation for one test."""
    with ExitStack() as stack:
        yield _build(stack)


@pytest.fixture(scope="module")
def build_shared() -> Iterator[Callable[..., Loopback]]:
    """Builds a federation that the tests of a module share."""
    with ExitStack() as stack:
        yield _build(stack)
