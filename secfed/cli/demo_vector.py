"""The vector demo: five sites sum named arrays that nobody else gets to see."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from secfed.cli.evidence import examine, stored_uploads
from secfed.cli.playground import Playground, Process, failure
from secfed.config import to_toml
from secfed.config.job import JobFile, VectorSection
from secfed.encoding.contribution import encode_contribution
from secfed.encoding.fixedpoint import FixedPoint
from secfed.encoding.layout import Layout
from secfed.errors import NetworkError

__all__ = ["run_vector"]

SITES = ("hosp-a", "hosp-b", "hosp-c", "hosp-d", "hosp-e")
SHAPES = {"weights": (200, 250), "bias": (250,)}
BOUND = 1.0

STILL_S = 300.0
"""The demo is given up when no process has said anything new for so long, seconds: five programs that start
side by side take long on a busy machine, and none of that is a fault."""

QUIET_S = 15.0
"""A wait says where it stands at least this often."""

_LOOK_S = 0.05
"""How often the processes are looked at, seconds."""


def run_vector(play: Playground, say: Callable[[str], object]) -> bool:
    """Set up, push five updates, and check the published sum and what the aggregator stored.

    Returns:
        Whether every check passed.
    """
    begun = time.monotonic()
    play.found()
    play.edit_aggregator(retain_uploads="true")
    play.enroll(SITES)
    play.start_aggregator()
    say(f"federation     {len(SITES)} sites, aggregator on 127.0.0.1:{play.port}, mutual TLS, fresh keys")
    play.join_all(dict.fromkeys(SITES, ("--allow-non-private",)))
    rng = np.random.default_rng()
    updates: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name in SITES:
        updates[name] = {
            key: rng.uniform(-BOUND, BOUND, shape).astype(np.float32) for key, shape in SHAPES.items()
        }
        save_file(updates[name], play.site(name) / "update.safetensors")
    job = JobFile(name="vector-sum", rounds=1, vector=VectorSection(shapes=SHAPES, bound=BOUND))
    path = play.root / "JOB.toml"
    path.write_text(to_toml(job, play.root))
    play.start_job(path)
    say(
        f"set-up         {time.monotonic() - begun:.1f} s (keys, enrolment, join with a live round trip each)"
    )
    pushed = time.monotonic()
    clients = [play.push(name, play.site(name) / "update.safetensors") for name in SITES]
    _watch(play, clients, say)
    say(f"round          {time.monotonic() - pushed:.1f} s, with the start of five client processes")
    for client in clients:
        say(f"  {client.name:<12} {client.output.strip().splitlines()[-1]}")
    return _check(play, updates, say)


def _watch(play: Playground, clients: Sequence[Process], say: Callable[[str], object]) -> None:
    """Wait for the clients' ends, for as long as something goes on; say now and then what is waited for.

    Raises:
        NetworkError: Nobody has said anything new for `STILL_S`.
        SecfedError: A process failed, with its own words and code.
    """
    heard, heard_at = 0, time.monotonic()
    spoken = heard_at
    while True:
        for process in play.processes:  # the others would wait for it
            code = process.popen.poll()
            if code:
                raise failure(process.name, code, process.output, process.log)
        waiting = [client.name for client in clients if client.running]
        if not waiting:
            return
        now, said = time.monotonic(), sum(process.log.stat().st_size for process in play.processes)
        if said != heard:
            heard, heard_at = said, now
        left = STILL_S - (now - heard_at)
        if left <= 0:
            raise NetworkError(
                f"waited for {', '.join(waiting)}, and no process has said anything new for {STILL_S:.0f} s",
                hint=f"Is this machine very busy? Then try again; else the logs in {play.root} say more.",
            )
        if now - spoken > QUIET_S:
            spoken = now
            say(f"  ... waiting for {', '.join(waiting)}, for {left:.0f} s at most unless one goes on")
        time.sleep(_LOOK_S)


def _check(
    play: Playground, updates: dict[str, dict[str, NDArray[np.float32]]], say: Callable[[str], object]
) -> bool:
    """The sum is exact to the grid, and no stored upload tells of its vector."""
    folder = play.federation / "out" / "vector-sum" / "round-0001"
    published = load_file(folder / "sum.safetensors")
    manifest, uploads = stored_uploads(folder, play.federation / "state" / "spool")
    fixed = FixedPoint(BOUND, JobFile.model_fields["bits"].default)
    worst = max(
        float(
            np.abs(
                published[f"weighted_sum.{key}"] - sum(u[key].astype(np.float64) for u in updates.values())
            ).max()
        )
        for key in SHAPES
    )
    limit = fixed.step * len(updates)
    exact = len(uploads) == len(updates) and worst < limit
    layout = Layout.from_shapes(SHAPES)
    found = []
    for site, stored in uploads.items():
        plain = encode_contribution(layout.flatten(updates[site]), 1, (0,), fixed)
        found.append(examine(site, stored, plain, manifest.word_bits))
    hidden = all(item.passed for item in found)
    agreeing, expected = sum(item.agreeing for item in found), sum(item.expected for item in found)
    sigma = max(abs(item.uniformity_sigma) for item in found)
    say("")
    say(f"included       {len(uploads)} of {len(updates)}")
    say(f"the sum is exact to the grid: {_verdict(exact)}  (largest error {worst:.2e}, limit {limit:.2e})")
    words = sum(item.words for item in found)
    say(
        f"the aggregator saw only the sum: {_verdict(hidden)}  (of {words} stored words "
        f"{agreeing} agree with the plain ones, {expected:.0f} by chance; uniform to {sigma:.1f} sigma)"
    )
    say(f"result         {folder}")
    return exact and hidden


def _verdict(passed: bool) -> str:
    return "PASS" if passed else "FAIL"
