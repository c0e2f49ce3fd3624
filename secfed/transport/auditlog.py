"""The daemon's audit log: who asked for what, when, from where, and how it went.

JSON lines, hash-chained and signed (`store.journal`). Entries of one kind within a short while
become one entry with a count, so neither waiting clients nor a flood of refusals can fill the
disk; a refusal's kind is its class, since its text may be another one each time, but never another
member's, and a command's is the command with its job. A log that cannot
be written stops the daemon: nothing is accepted that leaves no trace. Connections, which cost a
stranger nothing, wait for the next other entry or a minute. A signed note beside it
(`store.checkpoint`) spares a restart the entries of years, and shows a tail that was cut off.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from secfed.crypto import signing
from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.errors import AuditLogError
from secfed.identity.fields import write_time
from secfed.ids import Digest
from secfed.limits import AUDIT_KINDS_EACH_MAX, AUDIT_KINDS_MAX
from secfed.store import journal
from secfed.store.chain import EMPTY, Entry, Head
from secfed.store.checkpoint import Checkpoint
from secfed.store.journal import ChainReport, Journal

__all__ = ["NOBODY", "UNHURRIED_S", "AuditLog", "log_file", "verify"]

NOBODY = "-"
"""In the place of a name: who is in no roster here."""

UNHURRIED_S = 60
"""Longest wait of an entry that need not be written by itself: a flood of them is a line a minute."""


def log_file(state_dir: Path, key: SigningKey) -> Path:
    """Where a daemon with this key keeps its log; after a rotation the old one stays as it was."""
    return state_dir / f"audit-{key.public[:8].hex()}.jsonl"


@dataclass(frozen=True, slots=True)
class _Kind:
    who: str
    what: str
    about: str
    outcome: str
    where: str
    hurried: bool


@dataclass(slots=True)
class _Several:
    """What is written of all entries of a kind: when the first came and its text, and how many."""

    first: datetime
    text: str
    count: int = 1


class AuditLog:
    """Collects entries and writes them when told to; `add` may come from any thread.

    Args:
        path: The journal's file.
        key: The daemon's signing key.
        now: Wall-clock time.

    Raises:
        AuditLogError: The file is damaged or cannot be used.
        LockedError: Another process writes it.
    """

    def __init__(self, path: Path, key: SigningKey, now: Callable[[], datetime]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._pending: dict[_Kind, _Several] = {}
        self._kinds: Counter[str] = Counter()

        def sign(text: bytes) -> bytes:
            return key.sign(_signed(text))

        def verify(text: bytes, signature: bytes) -> bool:
            return signing.verify(key.public, _signed(text), signature)

        self._checkpoint = Checkpoint(
            path,
            signer=lambda text: key.sign(_noted(text)),
            verifier=lambda text, signature: signing.verify(key.public, _noted(text), signature),
            error=AuditLogError,
        )
        self._journal = Journal(
            path,
            digest=_line_digest,
            signer=sign,
            verifier=verify,
            expect=self._checkpoint.expected,
            verified=self._checkpoint.verified,
            error=AuditLogError,
        )
        self._checkpoint.save(self._journal.sound)

    def add(
        self,
        *,
        who: str,
        what: str,
        outcome: str,
        where: str,
        about: str = "",
        text: str = "",
        hurried: bool = True,
    ) -> None:
        """Enter something that happened.

        Args:
            who: The member, or `NOBODY`.
            what: The call.
            about: What it was about, such as a command and its job: part of the kind.
            outcome: `ok`, or the refusal's class.
            where: The other side's address.
            text: The refusal's; of several of one kind the first one's stands for all.
            hurried: False for what waits up to `UNHURRIED_S` for company.
        """
        kind = _Kind(who, what, about, outcome, where, hurried)
        with self._lock:
            full = len(self._pending) >= AUDIT_KINDS_MAX or self._kinds[who] >= AUDIT_KINDS_EACH_MAX
            if full and kind not in self._pending:
                kind = _Kind(who, what, "", "many", "-", hurried)
            if kind in self._pending:
                self._pending[kind].count += 1
            else:
                self._pending[kind] = _Several(self._now(), text)
                self._kinds[who] += 1

    def flush(self, *, everything: bool = False) -> None:
        """Write what was collected, unless all of it may wait; durable on return. One thread at a time.

        Raises:
            AuditLogError: It cannot be written.
        """
        with self._lock:
            if not everything and not self._due():
                return
            pending, self._pending = self._pending, {}
            self._kinds.clear()
        for kind, several in pending.items():
            self._journal.append(
                {
                    "at": write_time(several.first),
                    "who": kind.who,
                    "what": f"{kind.what} {kind.about}" if kind.about else kind.what,
                    "outcome": f"{kind.outcome}: {several.text}" if several.text else kind.outcome,
                    "from": kind.where,
                    "count": several.count,
                }
            )
        if pending:
            self._checkpoint.save(self._journal.sound)

    def close(self) -> None:
        """Write the rest and release the file."""
        try:
            self.flush(everything=True)
        finally:
            self._journal.close()

    def _due(self) -> bool:
        """Whether anything collected may not, or not any longer, wait."""
        latest = self._now() - timedelta(seconds=UNHURRIED_S)
        return any(kind.hurried or several.first <= latest for kind, several in self._pending.items())


def verify(
    path: Path,
    public: bytes,
    *,
    expect: Head | None = None,
    each: Callable[[Entry], None] = lambda _entry: None,
) -> tuple[ChainReport, Head]:
    """Judge a log without changing or locking it; its daemon may be writing it.

    Args:
        public: The daemon's public signing key, 32 bytes.
        expect: A head known elsewhere, in the place of the signed note beside the log.
        each: Given every sound entry in its order.

    Returns:
        The verdict, and the head that was expected; an empty one if there was nothing to expect.

    Raises:
        AuditLogError: The note beside it is not signed by that key.
        StorageError: The file cannot be read.
    """
    note = Checkpoint(
        path,
        signer=_verifies_only,
        verifier=lambda text, signature: signing.verify(public, _noted(text), signature),
        error=AuditLogError,
    )
    known = note.expected if expect is None else expect
    report = journal.verify(
        path,
        digest=_line_digest,
        verifier=lambda text, signature: signing.verify(public, _signed(text), signature),
        expect=None if known == EMPTY else known,
        each=each,
    )
    return report, known


def _verifies_only(_text: bytes) -> bytes:
    raise AssertionError("who verifies a log signs nothing")


def _line_digest(line: bytes) -> Digest:
    return digest(Label.JOURNAL_ENTRY, line)


def _signed(line: bytes) -> bytes:
    """What an entry's signature covers."""
    return digest(Label.SIGN_AUDIT, line)


def _noted(text: bytes) -> bytes:
    """What the checkpoint's signature covers."""
    return digest(Label.SIGN_AUDIT, b"checkpoint", text)
