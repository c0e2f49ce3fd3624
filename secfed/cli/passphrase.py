"""Ask for passphrases: by prompt, from a file or from a descriptor; never from argv or the environment."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated

import typer

from secfed.errors import ConfigError, KeyPermissionsError, PassphraseError

__all__ = ["Descriptor", "NoPassphrase", "PassphraseFile", "Source", "source"]

PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="Read the passphrase from this file's first line (mode 0600)."),
]
Descriptor = Annotated[
    int | None,
    typer.Option("--passphrase-fd", min=0, help="Read the passphrase from this open file descriptor."),
]
NoPassphrase = Annotated[
    bool, typer.Option("--no-passphrase", help="Leave the private keys unencrypted on disk. Not advised.")
]

_MAX_BYTES = 4096
"""More than any passphrase; a bound before memory is taken."""


@dataclass(slots=True)
class Source:
    """Where a command's passphrases come from.

    Attributes:
        file: To read; only its owner may.
        descriptor: To read, once: a pipe gives its content only once, and a command may need it twice.
        none: New keys are left unencrypted; says nothing about keys that are there.
    """

    file: Path | None
    descriptor: int | None
    none: bool
    _known: str | None = field(default=None, init=False, repr=False)

    def for_new(self, what: str) -> str | None:
        """The passphrase that will encrypt new keys; asked for twice on a terminal.

        Raises:
            PassphraseError: There is nobody to ask, or nothing to read.
            KeyPermissionsError: Others may read the passphrase file.
        """
        if self.none:
            typer.echo(
                f"warning: no passphrase for {what}: whoever reads the disk or a backup can act as its owner",
                err=True,
            )
            return None
        given = self._given()
        if given is not None:
            return given
        if not _at_terminal():
            raise PassphraseError(
                f"{what}: no passphrase was given, and there is no terminal to ask at",
                hint="Give --passphrase-file FILE, or --no-passphrase to leave the keys unencrypted.",
            )
        chosen: str = typer.prompt(
            f"New passphrase for {what}", hide_input=True, confirmation_prompt=True, err=True
        )
        return chosen

    def for_existing(self, path: Path) -> str | None:
        """The passphrase of a key file; None for one that is not encrypted. Errors as `for_new`."""
        if not _is_encrypted(path):
            return None
        given = self._given()
        if given is not None:
            return given
        if not _at_terminal():
            raise PassphraseError(f"{path} is encrypted, and there is no terminal to ask at")
        answer: str = typer.prompt(f"Passphrase for {path.name}", hide_input=True, err=True)
        return answer

    def _given(self) -> str | None:
        """What the options name, read once; None if they name nothing."""
        if self._known is None and self.descriptor is not None:
            self._known = _from_descriptor(self.descriptor)
        elif self._known is None and self.file is not None:
            self._known = _from_file(self.file)
        return self._known


def source(file: Path | None, descriptor: int | None, none: bool = False) -> Source:
    """Build a source from a command's options.

    Raises:
        ConfigError: More than one of them was given.
    """
    if sum((file is not None, descriptor is not None, none)) > 1:
        raise ConfigError("give only one of --passphrase-file, --passphrase-fd and --no-passphrase")
    return Source(file, descriptor, none)


def _from_file(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise KeyPermissionsError(
                    f"{path} can be used by others than its owner (mode {mode:04o})",
                    hint=f"chmod 600 {shlex.quote(str(path))}",
                )
            return _first_line(stream, str(path))
    except OSError as problem:
        raise PassphraseError(f"{path}: {problem.strerror}") from problem


def _from_descriptor(descriptor: int) -> str:
    what = f"descriptor {descriptor}"
    try:
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            return _first_line(stream, what)
    except OSError as problem:
        raise PassphraseError(f"{what}: {problem.strerror}") from problem


def _first_line(stream: IO[bytes], what: str) -> str:
    """The first line without its end; whatever follows is not looked at."""
    line = stream.readline(_MAX_BYTES + 1)
    if len(line) > _MAX_BYTES:
        raise PassphraseError(f"{what}: the first line is longer than {_MAX_BYTES} bytes")
    try:
        text = line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as problem:
        raise PassphraseError(f"{what}: the passphrase is not UTF-8") from problem
    if not text:
        raise PassphraseError(f"{what} holds no passphrase")
    return text


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _is_encrypted(path: Path) -> bool:
    """Whether a key file's blocks say so; a file that cannot be read is the loader's to report."""
    try:
        return b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
    except OSError:
        return False
