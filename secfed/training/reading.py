"""A file of rows as columns of Python values: JSON lines, CSV or Parquet, read through `datasets`.

A first pass over a text file finds its columns, and the row of anything that is malformed, so that
`datasets` is told every column's type and guesses none (it would take a text such as 2020-01-01
for a time). The scratch folder that it wants is private and gone afterwards; nothing lands in a
cache at home, and no value of a private row is logged.
"""

from __future__ import annotations

import csv
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import datasets

from secfed.errors import DataError
from secfed.training.rowfile import reader_of

__all__ = ["read_columns"]

_WORD = 1 << 63
"""Whole numbers fit into 64 bits, as Arrow has them."""

_DIGITS_MAX = 20
"""Characters of the longest such number, its sign included."""


def read_columns(path: Path, scratch: Path) -> dict[str, list[Any]]:
    """Read a whole file.

    Args:
        path: A `.jsonl`, `.csv` or `.parquet` file, in UTF-8 where it is text.
        scratch: A folder of the site's state; a private folder inside is used and removed.

    Returns:
        Every column by its name, with one value a row. A CSV's values are texts. A value that is
        missing is None.

    Raises:
        DataError: No such file, another format, no rows, or a malformed row, which is named.
    """
    builder = reader_of(path)
    options: dict[str, Any] = {}
    if builder == "json":
        options = {"features": datasets.Features(dict.fromkeys(_json_columns(path), datasets.Json()))}
    elif builder == "csv":
        options = {
            "features": datasets.Features(dict.fromkeys(_csv_columns(path), datasets.Value("string"))),
            "keep_default_na": False,  # the text "NA" is a text
            "na_values": [""],
        }
    columns = _through_datasets(path, builder, scratch, options)
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{path}: no rows")
    return columns


def _through_datasets(
    path: Path, builder: str, scratch: Path, options: dict[str, Any]
) -> dict[str, list[Any]]:
    """What `datasets` reads, kept in memory."""
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # it would print values of private rows
    with tempfile.TemporaryDirectory(dir=scratch, prefix="data-") as cache:
        try:
            loaded = datasets.load_dataset(
                builder, data_files=str(path), split="train", cache_dir=cache, keep_in_memory=True, **options
            )
            return {column: list(loaded[column]) for column in loaded.column_names}
        except (datasets.exceptions.DatasetGenerationError, ValueError, OSError, StopIteration) as error:
            cause = type(error.__cause__ or error).__name__
            raise DataError(f"{path}: not a readable {path.suffix} file ({cause})") from None


def _json_columns(path: Path) -> list[str]:
    """Column names of all rows; also refuses a line that is no JSON object, and a key that stands twice."""
    columns: dict[str, None] = {}
    with path.open("rb") as file:
        for row, line in enumerate(file, start=1):
            if not line.strip():
                raise DataError(f"{path}: row {row}: a blank line")
            try:
                parsed = json.loads(line, object_pairs_hook=_once, parse_int=_word, parse_constant=_word)
                if b"\\u" in line:
                    json.dumps(parsed, ensure_ascii=False).encode()  # half a surrogate pair is no text
            except _StrangeError as strange:
                raise DataError(f"{path}: row {row}: {strange}") from None
            except (ValueError, RecursionError):
                raise DataError(f"{path}: row {row}: not a line of JSON") from None
            if not isinstance(parsed, dict):
                raise DataError(f"{path}: row {row}: not a JSON object")
            columns.update(dict.fromkeys(parsed))
    if not columns:
        raise DataError(f"{path}: no columns")
    return list(columns)


class _StrangeError(Exception):
    """What JSON allows, or Python reads, and readers take differently."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _StrangeError("a key stands twice")
    return found


def _word(literal: str) -> int:
    """A whole number of 64 bits; Infinity and NaN are none."""
    try:
        number = int(literal) if len(literal) <= _DIGITS_MAX else _WORD
    except ValueError:
        raise _StrangeError("a number that is not finite") from None
    if not -_WORD <= number < _WORD:
        raise _StrangeError("a whole number beyond 64 bits")
    return number


def _csv_columns(path: Path) -> list[str]:
    """Column names of a CSV; also refuses no rows, and a row with too many or too few fields."""
    with path.open(newline="", encoding="utf-8") as file:
        try:
            reader = csv.reader(file, strict=True)
            header, row = next(reader), 0
            for row, fields in enumerate(reader, start=1):
                if fields and len(fields) != len(header):
                    raise DataError(f"{path}: row {row}: {len(fields)} fields, the header has {len(header)}")
        except (csv.Error, UnicodeDecodeError, StopIteration) as error:
            raise DataError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if row == 0:
        raise DataError(f"{path}: no rows")
    if len(set(header)) != len(header):
        raise DataError(f"{path}: two columns have the same name")
    return header
