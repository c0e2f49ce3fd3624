"""A site's rows: read, checked against the declared columns, and grouped into privacy units.

Files are read through `datasets` with a scratch folder that is gone afterwards; nothing lands in
a cache at home. Rows stay in memory. What `check` finds is for the site's own eyes.

A unit is one row, or all rows of one person. Units above k rows are cut to k by a keyed hash of
the row's own content, so that which rows stay does not depend on other people's rows, and nobody
without the site's key can tell which they are.
"""

from __future__ import annotations

import csv
import difflib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import datasets
import numpy as np

from secfed.crypto.kdf import derive, lengthed
from secfed.crypto.labels import Label
from secfed.errors import DataError
from secfed.privacy.events import Unit
from secfed.training.task import Example, Task

__all__ = ["RECORD", "DataFacts", "Table", "Units", "check", "group", "load"]

RECORD: Final = "record"
"""The `unit` setting under which every row is a unit of its own."""

_FORMATS = {".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}

_QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)

_FAR = 10
"""A unit count further than this factor from the plan's nominal one is reported to the site."""

Units = tuple[tuple[int, ...], ...]
"""Row indices of every unit."""


@dataclass(frozen=True, slots=True)
class Table:
    """Checked rows of one file.

    Attributes:
        path: Where they came from.
        rows: One mapping a row, by the trainer's column names.
        owners: The person of every row; None where the file names none.
        columns: Trainer's column name to the file's.
    """

    path: Path
    rows: tuple[Mapping[str, str], ...] = field(repr=False)
    owners: tuple[str, ...] | None = field(repr=False)
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What `secfed data check` shows at the site, and to nobody else.

    Attributes:
        rows: Rows in the file.
        units: Privacy units.
        rows_used: Rows left after units were cut to k.
        columns: Trainer's column name to the file's.
        lengths: Quantile to tokens, of the rows used.
        cut_rows: Rows that did not fit in `max_length`.
        nominal_units: The plan's public count.
        far_from_plan: Whether the site's count is more than ten times off it.
    """

    rows: int
    units: int
    rows_used: int
    columns: Mapping[str, str]
    lengths: Mapping[float, int]
    cut_rows: int
    nominal_units: int | None
    far_from_plan: bool


def load(
    path: Path,
    needed: Sequence[str],
    *,
    also: Sequence[str] = (),
    scratch: Path,
    columns: Mapping[str, str] | None = None,
    unit: str = RECORD,
) -> Table:
    """Read a file and check the columns that training needs.

    Args:
        path: A `.jsonl`, `.csv` or `.parquet` file.
        needed: The trainer's columns, all of text (a label or a person may be a whole number).
        also: Columns whose values are checked likewise where the file has them, so that what a file
            is refused for does not depend on which columns a job plan asks for.
        scratch: A folder of the site's state; a private folder inside is used and removed.
        columns: Trainer's name to the file's name, where they differ.
        unit: `record`, or the column that names the person.

    Raises:
        DataError: No such file or format; a column that is missing; a value that is missing,
            null, empty or of another type. The message names file, row (from 1) and column.
    """
    kind = _FORMATS.get(path.suffix)
    if kind is None:
        raise DataError(f"{path}: not a .jsonl, .csv or .parquet file")
    if not path.is_file() or path.stat().st_size == 0:
        raise DataError(f"{path}: no such file, or it is empty")
    named = {name: (columns or {}).get(name, name) for name in needed}
    content = _read(path, kind, scratch)
    wanted = [*named.values(), *([unit] if unit != RECORD else [])]
    for column in wanted:
        if column not in content:
            near = difflib.get_close_matches(column, content, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(content)}"
            raise DataError(f"{path}: no column {column!r}{meant}")
    count = len(content[wanted[0]])
    if count == 0:
        raise DataError(f"{path}: no rows")
    present = {name: (columns or {}).get(name, name) for name in also}
    read = {name: column for name, column in sorted((present | named).items()) if column in content}
    texts = {
        name: [
            _text(path, row, column, value, whole=name == "label")
            for row, value in enumerate(content[column])
        ]
        for name, column in read.items()
    }
    owners = None
    if unit != RECORD:
        owners = tuple(_text(path, row, unit, value, whole=True) for row, value in enumerate(content[unit]))
    rows = tuple({name: texts[name][row] for name in needed} for row in range(count))
    return Table(path, rows, owners, named)


def group(table: Table, unit: Unit, records_per_unit: int, key: bytes) -> Units:
    """The privacy units of a table.

    Args:
        table: Loaded with the person's column where `unit` is `person`.
        unit: The kind, from the job plan.
        records_per_unit: k, from the job plan.
        key: 32 secret bytes of this site.

    Returns:
        Row indices of every unit, units in the order of their first row, rows ascending.

    Raises:
        DataError: The plan's unit is a person, and the site names no column for it.
    """
    if unit == "record":
        return tuple((row,) for row in range(len(table.rows)))
    if table.owners is None:
        raise DataError(
            f"{table.path}: the job protects persons, and no column names the person",
            hint="Set `unit` to the column that names the person in the site's configuration.",
        )
    members: dict[str, list[int]] = {}
    for row, owner in enumerate(table.owners):
        members.setdefault(owner, []).append(row)
    rank = _ranker(table, key)
    return tuple(
        tuple(rows)
        if len(rows) <= records_per_unit
        else tuple(sorted(sorted(rows, key=rank)[:records_per_unit]))
        for rows in members.values()
    )


def check(table: Table, units: Units, task: Task, *, nominal_units: int | None = None) -> DataFacts:
    """Count and tokenise; every label is held against the job's list on the way."""
    used = [row for unit in units for row in unit]
    examples = [example_of(table, row, task) for row in used]
    lengths = np.quantile([len(example.tokens) + example.cut for example in examples], _QUANTILES)
    far = nominal_units is not None and not nominal_units / _FAR <= len(units) <= nominal_units * _FAR
    return DataFacts(
        rows=len(table.rows),
        units=len(units),
        rows_used=len(used),
        columns=table.columns,
        lengths={quantile: int(length) for quantile, length in zip(_QUANTILES, lengths, strict=True)},
        cut_rows=sum(example.cut > 0 for example in examples),
        nominal_units=nominal_units,
        far_from_plan=far,
    )


def example_of(table: Table, row: int, task: Task) -> Example:
    """One row checked and tokenised, for eyes that may see it; a refusal names file and row."""
    try:
        task.check(table.rows[row])
    except DataError as error:
        raise DataError(f"{table.path}: row {row + 1}: {error}") from error
    return task.example(table.rows[row])


def _read(path: Path, kind: str, scratch: Path) -> dict[str, list[Any]]:
    """The file's columns as Python values; a CSV's are all text, and empty fields are null."""
    options: dict[str, Any] = {}
    if kind == "csv":
        header = _csv_header(path)
        options = {
            "features": datasets.Features({column: datasets.Value("string") for column in header}),
            "keep_default_na": False,  # the text "NA" is a text
            "na_values": [""],
        }
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # it would print values of private rows
    with tempfile.TemporaryDirectory(dir=scratch, prefix="data-") as cache:
        try:
            loaded = datasets.load_dataset(
                kind, data_files=str(path), split="train", cache_dir=cache, keep_in_memory=True, **options
            )
            return {column: list(loaded[column]) for column in loaded.column_names}
        except (datasets.exceptions.DatasetGenerationError, ValueError, OSError, StopIteration) as error:
            raise DataError(f"{path}: {_fault(path, kind, error)}") from None


def _csv_header(path: Path) -> list[str]:
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


def _fault(path: Path, kind: str, error: Exception) -> str:
    """Why a file cannot be read, with the row where it can be found; never a value of it."""
    if kind != "json":
        return f"not a readable {path.suffix} file ({type(error.__cause__ or error).__name__})"
    with path.open("rb") as file:
        for row, line in enumerate(file, start=1):
            try:
                parsed = json.loads(line) if line.strip() else {}
            except ValueError:
                return f"row {row}: not a line of JSON"
            if not isinstance(parsed, dict):
                return f"row {row}: not a JSON object"
    return "its rows do not have the same columns and types"


def _text(path: Path, row: int, column: str, value: object, *, whole: bool) -> str:
    """A value as text, or the refusal that names its place."""
    if isinstance(value, str) and value.strip():
        return value
    if whole and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    what = (
        "no value"
        if value is None or value == ""
        else "blank text"
        if isinstance(value, str)
        else (f"{type(value).__name__} where text is needed")
    )
    raise DataError(f"{path}: row {row + 1}, column {column!r}: {what}")


def _ranker(table: Table, key: bytes) -> Callable[[int], tuple[bytes, int]]:
    """Order of a unit's rows under the keyed hash of their content."""

    def rank(row: int) -> tuple[bytes, int]:
        owner = table.owners[row] if table.owners is not None else ""
        content = lengthed(owner.encode(), *(value.encode() for _, value in sorted(table.rows[row].items())))
        return derive(key, Label.UNIT_RECORDS, content), row

    return rank
