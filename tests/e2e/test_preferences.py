"""Sites that learn from preferences: `dpo` and `kto` from their templates, two rounds each, by processes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from loopback import Round
from peft import PeftModel
from trainees import BATCH, ROWS, SIZE, STEPS, Trainees, save_model, words

from secfed.aggregation.strategy import POINT
from secfed.training.point import MOST_NATS

SITES = ("hosp-a", "hosp-b", "hosp-c")
ROUNDS = 2
PHASE_S = 120
"""Deadline of a phase that nobody here misses."""

pytestmark = [
    pytest.mark.timeout(900),  # three clients load torch, on a machine that has other things to do
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning"),  # of PEFT's names
]


class Judges(Trainees):
    """Trainees whose rows are pairs of responses, and responses with a thumb."""

    def make_model(self, models: Path) -> None:
        """A causal language model."""
        config = transformers.LlamaConfig(**SIZE)
        save_model(transformers.AutoModelForCausalLM, config, models / "chat")

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Each row serves both trainers."""
        made = []
        for row in range(ROWS):
            prompt, reply = words(name, row, 3, 2 + row % 9), words(name, row, 5, 1 + row % 4)
            other = f"<unk> {words(name, row, 2, 1 + row % 3)}"
            pair = {"prompt": prompt, "chosen": reply, "rejected": other}
            made.append(pair | {"completion": reply, "label": row % 3 > 0})
        return made

    def preferences(self, trainer: str, **changes: str) -> None:
        """Start the job of a trainer's template on the tiny model, its keys changed as TOML."""
        path = self.root / f"{trainer}.toml"
        self.done("job", "init", "--template", trainer, "-o", path)
        text = path.read_text()
        common = {
            "name": f'"{trainer}"', "rounds": str(ROUNDS), "base_model": '"tiny/chat"', "steps": str(STEPS),
            "max_length": "24", "nominal_units": str(ROWS), "batch": str(BATCH), "phase_s": str(PHASE_S),
        }  # fmt: skip
        for key, value in (common | changes).items():
            text, count = re.subn(f"^(# )?{key} = .*$", f"{key} = {value}", text, count=1, flags=re.M)
            assert count == 1, key
        path.write_text(text)
        self.done("job", "start", path, "--config", self.federation / "admin.toml", "--models", self.models)


@pytest.fixture(scope="module")
def play(build_shared: Callable[..., Judges]) -> Judges:
    play = build_shared(*SITES, kind=Judges)
    for name in SITES:
        play.attend(name)
    return play


def learnt(play: Judges, trainer: str) -> list[Round]:
    """Both rounds of a job, once all is as it must be: plan, sum, folder and ledgers."""
    rounds = [play.published(trainer, number) for number in range(1, ROUNDS + 1)]
    plan = play.plan(trainer)
    assert plan.training is not None
    assert (plan.created_by, plan.training.trainer) == ("admin", trainer)
    for found in rounds:
        assert (found.manifest["included"], found.dropped) == (list(SITES), {})
        play.assert_exact(found, trainer)
        assert_loads(play, found)
    for name in SITES:
        charges = play.charges(name, trainer)
        assert [charge["round"] for charge in charges] == [1, 2]
        for charge in charges:
            assert charge["event"]["kind"] == "poisson_gaussian"
            assert charge["event"]["steps"] == STEPS
        assert len(play.charges(name, trainer, "sent")) == ROUNDS
        assert [line["state"] for line in play.account(name, trainer)] == ["sent", "sent"]
    return rounds


def assert_loads(play: Judges, found: Round) -> None:
    """The folder is an adapter for PEFT, with no array that PEFT does not know, and changes the base."""
    base = transformers.AutoModelForCausalLM.from_pretrained(play.models / "models" / "chat").eval()
    tokens = torch.tensor([[5, 9, 20, 33]])
    with torch.no_grad():
        before = base(tokens).logits
        adapted = PeftModel.from_pretrained(base, str(found.folder)).eval()
        assert not torch.allclose(adapted(tokens).logits, before, atol=1e-6)
    arrays = {name.replace(".default", "") for name, _ in adapted.named_parameters() if ".lora_" in name}
    assert set(found.arrays) == arrays


@pytest.mark.slow
def test_pairs(play: Judges) -> None:
    play.preferences("dpo")
    learnt(play, "dpo")


def test_thumbs_with_a_point_that_rides_along(play: Judges) -> None:
    """The second round starts from the sum of the first, the point included; no folder holds it."""
    public = [{"prompt": "w1", "completion": f"w{number} w5 w{2 * number}"} for number in (11, 17, 23)]
    (play.root / "public.jsonl").write_text("".join(json.dumps(row) + "\n" for row in public))
    play.preferences("kto", loss_type='"kto"', kl='"ride-along"', kl_file='"public.jsonl"')
    first, second = learnt(play, "kto")
    layout = play.plan("kto").layout
    sent = [layout.unflatten(play.sent(name, "kto"))[POINT] for name in SITES]
    assert np.allclose(play.state(first)[POINT], np.mean(sent, axis=0), rtol=1e-3, atol=1e-8)
    nats = float(play.state(first)[POINT][0]) / float(play.plan("kto").bound) * MOST_NATS
    assert abs(nats) <= MOST_NATS
    assert second.manifest["base"] == first.manifest["result"]
    assert POINT not in first.arrays
