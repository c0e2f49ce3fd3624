"""A one-run audit through a live federation: canaries in one site's data, real clients, what they publish.

One site's file holds only canaries, as `secfed audit canaries make` chose them; what it contributes is
averaged with two other sites' updates. The noisy job's claim stands; the same data trained without noise
are found out; and coins that nobody tossed show nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import Outcome, secfed
from trainees import NEVER_S, Trainees

from secfed.audit.canary import WORDS, flip
from secfed.audit.small_model import target_modules, write_small_model
from secfed.config import to_toml
from secfed.config.job import DeadlineSection, JobFile, PrivacySection, TrainingSection

SITES = ("hosp-a", "hosp-b", "hosp-c")
AUDITED = SITES[0]
COUNT = 200
"""Canaries: half of them are learnt by heart in seconds, and can refute what is claimed below."""

CLAIM, DELTA = 0.5, 1e-6
"""What the job without noise would claim if somebody had left the noise out unseen."""

NAMED_OUT = 28
"""Canaries that are named as out, because their loss fell least: hardly one of them was trained on."""

ERROR = 1e-6
"""Chance that coins tossed anew seem to have been known."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Audited(Trainees):
    """Sites that train a small language model, one of them on canaries."""

    @property
    def set(self) -> Path:
        """The canaries, and the coins."""
        return self.root / "set"

    def make_model(self, models: Path) -> None:
        """Random weights: it learns canaries by heart, as it knows nothing else."""
        write_small_model(models / "random", "sft", WORDS)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Canaries that were chosen, or four rows of words in an order."""
        if name != AUDITED:
            start = 10 * SITES.index(name)
            return [{"prompt": WORDS[start + row], "completion": WORDS[start + row + 1]} for row in range(4)]
        self.done(
            "audit", "canaries", "make", "--trainer", "sft", "--count", COUNT, "--length", 6, "-o", self.set
        )
        return [json.loads(line) for line in (self.set / "insert.jsonl").read_text().splitlines()]

    def join(self, name: str, *options: str) -> str:
        """Sites that allow a job without noise."""
        return super().join(name, *options, "--allow-non-private")

    def teach(self, name: str, *, steps: int, rounds: int, private: bool) -> Path:
        """Run a job to its end by three clients; the last round's folder."""
        job = JobFile(
            name=name,
            rounds=rounds,
            bits=20,
            non_private=not private,
            training=TrainingSection(
                trainer="sft",
                base_model="small/random",
                strategy="fedavg",
                target_modules=target_modules("sft"),
                r=16,
                alpha=32,
                steps=steps,
                learning_rate=0.02,
                max_length=16,
                plain_batch=COUNT // 4,
            ),
            privacy=PrivacySection(
                unit="record", nominal_units=COUNT // 2, batch=COUNT / 4, noise_multiplier=4.0, delta=DELTA
            )
            if private
            else None,
            deadlines=DeadlineSection(training_s=3600, phase_s=NEVER_S, upload_idle_s=NEVER_S),
        )
        path = self.root / f"{name}.toml"
        path.write_text(to_toml(job, self.root))
        self.done("job", "start", path, "--config", self.federation / "admin.toml", "--models", self.models)
        return self.published(name, rounds).folder

    def bound(self, folder: Path, *options: object, coins: Path | None = None) -> Outcome:
        """Score a round's adapter, and bound epsilon by it."""
        scores = self.root / f"{folder.parent.name}.json"
        if not scores.exists():
            self.done(
                "audit", "canaries", "score", "--canaries", self.set / "canaries.jsonl", "--adapter", folder,
                "--models", self.models, "--max-length", 16, "-o", scores,
            )  # fmt: skip
        return secfed(
            "audit", "canaries", "bound", "--coins", coins or self.set / "coins.json", "--scores", scores,
            "--guess-in", 0, "--guess-out", NAMED_OUT, "--json", *options,
        )  # fmt: skip

    def accounted(self) -> dict[str, Any]:
        """The audited site's part of `secfed report`."""
        said = self.done("report", "--config", self.config(AUDITED), "--format", "json")
        found = json.loads(said.out)["sites"]
        return next(site for site in found if site["cap"] is not None)


@pytest.fixture(scope="module")
def play(build_shared: Callable[..., Audited]) -> Audited:
    play = build_shared(*SITES, kind=Audited)
    for name in SITES:
        play.spawn(name, "client", "run", "--config", str(play.config(name)))
    return play


def test_a_published_adapter_is_audited_beside_its_claim(play: Audited) -> None:
    """And the same rows without noise are found out, while redrawn coins show nothing."""
    noisy = play.teach("noisy", steps=5, rounds=1, private=True)
    found = play.bound(noisy, "--config", play.config(AUDITED))
    assert found.code == 0, found.err
    measured = json.loads(found.out)
    claimed = json.loads((noisy / "secfed_manifest.json").read_text())["privacy"]
    assert measured["claim"]["epsilon"] == float(claimed["epsilon_by_plan"]) > 0
    assert (measured["claim"]["delta"], measured["delta"]) == (DELTA, DELTA)
    assert (measured["verdict"], measured["job"], measured["canaries"]) == ("consistent", "noisy", COUNT)
    account = play.accounted()
    (shown,) = account["audits"]
    assert (shown["epsilon_lower"], shown["verdict"]) == (measured["epsilon_lower"], "consistent")
    assert account["epsilon"] == pytest.approx(measured["claim"]["epsilon"], abs=1.5e-3)
    text = " ".join(play.done("report", "--config", play.config(AUDITED)).out.split())
    assert f"epsilon is at least {measured['epsilon_lower']:.3f} at delta {DELTA:g}" in text

    plain = play.teach("plain", steps=120, rounds=2, private=False)
    refuted = play.bound(plain, "--claim", CLAIM, "--delta", DELTA, "--config", play.config(AUDITED))
    assert refuted.code == 52, refuted.out
    assert json.loads(refuted.out)["epsilon_lower"] > CLAIM
    assert "the claim says less" in refuted.error
    account = play.accounted()
    assert (account["private"], [audit["verdict"] for audit in account["audits"]]) == (
        False, ["consistent", "refuted"],
    )  # fmt: skip

    anew = play.root / "anew.json"
    coins = json.loads((play.set / "coins.json").read_text())
    coins["included"] = "".join("1" if put_in else "0" for put_in in flip(COUNT, os.urandom))
    anew.write_text(json.dumps(coins))
    nothing = play.bound(
        plain, "--claim", CLAIM, "--delta", DELTA, "--confidence", 1 - ERROR, coins=anew
    )  # fmt: skip
    assert (nothing.code, json.loads(nothing.out)["epsilon_lower"]) == (0, 0.0)
