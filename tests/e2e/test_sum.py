"""Five sites push a vector each: the exact sum of the signed survivors, whoever is killed, and whenever.

Site i has a value at coordinate i and nothing else, so that slot i of the sum tells whether its vector
is in it. The deaths share a federation: each is a job of its own, with a value of its own.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from loopback import BITS, KILLED, PHASE_S, VALUE, Loopback, Process, assert_exact

from secfed.encoding.fixedpoint import word_bits
from secfed.limits import CHUNK_BYTES_MAX

SITES = tuple(f"hosp-{letter}" for letter in "abcde")
VICTIM = 2
SIZE = 100_000

LARGE = 600_000
"""Coordinates of a vector that takes more than one piece to upload."""


@dataclass(frozen=True)
class Death:
    """Where a client is killed, and what must become of its vector.

    Attributes:
        point: See doomed_client.py.
        phase: In which phase it counts as dropped; empty where its vector stands in the sum.
        why: What its reason says beside the phase.
    """

    point: str
    phase: str
    why: str = f"within {PHASE_S} s"
    size: int = SIZE


DEATHS = {
    "advertise": Death("hear:OpenAttempt", "advertise"),
    "encapsulate": Death("hear:Adverts", "encapsulate"),
    "share": Death("hear:Ciphertexts", "share"),
    "mask-before-upload": Death("upload:begin", "mask"),
    "mask-mid-upload": Death("upload:half", "mask", f"upload timeout {PHASE_S} s", LARGE),
    "mask-after-acknowledgement": Death("upload:acked", ""),
    "confirm": Death("hear:ConfirmRequest", ""),
    "unmask": Death("hear:UnmaskRequest", ""),
}

QUICK = {"advertise", "mask-before-upload", "mask-mid-upload", "confirm", "unmask"}
"""Those that every run of the tests has; the others are marked slow."""


def push_all(play: Loopback, size: int, *, value: float = VALUE, doomed: str = "") -> list[Process]:
    """All five push; the victim is killed at a point of doomed_client.py, if one is named."""
    pushes = []
    for index, name in enumerate(SITES):
        update = play.update(name, index, size, value=value)
        if doomed and index == VICTIM:
            pushes.append(play.doomed_push(name, update, doomed))
        else:
            pushes.append(play.push(name, update))
    return pushes


@pytest.fixture(scope="module")
def town(build_shared: Callable[..., Loopback]) -> Loopback:
    return build_shared(*SITES)


@pytest.mark.parametrize(
    "phase", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in DEATHS]
)
def test_one_client_is_killed_in_each_phase_in_turn(town: Loopback, phase: str) -> None:
    """Its slot has its value if it stands in the signed survivor set, else 0; nothing else changes."""
    play, death, job = town, DEATHS[phase], f"killed-at-{phase}"
    value = VALUE - list(DEATHS).index(phase) / 32  # equal vectors of fewer sites would show the missing one
    before = _received_bytes(play)
    play.job(job, death.size)
    pushes = push_all(play, death.size, value=value, doomed=death.point)
    for index, push in enumerate(pushes):
        play.ends(push, KILLED if index == VICTIM else 0)
        assert index == VICTIM or "round 1/1  included" in push.output
    found = play.published(job)
    included = [name for name in SITES if not death.phase or name != SITES[VICTIM]]
    expected = {index: value for index, name in enumerate(SITES) if name in included}
    assert_exact(found.total, expected, sites=len(included))
    assert found.manifest["included"] == included
    assert found.manifest["count"] == found.manifest["weight_sum"] == len(included)
    signers = [entry["site"] for entry in found.manifest["survivors_signatures"]]
    assert set(signers) <= set(included)
    assert len(signers) >= 4
    _is_listed(play, job, found.dropped, death)
    if death.point == "upload:half":
        _some_of_it_came(play, _received_bytes(play) - before, death.size)


def _is_listed(play: Loopback, job: str, dropped: dict[str, str], death: Death) -> None:
    """The manifest and `secfed status` name who is not in the sum, with phase and reason; nobody else."""
    (ended,) = play.status(job)["history"]
    assert dict(ended["dropped"]) == dropped
    assert ended["state"] == "published"
    if not death.phase:
        assert dropped == {}
        return
    assert set(dropped) == {SITES[VICTIM]}
    phase, reason = dropped[SITES[VICTIM]].split(": ", 1)
    assert phase == death.phase
    assert death.why in reason


def _received_bytes(play: Loopback) -> float:
    """Bytes of uploads that the aggregator received so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{play.ops_port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    (received,) = [float(line.split()[1]) for line in lines if line.startswith("secfed_upload_bytes_total ")]
    return received


def _some_of_it_came(play: Loopback, received: float, size: int) -> None:
    """The aggregator had received the victim's first piece, and threw it away."""
    whole = -(-(size + 2) * word_bits(len(SITES), BITS) // 8)  # weight and counter travel along
    assert received == (len(SITES) - 1) * whole + CHUNK_BYTES_MAX
    assert list((play.federation / "state" / "spool").iterdir()) == []


def test_the_sum_is_exact_and_one_member_fewer_is_refused(build: Callable[..., Loopback]) -> None:
    """Five in, five out; then the same vectors without one of them, which would show the one."""
    play = build(*SITES)
    play.job("sum", SIZE)
    for push in push_all(play, SIZE):
        play.ends(push, 0)
    found = play.published("sum")
    assert_exact(found.total, dict.fromkeys(range(len(SITES)), VALUE), sites=len(SITES))
    assert found.manifest["included"] == list(SITES)
    assert found.dropped == {}
    assert found.manifest["attempt"] == 1

    play.done("revoke", SITES[VICTIM], "--dir", play.federation)
    play.job("again", SIZE)
    rest = [name for name in SITES if name != SITES[VICTIM]]
    pushes = [play.push(name, play.site(name) / "update.safetensors") for name in rest]
    for push in pushes:
        play.ends(push, 41)
    # One refusal ends the round of four, so a slow member may hear of the end before it is asked itself.
    assert any("differ by 1 member" in push.output for push in pushes)
    again = play.status("again")
    assert again["state"] == "failed"
    assert "refused" in again["history"][0]["state"]
    assert not play.round_folder("again").exists()
