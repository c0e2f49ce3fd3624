"""What `secfed doctor` looks at inside a state directory that nobody uses: whether a start would take it.

A start recovers what a crash left, notes a name and signs, so it is gone through on copies. They lie in a
private folder of the state directory itself, for what is in there is nobody else's, and are removed at once.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from secfed.cli import key_state
from secfed.cli.heads import Heads
from secfed.config import AggregatorConfig, ClientConfig
from secfed.errors import SecfedError
from secfed.identity.fields import from_base64
from secfed.rounds.rosters import RosterKeeper
from secfed.store import files
from secfed.store.decisions import DecisionStore
from secfed.transport.auditlog import AuditLog

if TYPE_CHECKING:
    from secfed.identity.keyfile import MemberKeys

__all__ = ["AUDIT_LOG_MOST_BYTES", "check_key", "try_audit_log", "try_decisions"]

AUDIT_LOG_MOST_BYTES = 256 << 20
"""A longer audit log is left to the start: its copy would take more than a moment, and much of the disk."""

_WRITE_AHEAD = "-wal"
"""What SQLite adds to a database's name for the file that holds its newest commits after a crash."""


def check_key(config: AggregatorConfig | ClientConfig) -> None:
    """Refuse a key that has served, where there is no state.

    Raises:
        SecfedError: See `key_state.check_start` and `forgotten_charges`.
    """
    key_state.check_start(config.key, config.state_dir, forgotten=_forgotten(config))


def try_decisions(config: AggregatorConfig | ClientConfig, *, key: bool, roster: bool) -> None:
    """Open the decisions, and hold against them what a start does.

    Args:
        config: Its state directory exists.
        key: Hold the key file against the state.
        roster: Hold the roster's file against the pinned versions.

    Raises:
        LockedError: Somebody uses the state directory.
        SecfedError: With this a start would end.
    """
    database = config.state_dir / key_state.DATABASE
    with files.Lock(database.with_name(database.name + ".lock")):
        if not database.exists():
            return
        newest = database.with_name(database.name + _WRITE_AHEAD)
        with _copied(database, newest) as copy, DecisionStore(copy) as decisions:
            if key:
                key_state.state_for(config.key, config.state_dir, decisions, forgotten=_forgotten(config))
            if roster:
                RosterKeeper(config.roster, from_base64(config.roster_key, 32), decisions)


def try_audit_log(path: Path, keys: MemberKeys) -> None:
    """Verify an aggregator's audit log as its start does.

    Raises:
        AuditLogError: It is damaged, or its end is missing.
    """
    with _copied(path, path.with_name(f"{path.name}.head")) as copy:
        AuditLog(copy, keys.signing, lambda: datetime.now(UTC)).close()


def _forgotten(config: AggregatorConfig | ClientConfig) -> Path | None:
    if isinstance(config, AggregatorConfig):
        return None
    return key_state.forgotten_charges(config.ledger_dir, Heads(config.state_dir).known)


@contextmanager
def _copied(path: Path, companion: Path) -> Iterator[Path]:
    """A copy of a file and of the one beside it, where they are there; an error names the original."""
    with (
        files.storage_errors(path),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".doctor-") as folder,
    ):
        copy = Path(folder) / path.name
        for original in (path, companion):
            if original.exists():
                shutil.copyfile(original, copy.with_name(original.name))
        try:
            yield copy
        except SecfedError as problem:
            raise type(problem)(
                str(problem).replace(str(copy.parent), str(path.parent)), hint=problem.hint
            ) from problem
