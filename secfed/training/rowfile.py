"""Whether a file of rows can be one at all, told before any library that reads it is loaded."""

from __future__ import annotations

from pathlib import Path

from secfed.errors import DataError

__all__ = ["reader_of"]

_READERS = {".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def reader_of(path: Path) -> str:
    """What `datasets` calls the reader of files of this kind; the file is there and holds something.

    Raises:
        DataError: No such file, an empty one, or another format.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"{path}: not a .jsonl, .csv or .parquet file")
    if not path.is_file() or path.stat().st_size == 0:
        raise DataError(f"{path}: no such file, or it is empty")
    return reader
