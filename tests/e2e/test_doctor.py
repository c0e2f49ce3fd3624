"""`secfed doctor` against a running federation: what is in order, and each thing that is not."""

from __future__ import annotations

import io
import json
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults import five, impostor
from loopback import NOBODY, PATIENCE_S, Loopback, Outcome, secfed

from secfed.cli import build_aggregator, checkup, checkup_net, key_state
from secfed.config import AggregatorConfig, ClientConfig, load
from secfed.identity import keyfile
from secfed.identity.roles import Role
from secfed.ids import ClientId
from secfed.store.decisions import DecisionStore
from secfed.transport.auditlog import AuditLog, log_file

SITES = ("hosp-a", "hosp-b", "hosp-c")


@pytest.fixture(scope="module")
def play(build_shared: Callable[..., Loopback]) -> Loopback:
    return build_shared(*SITES)


@pytest.fixture
def copy(play: Loopback, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a site's folder, to be spoilt; returns its client.toml."""

    def make(name: str) -> Path:
        shutil.copytree(play.site(name), tmp_path / name)
        return tmp_path / name / "client.toml"

    return make


@dataclass(frozen=True)
class Examined:
    """What the doctor found, by check."""

    code: int
    checks: dict[str, dict[str, Any]]

    def verdicts(self, verdict: str) -> set[str]:
        return {name for name, found in self.checks.items() if found["verdict"] == verdict}


def doctor(config: Path) -> Examined:
    """`secfed doctor --json` in this process; the text says the same."""
    told = secfed("doctor", "--config", config, "--json")
    found = json.loads(told.out)
    assert found["schema"] == 1
    assert found["exit_code"] == told.code
    for check in found["checks"]:
        assert check["text"]
        assert bool(check["remedy"]) == (check["verdict"] in ("warn", "fail"))
        assert bool(check["exit_code"]) == (check["verdict"] == "fail")
    return Examined(told.code, {check["check"]: check for check in found["checks"]})


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def tree(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file but those of a running daemon: time of its last change, and content."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.parts[-2:-1] != ("state",)]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


# -- in order ----------------------------------------------------------------------------------


def test_each_side_of_a_running_federation_is_in_order(play: Loopback) -> None:
    site = doctor(play.config(SITES[0]))
    assert (site.code, site.verdicts("fail"), site.verdicts("skip")) == (0, set(), set())
    assert site.verdicts("warn") == {"policy"}, "a site that pushes vectors allows what is not private"
    assert "roster version 2 is in force" in site.checks["aggregator"]["text"]
    admin = doctor(play.federation / "admin.toml")
    assert (admin.code, admin.verdicts("ok")) == (0, set(admin.checks))
    daemon = doctor(play.federation / "aggregator.toml")
    assert (daemon.code, daemon.verdicts("warn")) == (0, {"state folder", "port", "metrics port"})


def test_a_line_each_with_its_remedy_under_it(play: Loopback) -> None:
    """The text has the findings of the JSON, in their order; times and free space move."""
    lines = secfed("doctor", "--config", play.config(SITES[0])).out.splitlines()
    found = doctor(play.config(SITES[0]))
    starts = [line for line in lines if not line.startswith(" ")][:-1]
    assert [line[:5].strip() for line in starts] == [check["verdict"] for check in found.checks.values()]
    assert [line[6:].startswith(name) for line, name in zip(starts, found.checks, strict=True)] == [
        True
    ] * len(starts)
    assert sum("remedy: " in line for line in lines) == 1
    assert lines[-1] == f"{len(starts)} checks, 0 failed, 1 to look at"


def test_nothing_is_changed(play: Loopback) -> None:
    """Neither at a site nor beside the daemon, whose own state goes on meanwhile."""
    for config in (play.config(SITES[1]), play.federation / "admin.toml"):
        before = tree(config.parent)
        assert doctor(config).code == 0
        assert tree(config.parent) == before


# -- not in order ------------------------------------------------------------------------------

Spoil = Callable[[Path], None]


def _no_data(config: Path) -> None:
    with config.open("a") as file:
        file.write('\n[data]\nfile = "gone.jsonl"\nunit = "record"\npublic_n = 1000\n')


def _another_roster(config: Path) -> None:
    roster = config.with_name("roster.txt")
    roster.write_bytes(roster.read_bytes().replace(b'"version": 2', b'"version": 3'))


def _ledger(config: Path) -> None:
    (config.parent / "ledger" / "scratch.ledger").write_text('{"not": "a ledger"}\n')


def _dial(config: Path, address: str) -> None:
    lines = config.read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("aggregator = ")]
    edit(config, line, f'aggregator = "{address}"')


CASES: dict[str, tuple[Spoil, str, int, str]] = {
    "an unknown key": (
        lambda site: edit(site, "log_level = ", "log_levle = "), "configuration", 2, "log_levle",
    ),
    "a key file that others may read": (
        lambda site: site.with_name("hosp-a.key").chmod(0o640), "key file", 32, "mode 0640",
    ),
    "no key file": (lambda site: site.with_name("hosp-a.key").unlink(), "key file", 30, "hosp-a.key"),
    "a changed roster": (_another_roster, "roster", 20, "signature"),
    "a state folder that others may use": (
        lambda site: (site.parent / "state").chmod(0o755), "state folder", 60, "mode 0755",
    ),
    "a policy with an unknown key": (
        lambda site: edit(site.with_name("policy.toml"), "min_cohort", "min_cohrt"), "policy", 2, "min_cohrt",
    ),
    "a policy in the configuration's place": (
        lambda site: shutil.copy(site.with_name("policy.toml"), site), "configuration", 2,
        "is no client.toml, admin.toml or aggregator.toml",
    ),
    "a damaged ledger": (_ledger, "ledgers", 61, "scratch.ledger"),
    "no data file": (_no_data, "data", 2, "gone.jsonl"),
    "a name without an address": (
        lambda site: _dial(site, "no.such.host.invalid:1"), "address", 10, "cannot be resolved",
    ),
    "a port where nothing listens": (
        lambda site: _dial(site, NOBODY), "address", 10, "nothing listens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", list(CASES))
def test_what_is_not_in_order_is_named_with_the_exit_code_of_a_start(
    copy: Callable[[str], Path], what: str
) -> None:
    spoil, check, code, words = CASES[what]
    config = copy("hosp-a")
    spoil(config)
    found = doctor(config)
    assert (found.code, found.checks[check]["verdict"]) == (code, "fail"), found
    assert words in found.checks[check]["text"]
    assert found.checks[check]["remedy"]


def test_what_ends_soon_is_a_warning(play: Loopback, tmp_path: Path) -> None:
    """A key of 20 days, in a federation of its own that nobody serves."""
    name, now = "hosp-s", datetime.now(UTC)
    play.done("init", tmp_path / "soon", "--no-passphrase", "--address", "127.0.0.1:1")
    keyfile.create(
        tmp_path / f"{name}.key", site=ClientId(name), role=Role.AGGREGATOR, passphrase=None, now=now,
        validity=timedelta(days=20),
    )  # fmt: skip
    patient = checkup.Patient(
        tmp_path, SimpleNamespace(key=tmp_path / f"{name}.key", site=name),  # type: ignore[arg-type]
        SimpleNamespace(for_existing=lambda _: None), now,  # type: ignore[arg-type]
    )  # fmt: skip
    checks = dict(checkup.local_checks(patient)[:2])
    assert checkup.examine("key file", checks["key file"]).verdict == "ok"
    found = checkup.examine("key", checks["key"])
    assert found.verdict == "warn"
    assert "days are left" in found.text
    assert "keys rotate" in found.remedy
    patient.now = now + timedelta(days=21)
    assert checkup.examine("key", checks["key"]).exit_code == 24


def test_a_clock_that_is_off_is_noticed_before_calls_are_refused(
    play: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor(play.config(SITES[0])).checks["clock"]["verdict"] == "ok"
    for ahead_s in (100, -100):
        clock = SimpleNamespace(
            time_ns=lambda ahead_s=ahead_s: time.time_ns() + ahead_s * 10**9, monotonic=time.monotonic
        )
        monkeypatch.setattr(checkup_net, "time", clock)
        found = doctor(play.config(SITES[0]))
        assert (found.code, found.checks["clock"]["verdict"]) == (0, "warn")
        assert "NTP" in found.checks["clock"]["remedy"]


def test_ports_that_somebody_else_holds(play: Loopback, tmp_path: Path) -> None:
    folder = tmp_path / "federation"
    shutil.copytree(play.federation, folder, ignore=shutil.ignore_patterns("state", "out"))
    with socket.create_server(("127.0.0.1", 0)) as holder:
        text = (folder / "aggregator.toml").read_text()
        for port in (play.port, play.ops_port):
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{holder.getsockname()[1]}", 1)
        (folder / "aggregator.toml").write_text(text)
        found = doctor(folder / "aggregator.toml")
    assert found.code == 21, "its key has served with a state that is not there"
    assert found.checks["state folder"]["verdict"] == "fail"
    assert {found.checks[name]["exit_code"] for name in ("port", "metrics port")} == {11}


# -- what lies in the state directory ----------------------------------------------------------


def _serve(config: Path) -> Path:
    """As far as a first start binds key and state; returns the database of the decisions."""
    site = load(config, ClientConfig)
    site.state_dir.mkdir(mode=0o700, exist_ok=True)
    database = site.state_dir / key_state.DATABASE
    with DecisionStore(database) as decisions:
        key_state.serve_with(site.key, site.state_dir, decisions)
    return database


def _other(database: Path) -> None:
    database.unlink()
    with DecisionStore(database) as decisions:
        decisions.put("state/name", b"00" * 32)


def _unnamed(database: Path) -> None:
    database.unlink()
    DecisionStore(database).close()


def _copied(database: Path) -> None:
    copy = database.with_name("copy")
    shutil.copyfile(database, copy)
    copy.replace(database)


def _changed(database: Path) -> None:
    data = bytearray(database.read_bytes())
    data[data.index(b"state/name") + len(b"state/name") + 2] ^= 1
    database.write_bytes(data)


STATES: dict[str, tuple[Spoil, int, str]] = {
    "gone": (lambda database: shutil.rmtree(database.parent), 21, "a state that is not in"),
    "another one": (_other, 21, "another state than the one in"),
    "a copy": (_copied, 21, "is a copy of the state that"),
    "a new one, as a refused start left it": (_unnamed, 21, "a state that is not in"),
    "emptied": (lambda database: database.write_bytes(b"") and None, 60, "decisions.sqlite is empty"),
    "changed": (_changed, 60, "decisions.sqlite is damaged"),
}


@pytest.mark.parametrize("what", list(STATES))
def test_a_state_that_no_start_takes(copy: Callable[[str], Path], what: str) -> None:
    spoil, code, words = STATES[what]
    config = copy("hosp-a")
    database = _serve(config)
    assert doctor(config).code == 0
    spoil(database)
    before = {path: path.read_bytes() for path in database.parent.glob("*") if path.is_file()}
    found = doctor(config)
    assert (found.code, found.verdicts("fail")) == (code, {"state folder"}), found
    assert words in found.checks["state folder"]["text"]
    assert str(database.parent) in found.checks["state folder"]["text"]
    assert "never restore" in found.checks["state folder"]["remedy"]
    assert {path: path.read_bytes() for path in database.parent.glob("*")} == before


def test_a_state_as_a_crash_leaves_it_is_in_order(copy: Callable[[str], Path]) -> None:
    """The name lies in the write-ahead file alone, which a start takes in and the doctor leaves."""
    config = copy("hosp-a")
    state = load(config, ClientConfig).state_dir
    state.mkdir(mode=0o700, exist_ok=True)
    with DecisionStore(state / key_state.DATABASE) as decisions:
        key_state.serve_with(config.with_name("hosp-a.key"), state, decisions)
        crashed = {path: path.read_bytes() for path in state.glob("*") if path.is_file()}
    for path, data in crashed.items():
        path.write_bytes(data)
    assert any(path.name.endswith("-wal") and data for path, data in crashed.items())
    found = doctor(config)
    assert (found.code, found.checks["state folder"]["verdict"]) == (0, "ok"), found
    assert {path: path.read_bytes() for path in crashed} == crashed


def test_charges_of_which_the_state_knows_nothing(copy: Callable[[str], Path]) -> None:
    """The same fault at a state that is there and at none."""
    config = copy("hosp-a")
    ledgers = load(config, ClientConfig).ledger_dir
    ledgers.mkdir(exist_ok=True)
    (ledgers / "dataset.ledger").write_text("opened\ncharged\n")
    state = load(config, ClientConfig).state_dir
    shutil.rmtree(state, ignore_errors=True)
    for _ in range(2):
        found = doctor(config).checks["state folder"]
        assert (found["exit_code"], "holds charges" in found["text"]) == (21, True)
        state.mkdir(mode=0o700, exist_ok=True)
        DecisionStore(state / key_state.DATABASE).close()


def test_one_fault_of_a_key_file_is_told_once(copy: Callable[[str], Path]) -> None:
    config = copy("hosp-a")
    config.with_name("hosp-a.key").chmod(0o644)
    assert doctor(config).verdicts("fail") == {"key file"}


def test_an_audit_log_that_no_start_takes(play: Loopback, tmp_path: Path) -> None:
    play.done("init", tmp_path / "own", "--no-passphrase", "--address", "127.0.0.1:1")
    path = tmp_path / "own" / "aggregator.toml"
    config = load(path, AggregatorConfig)
    keys = build_aggregator.load_keys(config, None)
    assert "none yet" in doctor(path).checks["audit log"]["text"]
    daemon = build_aggregator.build_daemon(config, keys, io.StringIO())
    daemon.resources.close()
    log = log_file(config.state_dir, keys.signing)
    audit = AuditLog(log, keys.signing, lambda: datetime.now(UTC))
    audit.add(who="hosp-a", what="Poll", outcome="ok", where="127.0.0.1")
    audit.close()
    whole = log.read_bytes()
    assert doctor(path).checks["audit log"]["verdict"] == "ok"
    for damaged in (b"", whole.replace(b"hosp-a", b"hosp-b")):
        log.write_bytes(damaged)
        found = doctor(path).checks["audit log"]
        assert (found["verdict"], found["exit_code"], str(log) in found["text"]) == ("fail", 64, True), found
        assert log.read_bytes() == damaged


# -- five faults at a client's start -----------------------------------------------------------


def test_five_faults_at_a_clients_start_are_told_apart(play: Loopback, tmp_path: Path) -> None:
    """Real processes, all at once: `doctor` tells each, and `client run` ends with the same code and words.

    What ends `client run` is tried elsewhere too (test_bad_input, test_members); here address and
    certificate. How long each takes is measured by tests/bench/bench_faults.py.
    """
    with impostor(tmp_path) as stranger:
        faults = five(play, tmp_path, stranger)
        examined = [fault.start(play, "doctor", "--json") for fault in faults]
        running = [(fault, fault.start(play, "client", "run")) for fault in faults[:2]]
        causes = set()
        for fault, process in zip(faults, examined, strict=True):
            out, err = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == fault.code, f"{fault.name}: {out}{err}"
            failed = [check for check in json.loads(out)["checks"] if check["verdict"] == "fail"]
            assert fault.says in failed[0]["text"], fault.name
            assert failed[0]["remedy"]
            causes.add(failed[0]["text"])
        for fault, process in running:
            out, err = process.communicate(timeout=PATIENCE_S)
            ended = Outcome(process.returncode, out, err)
            assert (ended.code, "Traceback" in out + err) == (fault.code, False), out + err
            assert fault.says in ended.error
            assert ended.remedy
    assert len(causes) == len(faults)
