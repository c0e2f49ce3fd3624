"""Durable files: created exclusively or replaced at once, synced with their directory.

A file's content is safe after `fsync` of the file, its name only after `fsync` of the
directory; everything here does both. Operating system errors become `StorageError`s that
name the file. Nothing here knows what a file means.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Self

from secfed.errors import LockedError, StorageError

__all__ = [
    "PRIVATE_MODE",
    "PUBLIC_MODE",
    "Barrier",
    "Lock",
    "create_exclusive",
    "make_directory",
    "no_barrier",
    "open_regular",
    "private_directory",
    "read_small",
    "refuse_shared",
    "remove",
    "replace",
    "replace_pieces",
    "storage_errors",
    "sync_directory",
    "take_lock",
    "write_all",
]

Barrier = Callable[[str], None]
"""Called around each durable effect, as `before:<what>` and `after:<what>`."""

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644

_DIRECTORY_MODE = 0o700

_DISK = (
    "Check the disk that holds the file: its room, how it is mounted, and whether its owner may write there."
)


def no_barrier(_what: str) -> None:
    """The barrier of production: nothing happens between one step and the next."""


def open_regular(path: Path) -> BufferedReader:
    """Open a file that came from elsewhere for reading, if it is one.

    Raises:
        OSError: It cannot be opened, or is no regular file: a pipe in its place would be waited for for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_small(path: Path, most_bytes: int) -> bytes:
    """A file that came from elsewhere: no more of it than its reader takes, and one byte that shows it.

    Raises:
        OSError: As `open_regular`.
    """
    with open_regular(path) as file:
        return file.read(most_bytes + 1)


@contextmanager
def storage_errors(path: Path, error: type[StorageError] = StorageError) -> Iterator[None]:
    """Turn an `OSError` into a `StorageError` that names the file and the system's reason."""
    try:
        yield
    except OSError as problem:
        raise error(f"{path}: {problem.strerror or problem}", hint=_DISK) from problem


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    with storage_errors(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Create a directory and its missing parents, durable and 0700; an existing one is left as it is."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    with storage_errors(directory):
        directory.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
    sync_directory(directory.parent)


def private_directory(directory: Path) -> None:
    """As `make_directory`, for what is nobody else's: an existing one must be its owner's alone.

    Raises:
        StorageError: Others may look into it or write to it; the remedy is named. Nothing is changed, since
            somebody may share it on purpose.
    """
    make_directory(directory)
    refuse_shared(directory, stat.S_IRWXG | stat.S_IRWXO)


def refuse_shared(directory: Path, forbidden: int = stat.S_IWGRP | stat.S_IWOTH) -> None:
    """Refuse a directory that others may use in any of these ways, to write to it if nothing else is said.

    Whoever may write to a directory can put another file in the place of one that they cannot read.

    Raises:
        StorageError: They may; the remedy is named.
    """
    with storage_errors(directory):
        mode = directory.stat().st_mode
    if mode & forbidden:
        raise StorageError(
            f"{directory} can be used by others than its owner (mode {stat.S_IMODE(mode):04o})",
            hint=f"chmod 700 {shlex.quote(str(directory))}",
        )


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all bytes; the system may take them in pieces."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def create_exclusive(
    path: Path, data: bytes, *, mode: int = PRIVATE_MODE, barrier: Barrier = no_barrier
) -> None:
    """Write a new file, durable on return; an existing one is never touched.

    Raises:
        StorageError: The file exists, or cannot be written; what was begun is removed.
    """
    with storage_errors(path):
        barrier("before:create")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
    sync_directory(path.parent)
    barrier("after:create")


def replace(path: Path, data: bytes, *, mode: int = PRIVATE_MODE, barrier: Barrier = no_barrier) -> None:
    """Write a file so that readers, and a restart, see the old content or the new, never a part.

    Raises:
        StorageError: The file cannot be written; the old content stands.
    """
    replace_pieces(path, [data], mode=mode, barrier=barrier)


def replace_pieces(
    path: Path,
    pieces: Iterable[bytes | memoryview],
    *,
    mode: int = PRIVATE_MODE,
    barrier: Barrier = no_barrier,
) -> None:
    """As `replace`, for content that is never whole in memory."""
    draft = path.with_name(f".{path.name}.new")
    with storage_errors(path):
        barrier("before:replace")
        draft.unlink(
            missing_ok=True
        )  # a crash left it, or somebody planted it: its mode and target are not ours
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(draft, flags, mode)
        try:
            for piece in pieces:
                write_all(descriptor, piece)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        barrier("before:rename")
        draft.rename(path)
    sync_directory(path.parent)
    barrier("after:replace")


def remove(path: Path, *, barrier: Barrier = no_barrier) -> None:
    """Remove a file durably; one that is already gone is no error."""
    with storage_errors(path):
        barrier("before:remove")
        path.unlink(missing_ok=True)
    sync_directory(path.parent)
    barrier("after:remove")


class Lock:
    """An exclusive hold on one file, for this open file alone; the system drops it when the process ends.

    Args:
        path: The lock file, created if missing and never removed.

    Raises:
        LockedError: Another process, or another object of this one, holds it.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            take_lock(descriptor, path)
        except StorageError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the hold back; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def take_lock(descriptor: int, path: Path) -> None:
    """Lock an open file without waiting.

    Raises:
        LockedError: Somebody else holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        raise LockedError(f"{path} is in use by another process") from problem
    except OSError as problem:
        raise StorageError(f"{path} cannot be locked: {problem.strerror}") from problem
