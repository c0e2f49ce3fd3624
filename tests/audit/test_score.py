"""Scores of adapters that were really trained: the two controls of the whole audit, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from secfed.aggregation.spec import AdapterSpec
from secfed.audit import canary
from secfed.audit.guesses import lower_bounds
from secfed.audit.result import Scores
from secfed.audit.score import read_canaries, score
from secfed.errors import ConfigError, DataError, StorageError
from secfed.rounds.publish import MANIFEST_FILE

DELTA = 1e-5


@pytest.fixture(scope="module")
def canaries(rows: tuple[canary.Plain, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of all canaries."""
    path = tmp_path_factory.mktemp("set") / "canaries.jsonl"
    path.write_bytes(canary.as_lines(rows))
    return path


@pytest.fixture(scope="module")
def by_heart(trained: Callable[..., Path], rows: tuple[canary.Plain, ...], included: np.ndarray) -> Path:
    """A round of a job whose noise is off, although it claims epsilon 1."""
    return trained([row for row, put_in in zip(rows, included, strict=True) if put_in], "0.000001")


@pytest.fixture(scope="module")
def of_by_heart(canaries: Path, by_heart: Path, models: Path) -> Scores:
    return score(canaries, by_heart, models / "models" / "random", max_length=16)


def test_a_job_without_its_noise_is_refuted(of_by_heart: Scores, included: np.ndarray) -> None:
    """The negative control: forty steps without noise are found out beyond the epsilon they claim.

    With two classes a canary that was left out may be classed rightly by luck, so 24 are named as out alone.
    """
    assert of_by_heart.claim is not None
    assert of_by_heart.claim.epsilon == 1.0
    plain, curve = lower_bounds(included, np.array(of_by_heart.scores), delta=DELTA, tried=((0, 24),))
    assert plain.epsilon_lower > 1.0
    assert curve.epsilon_lower > plain.epsilon_lower


def test_redrawn_coins_show_nothing_of_the_same_scores(of_by_heart: Scores, included: np.ndarray) -> None:
    """The positive control: 60 redraws, seeded; more above 0 than allowed here happens once in 10^6."""
    generator = np.random.default_rng(21)
    shown = 0
    for _ in range(60):
        redrawn = canary.flip(len(included), generator.bytes)
        shown += lower_bounds(redrawn, np.array(of_by_heart.scores), delta=DELTA)[0].epsilon_lower > 0
    assert shown <= stats.binom.isf(1e-6, 60, 0.05)


def test_a_job_with_its_noise_is_not_refuted(
    trained: Callable[..., Path],
    canaries: Path,
    rows: tuple[canary.Plain, ...],
    included: np.ndarray,
    models: Path,
) -> None:
    """Forty steps of all rows at sigma 16: mu = sqrt(40) / 16, epsilon 1.54 at 1e-5."""
    out = trained([row for row, put_in in zip(rows, included, strict=True) if put_in], "16", "1.540")
    found = score(canaries, out, models / "models" / "random", max_length=16)
    assert lower_bounds(included, np.array(found.scores), delta=DELTA)[0].epsilon_lower < 1.0


def test_scores_carry_what_the_manifest_says(of_by_heart: Scores, canaries: Path) -> None:
    assert (of_by_heart.job, of_by_heart.round, of_by_heart.result) == ("canary-job", 1, "ab" * 32)
    assert (of_by_heart.trainer, of_by_heart.base_model) == ("classify", "small/random")


def test_from_an_adapter_to_itself_nothing_is_gained(canaries: Path, by_heart: Path, models: Path) -> None:
    found = score(canaries, by_heart, models / "models" / "random", start=by_heart, max_length=16)
    assert set(found.scores) == {0.0}


def test_an_adapter_without_a_manifest_is_scored(
    canaries: Path, by_heart: Path, models: Path, of_by_heart: Scores, tmp_path: Path
) -> None:
    bare = shutil.copytree(by_heart, tmp_path / "bare")
    (bare / MANIFEST_FILE).unlink()
    found = score(canaries, bare, models / "models" / "random", max_length=16)
    assert (found.job, found.claim) == (None, None)
    assert (found.adapter, found.scores) == (of_by_heart.adapter, of_by_heart.scores)


def test_a_folder_that_is_not_the_manifests_is_refused(
    canaries: Path, by_heart: Path, models: Path, tmp_path: Path
) -> None:
    changed = shutil.copytree(by_heart, tmp_path / "changed")
    (changed / "README.md").write_text("another", encoding="utf-8")
    with pytest.raises(StorageError, match=r"README\.md is not the file"):
        score(canaries, changed, models / "models" / "random")
    (changed / MANIFEST_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot be read"):
        score(canaries, changed, models / "models" / "random")


def test_rounds_of_two_jobs_are_not_compared(
    canaries: Path, by_heart: Path, models: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(by_heart, tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))
    with pytest.raises(ConfigError, match="not rounds of one job"):
        score(canaries, by_heart, models / "models" / "random", start=other)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no canaries"),
        ("{not json\n", "row 1: not a line of JSON"),
        ('{"text": "a", "label": "no"}\n[1]\n', "row 2: canaries of classify have the columns text, label"),
        ('{"prompt": "a", "completion": "b"}\n', "have the columns text, label"),
        ('{"text": "a", "label": 3}\n', "column 'label': a value of another type"),
    ],
)
def test_files_that_hold_no_canaries_are_refused(
    text: str, what: str, spec: AdapterSpec, tmp_path: Path
) -> None:
    path = tmp_path / "canaries.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=what):
        read_canaries(path, spec)
    with pytest.raises(DataError, match="No such file"):
        read_canaries(tmp_path / "missing.jsonl", spec)
