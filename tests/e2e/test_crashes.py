"""kill -9 of the aggregator, or of a client, at the points that matter: nothing lost, nothing twice."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import KILLED, PATIENCE_S, VALUE, Loopback, assert_exact

SITES = ("hosp-a", "hosp-b", "hosp-c")
EVERYBODY = dict.fromkeys(range(len(SITES)), VALUE)
SIZE = 2000


def vectors(play: Loopback, *, value: float = VALUE) -> list[Path]:
    return [play.update(name, index, SIZE, value=value) for index, name in enumerate(SITES)]


def events(play: Loopback, name: str) -> list[str]:
    """What the log of a process says happened, in order."""
    lines = [line for line in play.output(name).splitlines() if line.startswith("{")]
    return [json.loads(line)["event"] for line in lines]


# -- the aggregator ----------------------------------------------------------------------------


class Town:
    """Three clients that stay, and an aggregator that comes and goes; each kill is a job of its own."""

    def __init__(self, play: Loopback) -> None:
        self.play = play
        self._numbers = itertools.count(1)
        self._earlier: set[str] = set()
        play.edit_aggregator(retain_uploads="true")
        play.processes[-1].stop()
        vectors(play)
        for name in SITES:
            self.start(name)

    def start(self, name: str) -> None:
        """Start a site's client."""
        self.play.start_client(name, "--update", str(self.play.site(name) / "update.safetensors"))

    def killed_in_a_job(self, point: str, *, phase_s: int = 60) -> tuple[str, float]:
        """Run a job until its aggregator is killed; its name, and the value in each site's vector."""
        number = next(self._numbers)
        job, value = f"job-{number}", VALUE - number / 32
        for process in self.play.processes:
            if process.name == "aggregator":
                process.stop()
        vectors(self.play, value=value)
        self._earlier = set(self._spool())
        aggregator = self.play.doomed_aggregator(point)
        self.play.job(job, SIZE, phase_s=phase_s)
        self.play.ends(aggregator, KILLED)
        return job, value

    def uploads(self) -> dict[str, bytes]:
        """The masked vectors of this job that the aggregator holds, by their names in its spool."""
        return {name: path.read_bytes() for name, path in self._spool().items() if name not in self._earlier}

    def _spool(self) -> dict[str, Path]:
        spool = self.play.federation / "state" / "spool"
        return {path.name: path for path in spool.iterdir() if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def town(build_shared: Callable[..., Loopback]) -> Town:
    return Town(build_shared(*SITES))


@pytest.mark.parametrize(
    "point",
    ["after:commit", "upload:acked", "before:decide frozen/"],
    ids=["as-an-upload-is-stored", "as-a-site-knows-that-its-upload-is-safe", "before-the-freeze"],
)
def test_killed_before_the_freeze_the_attempt_is_void_and_repeated(town: Town, point: str) -> None:
    """Visible; under fresh masks; and what goes out again are the identical contributions."""
    play = town.play
    job, value = town.killed_in_a_job(point)
    before = town.uploads()
    assert before
    assert not play.round_folder(job).exists()

    play.start_aggregator()
    found = play.published(job)
    assert_exact(found.total, dict.fromkeys(range(len(SITES)), value), sites=len(SITES))
    assert found.manifest["attempt"] == 2
    assert found.manifest["included"] == list(SITES)
    assert f"job {job}  attempt 1 is void: the aggregator was restarted" in play.output("aggregator")
    for name in SITES:
        assert len(play.ledger(name, job, "reserve")) == 1
        sent = {entry["attempt"]: entry["contribution"] for entry in play.ledger(name, job, "sent")}
        assert 2 in sent
        assert len(set(sent.values())) == 1
    assert sum(len(play.ledger(name, job, "sent")) for name in SITES) >= len(SITES) + len(before)
    after = town.uploads()
    assert len(after) == len(SITES)
    assert before.keys().isdisjoint(after)
    assert set(before.values()).isdisjoint(after.values())


@pytest.mark.parametrize(
    "point",
    ["after:decide frozen/", "after:decide signatures/", "after:decide ending/", "before:decide folder/"],
    ids=["before-confirm", "before-unmask", "before-the-outcome-is-told", "as-it-is-published"],
)
def test_killed_after_the_freeze_the_same_attempt_is_finished(town: Town, point: str) -> None:
    """One attempt, whatever was told of it before; and what is published never changes."""
    play = town.play
    job, value = town.killed_in_a_job(point)

    aggregator = play.start_aggregator()
    found = play.published(job)
    assert_exact(found.total, dict.fromkeys(range(len(SITES)), value), sites=len(SITES))
    assert found.manifest["attempt"] == 1
    assert found.manifest["included"] == list(SITES)
    for name in SITES:
        assert len(play.ledger(name, job, "reserve")) == len(play.ledger(name, job, "sent")) == 1
    first = found.bytes
    state = play.status(job)
    assert (state["state"], len(state["history"]), state["history"][0]["attempt"]) == ("done", 1, 1)

    aggregator.stop()
    play.start_aggregator()
    assert play.published(job).bytes == first
    assert play.status(job)["history"] == state["history"]


def test_killed_after_the_freeze_and_a_member_lost_the_round_is_over(town: Town) -> None:
    """More are gone than may be: the same attempt ends the round, and nobody's return repeats it."""
    play, lost = town.play, SITES[1]
    job, _ = town.killed_in_a_job("after:decide frozen/", phase_s=4)
    (client,) = [each for each in play.processes if each.name == lost and each.running]
    client.kill()
    play.start_aggregator()
    play.until(lambda: play.status(job)["state"] == "failed", "the end of the round", PATIENCE_S)
    (ended,) = play.status(job)["history"]
    assert ended["attempt"] == 1
    assert ended["state"].startswith("aborted: 2 members can still answer, 3 are needed")
    assert f"{lost} (confirm: no answer" in ended["state"]
    town.start(lost)
    play.until(lambda: lost in play.overview()["connected"], "its return", PATIENCE_S)
    assert play.status(job)["history"] == [ended]
    assert not play.round_folder(job).exists()
    for name in SITES:
        assert {entry["attempt"] for entry in play.ledger(name, job, "sent")} == {1}


# -- clients -----------------------------------------------------------------------------------


def test_a_client_killed_with_its_contribution_made_counts_once(build: Callable[..., Loopback]) -> None:
    """Killed as it is about to say that it is ready; restarted, it sends what it had made."""
    play = build(*SITES)
    play.job("sum", SIZE)
    updates = vectors(play)
    doomed = play.doomed_push(SITES[0], updates[0], "say:Ready")
    play.ends(doomed, KILLED)
    (made,) = (play.site(SITES[0]) / "state" / "contributions").glob("sum.*")
    (charged,) = play.ledger(SITES[0], "sum", "reserve")
    contribution = json.loads(made.read_bytes().split(b"\n")[0])["digest"]

    play.update(SITES[0], 0, SIZE, value=-VALUE)  # what was made stands, whatever the file says now
    pushes = [play.push(name, update) for name, update in zip(SITES, updates, strict=True)]
    for push in pushes:
        play.ends(push, 0)
    found = play.published("sum")
    assert_exact(found.total, EVERYBODY, sites=len(SITES))
    assert play.ledger(SITES[0], "sum", "reserve") == [charged]
    (sent,) = play.ledger(SITES[0], "sum", "sent")
    assert sent["contribution"] == contribution
    assert not made.exists()


def test_three_sites_one_killed_in_the_attempt_and_back(build: Callable[..., Loopback]) -> None:
    """The attempt fails for all to see, nothing is published; once it is back, the sum is exact."""
    play = build(*SITES)
    play.job("sum", SIZE, phase_s=3)
    updates = vectors(play)
    pushes = [play.push(name, update) for name, update in zip(SITES[:2], updates[:2], strict=True)]
    play.ends(play.doomed_push(SITES[2], updates[2], "upload:begin"), KILLED)
    void = "job sum  attempt 1 is void: 2 of 3 members are left, 3 are needed: hosp-c (mask: no answer"
    play.until(lambda: void in play.output("aggregator"), "a void attempt", PATIENCE_S)
    missing = "missing 1 site: hosp-c"
    play.until(lambda: missing in play.status("sum")["waiting_for"], "a status that names it", PATIENCE_S)
    assert play.status("sum")["history"] == []
    assert not play.round_folder("sum").exists()
    assert all(push.running for push in pushes)

    pushes.append(play.push(SITES[2], updates[2]))
    for push in pushes:
        play.ends(push, 0)
    found = play.published("sum")
    assert_exact(found.total, EVERYBODY, sites=len(SITES))
    assert found.manifest["attempt"] >= 2
    for name in SITES:
        assert len(play.ledger(name, "sum", "reserve")) == 1
        assert len({entry["contribution"] for entry in play.ledger(name, "sum", "sent")}) == 1


def test_three_sites_one_killed_after_the_freeze_ends_the_round(build: Callable[..., Loopback]) -> None:
    """The survivor list was durable, and one signature is missing for good: no sum, and no repetition."""
    play = build(*SITES)
    play.job("sum", SIZE, phase_s=3)
    updates = vectors(play)
    pushes = [play.push(name, update) for name, update in zip(SITES[:2], updates[:2], strict=True)]
    play.ends(play.doomed_push(SITES[2], updates[2], "hear:ConfirmRequest"), KILLED)
    for push in pushes:
        play.ends(push, 41)
        assert "the round was aborted" in push.output
    state = play.status("sum")
    assert state["state"] == "failed"
    (ended,) = state["history"]
    assert ended["state"].startswith("aborted: 2 members can still answer, 3 are needed")
    assert "hosp-c (confirm: no answer" in ended["state"]
    assert not play.round_folder("sum").exists()
    assert events(play, "aggregator").count("attempt_opened") == 1
