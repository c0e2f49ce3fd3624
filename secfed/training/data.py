"""A site's rows: read, held against a trainer's formats, and grouped into privacy units.

Rows stay in memory. What a file is refused for does not depend on what a job plan asks for: every
column that any trainer reads is checked. What `check` finds is for the site's own eyes.

A unit is one row, or all rows of one person. Units above k rows are cut to k by a keyed hash of
the row's own content, so that which rows stay does not depend on other people's rows, and nobody
without the site's key can tell which they are.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from secfed.crypto.kdf import derive, lengthed
from secfed.crypto.labels import Label
from secfed.errors import DataError
from secfed.privacy.events import Unit
from secfed.training.cells import MEANING, Faults, as_label, one_kind
from secfed.training.reading import read_columns
from secfed.training.rows import COLUMN_KINDS, Format, Kind, Row, Value
from secfed.training.task import Example, Task

__all__ = ["RECORD", "DataFacts", "Table", "Units", "check", "example_of", "group", "load"]

RECORD: Final = "record"
"""The `unit` setting under which every row is a unit of its own."""

_QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)

_FAR = 10
"""A unit count further than this factor from the plan's nominal one is reported to the site."""

_SHOWN_ROWS = 10
"""Most refused rows that one message lists."""

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
        kinds: Trainer's column name to what its cells are.
    """

    path: Path
    rows: tuple[Row, ...] = field(repr=False)
    owners: tuple[str, ...] | None = field(repr=False)
    columns: Mapping[str, str]
    kinds: Mapping[str, Kind] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What `secfed data check` shows at the site, and to nobody else.

    Attributes:
        rows: Rows in the file.
        units: Privacy units.
        rows_used: Rows left after units were cut to k.
        lengths: Quantile to tokens, of the rows used; of a preference pair the longer sequence counts.
        cut_rows: Rows that did not fit in `max_length`.
        labels: Rows used of every label or thumb; empty where the format has none.
        nominal_units: The plan's public count.
        far_from_plan: Whether the site's count is more than ten times off it.
    """

    rows: int
    units: int
    rows_used: int
    lengths: Mapping[float, int]
    cut_rows: int
    labels: Mapping[str | bool, int]
    nominal_units: int | None
    far_from_plan: bool


def load(
    path: Path,
    formats: Sequence[Format],
    *,
    scratch: Path,
    columns: Mapping[str, str] | None = None,
    unit: str = RECORD,
) -> Table:
    """Read a file and check its columns.

    Args:
        path: A `.jsonl`, `.csv` or `.parquet` file; a CSV holds text only.
        formats: The trainer's, from `rows.FORMATS`; the first one whose columns the file has is taken.
        scratch: A folder of the site's state; a private folder inside is used and removed.
        columns: Trainer's column name to the file's, where they differ.
        unit: `record`, or the column that names the person.

    Returns:
        The rows, with the columns of that format.

    Raises:
        DataError: No such file or format; a column that is missing or is not of a kind that the
            format takes; a value, in any column that some trainer reads, that is missing, null, blank
            or of another type. The message names file, row (from 1) and column, and no value.
    """
    content = read_columns(path, scratch)
    names = {name: (columns or {}).get(name, name) for name in COLUMN_KINDS}
    there = {name: column for name, column in names.items() if column in content}
    wanted = next((each for each in formats if all(name in there for name in each)), formats[-1])
    _refuse_columns(path, [names[name] for name in wanted] + ([] if unit == RECORD else [unit]), content)
    cells, kinds = {}, {}
    for name, column in there.items():
        cells[name], kinds[name], faults = one_kind(content[column], COLUMN_KINDS[name])
        _refuse_cells(path, column, faults)
    for name, takes in wanted.items():
        if kinds[name] not in takes:
            raise DataError(
                f"{path}: column {there[name]!r} holds {MEANING[kinds[name]]}, "
                f"where {' or '.join(MEANING[kind] for kind in takes)} is needed",
                hint="A CSV file holds text only: use .jsonl or .parquet for thumbs and messages.",
            )
    owners = None
    if unit != RECORD:
        owners, faults = as_label(content[unit])
        _refuse_cells(path, unit, faults)
    count = len(next(iter(content.values())))
    return Table(
        path,
        tuple({name: cells[name][row] for name in wanted} for row in range(count)),
        owners,
        {name: there[name] for name in wanted},
        {name: kinds[name] for name in wanted},
    )


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
    """Count and tokenise; every row used is held against what the trainer can learn from.

    Raises:
        DataError: Rows that nothing can be learnt from; the message names the first, and lists others.
    """
    used = [row for unit in units for row in unit]
    examples: list[Example] = []
    faults: Faults = []
    for row in used:
        try:
            task.check(table.rows[row])
            examples.append(task.example(table.rows[row]))
        except DataError as error:
            faults.append((row, str(error)))
    if faults:
        raise DataError(f"{table.path}: {_listed(faults)}")
    sequences = [_sequences(example) for example in examples]
    lengths = np.quantile([max(len(each.tokens) + each.cut for each in row) for row in sequences], _QUANTILES)
    labels: dict[str | bool, int] = {}
    for row in used:
        label = table.rows[row].get("label")
        if isinstance(label, str | bool):
            labels[label] = labels.get(label, 0) + 1
    far = nominal_units is not None and not nominal_units / _FAR <= len(units) <= nominal_units * _FAR
    return DataFacts(
        rows=len(table.rows),
        units=len(units),
        rows_used=len(used),
        lengths={quantile: int(length) for quantile, length in zip(_QUANTILES, lengths, strict=True)},
        cut_rows=sum(any(each.cut for each in row) for row in sequences),
        labels=labels,
        nominal_units=nominal_units,
        far_from_plan=far,
    )


def example_of(table: Table, row: int, task: Task) -> Example:
    """One row checked and tokenised, for eyes that may see it; a refusal names file and row."""
    try:
        task.check(table.rows[row])
        return task.example(table.rows[row])
    except DataError as error:
        raise DataError(f"{table.path}: row {row + 1}: {error}") from error


def _sequences(example: Example) -> tuple[Example, ...]:
    """What goes through the model for one record."""
    return (example,) if example.rejected is None else (example, example.rejected)


def _refuse_columns(path: Path, wanted: Sequence[str], content: Mapping[str, Any]) -> None:
    """Refuse a file that lacks some of these columns; all of them are named."""
    lacking = [column for column in dict.fromkeys(wanted) if column not in content]
    near = {column: difflib.get_close_matches(column, content, n=1) for column in lacking}
    if len(lacking) == 1:
        (column,) = lacking
        meant = f"; did you mean {near[column][0]!r}?" if near[column] else f"; it has {', '.join(content)}"
        raise DataError(f"{path}: no column {column!r}{meant}")
    if lacking:
        meant_by = {column: f" (did you mean {near[column][0]!r}?)" for column in lacking if near[column]}
        named = ", ".join(f"{column!r}{meant_by.get(column, '')}" for column in lacking)
        raise DataError(f"{path}: no columns {named}; it has {', '.join(content)}")


def _refuse_cells(path: Path, column: str, faults: Faults) -> None:
    """Refuse a file with faulty cells in a column."""
    if faults:
        raise DataError(f"{path}: {_listed(faults, f', column {column!r}')}")


def _listed(faults: Faults, where: str = "") -> str:
    """The first fault, and the rows of the others."""
    (row, what), *others = faults
    text = f"row {row + 1}{where}: {what}"
    if not others:
        return text
    shown = ", ".join(str(other + 1) for other, _ in others[:_SHOWN_ROWS])
    more = ", ..." if len(others) > _SHOWN_ROWS else ""
    return f"{text} (and {len(others)} more rows: {shown}{more})"


def _ranker(table: Table, key: bytes) -> Callable[[int], tuple[bytes, int]]:
    """Order of a unit's rows under the keyed hash of their content."""

    def rank(row: int) -> tuple[bytes, int]:
        owner = table.owners[row] if table.owners is not None else ""
        cells = (_bytes(value) for _, value in sorted(table.rows[row].items()))
        return derive(key, Label.UNIT_RECORDS, lengthed(owner.encode(), *cells)), row

    return rank


def _bytes(value: Value) -> bytes:
    """A cell's content; columns have one kind each, so kinds need not be told apart."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bool):
        return bytes([value])
    return lengthed(*(part.encode() for message in value for part in (message.role, message.content)))
