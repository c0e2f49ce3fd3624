"""A key and the state it serves with belong together: a key that comes back without it is refused.

The state directory holds what must not be repeated: which rounds a site's vector left in, which
requests it answered, the newest head of each ledger. A key restored from its backup on an empty
directory, or beside an older copy of another one, would take part as if nothing had been. So the
first start draws a name for the state, keeps it there, and notes it in the key file, where every
later backup takes it along. A key file that was backed up before knows no state; then a ledger
that holds charges of which the state remembers nothing tells the same.

A state that was copied, or brought back from a backup, has the same name. But its files are new ones:
the state notes which file its database is (`store.birth`), and a start from another one is refused
until somebody says that the directory was moved. What this cannot tell is a file that was written over
in its place by an older one, a disk that was set back as a whole, such as by a snapshot, and an
original that starts again after it was said to have moved.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from secfed.cli.report import LEDGER_GLOB
from secfed.errors import AuthenticationError, StorageError
from secfed.identity import keyfile
from secfed.secagg.record import Decisions
from secfed.store import files
from secfed.store.birth import Birth

__all__ = ["DATABASE", "bind", "check_start", "forgotten_charges", "serve_with", "state_for"]

DATABASE = "decisions.sqlite"
"""Of a state directory: where its name and all other decisions lie."""

_NAME = "state/name"
_FILES = "state/file/"
_NAME_BYTES = 32
_NAME_FORM = re.compile(rf"[0-9a-f]{{{2 * _NAME_BYTES}}}")


def check_start(key: Path, state_dir: Path, *, forgotten: Path | None = None) -> None:
    """Refuse a key that has served, where there is no state at all, before anything is made.

    Args:
        forgotten: As in `state_for`.

    Raises:
        AuthenticationError: It has, and there is none.
        KeyFileError: See `keyfile.load`.
    """
    if (state_dir / DATABASE).exists():
        return
    if keyfile.state_of(key) is not None:
        raise _refusal(key, f"{key} has served with a state that is not in {state_dir}")
    if forgotten is not None:
        raise _forgotten(key, state_dir, forgotten)


def serve_with(key: Path, state_dir: Path, decisions: Decisions, *, moved: bool = False) -> None:
    """Let a key serve with this state, and from now on with no other: `state_for`, then `bind`."""
    bind(key, state_dir, decisions, state_for(key, state_dir, decisions, moved=moved))


def state_for(
    key: Path,
    state_dir: Path,
    decisions: Decisions,
    *,
    forgotten: Path | None = None,
    moved: bool = False,
    entropy: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """The name of the state that a key may serve with, drawn at its first start; the key file stays as it is.

    Args:
        key: The key file.
        decisions: The state's store.
        forgotten: A ledger that shows that the site has taken part, though this state does not know it.
        moved: Somebody says that the directory came here whole, and that no other copy of it will serve.

    Returns:
        The state's name, 32 bytes, drawn at random and no secret.

    Raises:
        AuthenticationError: It has served, with a state that is not this one, or of which this is a copy.
        KeyFileError: See `keyfile.load`.
        StorageError: The name cannot be made durable, or is damaged.
    """
    noted, found = keyfile.state_of(key), decisions.get(_NAME)
    own = None if found is None else found.decode("ascii", errors="replace")
    if own is not None and not _NAME_FORM.fullmatch(own):
        raise StorageError(f"{state_dir / DATABASE}: the name of the state is damaged")
    if noted is not None:
        if own is None:
            raise _refusal(key, f"{key} has served with a state that is not in {state_dir}")
        if own != noted:
            raise _refusal(key, f"{key} has served with another state than the one in {state_dir}")
    elif own is None:
        if forgotten is not None:
            raise _forgotten(key, state_dir, forgotten)
        own = entropy(_NAME_BYTES).hex()
        decisions.put(_NAME, own.encode("ascii"))
    if not moved and _is_original(state_dir, decisions) is False:
        raise AuthenticationError(
            f"{state_dir} is a copy of the state that {key} serves with",
            hint="Start where the original is. If it was moved here whole, and no other copy will ever "
            "start, say so once: --state-moved. If the original is lost, never restore it from a backup: "
            f"`secfed keys rotate {key}`, and have the new key enrolled (`secfed enroll --rotate`).",
        )
    return bytes.fromhex(own)


def _is_original(state_dir: Path, decisions: Decisions) -> bool | None:
    """Whether the database is the file that was noted last; None if none was."""
    noted = decisions.scan(_FILES)
    try:
        return _birth(state_dir).same(Birth.read(noted[-1][1].decode("ascii", errors="replace")))
    except (IndexError, ValueError):
        return False if noted else None


def _birth(state_dir: Path) -> Birth:
    database = state_dir / DATABASE
    with files.storage_errors(database):
        return Birth.of(database)


def _note_file(state_dir: Path, decisions: Decisions) -> None:
    if not _is_original(state_dir, decisions):
        number = len(decisions.scan(_FILES))  # a decision stands for good: a move is one more
        decisions.put(f"{_FILES}{number:08d}", str(_birth(state_dir)).encode("ascii"))


def bind(key: Path, state_dir: Path, decisions: Decisions, state: bytes) -> None:
    """Note in the key file that the key serves with this state, and in the state which file it is.

    Call it once all else that a start can fail by is checked, since it is for good, and before the key
    takes part in anything.

    Args:
        decisions: The state's store.
        state: What `state_for` returned.

    Raises:
        AuthenticationError: The key file names another state by now.
        KeyFileError: See `keyfile.name_state`.
        StorageError: The note cannot be made durable.
    """
    _note_file(state_dir, decisions)
    noted = keyfile.state_of(key)
    if noted is None:
        keyfile.name_state(key, state.hex())
    elif noted != state.hex():
        raise _refusal(key, f"{key} has served with another state than the one in {state_dir}")


def forgotten_charges(ledger_dir: Path, known: Callable[[str], object | None]) -> Path | None:
    """A ledger with entries beyond its opening, of which the state has noted no head; None if there is none.

    Args:
        known: The head that the state noted of a ledger, by its file's name.

    Raises:
        StorageError: A ledger cannot be read.
    """
    with files.storage_errors(ledger_dir):
        for path in sorted(ledger_dir.glob(LEDGER_GLOB)):
            with path.open("rb") as file:
                opened, more = file.readline(), file.readline()
            if opened and more and known(path.name) is None:
                return path
    return None


def _forgotten(key: Path, state_dir: Path, ledger: Path) -> AuthenticationError:
    return _refusal(key, f"{ledger} holds charges, and the state in {state_dir} knows of none")


def _refusal(key: Path, cause: str) -> AuthenticationError:
    return AuthenticationError(
        cause,
        hint="Name the right `state_dir`. If the state is lost, never restore it from a backup: "
        f"`secfed keys rotate {key}`, and have the new key enrolled (`secfed enroll --rotate`).",
    )
