"""A glance at a site's data file before a client starts: what no job could use is told before one asks.

Only the names of columns are looked at, and only where the file says them at its beginning: what a
job needs is its own matter, and `secfed data check` looks at every row. No value is ever shown.
"""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

from secfed.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from secfed.config import DataConfig

__all__ = ["look_at"]

_LINE_MAX = 1 << 24
"""A first line is read so far, bytes; a longer one is left to the job."""

_SHOWN = 8
"""So many of the file's own columns are named."""

_RECORD = "record"


def look_at(own: DataConfig) -> list[str]:
    """What is doubtful about a site's data, in words; a job may tell more.

    Raises:
        DataError: The file is not there, is empty, cannot be read or is of no format that is known.
    """
    from secfed.training.rowfile import reader_of
    from secfed.training.rows import FORMATS

    reader = reader_of(own.file)
    try:
        found = _columns(own.file, reader)
    except OSError as problem:
        raise DataError(f"{own.file}: {problem.strerror}", hint="Mend `file` in [data].") from None
    except (ValueError, RecursionError, csv.Error):  # the first also for what is no UTF-8
        raise DataError(f"{own.file}: its beginning cannot be read as {reader}") from None
    if found is None:
        return []
    there = {name for name, column in own.columns.items() if column in found}
    doubts = []
    if not any(all(name in there for name in form) for forms in FORMATS.values() for form in forms):
        shown = ", ".join(sorted(found)[:_SHOWN]) or "nothing"
        doubts.append(
            f"{own.file} begins with no columns that any trainer takes (it has {shown}): a job that trains "
            "will be declined; `secfed data check --trainer NAME` says what is missing"
        )
    if own.unit not in (_RECORD, *found):
        doubts.append(f"{own.file} begins without the column {own.unit!r}, which names the person")
    return doubts


def _columns(path: Path, reader: str) -> set[str] | None:
    """The names in the header or first row; None where only a large library could tell."""
    if reader == "csv":
        with path.open(newline="", encoding="utf-8") as rows:
            return set(next(csv.reader(rows), []))
    if reader != "json":
        return None
    with path.open("rb") as lines:
        line = lines.readline(_LINE_MAX)
    if len(line) == _LINE_MAX:
        return None
    first = json.loads(line)
    if not isinstance(first, dict):
        raise ValueError("not an object")
    return set(first)
