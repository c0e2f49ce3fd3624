"""A copy is another file, also under the number of the one that it replaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from secfed.store.birth import Birth


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "original"
    path.write_text("a")
    return path


def test_a_file_stays_the_same_through_writes_moves_and_set_times(file: Path) -> None:
    before = Birth.of(file)
    file.write_text("b" * 10_000)
    os.utime(file, (0, 0))
    moved = file.rename(file.with_name("moved"))
    assert Birth.of(moved) == before
    assert Birth.read(str(before)) == before
    assert Birth.read(str(Birth(5, -7))) == Birth(5, -7)  # some file systems say 1601


def test_a_copy_is_another_file_whatever_number_it_is_given(file: Path) -> None:
    """ext4 gives the next file the number of the one that was deleted; clocks of files tick every few ms."""
    original = Birth.of(file)
    time.sleep(0.05)
    kept = file.with_name("kept")
    for _ in range(20):
        shutil.copy2(file, kept)
        file.unlink()
        shutil.copy2(kept, file)
        assert not Birth.of(file).same(original)


def test_the_birth_time_is_the_file_systems(file: Path) -> None:
    """As GNU stat tells it, in seconds; 0 where it is not known."""
    told = int(subprocess.run(["stat", "-c", "%W", file], capture_output=True, check=True).stdout)
    born_ns = Birth.of(file).born_ns
    assert (0 if born_ns is None else born_ns // 10**9) == told


def test_where_no_birth_time_is_known_the_number_counts() -> None:
    assert Birth(5, None).same(Birth(5, 7))
    assert Birth(5, 7).same(Birth(5, None))
    assert not Birth(5, 7).same(Birth(5, 8))
    assert not Birth(5, None).same(Birth(6, None))


@pytest.mark.parametrize("text", ["", "5", "5 x", "5 6 7", "- 5", "5 --6"])
def test_what_is_no_mark_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no file's birth"):
        Birth.read(text)
