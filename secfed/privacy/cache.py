"""Figures that were worked out before, kept on disk: a convenience for questions, never for decisions.

An entry holds its whole question (every number that the figure depends on, and the versions of
what worked it out), so an entry answers this question or none; another version finds nothing.
Whatever is not exactly what was written (damaged, cut, another question's, another user's) is as
good as absent, and so is a directory that cannot be written. Who may write as this user could
still plant a figure: so neither a site's policy nor its gate is ever given a cache.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from secfed.errors import StorageError
from secfed.store import files, jsontext
from secfed.store.jsontext import Json

__all__ = ["FigureCache", "Question"]

Question: TypeAlias = Mapping[str, Json]
"""All that a figure depends on, as whole numbers and text."""

_ENTRY_MAX_BYTES = 1 << 20
"""No entry is longer: a bound before it is read."""


class FigureCache:
    """A directory of figures, one file each, named by the digest of its question.

    Args:
        directory: Made on first use, for this user alone.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, question: Question) -> float | None:
        """The figure that was kept for exactly this question; None if there is none, or it is in doubt."""
        try:
            entry = jsontext.parse(_own_bytes(self._path(question)))
            figure = entry.get("epsilon") if isinstance(entry, Mapping) else None
            if not isinstance(figure, str) or jsontext.compact(entry) != _written(question, figure):
                return None
            value = float(figure)
        except (OSError, ValueError):
            return None
        return value if math.isfinite(value) else None

    def write(self, question: Question, epsilon: float) -> None:
        """Keep a figure, at once or not at all; where that fails nothing is lost but time."""
        path = self._path(question)
        try:
            files.make_directory(self._directory)
            files.replace(path, _written(question, repr(float(epsilon))))
        except StorageError:
            return

    def _path(self, question: Question) -> Path:
        return self._directory / f"{_sha256(question)}.json"


def _written(question: Question, figure: str) -> bytes:
    """The one text of an entry."""
    body: dict[str, Json] = {"question": question, "epsilon": figure}
    return jsontext.compact(body | {"sha256": _sha256(body)})


def _sha256(value: Json) -> str:
    return hashlib.sha256(jsontext.compact(value)).hexdigest()


def _own_bytes(path: Path) -> bytes:
    """The content of a plain file that only this user may write.

    Raises:
        OSError: There is none.
        ValueError: It is something else, or too long.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        others = stat.S_IWGRP | stat.S_IWOTH
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & others:
            raise ValueError("not this user's own file")
        data = file.read(_ENTRY_MAX_BYTES + 1)
    if len(data) > _ENTRY_MAX_BYTES:
        raise ValueError("too long")
    return data
