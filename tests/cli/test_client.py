"""`secfed client`: joining, wiring, and whole rounds by real processes with their exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import time

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from secfed import telemetry
from secfed.cli import client as client_cli
from secfed.cli import joining
from secfed.cli.build_client import load_site, open_client
from secfed.cli.heads import Heads
from secfed.cli.ledgers import Ledgers, create_ledger
from secfed.cli.passphrase import source
from secfed.cli.playground import Playground
from secfed.cli.site_lines import Lines, Teller, epsilon_words, round_words
from secfed.config import ClientConfig, PolicyConfig, load
from secfed.errors import (
    AuthenticationError,
    ConfigError,
    DataError,
    KeyPermissionsError,
    LedgerError,
    LockedError,
    PassphraseError,
    RosterError,
)
from secfed.identity import pkcs8
from secfed.ids import JobId
from secfed.privacy import budget
from secfed.privacy.events import NonPrivate, PoissonGaussian
from secfed.rounds.client import RoundEnd
from secfed.rounds.conversation import Awaited
from secfed.store.decisions import DecisionStore


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A founded federation with three enrolled sites, its passphrases stretched as little as scrypt can."""
    with Playground(tmp_path_factory.mktemp("template") / "play", threads=1) as playground:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pkcs8, "_SCRYPT_N", 2)
            playground.found()
            playground.enroll(["hosp-a", "hosp-b", "hosp-c"])
        yield playground  # whose ports stay its own


@pytest.fixture
def play(template, disk, monkeypatch):
    """A copy of it; nothing runs."""
    monkeypatch.setattr(joining, "TRY_S", 0.1)
    shutil.copytree(template.root, disk / "play")
    with Playground(disk / "play", threads=1) as playground:
        playground.port, playground.ops_port = template.port, template.ops_port
        yield playground


def join(play, *options, site="hosp-a", key=None, directory=None, invite=None, passphrase=None):
    """`secfed client join` in this process; raises what it raises."""
    result = CliRunner().invoke(
        client_cli.app,
        [
            "join", str(invite or play.federation / "invites" / f"{site}.invite"),
            "--key", str(key or play.site(site) / f"{site}.key"),
            "--dir", str(directory or play.site(site)),
            "--passphrase-file", str(passphrase or play.passphrase), *options,
        ],
    )  # fmt: skip
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def secrets(play):
    return source(play.passphrase, None)


def data_file(play):
    path = play.root / "rows.jsonl"
    path.write_text('{"text": "a", "label": "b"}\n')
    return path


# -- joining -----------------------------------------------------------------------------------


def test_join_writes_files_that_work(play):
    """Safe defaults, a pinned roster, and nothing secret readable by others."""
    result = join(play)
    assert result.exit_code == 0
    assert "round trip     not yet: nothing listens" in result.output
    home = play.site("hosp-a")
    config = load(home / "client.toml", ClientConfig)
    policy = load(home / "policy.toml", PolicyConfig)
    assert (config.site, config.data) == ("hosp-a", None)
    assert policy.job.allow_non_private is False
    assert policy.job.min_cohort == 3
    assert "# Accept releases WITHOUT differential privacy" in (home / "policy.toml").read_text()
    with DecisionStore(config.state_dir / "decisions.sqlite") as decisions:
        assert len(decisions.scan("roster/")) == 1
    assert list(config.ledger_dir.iterdir()) == []


def test_join_with_data_opens_the_ledger_once(play):
    """The whole budget, delta from the public count, person as the policy's unit."""
    rows = data_file(play)
    options = (
        "--data",
        str(rows),
        "--unit",
        "patient",
        "--max-records-per-unit",
        "4",
        "--public-n",
        "20000000",
    )
    result = join(play, *options, "--epsilon", "3.5")
    home = play.site("hosp-a")
    assert str(home / "ledger" / "dataset.ledger") in result.output
    opening = json.loads((home / "ledger" / "dataset.ledger").read_bytes())["body"]
    assert (opening["unit"], opening["records_per_unit"]) == ("person", 4)
    assert opening["budget"] == {"epsilon": "3.5", "delta": "0.000000005000", "public_n": 20000000}
    policy = load(home / "policy.toml", PolicyConfig)
    assert (policy.job.unit, policy.budget.epsilon) == ("person", 3.5)
    config, policy, keys = load_site(home / "client.toml", secrets(play))
    with pytest.raises(LedgerError, match="already"):
        create_ledger(config.ledger_dir, keys, config.data, policy)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "--unit"),
        (("--unit", "patient", "--public-n", "10"), "--max-records-per-unit"),
        (("--unit", "record"), "--public-n"),
    ],
)
def test_what_privacy_protects_has_no_default(play, options, named):
    with pytest.raises(ConfigError, match=named):
        join(play, "--data", str(data_file(play)), *options)
    assert not (play.site("hosp-a") / "client.toml").exists()


def test_join_never_overwrites(play):
    join(play)
    with pytest.raises(ConfigError, match="exists already"):
        join(play)


def test_join_refuses_what_does_not_belong_together(play, tmp_path):
    """Another site's invite, a key that was never enrolled, a changed invite: each by its own name."""
    with pytest.raises(AuthenticationError, match=r"for hosp-b.*hosp-a"):
        join(play, invite=play.federation / "invites" / "hosp-b.invite")
    from secfed.cli import keys

    keys.new("hosp-a", directory=tmp_path, role="client", days=2, passphrase_file=play.passphrase)
    with pytest.raises(AuthenticationError, match="SHA256"):
        join(play, key=tmp_path / "hosp-a.key")
    forged = tmp_path / "forged.invite"
    text = (play.federation / "invites" / "hosp-a.invite").read_bytes()
    forged.write_bytes(text.replace(b"127.0.0.1", b"127.0.0.2", 1))
    with pytest.raises(RosterError):
        join(play, invite=forged)
    assert not (play.site("hosp-a") / "client.toml").exists()


def test_join_waits_for_no_pipe_and_reads_no_endless_invite(play, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe: not a regular file"):
        join(play, invite=tmp_path / "pipe")
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 40)
    with pytest.raises(RosterError, match="too long"):
        join(play, invite=tmp_path / "hole")


def test_join_tells_bad_key_files_apart(play, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("not this one\n")
    with pytest.raises(PassphraseError):
        join(play, passphrase=wrong)
    key = play.site("hosp-a") / "hosp-a.key"
    key.chmod(0o640)
    with pytest.raises(KeyPermissionsError) as caught:
        join(play)
    assert f"chmod 600 {key}" in caught.value.hint


# -- wiring ------------------------------------------------------------------------------------


class Silent:
    def note(self, event, **facts):
        pass


def test_a_second_client_is_turned_away(play):
    join(play)
    with (
        open_client(play.config("hosp-a"), secrets(play), observer=Silent()),
        pytest.raises(LockedError),
    ):
        open_client(play.config("hosp-a"), secrets(play), observer=Silent())
    open_client(play.config("hosp-a"), secrets(play), observer=Silent()).close()  # it was released


def test_another_sites_key_is_no_key_of_this_site(play):
    join(play)
    path = play.config("hosp-a")
    path.write_text(
        path.read_text().replace('key = "hosp-a.key"', f'key = "{play.site("hosp-b")}/hosp-b.key"')
    )
    with pytest.raises(AuthenticationError, match="hosp-b"):
        open_client(path, secrets(play), observer=Silent())


@pytest.fixture
def site(play):
    rows = data_file(play)
    join(play, "--data", str(rows), "--unit", "record", "--public-n", "1000")
    config, _, keys = load_site(play.config("hosp-a"), secrets(play))
    return config, keys


def charge(ledger, number):
    event = PoissonGaussian(2**64 // 100, "1.0", 50, "add-remove", "record")
    ledger.reserve(JobId("job-1"), number, bytes(32), budget.authorize(ledger.state, event))


# -- what a site reads -------------------------------------------------------------------------


def test_the_round_line_shows_what_was_spent_of_how_much(site):
    """20 rounds of 50 steps at q = .01, sigma = 1, delta 1e-6, by PLD."""
    config, keys = site
    ledgers = Ledgers(config.ledger_dir, keys, Heads(config.state_dir), config.data)
    ledger = ledgers.data_set()
    for number in range(1, 21):
        charge(ledger, number)
    words = epsilon_words(ledger.state)
    assert words.startswith("eps 2.")
    left = budget.remaining(ledger.state)
    assert words.endswith(f" of 8.000 (gate leaves {left:.3f})")
    assert 0 < left < 8 - float(words.split()[1])  # the gate counts more than was spent
    end = RoundEnd(JobId("job-1"), 12, 50, True, 3, "", 41)
    assert round_words(end, "eps 1.840 of 8.000") == "round 12/50  included  eps 1.840 of 8.000  41 s"
    lost = RoundEnd(JobId("job-1"), 3, 50, False, 0, "dropped in mask: upload", 7)
    assert round_words(lost, "x") == "round 3/50  not included (dropped in mask: upload)  x  7 s"
    scratch = ledgers.scratch()
    leave = budget.authorize(scratch.state, NonPrivate("a test"), allow_non_private=True)
    scratch.reserve(JobId("job-1"), 1, bytes(32), leave)
    assert epsilon_words(scratch.state) == "not private"
    ledgers.close()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ((1, "infinite", 1, False), "1 round, not private"),
        ((3, "infinite", 3, False), "3 rounds, not private"),
        ((1, "0.500", 1, True), "1 round costs epsilon 0.500 as declared"),
        ((3, "2.828", 3, False), "3 rounds cost epsilon 2.828 by plan"),
        ((3, "2.828", 2, False), "3 rounds cost epsilon 2.828 by plan  the budget ends after round 2"),
    ],
)
def test_what_a_job_costs_is_said_in_plain_words(capsys, facts, words):
    names = ("rounds", "epsilon_by_plan", "rounds_within_budget", "declared")
    Teller(Lines()).note("accepted", job=JobId("job-1"), **dict(zip(names, facts, strict=True)))
    assert f"job job-1  accepted  {words}\n" in capsys.readouterr().out


@pytest.mark.parametrize("ends", [False, True])
def test_a_refusal_that_ends_the_process_is_said_once(capsys, ends):
    """By the command's own last words, where these follow; else by the log."""
    telemetry.configure("info", form="json")
    Teller(Lines(), ends=ends).note("declined", job=JobId("job-1"), round=1, why="the cause")
    assert ("the cause" in capsys.readouterr().err) is not ends


def test_every_wait_says_until_when(capsys):
    Lines().awaited(Awaited("two sites", 9))
    Lines().awaited(Awaited("no job is running", 0))
    assert capsys.readouterr().out.splitlines() == [
        "waiting: two sites, for 9 s at most",
        "waiting: no job is running, until that changes or this client is stopped",
    ]


def test_a_client_looks_at_its_data_before_it_waits(play, capsys):
    """A file that is gone ends it with 2; columns of no trainer are a warning, and it goes on."""
    rows = data_file(play)
    join(play, "--data", str(rows), "--unit", "record", "--public-n", "1000")
    words = ["run", "--config", str(play.config("hosp-a")), "--passphrase-file", str(play.root / "none")]
    rows.write_text('{"txt": "private"}\n')
    gone_on = CliRunner().invoke(client_cli.app, words)
    assert "warning: " in gone_on.output
    assert "(it has txt)" in gone_on.output
    assert "none" in str(gone_on.exception)  # the passphrase's file, which it came to
    rows.unlink()
    ended = CliRunner().invoke(client_cli.app, words)
    assert isinstance(ended.exception, DataError)
    assert str(rows) in str(ended.exception)


def test_off_a_terminal_lines_are_few_and_plain(capsys, monkeypatch):
    """At most one passing line in five seconds, no carriage return, no escape."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    lines = Lines()
    for step in range(100):
        clock[0] += 0.1
        lines.step(step, 100)
        lines.awaited(Awaited("two sites", 9))
    lines.say("round 1/1")
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 4
    assert "\r" not in shown
    assert "\x1b" not in shown


# -- processes ---------------------------------------------------------------------------------


def vector(play, site, **arrays):
    path = play.root / f"{site}.safetensors"
    save_file({name: np.asarray(array, np.float32) for name, array in arrays.items()}, path)
    return path


def start_job(play):
    path = play.root / "JOB.toml"
    play.run("job", "init", "--template", "vector", "--output", str(path))
    text = path.read_text().replace('{ "weights" = [100, 100], "bias" = [100] }', '{ "w" = [5] }')
    path.write_text(text)
    play.start_job(path)


def reserves(play, site):
    lines = (play.site(site) / "ledger" / "scratch.ledger").read_bytes().splitlines()
    return [json.loads(line)["body"]["type"] for line in lines]


def test_push_by_processes_with_a_kill_and_every_bad_input(play):
    """The ends of `push`: 2 for NaN, 63 for a second one, kill -9 and back, 0 when stopped; 51 of `run`."""
    play.start_aggregator()
    for site in ("hosp-a", "hosp-b", "hosp-c"):
        result = join(play, "--allow-non-private", site=site)
        assert "round trip     PASS" in result.output
    start_job(play)
    good = [0.1, -0.2, 0.3, 0.0, 1.0]

    bad = play.push("hosp-b", vector(play, "hosp-b", w=[0, np.nan, 0, 0, 0]))
    assert bad.wait(120) == 2
    assert bad.output.count("'w' holds a value that is not finite") == 1
    assert "remedy:" in bad.output
    assert not (play.site("hosp-b") / "ledger" / "scratch.ledger").exists()

    first = play.push("hosp-c", vector(play, "hosp-c", w=good))
    play.until(lambda: "ready" in first.output, "the site to be ready", 120)
    twin = play.push("hosp-c", vector(play, "hosp-c", w=good))
    assert twin.wait(120) == 63
    first.kill()
    assert reserves(play, "hosp-c") == ["open", "reserve"]
    again = play.push("hosp-c", vector(play, "hosp-c", w=good))
    play.until(lambda: again.output.count("ready") == 2, "the site to be ready again", 120)
    assert reserves(play, "hosp-c") == ["open", "reserve"]
    again.stop()
    assert again.popen.returncode == 0
    assert "stopped" in again.output

    # Last, because a refusal by policy is said to the aggregator, and ends a round that needs all three.
    strict = play.site("hosp-a") / "policy.toml"
    text = strict.read_text()
    strict.write_text(text.replace("allow_non_private = true", "allow_non_private = false"))
    daemon = play.start_client("hosp-a", "--update", str(vector(play, "hosp-a", w=good)))
    assert daemon.wait(120) == 51  # it would stay for another job, and there is none
    assert "allow_non_private" in daemon.output
    assert "\ndeclined: " in daemon.output
    assert "\nerror: " in daemon.output


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("run", "--job", "Bad Name"), "'Bad Name' is no job name"),
        (("push", "--update", "nowhere.safetensors", "--job", ""), "is no job name"),
        (("run", "--wait", "5"), "no --job is given"),
    ],
    ids=["run", "push", "wait"],
)
def test_what_would_be_waited_for_in_vain_is_refused_at_once(words, why):
    """Before a file is looked for: there is no client.toml here."""
    refused = CliRunner().invoke(client_cli.app, [*words, "--config", "nowhere.toml"])
    assert isinstance(refused.exception, ConfigError)
    assert why in str(refused.exception)


def test_run_of_one_job_ends_when_the_job_does(play):
    """Three clients that are there before the job: each is included, says so in one line, and ends with 0.
    Who comes once it is over is told that its vector went nowhere.
    """
    play.start_aggregator()
    sites = ("hosp-a", "hosp-b", "hosp-c")
    for site in sites:
        join(play, "--allow-non-private", site=site)
    running = [
        play.start_client(site, "--job", "vector-sum", "--update", str(vector(play, site, w=np.zeros(5))))
        for site in sites
    ]
    waiting = re.compile(r"^waiting: job vector-sum, which is not started yet, for \d{3} s at most$", re.M)
    play.until(lambda: waiting.search(running[0].output), "a client that waits for the job", 120)
    start_job(play)
    for process in running:
        assert process.wait(180) == 0, process.output
        lines = [line for line in process.output.splitlines() if not line.startswith("{")]
        assert any(line.startswith("round 1/1  included  not private") for line in lines)
        assert lines[-1] == "job vector-sum is done"
    late = play.push("hosp-a", vector(play, "hosp-a", w=np.zeros(5)), "--job", "vector-sum")
    assert late.wait(180) == 2, late.output
    assert "error: job vector-sum came to its end without this vector\n" in late.output


def test_a_declared_event_is_charged_to_the_data_sets_ledger(play):
    """One site declares, two push without a bound; what was declared is said to be so wherever it shows."""
    play.start_aggregator()
    rows = data_file(play)
    join(play, "--data", str(rows), "--unit", "record", "--public-n", "1000")
    for site in ("hosp-b", "hosp-c"):
        join(play, "--allow-non-private", site=site)
    start_job(play)
    declared = ("--noise-multiplier", "1.5", "--steps", "40", "--sampling-rate", "0.01")
    update = vector(play, "hosp-a", w=[0.1, -0.2, 0.3, 0.0, 1.0])

    policy = play.site("hosp-a") / "policy.toml"
    text = policy.read_text()
    assert "allow_declared = false" in text
    policy.write_text(text.replace("allow_declared = false", "allow_declared = true"))
    pushes = [play.push("hosp-a", update, *declared)]
    pushes += [play.push(site, vector(play, site, w=np.zeros(5))) for site in ("hosp-b", "hosp-c")]
    for process in pushes:
        assert process.wait(180) == 0, process.output

    bodies = [
        json.loads(line)["body"]
        for line in (play.site("hosp-a") / "ledger" / "dataset.ledger").read_bytes().splitlines()
    ]
    assert [body["type"] for body in bodies] == ["open", "reserve", "sent"]
    assert bodies[1]["event"] == {
        "kind": "poisson_gaussian", "q_num": round(0.01 * 2**64), "noise_multiplier": "1.5", "steps": 40,
        "relation": "add-remove", "unit": "record", "records_per_unit": 1, "sampling": "unit",
        "declared": True,
    }  # fmt: skip
    assert not (play.site("hosp-a") / "ledger" / "scratch.ledger").exists()
    said = [line for line in pushes[0].output.splitlines() if "declared by the site, not enforced" in line]
    assert said[0].endswith("40 steps, noise multiplier 1.5, sampling rate 0.01")
    assert said[-1].startswith("round 1/1  included  eps ")
    assert "1 of 1 charges declared" in said[-1]
    assert "not private" in pushes[1].output


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--noise-multiplier", "1.5", "--steps", "40"), "has no [data] section"),
        (("--noise-multiplier", "1.5"), "--noise-multiplier and --steps together"),
        (("--sampling-rate", "0.1"), "--noise-multiplier and --steps together"),
        (("--noise-multiplier", "1", "--steps", "1", "--records-per-unit", "2"), "takes --sampling-rate"),
        (("--noise-multiplier", "nan", "--steps", "1"), "--noise-multiplier is"),
        (("--noise-multiplier", "1", "--steps", "1", "--sampling-rate", "2"), "--sampling-rate is"),
    ],
    ids=["no data", "no steps", "no noise", "no rate", "no number", "too often"],
)
def test_half_a_declaration_is_refused_before_anything_is_opened(play, options, why):
    join(play)
    push = ["push", "--update", "nowhere.safetensors", "--config", str(play.config("hosp-a")), *options]
    refused = CliRunner().invoke(client_cli.app, push)
    assert isinstance(refused.exception, ConfigError)
    assert why in str(refused.exception)
    assert not (play.site("hosp-a") / "state" / "site.key").exists()
