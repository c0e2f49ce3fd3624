"""The newest head that this site knows of each of its ledgers, kept outside of the ledger's own file.

A ledger's chain shows any change but a tail that was cut off, or a whole file that was exchanged for
an older copy. So after every entry its head is noted in the state directory, which no backup holds.
Each note is a small file that is replaced at once: a reader needs no lock while the client runs,
and a note that is one entry behind after a crash is still true.
"""

from __future__ import annotations

import re
from pathlib import Path

from secfed.errors import ConfigError, StorageError
from secfed.ids import NO_DIGEST, Digest
from secfed.store import files
from secfed.store.journal import Head

__all__ = ["Heads", "parse_head", "typed_head", "write_head"]

_HEAD = re.compile(rf"([0-9]{{1,18}}):([0-9a-f]{{{2 * len(NO_DIGEST)}}})")


def write_head(head: Head) -> str:
    """`ENTRIES:DIGEST`; `parse_head` gives the same head back."""
    return f"{head.count}:{head.digest.hex()}"


def parse_head(text: str) -> Head:
    """Read `ENTRIES:DIGEST`.

    Raises:
        ValueError: Another form.
    """
    found = _HEAD.fullmatch(text)
    if found is None:
        raise ValueError("expected ENTRIES:DIGEST")
    return Head(int(found[1]), Digest(bytes.fromhex(found[2])))


def typed_head(text: str | None) -> Head | None:
    """What was typed after `--head`, if anything was.

    Raises:
        ConfigError: Another form.
    """
    if text is None:
        return None
    try:
        return parse_head(text)
    except ValueError:
        raise ConfigError(f"--head is ENTRIES:DIGEST, not {text[:80]!r}") from None


class Heads:
    """One file a ledger, named as the ledger is.

    Args:
        state_dir: The site's.
    """

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "ledger-heads"

    def names(self) -> set[str]:
        """The ledgers of which a head was noted."""
        with files.storage_errors(self._directory):
            return {path.name for path in self._directory.glob("[!.]*")}

    def known(self, name: str) -> Head | None:
        """The last head that was noted, or None.

        Raises:
            StorageError: The note cannot be read.
        """
        path = self._directory / name
        with files.storage_errors(path):
            if not path.exists():
                return None
            text = path.read_text(encoding="ascii", errors="replace")
        try:
            return parse_head(text.strip())
        except ValueError as problem:
            raise StorageError(f"{path}: {problem}") from problem

    def note(self, name: str, head: Head) -> None:
        """Note a ledger's head; durable on return."""
        files.make_directory(self._directory)
        files.replace(self._directory / name, f"{write_head(head)}\n".encode())
