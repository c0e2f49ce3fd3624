"""Losses without noise against the TRL library's own trainers, on the same rows, texts and chats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import peft
import pytest
import torch
import transformers
import trl

from secfed.rounds.plan import DpoSpec, KtoSpec
from secfed.training.adapter import AdapterModel, build, task_of
from secfed.training.rows import Row

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing:FutureWarning", "ignore:fan_in_fan_out:UserWarning"
)  # of transformers and PEFT about each other's names

KINDS = ("llama", "gpt2")
BATCH = 6


@pytest.fixture
def losses(
    base_folder: Callable[..., Path],
    spec_of: Callable[..., Any],
    train_spec: Callable[..., Any],
    first_adapter: Callable[..., Any],
    tmp_path: Path,
) -> Callable[..., tuple[float, float]]:
    """The mean loss of rows here, and TRL's, under the same adapter on the same base."""

    def compute(
        kind: str, trainer: str, rows: Sequence[Row], options: Mapping[str, Any], preference: Any = None
    ) -> tuple[float, float]:
        spec, folder = spec_of(kind, trainer), base_folder(kind)
        arrays = first_adapter(train_spec(kind, trainer))
        ours = build(spec, folder, device="cpu")
        ours.load(arrays)
        task = task_of(spec, folder, 64, preference)
        with torch.no_grad():
            mine = task.losses(ours.module, task.collate([task.example(row) for row in rows])).mean()

        made, config = {
            "sft": (trl.SFTTrainer, trl.SFTConfig),
            "dpo": (trl.DPOTrainer, trl.DPOConfig),
            "kto": (trl.KTOTrainer, trl.KTOConfig),
        }[trainer]
        arguments = config(
            output_dir=str(tmp_path / "trl"), use_cpu=True, report_to=[], bf16=False,
            per_device_train_batch_size=len(rows), max_length=64, disable_tqdm=True, **options,
        )  # fmt: skip
        theirs = made(
            model=transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            args=arguments,
            processing_class=transformers.AutoTokenizer.from_pretrained(folder),
            train_dataset=datasets.Dataset.from_list([_plain(row) for row in rows]),
            peft_config=peft.LoraConfig(
                task_type="CAUSAL_LM", r=spec.r, lora_alpha=spec.alpha, lora_dropout=0.0,
                target_modules=list(spec.target_modules),
            ),
        )  # fmt: skip
        AdapterModel(theirs.model, spec, torch.device("cpu")).load(arrays)
        batch = theirs.data_collator([theirs.train_dataset[place] for place in range(len(rows))])
        with torch.no_grad():
            other = theirs.compute_loss(theirs.model, batch)
        return float(mine), float(other)

    return compute


def _spaced(row: Row) -> Row:
    """A row whose prompt ends with a space: TRL tokenises prompt and completion as one text."""
    return {**row, "prompt": f"{row['prompt']} "}


def _plain(row: Row) -> dict[str, Any]:
    """A row as TRL takes it."""
    return {
        name: [asdict(message) for message in value] if isinstance(value, tuple) else value
        for name, value in row.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chat", [False, True], ids=["texts", "chat"])
def test_sft_loss_is_trls(
    losses: Callable[..., Any], rows_for: Callable[..., Any], as_chat: Any, kind: str, chat: bool
) -> None:
    """On completions of equal length: TRL's mean is over the batch's tokens, ours over the record's."""
    rows = [row | {"completion": f"w{number} w7 w9"} for number, row in enumerate(rows_for(kind, BATCH))]
    mine, theirs = losses(kind, "sft", [as_chat(row) if chat else _spaced(row) for row in rows], {})
    assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("loss_type", "chat"),
    [("sigmoid", True), *((kind, False) for kind in ("sigmoid", "ipo", "hinge", "robust", "apo_zero"))],
)
def test_dpo_loss_is_trls(
    losses: Callable[..., Any],
    rows_for: Callable[..., Any],
    as_chat: Any,
    kind: str,
    chat: bool,
    loss_type: str,
) -> None:
    rows = rows_for(kind, BATCH, trainer="dpo")
    smoothing = 0.2 if loss_type == "robust" else 0.0
    mine, theirs = losses(
        kind,
        "dpo",
        [as_chat(row) if chat else _spaced(row) for row in rows],
        {"loss_type": [loss_type], "beta": 0.7, "label_smoothing": smoothing},
        DpoSpec(loss_type=loss_type, beta="0.7", label_smoothing=str(smoothing)),
    )
    assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("chat", [False, True], ids=["texts", "chat"])
def test_dpo_loss_of_pairs_whose_prompt_stands_in_their_responses_is_trls(
    losses: Callable[..., Any], rows_for: Callable[..., Any], as_chat: Any, chat: bool
) -> None:
    rows: list[Row] = []
    for row in rows_for("llama", BATCH, trainer="dpo"):
        said = as_chat(row)
        if chat:
            rows.append({side: said["prompt"] + said[side] for side in ("chosen", "rejected")})
        else:  # texts part at the beginning of a word
            start = row["prompt"]
            rows.append(
                {"chosen": f"{start} <unk> {row['chosen']}", "rejected": f"{start} {row['rejected']}"}
            )
    mine, theirs = losses("llama", "dpo", rows, {"loss_type": ["sigmoid"], "beta": 0.7}, DpoSpec(beta="0.7"))
    assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chat", [False, True], ids=["texts", "chat"])
def test_kto_loss_is_trls(
    losses: Callable[..., Any], rows_for: Callable[..., Any], as_chat: Any, kind: str, chat: bool
) -> None:
    """With z0 = 0, the one setting in which TRL's rows do not look at each other."""
    rows = rows_for(kind, BATCH, trainer="kto")
    mine, theirs = losses(
        kind,
        "kto",
        [as_chat(row) if chat else _spaced(row) for row in rows],
        {"loss_type": "apo_zero_unpaired", "beta": 0.7, "desirable_weight": 1.5, "undesirable_weight": 0.5},
        KtoSpec(loss_type="apo_zero_unpaired", beta="0.7", desirable_weight="1.5", undesirable_weight="0.5"),
    )
    assert mine == pytest.approx(theirs, rel=1e-5)
