"""`secfed job` and `secfed status` against a real aggregator: what an admin sees, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from secfed.cli import connect
from secfed.cli.playground import Playground
from secfed.config import AdminConfig, checked, load, to_toml
from secfed.identity import keyfile

Command = Callable[..., Any]

SITES = ("hosp-a", "hosp-b", "hosp-c")


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """A federation of three enrolled sites whose aggregator runs; nobody is connected."""
    with Playground(tmp_path_factory.mktemp("play")) as made:
        made.found()
        made.enroll(SITES)
        keyfile.change_passphrase(
            made.federation / "admin.key", made.passphrase.read_text().strip(), None
        )  # or every command below takes half a second to open it
        made.start_aggregator()
        yield made


@pytest.fixture
def admin(play: Playground, secfed: Command) -> Command:
    """Gives a command as the admin."""

    def call(*words: object) -> Any:
        return secfed(*words, "--config", play.federation / "admin.toml")

    return call


@pytest.fixture
def job_file(tmp_path: Path, secfed: Command) -> Callable[[str], Path]:
    """Writes a vector job's file under a name."""

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.toml"
        assert secfed("job", "init", "--template", "vector", "-o", path).code == 0
        path.write_text(path.read_text().replace('"vector-sum"', f'"{name}"'))
        return path

    return write


def test_a_job_is_started_listed_paused_resumed_and_stopped(
    admin: Command, job_file: Callable[[str], Path]
) -> None:
    started = admin("job", "start", job_file("first"))
    assert (started.code, started.err) == (0, "")
    assert started.fact("job") == "first  kind vector, rounds 1, at least 3 sites"
    assert "not differentially private" in started.fact("privacy")
    assert started.fact("a full round").startswith("3 sites: any 1 may collude with the aggregator; 2 shares")
    assert started.fact("started") == "first  running"
    for verb, state in (("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("stop", "stopped")):
        done = admin("job", verb, "first")
        assert (done.code, done.fact("job")) == (0, f"first  {state}")
    listed = admin("job", "list")
    (row,) = [line for line in listed.out.splitlines() if line.startswith("first ")]
    assert re.match(r"first +vector +stopped +0/1 published", row)
    over = admin("job", "resume", "first")
    assert (over.code, over.error) == (2, "job first is stopped")
    assert "another name" in over.remedy


def test_status_says_which_round_who_is_missing_and_since_when(
    admin: Command, job_file: Callable[[str], Path], play: Playground
) -> None:
    assert admin("job", "start", job_file("second")).code == 0
    text = admin("status", "--job", "second")
    document = json.loads(admin("status", "--job", "second", "--json").out)
    assert (text.fact("connected"), document["schema"], document["connected"]) == ("nobody", 1, [])
    assert text.fact("federation") == f"{document['federation']}  roster version 2"
    (job,) = document["jobs"]
    assert text.fact("job") == "second  kind vector, running, round 1/1"
    assert (text.fact("phase"), job["phase"]) == ("train", "train")
    assert re.fullmatch(r"job second round 1: waiting for 3 sites: .*, \d+ s left", text.fact("now"))
    assert [member["site"] for member in job["members"]] == list(SITES)
    for site in SITES:
        assert re.search(rf"^  {site} +asked, for \d+ s, not connected$", text.out, flags=re.MULTILINE)
    everything = json.loads(admin("job", "list", "--json").out)
    assert (document["kind"], everything["kind"], everything["schema"]) == ("status", "jobs", 1)
    assert "second" in [each["job"] for each in everything["jobs"]]
    assert admin("job", "stop", "second").code == 0


def test_more_commands_than_a_minute_has_are_no_clock_fault(admin: Command) -> None:
    """Every command is a process of its own to the aggregator; none spoils the next one's number."""
    assert [admin("status").code for _ in range(12)] == [0] * 12


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_running_aggregator_holds_no_model_library(admin: Command, play: Playground) -> None:
    """Whatever it loads late, after it served jobs: nothing of torch or scipy is in its memory."""
    assert admin("job", "list").code == 0
    mapped = Path(f"/proc/{play.processes[0].popen.pid}/maps").read_text()
    assert "grpc" in mapped
    assert "torch" not in mapped
    assert "/scipy/" not in mapped


def test_another_plan_under_a_used_name_is_refused(admin: Command, job_file: Callable[[str], Path]) -> None:
    path = job_file("third")
    assert admin("job", "start", path).code == 0
    path.write_text(path.read_text().replace("bits = 16", "bits = 12"))
    done = admin("job", "start", path)
    assert done.code == 2
    assert "third exists already, with another plan" in done.error
    assert admin("job", "stop", "third").code == 0


def test_an_unknown_job_is_named(admin: Command) -> None:
    for verb in ("pause", "resume", "stop"):
        done = admin("job", verb, "nowhere")
        assert done.code == 2
        assert "nowhere" in done.error
    status = admin("status", "--job", "nowhere")
    assert (status.code, status.error) == (2, "there is no job nowhere")


def test_a_jobs_name_is_no_job_file(secfed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who paused it by its name may well try to start it again by its name."""
    monkeypatch.chdir(tmp_path)
    named = secfed("job", "start", "classify")
    assert (named.code, named.error) == (2, "classify is no file, and a job is started from its JOB.toml")
    assert "`secfed job resume classify`" in named.remedy
    assert "`secfed job list`" in named.remedy
    lost = secfed("job", "start", "jobs/CLASSIFY.toml")
    assert (lost.code, lost.error) == (2, "jobs/CLASSIFY.toml is not there")
    assert "resume" not in lost.remedy


def test_a_site_may_look_but_not_command(
    play: Playground, secfed: Command, job_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """A client's key in an admin's configuration: the aggregator goes by the role in the roster."""
    config = load(play.federation / "admin.toml", AdminConfig)
    (tmp_path / "roster.txt").write_bytes(config.roster.read_bytes())
    as_site = checked(
        AdminConfig, tmp_path, **config.model_dump(include={"federation", "roster_key", "aggregator"}),
        site="hosp-a", key=str(play.site("hosp-a") / "hosp-a.key"), roster="roster.txt",
    )  # fmt: skip
    (tmp_path / "site.toml").write_text(to_toml(as_site, tmp_path))
    words = ("--config", tmp_path / "site.toml", "--passphrase-file", play.passphrase)
    assert secfed("status", *words).code == 0
    for command in (("start", job_file("mine")), ("stop", "first")):
        done = secfed("job", *command, *words)
        assert done.code == 22
        assert "hosp-a" in done.error


def test_an_aggregator_that_is_away_is_a_network_error(
    federation: Path, secfed: Command, job_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "PATIENCE_S", 0.2)
    path = federation / "admin.toml"
    path.write_text(path.read_text().replace(":8443", ":1"))  # a port that is given to nobody
    for command in (("status",), ("job", "list"), ("job", "stop", "x"), ("job", "start", job_file("x"))):
        done = secfed(*command, "--config", path)
        assert done.code == 10
        assert "127.0.0.1:1" in done.error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "No such file"),
        ("site = [1,, 2]\n", ":1 is no TOML"),
        ("\xff", "is not UTF-8"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(
    tmp_path: Path, secfed: Command, text: str | None, expected: str
) -> None:
    path = tmp_path / "admin.toml"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    done = secfed("status", "--config", path)
    assert done.code == 2
    assert str(path) in done.error
    assert expected in done.error


def test_a_wrong_passphrase_or_an_open_key_file_reaches_no_socket(federation: Path, secfed: Command) -> None:
    (federation / "admin.key").chmod(0o640)
    done = secfed("status", "--config", federation / "admin.toml")
    assert (done.code, done.remedy) == (32, f"chmod 600 {federation / 'admin.key'}")
