"""A site that trains on several processes of its machine, as `accelerate launch` starts them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import PATIENCE_S
from trainees import CLIP, STEPS, Trainees

sys.path.append(str(Path(__file__).parents[1] / "training"))

from witness import assert_one_draw_and_one_noise

SITES = ("hosp-a", "hosp-b", "hosp-c")

NOISE_MULTIPLIER = 2.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_site_of_two_processes_takes_part_as_one(build_shared: Callable[..., Trainees]) -> None:
    """It is charged once for each round, its contribution is in both sums, and all its processes end.

    By what both processes wrote of themselves: each step is one Poisson draw over the site's rows and one
    draw of noise, and the units drawn are summed each by one process.
    """
    play, job = build_shared(*SITES, kind=Trainees), "twofold"
    play.lesson(job, rounds=2, noise_multiplier=NOISE_MULTIPLIER)
    *others, site = SITES
    seen = play.root / "seen"
    seen.mkdir()
    for name in others:
        play.attend(name)
    done = subprocess.run(
        [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
            "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
            "--dynamo_backend", "no", "--main_process_port", "0",
            str(Path(__file__).with_name("shared_client.py")), str(seen),
            "client", "run", "--config", str(play.config(site)), "--job", job,
        ],
        env=play.environment({"PYTHONPATH": str(Path(__file__).parents[2])}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for number in (1, 2):
        assert set(play.published(job, number).manifest["included"]) == set(SITES)
    reserved = play.charges(site, job)
    assert [entry["event"]["steps"] for entry in reserved] == [STEPS, STEPS]
    assert len(play.charges(site, job, "sent")) == 2
    assert not list((play.site(site) / "state").glob("ranks-*"))
    assert_one_draw_and_one_noise(seen, rounds=2, steps=STEPS, std=NOISE_MULTIPLIER * CLIP)
