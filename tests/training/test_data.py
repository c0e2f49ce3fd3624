"""Reading rows: what is accepted, and that every refusal names file, row and column."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.aggregation.spec import AdapterSpec
from secfed.errors import DataError
from secfed.training.adapter import task_of
from secfed.training.data import Table, check, group, load
from secfed.training.rows import FORMATS, Message

CLASSIFY = FORMATS["classify"]
KEY = bytes(range(32))

ASKED = [{"role": "system", "content": "short"}, {"role": "user", "content": "w1"}]
GOOD = [{"role": "assistant", "content": "w2"}]
BAD = [{"role": "assistant", "content": "w3"}]


def messages(turns: Sequence[Mapping[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_three_file_types_give_the_same_rows(tmp_path: Path, suffix: str) -> None:
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
    table = load(path, CLASSIFY, scratch=tmp_path / "scratch", unit="who")
    assert [row["text"] for row in table.rows] == ["a, b", "NA", "5\nx"]
    assert [row["label"] for row in table.rows] == ["no", "yes", "no"]
    assert table.owners == ("x", "y", "x")
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("trainer", "row", "expected"),
    [
        ("sft", {"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": "c"}),
        (
            "sft",
            {"prompt": ASKED, "completion": GOOD},
            {"prompt": messages(ASKED), "completion": messages(GOOD)},
        ),
        ("sft", {"messages": ASKED + GOOD, "prompt": "p"}, {"messages": messages(ASKED + GOOD)}),
        (
            "dpo",
            {"prompt": "p", "chosen": "y", "rejected": "n"},
            {"prompt": "p", "chosen": "y", "rejected": "n"},
        ),
        (
            "dpo",
            {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
            {"prompt": messages(ASKED), "chosen": messages(GOOD), "rejected": messages(BAD)},
        ),
        (
            "dpo",
            {"chosen": ASKED + GOOD, "rejected": ASKED + BAD},
            {"chosen": messages(ASKED + GOOD), "rejected": messages(ASKED + BAD)},
        ),
        (
            "kto",
            {"prompt": "p", "completion": "c", "label": False},
            {"prompt": "p", "completion": "c", "label": False},
        ),
        (
            "kto",
            {"prompt": ASKED, "completion": GOOD, "label": True},
            {"prompt": messages(ASKED), "completion": messages(GOOD), "label": True},
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_every_format_of_trl_is_read(
    tmp_path: Path, trainer: Any, row: dict[str, Any], expected: dict[str, Any], suffix: str
) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".jsonl":
        path.write_text(json.dumps({**row, "more": 1}) + "\n")
    else:
        pandas.DataFrame([row]).to_parquet(path)
    table = load(path, FORMATS[trainer], scratch=tmp_path)
    assert [dict(found) for found in table.rows] == [expected]
    assert set(table.columns) == set(table.kinds) == set(expected)


def test_a_csv_holds_texts_and_so_no_thumbs(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion,label\na,b,true\n")
    assert load(path, FORMATS["sft"], scratch=tmp_path).rows == ({"prompt": "a", "completion": "b"},)
    with pytest.raises(DataError, match="column 'label' holds text") as refusal:
        load(path, FORMATS["kto"], scratch=tmp_path)
    assert ".parquet" in refusal.value.hint


def test_columns_may_have_other_names_and_whole_number_labels(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"note": "a", "class": 1}\n{"note": "b", "class": 0}\n')
    table = load(path, CLASSIFY, scratch=tmp_path, columns={"text": "note", "label": "class"})
    assert [dict(row) for row in table.rows] == [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]
    assert table.columns == {"text": "note", "label": "class"}


def test_what_looks_like_a_time_stays_a_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "2020-01-01", "label": "x", "born": "1950-02-03"}\n')
    table = load(path, CLASSIFY, scratch=tmp_path, unit="born")
    assert (table.rows[0]["text"], table.owners) == ("2020-01-01", ("1950-02-03",))


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
            "row 2, column 'text': int where text is needed",
        ),
        ("a.jsonl", '{"text": ["a"], "label": "x"}\n', "row 1, column 'text': list where"),
        ("a.jsonl", '{"text": "a", "label": 1.5}\n', "row 1, column 'label': float where"),
        ("a.jsonl", '{"text": "a", "label": true}\n', "column 'label' holds true or false, where"),
        (
            "a.jsonl",
            '{"text": "a", "label": "x"}\n{"text": "a", "label": true}\n',
            "row 2, column 'label': bool where",
        ),
        ("a.jsonl", '{"text": "  ", "label": "x"}\n', "row 1, column 'text': blank"),
        (
            "a.jsonl",
            '{"text": "a", "label": "x"}\n' + '{"text": "", "label": "x"}\n' * 12,
            "row 2, column 'text': no value (and 11 more rows: 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, ...)",
        ),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": \n', "row 2: not a line of JSON"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n[1]\n', "row 2: not a JSON object"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n\n{"text": "a", "label": "x"}\n', "row 2: a blank line"),
        ("a.jsonl", '{"text": "a", "text": "b", "label": "x"}\n', "row 1: a key stands twice"),
        ("a.jsonl", '{"text": "a", "label": NaN}\n', "row 1: a number that is not finite"),
        ("a.jsonl", f'{{"text": "a", "label": {2**63}}}\n', "row 1: a whole number beyond 64 bits"),
        ("a.jsonl", '{"text": "\\ud800a", "label": "x"}\n', "row 1: not a line of JSON"),
        ("a.jsonl", '{"text": ' + "[" * 100_000 + "}\n", "row 1: not a line of JSON"),
        ("a.jsonl", "{}\n", "no columns"),
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
        load(path, CLASSIFY, scratch=tmp_path / "scratch")
    assert message in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([ASKED, []], "row 2, column 'prompt': an empty list"),
        ([ASKED, "text"], "row 2, column 'prompt': str where a list of messages is needed"),
        (["text", ASKED], "row 2, column 'prompt': list where text is needed"),
        ([ASKED, {"role": "user"}], "row 2, column 'prompt': dict where"),
        ([ASKED, ["hello"]], "message 1: str where role and content are needed"),
        ([ASKED, [*ASKED, {"role": "user"}]], "row 2, column 'prompt': message 3: no content"),
        ([ASKED, [{"role": "user", "content": None}]], "message 1: no content"),
        ([ASKED, [{"role": "user", "content": " "}]], "message 1: no content"),
        ([ASKED, [{"role": 3, "content": "x"}]], "message 1: int as role"),
        ([ASKED, [{"role": "user", "content": [{"type": "text"}]}]], "message 1: list as content"),
        ([ASKED, [{"role": "user", "content": "x", "tool": "y"}]], "message 1: another key beside role"),
        ([5, 6], "row 1, column 'prompt': int where text or a list of messages is needed (and 1 more"),
    ],
)
def test_a_chat_that_is_none_is_named(
    tmp_path: Path, write_rows: Callable[..., Path], cells: list[Any], message: str
) -> None:
    path = write_rows([{"prompt": cell, "completion": GOOD} for cell in cells])
    with pytest.raises(DataError) as refusal:
        load(path, FORMATS["sft"], scratch=tmp_path)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([True, "yes"], "row 2, column 'label': str where true or false is needed"),
        ([True, 1], "row 2, column 'label': int where true or false"),
        ([True, None], "row 2, column 'label': no value"),
        (["yes", "no"], "column 'label' holds text or a whole number, where true or false is needed"),
        ([1, 0], "column 'label' holds text or a whole number, where true or false is needed"),
    ],
)
def test_a_thumb_is_true_or_false(
    tmp_path: Path, write_rows: Callable[..., Path], labels: list[Any], message: str
) -> None:
    path = write_rows([{"prompt": "a", "completion": "b", "label": label} for label in labels])
    with pytest.raises(DataError) as refusal:
        load(path, FORMATS["kto"], scratch=tmp_path)
    assert message in str(refusal.value)


def test_keys_that_a_reader_filled_with_nothing_are_no_part_of_a_message(
    tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    path = write_rows([{"messages": [{"role": "user", "content": "x", "name": None}, GOOD[0]]}])
    table = load(path, FORMATS["sft"], scratch=tmp_path)
    assert table.rows[0]["messages"] == (Message("user", "x"), Message("assistant", "w2"))


@pytest.mark.parametrize(
    ("person", "what"),
    [
        ({}, "no value"),
        ({"who": None}, "no value"),
        ({"who": ""}, "no value"),
        ({"who": " "}, "blank"),
        ({"who": 1.5}, "float"),
        ({"who": True}, "bool"),
        ({"who": [1]}, "list"),
    ],
)
@pytest.mark.parametrize("trainer", ["classify", "sft", "dpo", "kto"])
def test_a_person_that_is_missing_or_mistyped_is_named(
    tmp_path: Path, write_rows: Callable[..., Path], trainer: Any, person: dict[str, Any], what: str
) -> None:
    """By file, row and column, whichever trainer reads the rows; the value itself is not told."""
    row = {name: True if kinds == ("bool",) else "a" for name, kinds in FORMATS[trainer][-1].items()}
    path = write_rows([{**row, "who": 7}, {**row, **person}])
    with pytest.raises(DataError) as refused:
        load(path, FORMATS[trainer], scratch=tmp_path, unit="who")
    assert str(refused.value).startswith(f"{path}: row 2, column 'who': {what}")


def test_missing_file_and_missing_person(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "none.csv", CLASSIFY, scratch=tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl: no column 'patient'"):
        load(path, CLASSIFY, scratch=tmp_path, unit="patient")
    with pytest.raises(DataError, match="persons"):
        group(load(path, CLASSIFY, scratch=tmp_path), "person", 2, KEY)


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "SECRETVALUE\n',
        '{"text": ["SECRETVALUE"], "label": "x"}\n',
        '{"text": "a", "label": {"x": "SECRETVALUE"}}\n',
        '{"text": "a", "label": "x", "prompt": [{"role": "user", "content": ["SECRETVALUE"]}]}\n',
        '{"text": "SECRETVALUE\\ud800", "label": "x"}\n',
    ],
)
def test_values_of_private_rows_are_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, line: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "SECRETVALUE", "label": "x", "prompt": "SECRETVALUE"}\n' + line)
    with pytest.raises(DataError) as refusal:
        load(path, CLASSIFY, scratch=tmp_path / "scratch")
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


def test_cut_follows_the_content_of_chats_and_thumbs() -> None:
    """In another order the same rows stay."""
    rows = [{"prompt": messages(ASKED), "completion": f"c{n}", "label": n % 2 == 0} for n in range(9)]
    forth = group(Table(Path("t"), tuple(rows), ("a",) * 9, {}), "person", 3, KEY)[0]
    back = group(Table(Path("t"), tuple(reversed(rows)), ("a",) * 9, {}), "person", 3, KEY)[0]
    assert {8 - row for row in back} == set(forth)


def test_record_units() -> None:
    assert group(table_of(["a", "a", "b"]), "record", 1, KEY) == ((0,), (1,), (2,))


def test_check_counts_and_warns(
    tmp_path: Path,
    base_folder: Callable[[str], Path],
    spec_of: Callable[[str], AdapterSpec],
    rows_for: Callable[..., list[dict[str, str]]],
    write_rows: Callable[..., Path],
) -> None:
    table = load(write_rows(rows_for("bert", 20, persons=4)), CLASSIFY, scratch=tmp_path, unit="person")
    task = task_of(spec_of("bert"), base_folder("bert"), 8)
    facts = check(table, group(table, "person", 3, KEY), task, nominal_units=41)
    assert (facts.rows, facts.units, facts.rows_used, facts.far_from_plan) == (20, 4, 12, True)
    assert facts.lengths[0.0] <= facts.lengths[0.5] <= facts.lengths[1.0] <= 10
    assert facts.cut_rows > 0
    assert sum(facts.labels.values()) == 12
    assert not check(table, group(table, "person", 3, KEY), task, nominal_units=40).far_from_plan


@pytest.mark.parametrize("trainer", ["classify", "sft", "dpo"])
def test_a_blank_value_is_refused_whichever_columns_are_asked_for(
    tmp_path: Path, write_rows: Callable[..., Path], trainer: Any
) -> None:
    """A plan's trainer decides which columns are used, not which rows the file is refused for."""
    row = {
        "text": "w1", "label": "yes", "prompt": "w1", "completion": "w2", "chosen": "w3", "rejected": "w4"
    }  # fmt: skip
    for column in row:
        path = write_rows([row, {**row, column: " "}])
        with pytest.raises(DataError, match=f"row 2, column '{column}': blank text"):
            load(path, FORMATS[trainer], scratch=tmp_path)
    good = load(write_rows([row]), FORMATS[trainer], scratch=tmp_path)
    assert set(good.rows[0]) == set(FORMATS[trainer][0 if trainer == "dpo" else -1])


def test_every_label_outside_the_plan_is_listed(
    tmp_path: Path,
    base_folder: Callable[[str], Path],
    spec_of: Callable[[str], AdapterSpec],
    write_rows: Callable[..., Path],
) -> None:
    rows = [{"text": f"w{n}", "label": label} for n, label in enumerate(["yes", "perhaps", "no", "perhaps"])]
    table = load(write_rows(rows), CLASSIFY, scratch=tmp_path)
    task = task_of(spec_of("bert"), base_folder("bert"), 8)
    with pytest.raises(DataError, match=r"row 2: label .* \(and 1 more rows: 4\)"):
        check(table, group(table, "record", 1, KEY), task)
