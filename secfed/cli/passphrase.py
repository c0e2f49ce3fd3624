"""Ask for passphrases: by prompt, from a file or from a descriptor; never from argv or the environment."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from secfed.errors import ConfigError, KeyPermissionsError, PassphraseError

__all__ = ["Descriptor", "NoPassphrase", "PassphraseFile", "Source", "source"]

PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="Read the passphrase from this file's first line (mode 0600)."),
]
Descriptor = Annotated[
    int | None, typer.Option("--passphrase-fd", help="Read the passphrase from this open file descriptor.")
]
NoPassphrase = Annotated[
    bool, typer.Option("--no-passphrase", help="Leave the private keys unencrypted on disk. Not advised.")
]

_MAX_BYTES = 4096
"""More than any passphrase; a bound before memory is taken."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a command's passphrases come from."""

    file: Path | None
    descriptor: int | None
    none: bool

    def for_new(self, what: str) -> str | None:
        """The passphrase that will encrypt new keys; asked for twice on a terminal."""
        if self.none:
            typer.echo(
                f"warning: no passphrase for {what}: whoever reads the disk or a backup can act as its owner",
                err=True,
            )
            return None
        given = self._given()
        if given is not None:
            return given
        chosen: str = typer.prompt(
            f"Passphrase for {what}", hide_input=True, confirmation_prompt=True, err=True
        )
        return chosen

    def for_existing(self, path: Path) -> str | None:
        """The passphrase of a key file; None for one that is not encrypted."""
        if self.none or not _is_encrypted(path):
            return None
        given = self._given()
        if given is not None:
            return given
        if not sys.stdin.isatty():
            raise PassphraseError(f"{path} is encrypted, and there is no terminal to ask at")
        answer: str = typer.prompt(f"Passphrase for {path.name}", hide_input=True, err=True)
        return answer

    def _given(self) -> str | None:
        if self.descriptor is not None:
            with os.fdopen(os.dup(self.descriptor), "rb") as stream:
                return _first_line(stream.read(_MAX_BYTES), f"descriptor {self.descriptor}")
        if self.file is not None:
            return _read(self.file)
        return None


def source(file: Path | None, descriptor: int | None, none: bool = False) -> Source:
    """Build a source from a command's options.

    Raises:
        ConfigError: More than one of them was given.
    """
    if sum((file is not None, descriptor is not None, none)) > 1:
        raise ConfigError("give only one of --passphrase-file, --passphrase-fd and --no-passphrase")
    return Source(file, descriptor, none)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if mode & 0o077:
                raise KeyPermissionsError(
                    f"{path} can be read by others than its owner (mode {mode:04o})", hint=f"chmod 600 {path}"
                )
            return _first_line(stream.read(_MAX_BYTES), str(path))
    except OSError as problem:
        raise PassphraseError(f"{path}: {problem.strerror}") from problem


def _first_line(data: bytes, what: str) -> str:
    line = data.split(b"\n", 1)[0].decode("utf-8", errors="strict") if data else ""
    if not line:
        raise PassphraseError(f"{what} holds no passphrase")
    return line


def _is_encrypted(path: Path) -> bool:
    """Whether a key file's blocks say so; a missing file is the loader's to report."""
    try:
        return b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
    except OSError:
        return True
