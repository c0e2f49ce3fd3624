"""Reading rows: what is accepted, and that every refusal names file, row and column."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.aggregation.spec import AdapterSpec
from secfed.errors import DataError
from secfed.training.adapter import task_of
from secfed.training.data import Table, check, group, load

NEEDED = ("text", "label")
KEY = bytes(range(32))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_three_formats_give_the_same_rows(tmp_path: Path, suffix: str) -> None:
    frame = pandas.DataFrame(
        {"text": ["a, b", "NA", "5\nx"], "label": ["no", "yes", "no"], "who": ["x", "y", "x"]}
    )
    path = tmp_path / f"rows{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    elif suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    table = load(path, NEEDED, scratch=tmp_path / "scratch", unit="who")
    assert [row["text"] for row in table.rows] == ["a, b", "NA", "5\nx"]
    assert [row["label"] for row in table.rows] == ["no", "yes", "no"]
    assert table.owners == ("x", "y", "x")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_columns_may_have_other_names_and_whole_number_labels(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"note": "a", "class": 1}\n{"note": "b", "class": 0}\n')
    table = load(path, NEEDED, scratch=tmp_path, columns={"text": "note", "label": "class"})
    assert [dict(row) for row in table.rows] == [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"txt": "a", "label": "x"}\n', "no column 'text'; did you mean 'txt'"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"label": "x"}\n', "row 2, column 'text': no value"),
        (
            "a.jsonl",
            '{"text": "a", "label": "x"}\n{"text": null, "label": "x"}\n',
            "row 2, column 'text': no value",
        ),
        (
            "a.jsonl",
            '{"text": "a", "label": "x"}\n{"text": 5, "label": "x"}\n',
            "row 2, column 'text': int where",
        ),
        ("a.jsonl", '{"text": ["a"], "label": "x"}\n', "row 1, column 'text': list where"),
        ("a.jsonl", '{"text": "a", "label": 1.5}\n', "row 1, column 'label': float where"),
        ("a.jsonl", '{"text": "a", "label": true}\n', "row 1, column 'label': bool where"),
        ("a.jsonl", '{"text": "  ", "label": "x"}\n', "row 1, column 'text': blank"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": \n', "row 2: not a line of JSON"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n[1]\n', "row 2: not a JSON object"),
        ("a.csv", "text,label\na,x\n,x\n", "row 2, column 'text': no value"),
        ("a.csv", "text,label\na,x,y\n", "row 1: 3 fields, the header has 2"),
        ("a.csv", "text,text\na,x\n", "same name"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.parquet", "no parquet", "not a readable .parquet"),
        ("a.txt", "x", "not a .jsonl"),
        ("a.jsonl", "", "empty"),
    ],
)
def test_bad_file_is_named_with_row_and_column(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError) as refusal:
        load(path, NEEDED, scratch=tmp_path / "scratch")
    assert message in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_missing_file_and_missing_person(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "none.csv", NEEDED, scratch=tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n')
    with pytest.raises(DataError, match="'patient'"):
        load(path, NEEDED, scratch=tmp_path, unit="patient")
    with pytest.raises(DataError, match="persons"):
        group(load(path, NEEDED, scratch=tmp_path), "person", 2, KEY)


def test_values_of_private_rows_are_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "SECRETVALUE", "label": "x"}\n{"text": "SECRETVALUE\n')
    with pytest.raises(DataError) as refusal:
        load(path, NEEDED, scratch=tmp_path / "scratch")
    output = capfd.readouterr()
    assert "SECRETVALUE" not in output.out + output.err + caplog.text + str(refusal.value)


def table_of(owners: list[str]) -> Table:
    rows = tuple({"text": f"row {number}", "label": "x"} for number in range(len(owners)))
    return Table(Path("t"), rows, tuple(owners), {})


@given(owners=st.lists(st.sampled_from("abcd"), min_size=1, max_size=30), k=st.integers(1, 5))
def test_units_partition_their_rows_and_respect_k(owners: list[str], k: int) -> None:
    units = group(table_of(owners), "person", k, KEY)
    used = [row for unit in units for row in unit]
    assert len(set(used)) == len(used)
    assert len(units) == len(set(owners))
    for unit in units:
        owner = owners[unit[0]]
        assert {owners[row] for row in unit} == {owner}
        assert len(unit) == min(k, owners.count(owner))


def test_cut_depends_on_the_key_and_on_no_other_person() -> None:
    alone = table_of(["a"] * 12)
    mixed_rows = (*alone.rows, *({"text": f"other {n}", "label": "x"} for n in range(5)))
    mixed = Table(Path("t"), mixed_rows, ("a",) * 12 + ("b",) * 5, {})
    chosen = group(alone, "person", 4, KEY)[0]
    assert group(mixed, "person", 4, KEY)[0] == chosen
    assert any(group(alone, "person", 4, bytes([n]) * 32)[0] != chosen for n in range(5))


def test_record_units() -> None:
    assert group(table_of(["a", "a", "b"]), "record", 1, KEY) == ((0,), (1,), (2,))


def test_check_counts_and_warns(
    tmp_path: Path,
    base_folder: Callable[[str], Path],
    spec_of: Callable[[str], AdapterSpec],
    rows_for: Callable[..., list[dict[str, str]]],
    write_rows: Callable[..., Path],
) -> None:
    table = load(write_rows(rows_for("bert", 20, persons=4)), NEEDED, scratch=tmp_path, unit="person")
    task = task_of(spec_of("bert"), base_folder("bert"), 8)
    facts = check(table, group(table, "person", 3, KEY), task, nominal_units=41)
    assert (facts.rows, facts.units, facts.rows_used, facts.far_from_plan) == (20, 4, 12, True)
    assert facts.lengths[0.0] <= facts.lengths[0.5] <= facts.lengths[1.0] <= 10
    assert facts.cut_rows > 0
    assert not check(table, group(table, "person", 3, KEY), task, nominal_units=40).far_from_plan


@pytest.mark.parametrize("trainer", ["classify", "sft"])
def test_a_blank_value_is_refused_whichever_columns_are_asked_for(
    tmp_path: Path, write_rows: Callable[..., Path], trainer: str
) -> None:
    """A plan's trainer decides which columns are used, not which rows the file is refused for."""
    columns = {"classify": ("text", "label"), "sft": ("prompt", "completion")}
    row = {"text": "w1", "label": "yes", "prompt": "w1", "completion": "w2"}
    path = write_rows([row, {**row, "completion": " "}])
    also = tuple(name for names in columns.values() for name in names)
    with pytest.raises(DataError, match="row 2, column 'completion': blank text"):
        load(path, columns[trainer], also=also, scratch=tmp_path)
    good = load(write_rows([row]), columns[trainer], also=also, scratch=tmp_path)
    assert set(good.rows[0]) == set(columns[trainer])


def test_label_outside_the_plan_is_named(
    tmp_path: Path,
    base_folder: Callable[[str], Path],
    spec_of: Callable[[str], AdapterSpec],
    write_rows: Callable[..., Path],
) -> None:
    rows = [{"text": "w1", "label": "yes"}, {"text": "w2", "label": "perhaps"}]
    table = load(write_rows(rows), NEEDED, scratch=tmp_path)
    task = task_of(spec_of("bert"), base_folder("bert"), 8)
    with pytest.raises(DataError, match="row 2: label 'perhaps'"):
        check(table, group(table, "record", 1, KEY), task)
