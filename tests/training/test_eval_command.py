"""`secfed eval` on tiny models: the adapter's folder says which trainer's metric and rows it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secfed.aggregation import folder
from secfed.cli import main
from secfed.training.adapter import build, task_of
from secfed.training.data import load
from secfed.training.evaluate import Evaluator
from secfed.training.rows import FORMATS


@pytest.mark.parametrize(
    ("trainer", "renamed", "words"),
    [
        ("classify", {"text": "sentence"}, "accuracy"),
        ("sft", {"prompt": "question"}, "mean completion loss"),
        ("dpo", {"chosen": "better", "rejected": "worse"}, "reward accuracy"),
        ("kto", {"label": "thumb"}, "thumbs right"),
    ],
)
def test_every_trainer_has_a_metric(
    trainer: str,
    renamed: dict[str, str],
    words: str,
    base_folder: Callable[..., Path],
    spec_of: Callable[..., Any],
    train_spec: Callable[..., Any],
    first_adapter: Callable[..., Any],
    rows_for: Callable[..., Any],
    write_rows: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind = "bert" if trainer == "classify" else "llama"
    spec, arrays = spec_of(kind, trainer), first_adapter(train_spec(kind, trainer))
    folder.write(tmp_path / "round-0001", spec, arrays)
    (tmp_path / "cache/models").mkdir(parents=True)
    (tmp_path / "cache/models" / kind).symlink_to(base_folder(kind))
    rows = rows_for(kind, 12, trainer=trainer)
    data = write_rows([{renamed.get(name, name): value for name, value in row.items()} for row in rows])
    options = [f"--{name}={column}" for name, column in renamed.items()]
    places = ["--adapter", str(tmp_path / "round-0001"), "--models", str(tmp_path / "cache")]
    code = main.run(["eval", *places, "--data", str(data), "--json", *options])
    said = json.loads(capsys.readouterr().out)
    table = load(data, FORMATS[trainer], scratch=tmp_path / "s", columns=renamed)
    task = task_of(spec, base_folder(kind), 128)
    metric = Evaluator(build(spec, base_folder(kind), device="cpu"), task, table).measure(arrays)
    assert (code, said["rows"]) == (0, 12)
    assert said["metric"].startswith(words)
    assert said["value"] == pytest.approx(metric.value)
    assert (said["perplexity"] is None) == (trainer != "sft")


def test_rows_without_the_trainers_columns_are_named(
    base_folder: Callable[..., Path],
    spec_of: Callable[..., Any],
    train_spec: Callable[..., Any],
    first_adapter: Callable[..., Any],
    rows_for: Callable[..., Any],
    write_rows: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder.write(tmp_path / "a", spec_of("llama", "dpo"), first_adapter(train_spec("llama", "dpo")))
    data = write_rows(rows_for("llama", 3, trainer="sft"))
    assert main.run(["eval", "--adapter", str(tmp_path / "a"), "--data", str(data)]) != 0
    assert "no columns 'chosen', 'rejected'" in capsys.readouterr().err
