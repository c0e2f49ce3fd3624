"""The small model in a models folder, a set of canaries, and jobs really trained on those that were in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from secfed.aggregation import folder
from secfed.aggregation.initial import initial_adapter
from secfed.aggregation.registry import by_name
from secfed.aggregation.spec import AdapterSpec
from secfed.audit import canary
from secfed.audit.small_model import target_modules, write_small_model
from secfed.rounds.plan import BaseModelSpec, DpSpec, LoraSpec, TrainSpec
from secfed.rounds.publish import MANIFEST_FILE
from secfed.training.adapter import schema
from secfed.training.data import Table
from secfed.training.models import weights_sha256
from secfed.training.trainer import LocalTrainer

torch.set_num_threads(1)

COUNT = 160
"""Canaries: enough to refute epsilon 1, few enough to be learnt by heart in seconds."""

LABELS = ("no", "yes")
DELTA = 1e-5


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of base models that holds the small encoder as `small/random`."""
    place = tmp_path_factory.mktemp("cache")
    (place / "models").mkdir()
    torch.manual_seed(3)
    write_small_model(place / "models" / "random", "classify", canary.WORDS)
    return place


@pytest.fixture(scope="session")
def spec() -> AdapterSpec:
    """The adapter on it."""
    return AdapterSpec("small/random", "main", "classify", target_modules("classify"), 4, 16, LABELS)


@pytest.fixture(scope="session")
def trained(models: Path, spec: AdapterSpec, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains rows by DP-SGD at a noise multiplier and writes a round's folder that claims an epsilon."""
    base = models / "models" / "random"
    train = TrainSpec(
        trainer="classify",
        strategy="fedavg",
        base=BaseModelSpec(id=spec.base_model, weights_sha256=weights_sha256(base)),
        lora=LoraSpec(r=spec.r, alpha=spec.alpha, target_modules=spec.target_modules),
        steps=40,
        learning_rate="0.02",
        max_length=16,
        adapter=schema(spec, base),
        labels=LABELS,
        seed="5e" * 32,
    )

    def make(rows: list[dict[str, str]], noise: str, claim: str | None = "1.000") -> Path:
        dp = DpSpec(
            unit="record",
            sampling_num=2**64,
            noise_multiplier=noise,
            clip="1",
            nominal_units=COUNT // 2,
            delta=f"{DELTA:.5f}",
        )
        table = Table(Path("rows"), tuple(rows), None, {"text": "text", "label": "label"})
        trainer = LocalTrainer(train, dp, base, table, bytes(32), device="cpu", micro_batch=80)
        first = initial_adapter(train.adapter, bytes.fromhex(train.seed))
        update = trainer.run(first, entropy=np.random.default_rng(2).bytes)
        place = tmp_path_factory.mktemp("out") / "round-0001"
        arrays = by_name(train.strategy).apply(first, update.arrays)
        written = folder.write(place, spec, arrays)
        manifest = {
            "job": "canary-job",
            "round": 1,
            "result": "ab" * 32,
            "job_plan": "cd" * 32,
            "privacy": None
            if claim is None
            else {"epsilon_by_plan": claim, "parameters": dp.model_dump(mode="json")},
            "files": {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in written},
        }
        (place / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
        return place

    return make


@pytest.fixture(scope="session")
def rows() -> tuple[canary.Plain, ...]:
    """Canaries, the same in every run of the tests."""
    generator = np.random.default_rng(11)
    return canary.invent("classify", COUNT, labels=LABELS, length=8, entropy=generator.bytes)


@pytest.fixture(scope="session")
def included() -> np.ndarray:
    """Their coins, the same in every run of the tests."""
    return canary.flip(COUNT, np.random.default_rng(12).bytes)
