"""One score a canary: how much an adapter has lowered its loss.

What went into the adapter is the loss of the trainer itself, so a canary that was trained on tends
to a higher score than one that was left out. The start is the base model with an adapter of zeros,
or an earlier round's adapter. Any score serves a bound; a good one shows more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secfed.aggregation import folder
from secfed.aggregation.spec import AdapterSpec
from secfed.aggregation.strategy import NamedArrays
from secfed.audit.result import Claim, Scores, file_sha256
from secfed.errors import ConfigError, DataError, StorageError
from secfed.rounds.publish import MANIFEST_FILE
from secfed.store import jsontext
from secfed.training.adapter import AdapterModel, build, task_of
from secfed.training.models import weights_sha256
from secfed.training.rows import FORMATS, Row
from secfed.training.task import Example, Task

__all__ = ["read_canaries", "score"]

_BATCH = 32
"""Canaries at once."""

_LINES_BYTES_MAX = 256 << 20
"""Largest file of canaries that is read."""


def read_canaries(path: Path, spec: AdapterSpec) -> tuple[tuple[Row, ...], str]:
    """Rows of a file that `canaries make` wrote, for the trainer of an adapter.

    Returns:
        The rows, and the SHA-256 of the file.

    Raises:
        DataError: Another file, or canaries of another trainer.
    """
    try:
        if path.stat().st_size > _LINES_BYTES_MAX:
            raise DataError(f"{path} is too long to be a file of canaries", hint=_REMEDY)
        data = path.read_bytes()
    except OSError as problem:
        raise DataError(f"{path}: {problem.strerror}", hint=_REMEDY) from problem
    columns = FORMATS[spec.trainer][-1]
    rows: list[Row] = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            row: Any = json.loads(line)
        except ValueError:
            raise DataError(f"{path}: row {number}: not a line of JSON", hint=_REMEDY) from None
        if not isinstance(row, dict) or set(row) != set(columns):
            raise DataError(
                f"{path}: row {number}: canaries of {spec.trainer} have the columns {', '.join(columns)}",
                hint="Score the canaries that were made for this job's trainer.",
            )
        for column, kinds in columns.items():
            if not isinstance(row[column], bool if "bool" in kinds else str):
                raise DataError(
                    f"{path}: row {number}, column {column!r}: a value of another type", hint=_REMEDY
                )
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: no canaries", hint=_REMEDY)
    return tuple(rows), file_sha256(data)


_REMEDY = "Name the canaries.jsonl that `secfed audit canaries make` wrote."


def score(
    canaries: Path,
    adapter: Path,
    base_folder: Path,
    *,
    start: Path | None = None,
    max_length: int = 128,
    device: str = "auto",
) -> Scores:
    """Score every canary.

    Args:
        canaries: The file of all canaries, those that were left out included.
        adapter: A round's folder.
        base_folder: Where the adapter's base model lies.
        start: An earlier round's folder; None for the base model alone.
        max_length: Longest row in tokens, as in the job.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        DataError: The canaries do not fit the adapter's trainer.
        StorageError: A folder is damaged, or not the one that its manifest speaks of.
        ConfigError: The base model is not there, or the two adapters are not of one kind.
    """
    spec, trained = folder.read(adapter)
    before: NamedArrays = {name: np.zeros_like(value) for name, value in trained.items()}
    if start is not None:
        other, before = folder.read(start)
        if other != spec:
            raise ConfigError(f"{start} and {adapter} are not rounds of one job")
    rows, digest = read_canaries(canaries, spec)
    facts = _facts(adapter)
    model = build(spec, base_folder, device=device)
    task = task_of(spec, base_folder, max_length)
    examples = [task.example(row) for row in rows]
    gained = _losses(model, task, examples, before) - _losses(model, task, examples, trained)
    if not np.isfinite(gained).all():
        raise DataError("a canary has no finite loss", hint="Check the adapter with `secfed eval`.")
    return Scores(
        canaries_sha256=digest,
        trainer=spec.trainer,
        base_model=spec.base_model,
        adapter=weights_sha256(adapter),
        scores=tuple(float(value) for value in gained),
        **facts,
    )


def _losses(
    model: AdapterModel, task: Task, examples: Sequence[Example], arrays: NamedArrays
) -> NDArray[np.float64]:
    """Loss of every example by itself, under one adapter; shape (canaries,)."""
    model.load(arrays)
    task.begin(model.module)
    order = sorted(range(len(examples)), key=lambda number: len(examples[number].tokens))
    found = np.empty(len(examples))
    with torch.no_grad():
        for begin in range(0, len(order), _BATCH):
            piece = order[begin : begin + _BATCH]
            batch = task.collate([examples[number] for number in piece])
            on_device = {name: part.to(model.device) for name, part in batch.items()}
            found[piece] = task.losses(model.module, on_device).to("cpu", torch.float64).numpy()
    return found


def _facts(adapter: Path) -> dict[str, Any]:
    """What the round's manifest says of the adapter; all None where there is none.

    The manifest's signature is not looked at: whoever runs an audit names the folder.
    """
    path = adapter / MANIFEST_FILE
    if not path.exists():
        return dict.fromkeys(("result", "job", "round", "job_plan", "claim"))
    try:
        found: Any = jsontext.parse(path.read_bytes())
        facts = {name: found[name] for name in ("result", "job", "round", "job_plan")}
        listed, privacy = found["files"], found["privacy"]
        claim = None if privacy is None else _claim(privacy)
        changed = [
            name for name, digest in listed.items() if file_sha256((adapter / name).read_bytes()) != digest
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise StorageError(f"{path} cannot be read: {problem}") from problem
    if changed:
        raise StorageError(f"{adapter / changed[0]} is not the file that the round's manifest lists")
    return facts | {"claim": claim}


def _claim(privacy: Mapping[str, Any]) -> Claim | None:
    """Epsilon after this round, by plan; None where the plan has no figure for it."""
    text = privacy["epsilon_by_plan"]
    if not text:
        return None
    return Claim(epsilon=float(text), delta=float(privacy["parameters"]["delta"]), source="round manifest")
