"""Durable files and the lock."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secfed.errors import LockedError, StorageError
from secfed.store import files


def test_created_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.create_exclusive(path, b"first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(StorageError, match="File exists") as refused:
        files.create_exclusive(path, b"second")
    assert str(path) in str(refused.value)
    assert path.read_bytes() == b"first"


def test_a_file_that_cannot_be_written_whole_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        files.create_exclusive(tmp_path / "a", b"data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("at", "content"),
    [("before:replace", b"old"), ("before:rename", b"old"), ("after:replace", b"new")],
)
def test_replace_leaves_the_old_or_the_new_content(
    tmp_path: Path, stop: Any, crash: type[BaseException], at: str, content: bytes
) -> None:
    path = tmp_path / "a"
    files.replace(path, b"old")
    stop.at = at
    with pytest.raises(crash):
        files.replace(path, b"new", barrier=stop)
    assert path.read_bytes() == content
    files.replace(path, b"newer")  # a draft left behind is no obstacle
    assert path.read_bytes() == b"newer"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_replace_and_create_name_the_file_in_a_missing_directory(tmp_path: Path) -> None:
    path = tmp_path / "none" / "a"
    for write in (files.replace, files.create_exclusive):
        with pytest.raises(StorageError, match="none/a"):
            write(path, b"")


def test_directories_are_made_private_with_their_parents(tmp_path: Path) -> None:
    files.make_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    files.make_directory(tmp_path / "a" / "b")


def test_removing_twice_is_no_error(tmp_path: Path) -> None:
    files.create_exclusive(tmp_path / "a", b"")
    files.remove(tmp_path / "a")
    files.remove(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_lock_is_exclusive_within_a_process_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with files.Lock(path), pytest.raises(LockedError, match="in use"):
        files.Lock(path)
    files.Lock(path).release()


def test_a_lock_turns_another_process_away_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import sys, pathlib; from secfed.store.files import Lock\n"
        "lock = Lock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockedError):
            files.Lock(path)
        holder.kill()
    files.Lock(path).release()


def test_a_planted_draft_is_neither_followed_nor_taken_over(tmp_path: Path) -> None:
    """A link is not written through, and an open mode is not inherited."""
    victim, path, draft = tmp_path / "victim", tmp_path / "key", tmp_path / ".key.new"
    victim.write_bytes(b"precious")
    draft.symlink_to(victim)
    files.replace(path, b"secret")
    assert victim.read_bytes() == b"precious"
    assert not path.is_symlink()
    draft.write_bytes(b"")
    draft.chmod(0o666)
    files.replace(path, b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_more_of_a_file_is_read_than_its_reader_takes(tmp_path: Path) -> None:
    """One byte more shows that it is too long: a file with a hole of 1 TiB takes no memory."""
    path = tmp_path / "long"
    path.write_bytes(b"abc")
    assert files.read_small(path, 3) == b"abc"
    os.truncate(path, 1 << 40)
    assert files.read_small(path, 3) == b"abc\0"


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    """A pipe that nobody writes to would be waited for, a device never ends."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            files.read_small(path, 3)


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
def test_a_private_directory_that_others_may_use_is_refused_and_left_alone(tmp_path: Path, mode: int) -> None:
    made = tmp_path / "new" / "state"
    files.private_directory(made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    files.private_directory(made)
    made.chmod(mode)
    with pytest.raises(StorageError, match=f"mode {mode:04o}") as refused:
        files.private_directory(made)
    assert refused.value.hint == f"chmod 700 {made}"
    assert stat.S_IMODE(made.stat().st_mode) == mode
