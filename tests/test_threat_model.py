"""THREAT_MODEL.md names only what exists, and no claim in it stands without a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from simfed import refusals_open, refusals_phases, refusals_ring  # noqa: F401 - they enter the attacks into the register
from simfed.refusals import REGISTER

from secfed.attack import catalogue

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "THREAT_MODEL.md").read_text(encoding="utf-8")

KIT = frozenset(row.name for row in catalogue.ROWS)

COLUMN = "tests"
"""A table with this column makes claims; the others list people and things."""

_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+(?:::\w+)?)")
_ATTACK = re.compile(r"attack:(\w+)")
_KIT = re.compile(r"kit:([\w-]+)")
_CODE = re.compile(r"`([^`]+)`")
_MODULE = re.compile(r"secfed/[\w/]+\.py")
_LINK = re.compile(r"\]\(([^)#:]+)\)")


@dataclass(frozen=True)
class Row:
    """One claim: what the first cell says, and the cell with its tests."""

    claim: str
    tests: str


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _rows(text: str) -> Iterator[Row]:
    """All rows of the tables that have a column of tests."""
    column: int | None = None
    head: list[str] | None = None
    for line in text.splitlines():
        if not line.startswith("|"):
            head = column = None
        elif head is None:
            head = _cells(line)
            column = head.index(COLUMN) if COLUMN in head else None
        elif column is not None and not set(line) <= set("|- "):
            cells = _cells(line)
            assert len(cells) == len(head), f"a cell too few or too many: {cells[0]}"
            yield Row(cells[0], cells[column])


@cache
def _functions(path: Path) -> frozenset[str]:
    """Names of a file's tests, those in classes as `Class::test`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return frozenset(found)


def _missing(reference: str) -> str | None:
    """Why a reference in a cell of tests names nothing; None if it does."""
    if attack := _ATTACK.fullmatch(reference):
        known = REGISTER.get(attack[1])
        return None if known is not None else f"no attack is called {attack[1]}"
    if row := _KIT.fullmatch(reference):
        return None if row[1] in KIT else f"`secfed attack` has no row called {row[1]}"
    test = _TEST.fullmatch(reference)
    if test is None:
        return f"{reference} is neither a test nor an attack"
    path, name = ROOT / test[1], test[2]
    if not path.is_file() or not path.name.startswith("test_"):
        return f"{test[1]} is no file of tests"
    function = name.rsplit("::", 1)[-1]
    if name not in _functions(path) or not function.startswith("test_"):
        return f"{test[1]} has no test called {name}"
    return None


ROWS = list(_rows(TEXT))


@pytest.mark.parametrize("row", ROWS, ids=[row.claim[:60] for row in ROWS])
def test_every_claim_has_tests_that_exist(row: Row) -> None:
    references = _CODE.findall(row.tests)
    assert references, "this claim names no test"
    assert not _CODE.sub("", row.tests).strip(), "a test's name stands outside of backquotes"
    assert len(set(references)) == len(references), "a test is named twice in one row"
    assert [why for reference in references if (why := _missing(reference))] == []


def test_whatever_is_named_elsewhere_exists() -> None:
    """In running text: tests, modules, and the files that are linked to."""
    named = {f"{path}::{name}" for path, name in _TEST.findall(TEXT)}
    assert [why for reference in sorted(named) if (why := _missing(reference))] == []
    for path in {*_MODULE.findall(TEXT), *_LINK.findall(TEXT)}:
        assert (ROOT / path).is_file(), path


def test_every_attack_of_the_kit_stands_beside_a_claim() -> None:
    named = {row for cells in ROWS for row in _KIT.findall(cells.tests)}
    assert named == KIT


def test_all_tables_are_read() -> None:
    """Else the above would pass on an empty page."""
    lines = [line for line in TEXT.splitlines() if line.startswith("|")]
    assert len(ROWS) == sum(1 for line in lines if _TEST.search(line) or _ATTACK.search(line)) > 50


@pytest.mark.parametrize(
    "reference",
    [
        "tests/test_threat_model.py::test_that_nobody_wrote",
        "tests/test_threat_model.py::_missing",
        "tests/secagg/test_nothing.py::test_all_tables_are_read",
        "tests/sim/simfed/refusals.py::refused",
        "attack:kindness",
        "see the simulator",
    ],
)
def test_what_does_not_exist_is_noticed(reference: str) -> None:
    assert _missing(reference) is not None


def test_a_row_without_tests_is_noticed() -> None:
    (row,) = _rows("| claim | tests |\n|---|---|\n| the moon is far | |\n")
    with pytest.raises(AssertionError, match="names no test"):
        test_every_claim_has_tests_that_exist(row)
