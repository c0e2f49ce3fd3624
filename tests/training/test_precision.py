"""A base in bfloat16 under an adapter in float32, with the claim unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secfed.training.trainer import LocalTrainer, load_model

KINDS = ("bert", "llama", "gpt2")
PRECISIONS = ("float32", "bfloat16")
STREAM_KEY = b"\x05" * 32


@pytest.fixture
def trainer_of(
    make_trainer: Callable[..., LocalTrainer], train_spec: Callable[..., Any], dp_spec: Callable[..., Any]
) -> Callable[..., tuple[LocalTrainer, Any]]:
    """A site with hardly any noise, and its plan."""

    def make(kind: str, **options: Any) -> tuple[LocalTrainer, Any]:
        train = train_spec(kind, strategy="fedavg", optimizer="sgd", learning_rate="1.0")
        return make_trainer(kind, train, dp_spec(noise_multiplier="0.000001"), rows=16, **options), train

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_on_a_rounded_base_is_the_round_it_would_be(
    trainer_of: Callable[..., Any], first_adapter: Callable[..., Any], kind: str
) -> None:
    """The same batches and hardly any noise: the same event, and updates that point the same way."""
    updates = []
    for precision in ("float32", "bfloat16"):
        trainer, train = trainer_of(kind, precision=precision)
        update = trainer.run(first_adapter(train), entropy=lambda _count: STREAM_KEY)
        updates.append((np.concatenate([part.ravel() for part in update.arrays.values()]), update.event))
        own = {id(parameter) for parameter in trainer.model.parameters.values()}
        for parameter in trainer.model.module.parameters():
            rounded = precision == "bfloat16" and id(parameter) not in own
            assert parameter.dtype == (torch.bfloat16 if rounded else torch.float32)
    (exact, event), (rounded, same_event) = updates
    assert event == same_event
    assert exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded) > 0.98
    assert not np.array_equal(exact, rounded)


def test_only_private_training_in_bfloat16_goes_record_by_record(trainer_of: Callable[..., Any]) -> None:
    sizes = {precision: trainer_of("bert", precision=precision)[0].ladder for precision in PRECISIONS}
    assert [sizes[precision].size for precision in PRECISIONS] == [16, 1]
    assert sizes["bfloat16"].rungs == ()


def test_no_record_feels_another_whatever_is_rounded(
    trainer_of: Callable[..., Any], first_adapter: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every piece that goes through a rounded model is one record, without padding."""
    trainer, train = trainer_of("bert", precision="bfloat16")
    seen: list[tuple[int, bool]] = []
    trainer.model.module.register_forward_pre_hook(
        lambda _module, inputs: seen.append((len(inputs[0]), bool(inputs[1].all())))
    )
    trainer.run(first_adapter(train), entropy=lambda _count: STREAM_KEY)
    assert len(seen) > 2
    assert set(seen) == {(1, True)}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_round_on_a_gpu_is_the_round_on_a_cpu(
    trainer_of: Callable[..., Any], first_adapter: Callable[..., Any], kind: str, precision: str
) -> None:
    """Streams stay on the CPU, so the batches and the noise are the same bits; the rest is rounding."""
    updates = []
    for device in ("cpu", "cuda"):
        trainer, train = trainer_of(kind, device=device, precision=precision)
        update = trainer.run(first_adapter(train), entropy=lambda _count: STREAM_KEY)
        updates.append(np.concatenate([part.ravel() for part in update.arrays.values()]))
        assert all(part.device.type == device for part in trainer.model.module.parameters())
    error = np.linalg.norm(updates[0] - updates[1]) / np.linalg.norm(updates[0])
    assert error < (1e-3 if precision == "float32" else 0.2)


@pytest.mark.gpu
def test_auto_takes_the_gpu(
    base_folder: Callable[[str], Path], train_spec: Callable[..., Any], dp_spec: Callable[..., Any]
) -> None:
    model = load_model(train_spec("bert"), dp_spec(), base_folder("bert"), device="auto", precision="float32")
    assert model.device.type == "cuda"
