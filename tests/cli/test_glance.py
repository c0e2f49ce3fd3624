"""What a client says of its data file before any job asks: names of columns, never a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secfed.cli.glance import look_at
from secfed.config import DataConfig, checked
from secfed.errors import DataError

SECRET = "a private sentence"


def own(path: Path, **changes: Any) -> DataConfig:
    most = 1 if "unit" in changes else None
    named = {"file": str(path), "unit": "record", "public_n": 9, "max_records_per_unit": most}
    return checked(DataConfig, path.parent, **{**named, **changes})


@pytest.mark.parametrize(
    ("name", "text", "changes"),
    [
        ("rows.jsonl", f'{{"text": "{SECRET}", "label": "b"}}\n', {}),
        ("rows.jsonl", f'{{"note": "{SECRET}", "class": "b", "who": 1}}', {"text": "note", "label": "class"}),
        ("rows.jsonl", '{"chosen": "a", "rejected": "b", "who": 1}\nnot looked at', {"unit": "who"}),
        ("rows.csv", f"prompt,completion\n{SECRET},b\n", {}),
        ("rows.parquet", "only a large library can tell", {}),
    ],
)
def test_columns_of_some_trainer_are_no_matter(
    tmp_path: Path, name: str, text: str, changes: dict[str, Any]
) -> None:
    (tmp_path / name).write_text(text)
    assert look_at(own(tmp_path / name, **changes)) == []


@pytest.mark.parametrize(
    ("name", "text", "changes", "expected"),
    [
        ("rows.jsonl", f'{{"txt": "{SECRET}", "label": "b"}}\n', {}, ["(it has label, txt)"]),
        ("rows.csv", f"a,b\n{SECRET},2\n", {}, ["(it has a, b)"]),
        ("rows.jsonl", '{"text": "a", "label": "b"}', {"unit": "who"}, ["without the column 'who'"]),
        ("rows.csv", "a\n1\n", {"unit": "who"}, ["(it has a)", "without the column 'who'"]),
    ],
)
def test_columns_of_no_trainer_and_a_person_without_one_are_doubtful(
    tmp_path: Path, name: str, text: str, changes: dict[str, Any], expected: list[str]
) -> None:
    (tmp_path / name).write_text(text)
    doubts = look_at(own(tmp_path / name, **changes))
    assert len(doubts) == len(expected)
    for doubt, words in zip(doubts, expected, strict=True):
        assert words in doubt
        assert SECRET not in doubt


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("rows.jsonl", None, "no such file"),
        ("rows.jsonl", "", "it is empty"),
        ("rows.txt", "a", "not a .jsonl, .csv or .parquet file"),
        ("rows.jsonl", f'"{SECRET}"\n', "cannot be read as json"),
        ("rows.jsonl", f"{SECRET}\n", "cannot be read as json"),
        pytest.param("rows.jsonl", "[" * 100_000, "cannot be read as json", id="deep"),
        ("rows.csv", "\udcff,b\n", "cannot be read as csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, name: str, text: str | None, expected: str
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=expected) as told:
        look_at(own(tmp_path / name))
    assert SECRET not in str(told.value)
