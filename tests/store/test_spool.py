"""The spool: whole uploads or none."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from secfed.errors import StorageError
from secfed.store.spool import Spool


def test_an_upload_is_there_only_when_committed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    with spool.writer("r1.hosp-a") as upload:
        upload.write(b"abc")
        upload.write(memoryview(b"def"))
        assert upload.size_bytes == 6
        assert spool.names() == []
        upload.commit()
    assert spool.names() == ["r1.hosp-a"]
    with spool.open("r1.hosp-a") as file:
        assert file.read() == b"abcdef"
    assert (tmp_path / "spool" / "r1.hosp-a").stat().st_mode & 0o077 == 0


def test_an_upload_left_without_commit_is_gone(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.writer("a") as upload:
        upload.write(b"abc")
    assert list(tmp_path.iterdir()) == []
    with spool.writer("a") as upload:  # the name is free again
        upload.commit()


def test_a_reserved_upload_is_as_long_as_what_was_written(tmp_path: Path) -> None:
    """Less or more than was announced: the file holds what came, and no zeros after it."""
    spool = Spool(tmp_path)
    for name, size in (("less", 100_000), ("same", 3), ("more", 1)):
        with spool.writer(name, reserve_bytes=size) as upload:
            upload.write(b"abc")
            upload.commit()
        with spool.open(name) as file:
            assert file.read() == b"abc"


def test_a_disk_without_room_refuses_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves neither a draft nor an open file; the name is free again."""
    spool = Spool(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(StorageError, match=r"a: (File too large|No space left)"):
        spool.writer("a", reserve_bytes=1 << 62)
    assert list(tmp_path.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before

    def cannot(_descriptor: int, _offset: int, _size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    with spool.writer("a", reserve_bytes=10) as upload:  # a file system that cannot does without
        upload.write(b"abc")
        upload.commit()
    assert spool.names() == ["a"]


def test_a_whole_upload_is_never_overwritten(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.writer("a") as upload:
        upload.write(b"first")
        upload.commit()
    with pytest.raises(StorageError, match="already uploaded"):
        spool.writer("a")


def test_one_writer_a_name(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.writer("a"), pytest.raises(StorageError):
        spool.writer("a")


def test_a_draft_that_could_not_be_removed_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    upload = spool.writer("a")

    def broken(_path: Path, missing_ok: bool = False) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", broken)
        with pytest.raises(StorageError, match="Too many"):
            upload.abort()
    assert [path.name for path in tmp_path.iterdir()] == [".draft-a"]
    with spool.writer("a") as upload:
        upload.write(b"again")
        upload.commit()
    assert (tmp_path / "a").read_bytes() == b"again"


@pytest.mark.parametrize(("at", "names"), [("before:commit a", []), ("after:commit a", ["a"])])
def test_a_crash_leaves_all_or_nothing(
    tmp_path: Path, stop: Any, crash: type[BaseException], at: str, names: list[str]
) -> None:
    """No clean-up runs in a crash: the next start removes the draft."""
    stop.at = at
    upload = Spool(tmp_path, barrier=stop).writer("a")
    upload.write(b"abc")
    with pytest.raises(crash):
        upload.commit()
    assert len(list(tmp_path.iterdir())) == 1
    spool = Spool(tmp_path)
    assert spool.names() == names
    assert [path.name for path in tmp_path.iterdir()] == names


def test_a_failed_sync_is_no_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    spool = Spool(tmp_path)
    with spool.writer("a") as upload:
        upload.write(b"abc")
        monkeypatch.setattr("secfed.store.spool.os.fsync", broken)
        with pytest.raises(StorageError, match="No space left"):
            upload.commit()
    assert spool.names() == []


def test_a_commit_syncs_the_file_then_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload is acknowledged after `commit`: a power cut must find neither its bytes nor its name gone."""
    seen: list[str] = []
    spool = Spool(tmp_path)
    upload = spool.writer("a")
    upload.write(b"abc")
    sync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        sync(descriptor)
        seen.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")

    def renamed(path: Path, target: Path) -> Path:
        seen.append(f"rename {path.name} {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    upload.commit()
    assert seen == ["sync .draft-a", "rename .draft-a a", f"sync {tmp_path.name}"]


def test_discard_removes_and_repeats(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.writer("a") as upload:
        upload.commit()
    spool.discard("a")
    spool.discard("a")
    assert spool.names() == []
    with pytest.raises(StorageError, match="No such file"):
        spool.open("a")


@pytest.mark.parametrize("name", ["", "..", ".draft-a", "a/b", "a\n", "a" * 201, "/etc/passwd"])
def test_names_stay_inside_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name for an upload"):
        Spool(tmp_path).writer(name)
