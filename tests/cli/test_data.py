"""`secfed data check` and `secfed eval`: with the real encoder, on files as sites have them; no socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from secfed.aggregation import folder
from secfed.aggregation.initial import initial_adapter
from secfed.aggregation.spec import AdapterSpec
from secfed.cli.jobfile import template
from secfed.config import ClientConfig, DataConfig, checked, to_toml

Command = Callable[..., Any]

ROWS = [
    {
        "text": f"sentence number {number} about a film",
        "label": ("bad", "good")[number % 2],
        "who": number // 5,
    }
    for number in range(20)
]


@pytest.fixture(scope="session")
def models() -> Path:
    """The prepared base models; a missing cache is a failure with its remedy, not a skip."""
    named = os.environ.get("SECFED_CACHE")
    if not named:
        pytest.fail("SECFED_CACHE is not set: run the tests with `make test`, which prepares the assets")
    return Path(named)


@pytest.fixture(autouse=True)
def _no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever dials fails the test."""

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def site(tmp_path: Path, models: Path) -> Callable[..., Path]:
    """Writes a site's rows and client.toml; keywords go into [data], None leaves the section out."""

    def make(rows: Sequence[Mapping[str, Any]] = ROWS, **data: Any) -> Path:
        file = write_rows(tmp_path / "rows.jsonl", rows)
        section = {"file": str(file), "unit": "record", "public_n": 100, **data}
        config = checked(
            ClientConfig, tmp_path, site="hosp-a", key="a.key", federation="0f" * 16,
            roster_key="A" * 43 + "=", roster="roster.txt", aggregator="127.0.0.1:8443",
            aggregator_certificate="aggregator.pem", state_dir="state", ledger_dir="ledger",
            policy="policy.toml", output_dir="out", models_dir=str(models),
            data=checked(DataConfig, tmp_path, **section).model_dump(),
        )  # fmt: skip
        (tmp_path / "client.toml").write_text(to_toml(config, tmp_path))
        return tmp_path / "client.toml"

    return make


def test_data_check_counts_and_shows_no_row(site: Callable[..., Path], secfed: Command) -> None:
    done = secfed("data", "check", "--config", site(), "--labels", "bad, good", "--max-length", 7)
    assert (done.code, done.err) == (0, "")
    assert done.fact("columns") == "text = 'text', label = 'label'"
    assert done.fact("rows") == "20, of which 20 count"
    assert (done.fact("unit"), done.fact("units")) == ("record (record)", "20")
    assert "20 are longer than 7" in done.fact("tokens a row")
    assert "Nothing was sent" in done.out
    assert "sentence" not in done.said


def test_a_person_counts_once_and_with_so_many_rows(site: Callable[..., Path], secfed: Command) -> None:
    config = site(unit="who", max_records_per_unit=3)
    done = secfed("data", "check", "--config", config, "--labels", "bad,good", "--nominal-units", 1000)
    assert done.fact("rows") == "20, of which 12 count"
    assert (done.fact("unit"), done.fact("units")) == ("who (person)", "4")
    assert done.err.startswith("warning: 4 units are more than a factor of 10 from the plan's 1000")


def test_declared_labels_serve_where_none_are_given(site: Callable[..., Path], secfed: Command) -> None:
    done = secfed("data", "check", "--config", site(labels=("bad", "good")))
    assert (done.code, done.err) == (0, "")
    done = secfed("data", "check", "--config", site(labels=("bad", "fine")))
    assert (done.code, "row 2: label 'good'" in done.error) == (2, True)


def test_without_class_names_the_files_own_are_tried(site: Callable[..., Path], secfed: Command) -> None:
    """As the remedy of a refused file types it: no option, and the whole file is checked all the same."""
    done = secfed("data", "check", "--config", site())
    assert (done.code, done.fact("labels")) == (0, "bad: 10, good: 10")
    assert done.err.startswith("warning: no class names were given, so the file's own were taken: bad, good;")
    one = secfed("data", "check", "--config", site([row for row in ROWS if row["label"] == "bad"]))
    assert (one.code, "holds 1 different label, and" in one.error) == (2, True)


def test_a_column_may_have_another_name(site: Callable[..., Path], secfed: Command) -> None:
    rows = [{"note": row["text"], "class": row["label"]} for row in ROWS]
    done = secfed("data", "check", "--config", site(rows, text="note", label="class"), "--labels", "bad,good")
    assert (done.code, done.fact("columns")) == (0, "text = 'note', label = 'class'")


ASKED = [{"role": "user", "content": "Is the film good?"}]
YES = [{"role": "assistant", "content": "Very good, and long enough to be cut."}]
NO = [{"role": "assistant", "content": "No."}]


@pytest.mark.parametrize(
    ("trainer", "row", "values"),
    [
        ("sft", {"prompt": "Good?", "completion": " Yes."}, "prompt: text, completion: text"),
        ("sft", {"messages": ASKED + YES}, "messages: a list of messages"),
        (
            "dpo",
            {"prompt": "Good?", "chosen": " Yes.", "rejected": " No."},
            "prompt: text, chosen: text, rejected: text",
        ),
        (
            "dpo",
            {"prompt": ASKED, "chosen": YES, "rejected": NO},
            "prompt: a list of messages, chosen: a list of messages, rejected: a list of messages",
        ),
        (
            "dpo",
            {"chosen": ASKED + YES, "rejected": ASKED + NO},
            "chosen: a list of messages, rejected: a list of messages",
        ),
        (
            "kto",
            {"prompt": ASKED, "completion": YES, "label": True},
            "prompt: a list of messages, completion: a list of messages, label: true or false",
        ),
    ],
)
def test_every_trainers_rows_are_checked(
    site: Callable[..., Path], secfed: Command, trainer: str, row: dict[str, Any], values: str
) -> None:
    done = secfed("data", "check", "--config", site([row] * 3), "--trainer", trainer, "--max-length", 4)
    assert (done.code, done.fact("values")) == (0, values)
    assert (done.fact("rows"), done.fact("refused rows")) == ("3, of which 3 count", "none")
    assert ("warning: no thumb down" in done.err) == (trainer == "kto")
    if trainer == "kto":
        assert done.fact("labels") == "up: 3"
    assert "Good?" not in done.said


def test_refused_rows_are_listed(site: Callable[..., Path], secfed: Command) -> None:
    row = {"prompt": "Good?", "chosen": " Yes.", "rejected": " No."}
    config = site([row, {**row, "chosen": None}, row, {**row, "chosen": ""}])
    done = secfed("data", "check", "--config", config, "--trainer", "dpo")
    assert done.code == 2
    assert "row 2, column 'chosen': no value (and 1 more rows: 4)" in done.error


def test_columns_of_pairs_may_have_other_names(site: Callable[..., Path], secfed: Command) -> None:
    config = site(
        [{"question": "Good?", "better": " Yes.", "worse": " No."}],
        prompt="question", chosen="better", rejected="worse",
    )  # fmt: skip
    done = secfed("data", "check", "--config", config, "--trainer", "dpo")
    assert (done.code, done.fact("columns")) == (
        0,
        "prompt = 'question', chosen = 'better', rejected = 'worse'",
    )


@pytest.mark.parametrize(
    ("change", "words", "expected"),
    [
        ({"text": "txt"}, ("--labels", "bad,good"), "no column 'txt'; did you mean 'text'?"),
        ({"unit": "whom", "max_records_per_unit": 1}, ("--labels", "bad,good"), "did you mean 'who'?"),
        ({}, ("--labels", "bad,fine"), "row 2"),
        (
            {"text": "txt", "label": "klass"},
            (),
            "no columns 'txt' (did you mean 'text'?), 'klass'; it has",
        ),
        ({"label": "text", "text": "label"}, ("--base-model", "x/unheard-of"), "holds 20 different labels"),
        ({}, ("--labels", "bad"), "at least two labels"),
        ({}, ("--trainer", "ppo"), "--trainer is one of classify, sft, dpo, kto, not 'ppo'"),
        ({}, ("--trainer", "kto", "--labels", "a,b"), "--labels names classes, and kto has none"),
        ({}, ("--trainer", "dpo"), "no columns 'chosen', 'rejected'; it has text, label, who"),
        ({}, ("--trainer", "kto"), "no columns 'prompt', 'completion'; it has"),
        ({}, ("--labels", "bad,good", "--base-model", "x/unheard-of"), "'x/unheard-of'"),
        ({}, ("--trainer", "sft"), "no columns 'prompt', 'completion'; it has"),
    ],
)
def test_what_is_wrong_is_named(
    site: Callable[..., Path], secfed: Command, change: dict[str, Any], words: tuple[str, ...], expected: str
) -> None:
    done = secfed("data", "check", "--config", site(**change), *words)
    assert done.code == 2
    assert expected in done.error
    assert "sentence" not in done.said


def test_a_site_for_vectors_has_no_data_to_check(site: Callable[..., Path], secfed: Command) -> None:
    config = site()
    config.write_text(config.read_text().partition("[data]")[0])
    done = secfed("data", "check", "--config", config, "--labels", "bad,good")
    assert (done.code, "[data]" in done.error) == (2, True)


@pytest.fixture
def adapter(tmp_path: Path, models: Path) -> Path:
    """The adapter that the classify template starts from, as a round's folder."""
    from secfed.training.adapter import schema
    from secfed.training.models import model_folder

    section = template("classify").training
    assert section is not None
    spec = AdapterSpec(section.base_model, "main", "classify", section.target_modules, 2, 2, ("bad", "good"))
    arrays = initial_adapter(schema(spec, model_folder(models, spec.base_model)), bytes(32))
    folder.write(tmp_path / "round-0001", spec, arrays)
    return tmp_path / "round-0001"


def test_eval_measures_public_rows(adapter: Path, tmp_path: Path, models: Path, secfed: Command) -> None:
    rows = write_rows(tmp_path / "public.jsonl", ROWS)
    words = ("eval", "--adapter", adapter, "--data", rows, "--models", models, "--device", "cpu")
    document = json.loads(secfed(*words, "--json").out)
    assert (document["kind"], document["schema"]) == ("metric", 1)
    assert (document["metric"], document["rows"]) == ("accuracy", 20)
    assert 0 <= document["value"] <= 1
    text = secfed(*words)
    assert (text.code, text.out) == (0, f"accuracy {document['value']:.4f} on 20 public rows\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--text", "txt"), "no column 'txt'"),
        (("--data", "{tmp}/none.jsonl"), "none.jsonl"),
        (("--adapter", "{tmp}/none"), "none"),
        (("--models", "{tmp}"), "all-MiniLM-L6-v2"),
        (("--device", "tpu"), "tpu"),
    ],
)
def test_eval_names_what_is_wrong(
    adapter: Path, tmp_path: Path, models: Path, secfed: Command, words: tuple[str, ...], expected: str
) -> None:
    rows = write_rows(tmp_path / "public.jsonl", ROWS)
    filled = [word.format(tmp=tmp_path) for word in words]
    done = secfed("eval", "--adapter", adapter, "--data", rows, "--models", models, *filled)
    assert done.code in (2, 60)
    assert expected in done.error
    assert "data check" not in done.remedy


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("check", "--trainer", "ppo"), "--trainer is one of"),
        (("check", "--trainer", "sft", "--labels", "a,b"), "--labels"),
        (("redistribute", "a.jsonl", "--mode", "mix", "--seed", "1", "-o", "out"), "--mode is one of"),
        (("unpair", "a.jsonl", "-o", "out.csv"), "a .jsonl file"),
    ],
)
def test_a_wrong_word_is_refused_before_a_library_is_loaded(
    tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    refused_without(("torch", "datasets", "transformers", "numpy"), tmp_path, ("data", *words), expected)


def refused_without(libraries: Sequence[str], folder: Path, words: Sequence[object], expected: str) -> None:
    """In a process of its own: refused with 2 and these words, and none of these libraries was loaded."""
    program = (
        "import sys; from secfed.cli.main import run; code = run(sys.argv[2:]); "
        "print(code, sorted(set(sys.argv[1].split()) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, " ".join(libraries), *map(str, words)],
        cwd=folder, capture_output=True, text=True, timeout=250, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "2 []"
    assert expected in done.stderr


HEAVY = ("torch", "datasets", "transformers", "peft")


@pytest.mark.parametrize("emptied", [False, True])
def test_a_file_that_is_not_there_is_told_before_a_library_is_loaded(
    site: Callable[..., Path], tmp_path: Path, emptied: bool
) -> None:
    config = site()
    rows = tmp_path / "rows.jsonl"
    rows.unlink()
    if emptied:
        rows.touch()
    refused_without(
        HEAVY, tmp_path, ("data", "check", "--config", config, "--labels", "bad,good"), "no such file, or it"
    )


def test_a_column_that_is_not_there_is_told_before_the_model_library_is_loaded(
    site: Callable[..., Path], tmp_path: Path
) -> None:
    words = ("data", "check", "--config", site(text="txt"), "--labels", "bad,good")
    refused_without(("transformers", "peft"), tmp_path, words, "no column 'txt'")


def test_eval_tells_a_missing_folder_or_file_before_a_library_is_loaded(
    adapter: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "public.jsonl", ROWS)
    for named, expected in (
        (("--adapter", tmp_path / "nope", "--data", rows), "nope holds no adapter"),
        (("--adapter", adapter, "--data", tmp_path / "none.jsonl"), "none.jsonl: no such file"),
    ):
        refused_without(HEAVY, tmp_path, ("eval", *named), expected)


def test_job_start_tells_a_missing_kl_file_before_it_dials(tmp_path: Path) -> None:
    """There is no admin.toml here either: the job file is looked at first."""
    text = to_toml(template("kto"), tmp_path)
    for line, other in (
        ("loss_type", 'loss_type = "kto"'),
        ("kl ", 'kl = "public"'),
        ("# kl_file", 'kl_file = "gone.jsonl"'),
    ):
        (old,) = [found for found in text.splitlines() if found.startswith(line)]
        text = text.replace(old, other)
    (tmp_path / "JOB.toml").write_text(text)
    refused_without(HEAVY, tmp_path, ("job", "start", "JOB.toml", "--config", "none.toml"), "gone.jsonl: no")
