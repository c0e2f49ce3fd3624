"""Write-once decisions, durable before they are acted on.

A decision is a key and the exact bytes that were decided under it. Writing the same bytes
again is fine (a restart asks the identical thing); other bytes are refused for good, unless the
owner forgets what a later decision has made pointless. SQLite
in WAL mode with synchronous=FULL syncs every commit before `put` returns. SQLite does not notice
a byte that changed within a value, so each row carries a digest, checked at opening and whenever
the row is read. A lock file beside the database turns a second process away, because two
processes could each hold the other's premise for true.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from secfed.errors import DecisionConflictError, StorageError
from secfed.store.files import (
    PRIVATE_MODE,
    Barrier,
    Lock,
    no_barrier,
    refuse_shared,
    storage_errors,
    sync_directory,
)

__all__ = ["DecisionStore"]

_FORMAT = 2
"""`user_version` of the database: which tables it holds."""

_SCHEMA = f"""
BEGIN;
CREATE TABLE decision (key TEXT PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL) STRICT, WITHOUT ROWID;
PRAGMA user_version = {_FORMAT};
COMMIT;
"""

_KEY = re.compile(r"[!-~]{1,400}")
"""Printable ASCII without spaces, so that a key reads the same in a log, and sorts as its bytes."""

_MAX_VALUE_BYTES = 64 << 20
"""Far above a signed manifest of 10 000 members, and below what SQLite holds."""

_REMEDY = (
    "Check the disk. If the file is damaged, never restore a state from a backup: what was decided since "
    "would be decided again. Rotate the key (`secfed keys rotate`), see keys/README.md."
)
"""An older copy is as whole as the lost file, and has forgotten the newest decisions."""


class DecisionStore:
    """An open store of decisions; calls may come from several threads of one process.

    Args:
        path: The database file, created (0600) if it is missing; its directory exists.
        barrier: See the package.

    Raises:
        StorageError: The file is damaged, emptied, of another format, or cannot be used, or others may write
            to its directory and so exchange it.
        LockedError: Another process has it open.
    """

    def __init__(self, path: Path, *, barrier: Barrier = no_barrier) -> None:
        self._path = path
        self._barrier = barrier
        self._turn = threading.Lock()
        refuse_shared(path.parent)
        self._lock = Lock(path.with_name(path.name + ".lock"))
        try:
            with self._errors():
                self._create()
                self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except BaseException:
            self._lock.release()
            raise
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self.close()
            raise

    def put(self, key: str, value: bytes) -> None:
        """Decide `value` under `key`; durable when this returns. The same bytes again change nothing.

        Raises:
            DecisionConflictError: Other bytes were decided under this key.
            StorageError: It could not be made durable; the decision must not be acted on.
        """
        if not _KEY.fullmatch(key) or len(value) > _MAX_VALUE_BYTES:
            raise ValueError(f"no decision: key of {len(key)} characters, value of {len(value)} bytes")
        with self._turn, self._errors():
            self._barrier(f"before:decide {key}")
            with self._transaction():
                known = self._read(key)
                if known is None:
                    row = (key, value, _digest(key, value))
                    self._database.execute("INSERT INTO decision VALUES (?, ?, ?)", row)
                elif known != value:
                    raise DecisionConflictError(f"{self._path}: {key} was already decided differently")
            self._barrier(f"after:decide {key}")

    def forget(self, key: str) -> None:
        """Drop a decision that nothing depends on any more; durable on return, and one that is gone is fine.

        Only for bulk that a later decision has made pointless: a forgotten key could be decided again.

        Raises:
            StorageError: It could not be made durable; nothing is lost by trying again.
        """
        with self._turn, self._errors():
            self._barrier(f"before:forget {key}")
            with self._transaction():
                self._database.execute("DELETE FROM decision WHERE key = ?", (key,))
            self._barrier(f"after:forget {key}")

    def get(self, key: str) -> bytes | None:
        """What was decided under `key`, or None.

        Raises:
            StorageError: It was changed on disk, or cannot be read; the same goes for `scan`.
        """
        with self._turn, self._errors():
            return self._read(key)

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """All decisions whose key begins with `prefix`, in the order of their keys."""
        with self._turn, self._errors():
            rows = self._database.execute(
                "SELECT key, value, digest FROM decision WHERE key >= ? AND key < ? ORDER BY key",
                (prefix, prefix + "\x7f"),  # above every character of a key
            )
            return [self._sound(*row) for row in rows]

    def _read(self, key: str) -> bytes | None:
        query = "SELECT key, value, digest FROM decision WHERE key = ?"
        row = self._database.execute(query, (key,)).fetchone()
        return None if row is None else self._sound(*row)[1]

    def _sound(self, key: str, value: bytes, digest: bytes) -> tuple[str, bytes]:
        """A row that is as it was written."""
        if _digest(key, value) != digest:
            raise self._damaged("is damaged: a decision in it was changed")
        return key, value

    def close(self) -> None:
        """Release the database and its lock; a second call does nothing."""
        with self._turn:
            self._database.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _create(self) -> None:
        """Make a missing file whole and at once, so that one without its table was damaged and is not new."""
        if self._path.exists():
            return
        draft = self._path.with_name(f".{self._path.name}.new")
        with storage_errors(self._path):
            draft.unlink(missing_ok=True)  # a crash left it
            draft.touch(mode=PRIVATE_MODE)
            with closing(sqlite3.connect(draft, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = FULL")
                database.executescript(_SCHEMA)
            draft.rename(self._path)
        sync_directory(self._path.parent)

    def _prepare(self) -> None:
        """Set what durability needs, and check what is there."""
        if self._path.stat().st_size == 0:  # to SQLite, a new database: all that was decided would be undone
            raise self._damaged("is empty: what was decided in it is gone")
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        mode = self._database.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        self._database.execute("PRAGMA synchronous = FULL")
        if mode != "wal":
            raise StorageError(f"{self._path}: this file system cannot hold a write-ahead log (mode {mode})")
        verdict = self._database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise self._damaged(f"is damaged: {verdict}")
        found = self._database.execute("PRAGMA user_version").fetchone()[0]
        if found != _FORMAT:
            raise self._damaged(f"has format {found}; this program knows {_FORMAT}")
        for row in self._database.execute("SELECT key, value, digest FROM decision"):
            self._sound(*row)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit at the end, roll back on any error."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Name the file in every error of the database."""
        try:
            yield
        except sqlite3.Error as problem:
            raise StorageError(f"{self._path}: {problem}", hint=_REMEDY) from problem

    def _damaged(self, how: str) -> StorageError:
        return StorageError(f"{self._path} {how}", hint=_REMEDY)


def _digest(key: str, value: bytes) -> bytes:
    """Of a row; a key holds no zero byte."""
    return hashlib.sha256(key.encode() + b"\0" + value).digest()
