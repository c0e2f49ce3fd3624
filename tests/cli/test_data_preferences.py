"""`secfed data unpair` and `secfed data redistribute`, on files; no socket, and nothing is overwritten."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest

from secfed.training.data import load
from secfed.training.rows import FORMATS

Command = Callable[..., Any]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pairs(site: str, count: int) -> list[dict[str, str]]:
    return [
        {
            "prompt": f"é x{n}@{site}", "chosen": f"y{n}@{site}", "rejected": f"z{n}@{site}",
            "who": f"{site}{n % 2}", "more": "dropped",
        }
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Files of three sites with 6, 5 and 4 pairs."""
    return [
        write_rows(tmp_path / f"{site}.jsonl", pairs(site, count))
        for site, count in (("a", 6), ("b", 5), ("c", 4))
    ]


def test_unpair_writes_trls_format(tmp_path: Path, secfed: Command) -> None:
    source = write_rows(tmp_path / "in.jsonl", pairs("a", 2))
    output = tmp_path / "new" / "out.jsonl"
    done = secfed("data", "unpair", source, "-o", output)
    assert (done.code, done.err) == (0, "")
    assert (done.fact("pairs"), done.fact("rows")) == ("2", f"4 in {output}")
    assert "--unit" in done.out
    assert read_rows(output) == [
        {"prompt": "é x0@a", "completion": "y0@a", "label": True},
        {"prompt": "é x0@a", "completion": "z0@a", "label": False},
        {"prompt": "é x1@a", "completion": "y1@a", "label": True},
        {"prompt": "é x1@a", "completion": "z1@a", "label": False},
    ]
    assert output.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in output.parent.iterdir()] == ["out.jsonl"]
    assert load(output, FORMATS["kto"], scratch=tmp_path / "s").kinds["label"] == "bool"


def test_unpair_takes_chats_from_parquet_and_carries_the_person(tmp_path: Path, secfed: Command) -> None:
    asked, yes, no = ([{"role": "user", "content": text}] for text in ("q", "y", "n"))
    frame = pandas.DataFrame({"prompt": [asked], "chosen": [yes], "rejected": [no], "patient": [7]})
    frame.to_parquet(tmp_path / "in.parquet")
    done = secfed(
        "data", "unpair", tmp_path / "in.parquet", "-o", tmp_path / "out.jsonl", "--unit", "patient"
    )
    assert done.code == 0
    assert read_rows(tmp_path / "out.jsonl") == [
        {"prompt": asked, "completion": yes, "label": True, "patient": "7"},
        {"prompt": asked, "completion": no, "label": False, "patient": "7"},
    ]


def test_unpair_takes_the_prompt_that_both_responses_begin_with(tmp_path: Path, secfed: Command) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"chosen": "Good? Yes.", "rejected": "Good? No."}])
    assert secfed("data", "unpair", source, "-o", tmp_path / "out.jsonl").code == 0
    assert read_rows(tmp_path / "out.jsonl") == [
        {"prompt": "Good?", "completion": " Yes.", "label": True},
        {"prompt": "Good?", "completion": " No.", "label": False},
    ]


@pytest.mark.parametrize(
    ("rows", "words", "expected"),
    [
        ([{"prompt": "x", "chosen": "y"}], (), "no column 'rejected'"),
        ([{"prompt": "x", "chosen": "y", "rejected": None}], (), "row 1, column 'rejected': no value"),
        ([{"prompt": "x", "completion": "y", "label": True}], (), "no columns 'chosen', 'rejected'"),
        ([{"chosen": "x y", "rejected": "x z"}, {"chosen": "y", "rejected": "z"}], (), "row 2: no column"),
        (pairs("a", 1), ("--unit", "patient"), "no column 'patient'"),
        (pairs("a", 1), ("--unit", "label"), "'label' is none"),
        (pairs("a", 1), ("-o", "{tmp}/out.csv"), "a .jsonl file"),
        (pairs("a", 1), ("-o", "{tmp}/in.jsonl"), "is there already"),
    ],
)
def test_unpair_refuses_and_leaves_nothing(
    tmp_path: Path, secfed: Command, rows: list[dict[str, Any]], words: tuple[str, ...], expected: str
) -> None:
    source = write_rows(tmp_path / "in.jsonl", rows)
    before = source.read_bytes()
    filled = [word.format(tmp=tmp_path) for word in words]
    done = secfed("data", "unpair", source, "-o", tmp_path / "out.jsonl", *filled)
    assert done.code == 2
    assert expected in done.error
    assert "client.toml" not in done.remedy
    assert "data check" not in done.remedy  # there is no site's configuration to try
    assert (source.read_bytes(), list(tmp_path.iterdir())) == (before, [source])


@pytest.mark.parametrize(
    ("mode", "sizes"),
    [("drop", [6, 5, 4]), ("split", [12, 10, 8]), ("shuffle", [12, 10, 8]), ("label-skew", [12, 10, 8])],
)
def test_redistribute_writes_rows_and_manifest(
    tmp_path: Path, three: list[Path], secfed: Command, mode: str, sizes: list[int]
) -> None:
    extra = ("--concentration", 0.3) if mode == "label-skew" else ()
    words = ("data", "redistribute", *three, "--mode", mode, "--seed", 11, *extra)
    done = secfed(*words, "-o", tmp_path / "out")
    assert done.code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a.jsonl", "b.jsonl", "c.jsonl", "manifest.json",
    }  # fmt: skip
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["mode"], manifest["seed"], manifest["unit"]) == (mode, 11, None)
    assert manifest["concentration"] == (0.3 if mode == "label-skew" else None)
    for entry, source in zip(manifest["inputs"], three, strict=True):
        assert entry["file"] == source.name
        assert entry["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    found: list[Any] = []
    for entry, size in zip(manifest["outputs"], sizes, strict=True):
        path = tmp_path / "out" / entry["file"]
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        rows = read_rows(path)
        assert entry["rows"] == len(rows) == size
        assert entry["true"] == sum(row["label"] for row in rows)
        assert entry["true"] + entry["false"] == size
        found.extend((row["prompt"], row["completion"], row["label"]) for row in rows)
    everything = Counter(
        (row["prompt"], row[side], side == "chosen")
        for source in three
        for row in read_rows(source)
        for side in ("chosen", "rejected")
    )
    assert (not Counter(found) - everything) if mode == "drop" else (Counter(found) == everything)
    assert ("two sites" in done.err) == (mode != "drop") == (manifest["shared_owners"] > 0)
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()
    again = secfed(*words, "-o", tmp_path / "again")
    assert again.code == 0
    for path in (tmp_path / "out").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_persons_are_carried_and_counted(tmp_path: Path, three: list[Path], secfed: Command) -> None:
    output = tmp_path / "out"
    done = secfed(
        "data", "redistribute", *three, "--mode", "shuffle", "--seed", 0, "--unit", "who", "-o", output
    )
    homes: dict[str, set[str]] = {}
    for name in ("a", "b", "c"):
        for row in read_rows(output / f"{name}.jsonl"):
            assert row["completion"].endswith(f"@{row['who'][0]}")
            homes.setdefault(row["who"], set()).add(name)
    shared = sum(len(sites) > 1 for sites in homes.values())
    assert shared > 0
    assert f"warning: {shared} persons have rows at two sites or more" in done.err
    assert "--mode drop" in done.err
    assert json.loads((output / "manifest.json").read_text())["shared_owners"] == shared


def test_what_unpair_wrote_is_spread_like_the_pairs(
    tmp_path: Path, three: list[Path], secfed: Command
) -> None:
    halves = []
    for source in three:
        halves.append(tmp_path / "halves" / source.name)
        assert secfed("data", "unpair", source, "-o", halves[-1]).code == 0
    for sources, name in ((three, "one"), (halves, "two")):
        words = ("--mode", "split", "--seed", 5, "-o", tmp_path / name)
        assert secfed("data", "redistribute", *sources, *words).code == 0
    for site in ("a", "b", "c"):
        assert read_rows(tmp_path / "one" / f"{site}.jsonl") == read_rows(tmp_path / "two" / f"{site}.jsonl")


def test_a_thumb_that_is_missing_is_warned_of(tmp_path: Path, secfed: Command) -> None:
    sources = [
        write_rows(tmp_path / f"{name}.jsonl", [{"prompt": "x", "completion": name, "label": label}])
        for name, label in (("a", True), ("b", False))
    ]
    done = secfed("data", "redistribute", *sources, "--mode", "drop", "--seed", 1, "-o", tmp_path / "out")
    assert done.code == 0
    assert "a.jsonl has no thumb down: undesirable_weight counts as 0" in done.err
    assert "b.jsonl has no thumb up: desirable_weight counts as 0" in done.err
    outputs = json.loads((tmp_path / "out" / "manifest.json").read_text())["outputs"]
    assert [entry["missing"] for entry in outputs] == [[False], [True]]


def test_files_of_one_name_are_numbered(tmp_path: Path, secfed: Command) -> None:
    sources = [write_rows(tmp_path / site / "rows.jsonl", pairs(site, 2)) for site in "ab"]
    assert (
        secfed("data", "redistribute", *sources, "--mode", "drop", "--seed", 1, "-o", tmp_path / "o").code
        == 0
    )
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert names == {"1-rows.jsonl", "2-rows.jsonl", "manifest.json"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("--mode", "mix", "--seed", 1, "-o", "{tmp}/out"),
            "--mode is one of drop, split, shuffle, label-skew",
        ),
        (("--mode", "label-skew", "--seed", 1, "-o", "{tmp}/out"), "concentration"),
        (("--mode", "drop", "--concentration", 1, "--seed", 1, "-o", "{tmp}/out"), "concentration"),
        (("--mode", "drop", "--seed", 1, "-o", "{tmp}/taken"), "is there already"),
        (("--mode", "drop", "--seed", 1, "--unit", "whom", "-o", "{tmp}/out"), "did you mean 'who'?"),
    ],
)
def test_redistribute_refuses_and_leaves_nothing(
    tmp_path: Path, three: list[Path], secfed: Command, words: tuple[object, ...], expected: str
) -> None:
    (tmp_path / "taken").mkdir()
    before = set(tmp_path.iterdir())
    filled = [str(word).format(tmp=tmp_path) for word in words]
    done = secfed("data", "redistribute", *three, *filled)
    assert done.code == 2
    assert expected in done.error
    assert "data check" not in done.remedy
    assert set(tmp_path.iterdir()) == before


def test_a_full_disk_leaves_no_half_of_a_folder(
    tmp_path: Path, three: list[Path], secfed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third file fails; the folder never gets its name, and the inputs are as they were."""
    from secfed.store import files

    real, written = files.write_all, []

    def fail(descriptor: int, data: bytes) -> None:
        written.append(len(data))
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        real(descriptor, data)

    monkeypatch.setattr(files, "write_all", fail)
    before = {path: path.read_bytes() for path in three}
    done = secfed("data", "redistribute", *three, "--mode", "drop", "--seed", 1, "-o", tmp_path / "out")
    assert (done.code, "No space left" in done.error) == (60, True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
