"""Files of rows that a command is given by name, without a site's configuration around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secfed.training.data import Table
    from secfed.training.rows import Format

__all__ = ["load_rows", "require_rows"]


def require_rows(path: Path, remedy: str) -> None:
    """Refuse a file that cannot be one of rows, before the library that reads it is loaded: seconds.

    Raises:
        DataError: See `reader_of`.
    """
    from secfed.errors import DataError
    from secfed.training.rowfile import reader_of

    try:
        reader_of(path)
    except DataError as problem:
        raise DataError(str(problem), hint=remedy) from problem


def load_rows(
    path: Path,
    formats: Sequence[Format],
    *,
    scratch: Path,
    remedy: str,
    columns: Mapping[str, str] | None = None,
    unit: str | None = None,
) -> Table:
    """`secfed.training.data.load`, with a remedy that does not speak of a site's configuration.

    Args:
        remedy: What to do about a file that does not fit, where the error itself says nothing better.
        unit: The column that names the person; None: every row stands alone.

    Raises:
        DataError: See `load`.
    """
    require_rows(path, remedy)

    from secfed.errors import DataError
    from secfed.training.data import RECORD, load

    try:
        return load(path, formats, scratch=scratch, columns=columns, unit=RECORD if unit is None else unit)
    except DataError as problem:
        better = remedy if problem.hint == DataError.hint else problem.hint
        raise DataError(str(problem), hint=better) from problem
