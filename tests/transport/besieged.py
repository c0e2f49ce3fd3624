"""A daemon in a process of its own, rounds that must be exact, and floods to hold them in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from townhall import SITES, Member, Town

from secfed.identity import membership
from secfed.identity.roles import Role
from secfed.transport.auditlog import log_file

__all__ = ["PATIENCE_S", "Floods", "flood_outcomes", "play_round", "take_in_hostile"]

PATIENCE_S = 180

_HOSTILE = "hosp-d"


def take_in_hostile(town: Town) -> None:
    """Enrol a member whose keys the floods use; it takes part in no round. Before the daemon starts."""
    town.keys[_HOSTILE] = town.make_keys(_HOSTILE, Role.AUDITOR)
    town.publish(membership.enroll(town.roster, town.owner, [town.keys[_HOSTILE].enrolment], now=town.now))


class Floods:
    """`floods.py` in a process of its own; everything stands once this is made."""

    def __init__(self, town: Town) -> None:
        certificate, key = town.root / "flood.pem", town.root / "flood.key"
        certificate.write_bytes(town.keys[_HOSTILE].tls_certificate_pem)
        key.touch(mode=0o600)
        key.write_bytes(town.keys[_HOSTILE].tls_key_pem)
        script = Path(__file__).with_name("floods.py")
        self._popen = subprocess.Popen(
            [sys.executable, str(script), town.address, str(certificate), str(key)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=dict(os.environ, OMP_NUM_THREADS="1"),
        )  # fmt: skip
        out = self._popen.stdout
        assert out is not None
        assert out.readline() == "ready\n"

    def end(self, *, wait: bool = False) -> dict[str, int]:
        """Stop them; how often each thing was sent, and, after waiting, how many links nobody has ended."""
        out, _ = self._popen.communicate("cease" if wait else "", timeout=2 * PATIENCE_S)
        counts: dict[str, int] = json.loads(out.splitlines()[-1])
        return counts

    def kill(self) -> None:
        """At the end of a test, whatever happened."""
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.communicate()


def flood_outcomes(town: Town) -> dict[str, Counter[str]]:
    """How the calls of the floods ended, by call, as the daemon's audit log says."""
    file = log_file(town.root / "state", town.keys["center"].signing)
    whole = file.read_text(encoding="utf-8").rpartition("\n")[0]  # it may be writing the next line
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for entry in (json.loads(line)["body"] for line in whole.splitlines()):
        if entry["who"] == _HOSTILE:
            found[entry["what"]][entry["outcome"].split(":")[0]] += entry["count"]
    return found


def play_round(town: Town, job: str, size: int) -> None:
    """One job of one round by all three sites, over 3 x `size` coordinates; its sum is exact."""
    with town.connect("office", patience_s=PATIENCE_S) as admin:
        deadlines = {"training_s": 600, "phase_s": 120, "upload_idle_s": 30}
        admin.start_job(town.plan(job=job, shapes={"a": (3, size)}, deadlines=deadlines))
    members = []
    for index, name in enumerate(SITES):
        vector = np.zeros((3, size), np.float32)
        vector[index] = index + 1
        members.append(Member(town, name, vector, patience_s=PATIENCE_S))
    for member in members:
        member.thread.start()
    for member in members:
        member.thread.join(PATIENCE_S)
        member.close()
    ends = [(member.error, [(end.included, end.members) for end in member.ends]) for member in members]
    assert ends == [(None, [(True, 3)])] * 3, ends
    total = load_file(town.root / "out" / job / "round-0001" / "sum.safetensors")["weighted_sum.a"]
    assert np.allclose(total, np.repeat([[1.0], [2.0], [3.0]], size, axis=1), atol=3 * 2 * 4 / (2**16 - 1))
