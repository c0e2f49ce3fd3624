"""The collector rests while libraries are loaded, and only then."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from secfed.cli.loading import large_libraries


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.parametrize("collecting", [True, False])
def test_the_collector_rests_while_libraries_are_loaded(collecting: bool) -> None:
    """Afterwards it is as it was, and never looks again at what was there, an import that fails included."""
    made: list[list[object]] = []
    gc.unfreeze()
    if not collecting:
        gc.disable()
    for failing in (False, True):
        before = gc.get_freeze_count()
        try:
            with large_libraries():
                assert not gc.isenabled()
                made += [[] for _ in range(1000)]
                if failing:
                    raise ModuleNotFoundError("torch")
        except ModuleNotFoundError:
            assert failing
        assert gc.isenabled() is collecting
        assert gc.get_freeze_count() >= before + 1000
