"""Uploads on disk: begun under a draft name, there under their own only when whole and synced.

An upload stays until its sum is safe elsewhere and somebody discards it. Drafts that a crash
left behind were never acknowledged and are removed at the next start. The caller holds its
state directory's lock: a spool is for one process, one writer a name.
"""

from __future__ import annotations

import errno
import os
import re
from io import BufferedIOBase
from pathlib import Path
from types import TracebackType
from typing import Self

from secfed.errors import LostUploadError, StorageError
from secfed.store.files import (
    PRIVATE_MODE,
    Barrier,
    no_barrier,
    private_directory,
    remove,
    storage_errors,
    sync_directory,
    write_all,
)

__all__ = ["Spool", "SpoolWriter"]

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
"""What is safe as a file name; a leading dot is kept for drafts."""

_DRAFT_PREFIX = ".draft-"


class SpoolWriter:
    """One upload being written; nothing of it is visible before `commit`."""

    def __init__(
        self, directory: Path, name: str, reserve_bytes: int, barrier: Barrier, writing: set[str]
    ) -> None:
        self._target = directory / name
        self._draft = directory / (_DRAFT_PREFIX + name)
        self._barrier = barrier
        self._size_bytes, self._reserved_bytes = 0, reserve_bytes
        with storage_errors(self._target):
            self._draft.unlink(missing_ok=True)  # one that could not be removed when it was given up
            self._file = os.open(
                self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE
            )
            try:
                _reserve(self._file, reserve_bytes)
            except OSError:
                os.close(self._file)
                self._draft.unlink(missing_ok=True)
                raise
        self._writing = writing
        writing.add(name)

    @property
    def size_bytes(self) -> int:
        """How much was written so far."""
        return self._size_bytes

    def write(self, chunk: bytes | memoryview) -> None:
        """Append a chunk; not durable before `commit`.

        Raises:
            StorageError: The disk refuses it; abort the upload.
        """
        with storage_errors(self._target):
            write_all(self._file, chunk)
        self._size_bytes += len(chunk)

    def commit(self) -> None:
        """Make the whole upload durable under its name; only now may it be acknowledged.

        Raises:
            StorageError: It could not be synced, or the name was taken meanwhile; abort it.
        """
        with storage_errors(self._target):
            self._barrier(f"before:commit {self._target.name}")
            if self._size_bytes < self._reserved_bytes:
                os.ftruncate(self._file, self._size_bytes)
            os.fsync(self._file)
            if self._target.exists():
                raise StorageError(f"{self._target} was already uploaded")
            self._draft.rename(self._target)
            sync_directory(self._target.parent)
            self._release()
            self._barrier(f"after:commit {self._target.name}")

    def abort(self) -> None:
        """Drop what was written; after `commit` or a second time it does nothing."""
        if self._file < 0:
            return
        with storage_errors(self._target):
            try:
                self._draft.unlink(missing_ok=True)
            finally:
                self._release()

    def _release(self) -> None:
        self._writing.discard(self._target.name)
        os.close(self._file)
        self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class Spool:
    """A directory of whole uploads.

    Args:
        directory: Created (0700) if missing; drafts of an earlier run in it are removed.
        barrier: See the package.

    Raises:
        StorageError: The directory cannot be used.
    """

    def __init__(self, directory: Path, *, barrier: Barrier = no_barrier) -> None:
        self._directory = directory
        self._barrier = barrier
        self._writing: set[str] = set()
        private_directory(directory)
        with storage_errors(directory):
            for draft in directory.glob(_DRAFT_PREFIX + "*"):
                draft.unlink()

    def writer(self, name: str, *, reserve_bytes: int = 0) -> SpoolWriter:
        """Begin an upload; use it as a context, which aborts what was not committed.

        Args:
            reserve_bytes: Its size, if that is known: the disk sets so much aside at once.

        Raises:
            StorageError: The name is taken, by an upload or by one being written, or the disk is full.
        """
        path = self._path(name)
        if path.exists():
            raise StorageError(f"{path} was already uploaded")
        if name in self._writing:
            raise StorageError(f"{path} is being uploaded")
        return SpoolWriter(self._directory, name, reserve_bytes, self._barrier, self._writing)

    def open(self, name: str) -> BufferedIOBase:
        """Open a whole upload for reading; the caller closes it.

        Raises:
            LostUploadError: There is none of this name.
            StorageError: It cannot be opened, for now or for good.
        """
        path = self._path(name)
        with storage_errors(path):
            try:
                return path.open("rb")
            except FileNotFoundError as problem:
                raise LostUploadError(f"{path}: {problem.strerror}") from problem

    def discard(self, name: str) -> None:
        """Remove an upload durably; one that is gone is no error."""
        remove(self._path(name), barrier=self._barrier)

    def names(self) -> list[str]:
        """All whole uploads, sorted."""
        with storage_errors(self._directory):
            return sorted(path.name for path in self._directory.iterdir() if _NAME.fullmatch(path.name))

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for an upload")
        return self._directory / name


_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV)
"""What a file system says that knows no reservation: it does without."""


def _reserve(descriptor: int, size_bytes: int) -> None:
    """Let the disk find its blocks once and not at every piece; a full one refuses before the first."""
    if not size_bytes:
        return
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as problem:
        if problem.errno not in _CANNOT_RESERVE:
            raise
