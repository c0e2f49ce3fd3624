"""What people get wrong: one line of cause, one line of remedy, the documented exit code; no traceback."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from loopback import NOBODY, PATIENCE_S, Loopback, Outcome, Process, secfed
from safetensors.numpy import save_file

from secfed.cli.playground import held_port
from secfed.config import AggregatorConfig, load
from secfed.identity import keyfile
from secfed.identity.roles import Role
from secfed.ids import ClientId

SITES = ("hosp-a", "hosp-b", "hosp-c", "hosp-d")
SIZE = 8


@pytest.fixture(scope="module")
def play(build_shared: Callable[..., Loopback]) -> Loopback:
    """Four sites, and a job that waits for them all. Who declines it is not asked again.

    In `backup` lies the last one's key as it was before its first start.
    """
    built = build_shared(*SITES)
    (built.root / "backup").mkdir(mode=0o700)
    shutil.copy(built.site(SITES[3]) / f"{SITES[3]}.key", built.root / "backup")
    built.job("open", SIZE)
    return built


@pytest.fixture
def copy(play: Loopback, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a site's folder, to be spoilt; returns its client.toml."""

    def make(name: str) -> Path:
        shutil.copytree(play.site(name), tmp_path / name)
        return tmp_path / name / "client.toml"

    return make


def refused(outcome: Outcome, code: int) -> Outcome:
    """It failed as documented: both lines, once each, and nothing that is for developers."""
    assert outcome.code == code, outcome.out + outcome.err
    assert outcome.error
    assert outcome.remedy
    assert "Traceback" not in outcome.out + outcome.err
    return outcome


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# -- keys --------------------------------------------------------------------------------------


def test_a_wrong_passphrase(play: Loopback, tmp_path: Path) -> None:
    for name, text in (("right", "correct horse"), ("wrong", "battery staple")):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(text)
    play.done("keys", "new", "hosp-e", "--dir", tmp_path, "--passphrase-file", tmp_path / "right")
    shutil.copytree(play.site(SITES[0]), tmp_path / "site")
    config = tmp_path / "site" / "client.toml"
    edit(config, f'key = "{SITES[0]}.key"', f'key = "{tmp_path / "hosp-e.key"}"')
    outcome = play.call("client", "run", "--config", config, "--passphrase-file", tmp_path / "wrong")
    assert "hosp-e.key" in refused(outcome, 31).error


def test_a_key_file_that_its_group_may_read(play: Loopback, copy: Callable[[str], Path]) -> None:
    config = copy(SITES[0])
    key = config.with_name(f"{SITES[0]}.key")
    key.chmod(0o640)
    outcome = refused(play.call("client", "run", "--config", config), 32)
    assert outcome.remedy == f"chmod 600 {shlex.quote(str(key))}"


def test_an_expired_certificate(play: Loopback) -> None:
    """Enrolled and joined while it was good: for longer, where that takes longer."""
    for number in range(6):
        name, validity = f"hosp-f{number}", timedelta(seconds=6 * 2**number)
        expires = datetime.now(UTC) + validity
        play.site(name).mkdir()
        key = play.site(name) / f"{name}.key"
        start = expires - timedelta(days=1)
        keyfile.create(
            key, site=ClientId(name), role=Role.CLIENT, passphrase=None, now=start, validity=expires - start
        )
        enrolled = secfed("enroll", key.with_suffix(".pub"), "--dir", play.federation, "--yes")
        invite = play.federation / "invites" / f"{name}.invite"
        if not enrolled.code and not secfed("client", "join", invite, "--key", key, "--dir", key.parent).code:
            break
    time.sleep(max(0.0, (expires - datetime.now(UTC)).total_seconds()) + 1)
    outcome = refused(play.call("client", "run", "--config", play.config(name)), 24)
    assert "keys rotate" in outcome.remedy


# -- configuration -----------------------------------------------------------------------------


def test_an_unknown_key_in_the_configuration(play: Loopback, copy: Callable[[str], Path]) -> None:
    config = copy(SITES[0])
    edit(config, "log_level = ", "log_levle = ")
    (line,) = [
        number for number, text in enumerate(config.read_text().splitlines(), 1) if "log_levle" in text
    ]
    outcome = refused(play.call("client", "run", "--config", config), 2)
    assert f"{config}:{line}" in outcome.error
    assert "log_level" in outcome.error + outcome.remedy


def test_an_address_where_nothing_listens(play: Loopback, copy: Callable[[str], Path]) -> None:
    config = copy(SITES[0])
    edit(config, f"127.0.0.1:{play.port}", NOBODY)
    outcome = refused(play.call("status", "--config", config), 10)
    assert NOBODY in outcome.error


def test_a_policy_that_does_not_allow_the_job(play: Loopback, copy: Callable[[str], Path]) -> None:
    config = copy(SITES[0])
    edit(config.with_name("policy.toml"), "allow_non_private = true", "allow_non_private = false")
    update = play.update(SITES[0], 0, SIZE)
    words = ("client", "run", "--config", config, "--job", "open", "--update", update)
    refused(play.call(*words), 51)


# -- data --------------------------------------------------------------------------------------


def test_a_data_file_without_the_declared_column(play: Loopback, copy: Callable[[str], Path]) -> None:
    config = copy(SITES[0])
    data = config.with_name("rows.jsonl")
    data.write_text('{"text": "a private sentence", "lable": "yes"}\n')
    with config.open("a") as file:
        file.write(f'\n[data]\nfile = "{data}"\nunit = "record"\npublic_n = 1000\n')
    outcome = refused(play.call("data", "check", "--config", config, "--labels", "no,yes"), 2)
    assert "no column 'label'" in outcome.error
    assert "lable" in outcome.error
    assert "private" not in outcome.out + outcome.err


# -- updates -----------------------------------------------------------------------------------


def test_an_update_with_nan(play: Loopback, copy: Callable[[str], Path]) -> None:
    config = copy(SITES[1])
    update = config.with_name("nan.safetensors")
    save_file({"x": np.array([0.734375] * (SIZE - 1) + [np.nan], dtype=np.float32)}, update)
    outcome = refused(play.call("client", "push", "--config", config, "--update", update), 2)
    assert "not finite" in outcome.error
    assert "0.734375" not in outcome.out + outcome.err  # one line of cause, and none of the values


def test_an_update_of_the_wrong_shape(play: Loopback, copy: Callable[[str], Path]) -> None:
    config = copy(SITES[2])
    update = config.with_name("short.safetensors")
    save_file({"x": np.zeros(SIZE - 1, dtype=np.float32)}, update)
    outcome = refused(play.call("client", "push", "--config", config, "--update", update), 2)
    assert f"({SIZE - 1},)" in outcome.error
    assert f"({SIZE},)" in outcome.error


# -- two at once -------------------------------------------------------------------------------


def test_a_busy_port(play: Loopback, tmp_path: Path) -> None:
    """Another federation's aggregator holds it."""
    folder = tmp_path / "federation"
    with held_port() as ops:
        play.done(
            "init", folder, "--address", f"127.0.0.1:{play.port}",
            "--ops", f"127.0.0.1:{ops.getsockname()[1]}", "--no-passphrase",
        )  # fmt: skip
        outcome = refused(play.call("aggregator", "run", "--config", folder / "aggregator.toml"), 11)
    assert f"port {play.port}" in outcome.error


def test_a_second_aggregator_on_one_state_directory(play: Loopback) -> None:
    config = play.federation / "aggregator.toml"
    outcome = refused(play.call("aggregator", "run", "--config", config), 63)
    assert str(load(config, AggregatorConfig).state_dir) in outcome.error
    assert play.is_ready()
    assert play.overview()["roster_version"] >= 1  # the first one serves on


@pytest.fixture(scope="module")
def first(play: Loopback) -> Process:
    """A client that runs, for a second one to meet."""
    started = play.start_client(SITES[3])
    play.until(lambda: SITES[3] in play.overview()["connected"], "the first client", PATIENCE_S)
    return started


def test_a_second_client_on_one_state_directory(play: Loopback, first: Process) -> None:
    outcome = refused(play.call("client", "run", "--config", play.config(SITES[3])), 63)
    assert str(play.site(SITES[3]) / "state") in outcome.error
    assert first.running


def test_a_second_client_with_one_key_on_another_machine(
    play: Loopback, first: Process, tmp_path: Path
) -> None:
    """It has a state of its own, and so does not know what its key did before: the aggregator does."""
    name = SITES[3]
    invite, key = play.federation / "invites" / f"{name}.invite", play.root / "backup" / f"{name}.key"
    play.done("client", "join", invite, "--key", key, "--dir", tmp_path / name)
    outcome = refused(play.call("client", "run", "--config", tmp_path / name / "client.toml"), 21)
    assert f"the key of {name} has served with another state" in outcome.error
    assert "keys rotate" in outcome.remedy
    assert first.running
    assert "setback" not in first.output
