"""Sites that train, and are killed, or whose aggregator is: charged once, released once, summed exactly.

The tests share three sites, whose clients go on from one to the next; each has a job of its own.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from loopback import KILLED, PATIENCE_S
from scipy import stats
from trainees import BATCH, CLIP, LEARNING_RATE, ROWS, STEPS, Trainees

SITES = ("hosp-a", "hosp-b", "hosp-c")
POOR = "hosp-d"

CAP = 2.3137529
"""Budget of the poor site: the gate counts 2.164 for one round of a test's job, and 2.487 for two."""

ERROR = 1e-9
"""Chance that a statistical test below fails although the mechanism is right."""

pytestmark = pytest.mark.timeout(900)
"""Each test may have to start three clients that load torch, on a machine that has other things to do."""


@pytest.fixture(scope="module")
def play(build_shared: Callable[..., Trainees]) -> Trainees:
    return build_shared(*SITES, kind=Trainees)


def attend(play: Trainees, *names: str) -> None:
    """Start the clients of these sites, and an aggregator, where they do not run."""
    if play.running("aggregator") is None:
        play.start_aggregator()
    for name in names:
        if play.running(name) is None:
            play.attend(name)


def assert_charged_once(play: Trainees, job: str, *, attempts: int) -> None:
    """One reservation at each site, and the same contribution in every attempt it was masked for."""
    for name in SITES:
        assert len(play.charges(name, job)) == 1
        sent = play.charges(name, job, "sent")
        assert sent[-1]["attempt"] == attempts
        assert len({entry["attempt"] for entry in sent}) == len(sent)
        header = json.loads(play.contribution(name, job).split(b"\n", 1)[0])
        assert {entry["contribution"] for entry in sent} == {header["digest"]}
        (line,) = play.account(name, job)
        assert (line["state"], line["attempts"]) == ("sent", len(sent))


def assert_no_row_elsewhere(play: Trainees) -> None:
    """What the sites trained on stands in their own data files alone: no log, state, report or temporary."""
    rows = [row["text"].encode() for name in SITES for row in play.rows(name)]
    distinct = re.compile(b"|".join(re.escape(text) for text in rows if text.count(b" ") >= 4))
    files = [path for path in play.root.rglob("*") if path.is_file()]
    holding = {path for path in files if distinct.search(path.read_bytes())}
    assert holding == {play.site(name) / "rows.jsonl" for name in SITES}


def assert_fresh_masks(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
    """Whoever had sent in the attempt that was void sent something else in the next one."""
    former = {name.split("-")[1]: masked for name, masked in before.items()}
    latter = {name.split("-")[1]: masked for name, masked in after.items()}
    assert len(latter) == len(SITES)
    assert former
    for member, masked in former.items():
        assert len(masked) == len(latter[member])
        assert masked != latter[member]


# -- a client ----------------------------------------------------------------------------------


def test_a_client_killed_between_training_and_upload_counts_once(play: Trainees) -> None:
    """Its vector was masked and noted as sent, and no byte of it left. Restarted by the same command, it
    sends the identical contribution, as the others do, under fresh masks; nobody is charged again.
    """
    job, (victim, *others) = "killed-client", SITES
    if (client := play.running(victim)) is not None:
        client.stop()
    attend(play, *others)
    earlier = play.spool().keys()
    doomed = play.doomed_attend(victim, "upload:begin")
    play.lesson(job)
    play.ends(doomed, KILLED)
    (made,) = (play.site(victim) / "state" / "contributions").glob(f"{job}.*")
    shutil.copy(made, play.stage(victim))
    charged = play.charges(victim, job)
    (sent,) = play.charges(victim, job, "sent")
    assert sent["attempt"] == 1
    (counted,) = play.account(victim, job)
    assert counted["state"] == "sent"

    def masked() -> dict[str, bytes]:
        return {name: vector for name, vector in play.spool().items() if name not in earlier}

    play.until(lambda: len(masked()) == len(others), "the uploads of the others", PATIENCE_S)
    before = masked()
    play.attend(victim)
    found = play.published(job)
    play.assert_exact(found, job)
    assert found.manifest["included"] == list(SITES)
    assert found.manifest["attempt"] == 2
    assert f"job {job}  attempt 1 is void" in play.output("aggregator")
    assert play.charges(victim, job) == charged
    assert_charged_once(play, job, attempts=2)
    (after,) = play.account(victim, job)
    assert after["epsilon_so_far"] == counted["epsilon_so_far"]
    assert_fresh_masks(before, masked())
    play.until(lambda: not made.exists(), "the contribution's removal", PATIENCE_S)
    assert_no_row_elsewhere(play)


# -- the aggregator ----------------------------------------------------------------------------


def test_the_aggregator_killed_while_clients_train(play: Trainees) -> None:
    """They train on, once, and are taken as they come: no attempt was open, so none is void."""
    job = "killed-in-training"
    attend(play, *SITES)
    before = {name: len(play.draws(name)) for name in SITES}
    with play.halt_in_training(SITES):
        play.lesson(job)
        play.until(lambda: all(map(play.halted, SITES)), "clients in training", PATIENCE_S)
        play.running("aggregator").kill()
        for name in SITES:
            assert len(play.charges(name, job)) == 1
            assert not list((play.site(name) / "state" / "contributions").glob(f"{job}.*"))
        play.start_aggregator()
    found = play.published(job)
    play.assert_exact(found, job)
    assert found.manifest["included"] == list(SITES)
    assert found.manifest["attempt"] == 1
    assert_charged_once(play, job, attempts=1)
    assert {name: len(play.draws(name)) - before[name] for name in SITES} == dict.fromkeys(SITES, STEPS)


@pytest.mark.parametrize(
    ("point", "attempt"),
    [("after:commit", 2), ("after:decide frozen/", 1)],
    ids=["while-they-upload", "after-the-freeze"],
)
def test_the_aggregator_killed_in_the_sum(play: Trainees, point: str, attempt: int) -> None:
    """Before the freeze the attempt is void and repeated under fresh masks; after it, it is finished."""
    job = f"killed-in-attempt-{attempt}"
    attend(play, *SITES)
    before = {name: len(play.draws(name)) for name in SITES}
    play.running("aggregator").stop()
    earlier = play.spool().keys()
    aggregator = play.doomed_aggregator(point)
    play.lesson(job)
    play.ends(aggregator, KILLED)
    stored = {name: masked for name, masked in play.spool().items() if name not in earlier}
    assert not play.round_folder(job).exists()

    play.start_aggregator()
    found = play.published(job)
    play.assert_exact(found, job)
    assert found.manifest["included"] == list(SITES)
    assert found.manifest["attempt"] == attempt
    assert_charged_once(play, job, attempts=attempt)
    kept = {name: masked for name, masked in play.spool().items() if name not in earlier}
    if attempt == 1:
        assert kept == stored
    else:
        assert f"job {job}  attempt 1 is void: the aggregator was restarted" in play.output("aggregator")
        assert_fresh_masks(stored, kept)
    assert {name: len(play.draws(name)) - before[name] for name in SITES} == dict.fromkeys(SITES, STEPS)


# -- the noise ---------------------------------------------------------------------------------


def test_noise_and_sampling_rate_of_real_clients_are_those_of_the_plan(play: Trainees) -> None:
    """sigma C from the contributions that client processes sent, q from the batches that they drew.

    T steps of SGD at rate lr move each coordinate by noise of lr sigma C sqrt(T) / B, beside which the
    clipped gradients are next to nothing: with sigma = 20 they add at most a few thousandths to the sum of
    squares. Either test fails a sound build with a chance of 1e-9.
    """
    job, steps, sigma = "loud", 40, 20.0
    attend(play, *SITES)
    before = {name: len(play.draws(name)) for name in SITES}
    play.lesson(job, steps=steps, noise_multiplier=sigma)
    play.published(job)
    values = np.concatenate([play.sent(name, job) for name in SITES])
    assert values.size > 6000
    std = LEARNING_RATE * sigma * CLIP * math.sqrt(steps) / BATCH
    square = float((values**2).sum()) / std**2
    assert stats.chi2.ppf(ERROR / 2, values.size) < square < stats.chi2.isf(ERROR / 2, values.size)
    draws = [count for name in SITES for count in play.draws(name)[before[name] :]]
    assert len(draws) == steps * len(SITES)
    drawn, units = sum(draws), ROWS * len(draws)
    assert stats.binomtest(drawn, units, BATCH / ROWS).pvalue > ERROR


# -- the budget --------------------------------------------------------------------------------


def test_a_cap_that_is_reached_in_round_2(play: Trainees) -> None:
    """The site refuses before it draws a batch, and its client ends with 50; the others go on. All that
    the aggregator learns is that the site declined.
    """
    job = "capped"
    everybody = (*SITES, POOR)
    play.enroll([POOR])
    play.join_with_data(POOR, epsilon=CAP)
    try:
        attend(play, *SITES)
        poor = play.attend(POOR, "--job", job)
        play.lesson(job, rounds=2)
        play.ends(poor, 50)
        first, second = play.published(job, 1), play.published(job, 2)
    finally:
        play.done("revoke", POOR, "--dir", play.federation)
    for found in (first, second):
        play.assert_exact(found, job)
    assert (first.manifest["included"], first.dropped) == (list(everybody), {})
    assert (second.manifest["included"], second.dropped) == (list(SITES), {POOR: "declined"})

    (charge,) = play.charges(POOR, job)
    assert charge["round"] == 1
    assert len(play.draws(POOR)) == STEPS
    lines = [line for line in poor.output.splitlines() if not line.startswith("{")]
    assert any(f"job {job}  accepted  2 rounds" in line and "ends after round 1" in line for line in lines)
    assert any(line.startswith("round 1/2  included") for line in lines)
    assert sum(line.startswith("error: ") and "above the cap of" in line for line in lines) == 1
    assert sum(line.startswith("remedy: ") for line in lines) == 1
    assert f"dropped 1 ({POOR}: declined)" in play.output("aggregator")
    heard = [
        play.root / "aggregator.log",
        *_files(play.federation / "state"),
        *_files(play.federation / "out"),
    ]
    for path in heard:
        text = path.read_bytes().lower()
        assert b"budget" not in text, path
        figure = rb"(?<!\d)" + re.escape(f"{CAP:g}".encode())  # a time stamp may hold the same digits
        assert not re.search(figure, text), path


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
