"""Where processes are killed: a federation that stays, in which each kill is a job of its own.

Site i has a value at coordinate i and nothing else. Each client keeps a copy of every contribution that
it makes, so that a published sum can be held against the very words that went into it, bit for bit:
a contribution that was rounded a second time would show.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from loopback import BITS, BOUND, KILLED, PATIENCE_S, VALUE, Loopback, Process, Round, assert_exact
from numpy.typing import NDArray

from secfed.cli.ledgers import SCRATCH_LEDGER
from secfed.encoding.contribution import decode_contribution_sum
from secfed.encoding.fixedpoint import FixedPoint
from secfed.rounds.proposal import COUNTERS
from secfed.secagg.params import Params

FINISHED, REPEATED, ABORTED = "same attempt finished", "void, repeated", "round aborted"

SIZE = 2000
LARGE = 600_000
"""Coordinates of a vector that takes more than one piece to upload."""

_PHASE_S = 120
"""Deadline of a phase: what ends a wait here is somebody's return, not the clock."""


@dataclass(frozen=True)
class Point:
    """Where somebody is killed, and what must come of it.

    Attributes:
        at: See doomed_aggregator.py or doomed_client.py.
        outcomes: What the protocol allows, in a cohort that carries no loss.
        carried: For a client: whether its vector is in the sum if the attempt goes on without it; None
            where that depends on what had arrived.
    """

    name: str
    at: str
    outcomes: frozenset[str]
    carried: bool | None = True
    size: int = SIZE


@dataclass
class Row:
    """What came of one point.

    Attributes:
        broken: What did not hold, if something did not.
    """

    point: Point
    outcomes: list[str] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    broken: str = ""

    def line(self) -> str:
        """One line of the table."""
        held = "BROKEN" if self.broken else "all held"
        came = ", ".join(f"{self.outcomes.count(each)} x {each}" for each in sorted(set(self.outcomes)))
        if not came:
            return f"{self.point.name:<38} {0:>7}  {self.broken}"
        ready = f"{min(self.ready_s):>6.2f} to {max(self.ready_s):>6.2f}" if self.ready_s else ""
        return f"{self.point.name:<38} {len(self.outcomes):>7}  {came:<30} {held:<10} {ready}  {self.broken}"


HEADER = f"{'point':<38} {'repeats':>7}  {'outcome':<30} {'invariants':<10} {'ready again, s':>16}"


class Arena:
    """Clients that stay, and an aggregator that comes and goes; `kill_*` plays one job through a kill.

    Args:
        play: A running federation of these sites.
        sites: The last of them is the victim where a client is killed.
    """

    def __init__(self, play: Loopback, sites: Sequence[str]) -> None:
        self.play, self.sites, self.victim = play, tuple(sites), sites[-1]
        self._number = 0
        self._earlier: set[str] = set()
        self._published: dict[Path, dict[str, bytes]] = {}
        self._aborted: list[str] = []
        self._clients: dict[str, Process] = {}
        play.edit_aggregator(retain_uploads="true")
        self._aggregator = play.processes[-1]
        self._aggregator.stop()
        self._start_aggregator()
        self._offer(SIZE)
        for name in sites:
            self._start_client(name)

    # -- kills ---------------------------------------------------------------------------------

    def kill_the_aggregator(self, row: Row) -> None:
        """Play one job in which the aggregator is killed at the point and started again."""
        point, play = row.point, self.play
        job = self._offer(point.size)
        self._aggregator.stop()
        doomed = play.doomed_aggregator(point.at)
        admin = self._start_job(job, point.size)
        play.ends(doomed, KILLED)
        before = self._uploads()
        row.ready_s.append(self._start_aggregator())
        outcome = self._outcome(job, self.sites)
        # Its answer may have died with the aggregator: then it asks again, and for so long only.
        assert admin.wait(PATIENCE_S) in (0, 10), play.transcript()
        self._check(job, outcome, row)
        after = self._uploads()
        assert len(after) == len(self.sites)
        if outcome == REPEATED:
            assert before.keys().isdisjoint(after)
            assert set(before.values()).isdisjoint(after.values()), "a mask served twice"
        self._earlier |= after.keys()

    def kill_a_client(self, row: Row) -> None:
        """Play one job in which the victim is killed at the point and started again."""
        point, play = row.point, self.play
        job = self._offer(point.size)
        self._clients[self.victim].stop()
        doomed = self._start_client(self.victim, point.at)
        admin = self._start_job(job, point.size)
        play.ends(doomed, KILLED)
        begun = time.monotonic()
        said = play.output(self.victim).count("takes part at")
        self._start_client(self.victim)
        play.until(
            lambda: play.output(self.victim).count("takes part at") > said, "the victim's return", PATIENCE_S
        )
        row.ready_s.append(time.monotonic() - begun)
        outcome = self._outcome(job, self.sites[:-1])
        assert admin.wait(PATIENCE_S) == 0, play.transcript()
        self._check(job, outcome, row)
        if outcome == FINISHED and point.carried is not None:
            assert (self.victim in play.published(job).manifest["included"]) is point.carried
        self._earlier |= self._uploads().keys()

    def check_the_past(self) -> None:
        """What was published is as it was, and of what was aborted nothing was sent again."""
        for folder, files in self._published.items():
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == files, folder
        for job in self._aborted:
            for name in self.sites:
                assert {entry["attempt"] for entry in self.play.ledger(name, job, "sent")} <= {1}, job

    # -- a job ---------------------------------------------------------------------------------

    def _offer(self, size: int) -> str:
        """New vectors at every site, off the grid, other ones for each job; the next job's name."""
        self._number += 1
        for index, name in enumerate(self.sites):
            self.play.update(name, index, size, value=self._value)
        return f"job-{self._number}"

    @property
    def _value(self) -> float:
        return VALUE - self._number / 1021

    def _start_job(self, job: str, size: int) -> Process:
        path = self.play.job_file(job, size, phase_s=_PHASE_S)
        admin = str(self.play.federation / "admin.toml")
        return self.play.start("admin", "job", "start", str(path), "--config", admin)

    def _start_aggregator(self) -> float:
        """Start it; seconds until it says that it serves."""
        begun = time.monotonic()
        config = str(self.play.federation / "aggregator.toml")
        self._aggregator = self.play.spawn("aggregator", "aggregator", "run", "--config", config)
        self.play.until(self.play.is_ready, "an aggregator that is ready", PATIENCE_S)
        return time.monotonic() - begun

    def _start_client(self, name: str, point: str = "never") -> Process:
        update = str(self.play.site(name) / "update.safetensors")
        words = ("client", "run", "--config", str(self.play.config(name)), "--update", update)
        started = self.play.spawn(name, *words, script="doomed_client.py", point=point)
        self._clients[name] = started
        return started

    def _outcome(self, job: str, told: Sequence[str]) -> str:
        """Wait for the end of the job's one round, at those sites too that must be told of it."""
        play, line = self.play, f"job {job}  round 1/1"
        play.until(
            lambda: play.round_folder(job).exists() or line in play.output("aggregator"),
            f"the end of {job}",
            PATIENCE_S,
        )
        play.until(
            lambda: not any(self._holds(name, job) for name in told),
            f"the end of {job} at its sites",
            PATIENCE_S,
        )
        (ended,) = play.status(job)["history"]
        if ended["state"] == "published":
            return FINISHED if ended["attempt"] == 1 else REPEATED
        assert ended["state"].startswith("aborted: "), ended
        return ABORTED

    def _holds(self, name: str, job: str) -> bool:
        """Whether a site has a contribution to this job stored."""
        return any((self.play.site(name) / "state" / "contributions").glob(f"{job}.*"))

    # -- what must hold ------------------------------------------------------------------------

    def _check(self, job: str, outcome: str, row: Row) -> None:
        """The invariants, whatever came."""
        row.outcomes.append(outcome)
        for name in self.sites:
            charged = self.play.ledger(name, job, "reserve")
            assert len(charged) == 1, f"{name} charged {job} {len(charged)} times"
            sent = {entry["contribution"] for entry in self.play.ledger(name, job, "sent")}
            assert sent <= {self._made(name, job)[0]}, f"{name} sent what it had not made"
            ledger = self.play.site(name) / "ledger" / SCRATCH_LEDGER
            self.play.done("ledger", "verify", ledger, "--config", self.play.config(name))
        if outcome == REPEATED:
            assert f"job {job}  attempt 1 is void" in self.play.output("aggregator")
        if outcome == ABORTED:
            assert not self.play.round_folder(job).exists()
            self._aborted.append(job)
        else:
            self._check_sum(job, self.play.published(job))
        self.check_the_past()

    def _check_sum(self, job: str, found: Round) -> None:
        """Exactly the words of those that are listed, each once."""
        included = found.manifest["included"]
        assert included == sorted(set(included))
        assert found.manifest["count"] == found.manifest["weight_sum"] == len(included)
        assert set(included) | set(found.dropped) == set(self.sites)
        assert len(included) >= Params.complete(len(self.sites), 1, min_cohort=3).floor
        words = sum(self._made(name, job)[1].astype(np.uint64) for name in included)
        total = decode_contribution_sum(
            np.asarray(words, dtype=np.uint32), len(included), COUNTERS, FixedPoint(BOUND, BITS)
        )
        assert np.array_equal(found.total, total.weighted_sum), "another contribution went into the sum"
        expected = {index: self._value for index, name in enumerate(self.sites) if name in included}
        assert_exact(found.total, expected, sites=len(included))
        self._published[found.folder] = found.bytes

    def _made(self, name: str, job: str) -> tuple[str, NDArray[np.uint32]]:
        """The one contribution that a site made for a job: its digest in the ledger, and its words."""
        (path,) = (self.play.site(name) / "made").glob(f"{job}.*")
        line, words = path.read_bytes().split(b"\n", 1)
        return json.loads(line)["digest"], np.frombuffer(words, dtype="<u4")

    def _uploads(self) -> dict[str, bytes]:
        """The masked vectors of this job that the aggregator holds, by their names in its spool."""
        spool = self.play.federation / "state" / "spool"
        return {
            path.name: path.read_bytes()
            for path in spool.iterdir()
            if not path.name.startswith(".") and path.name not in self._earlier
        }
