"""A key that has served is refused without the state it served with, until it is rotated."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secfed.cli import build_aggregator, joining, key_state, main
from secfed.cli.build_client import load_site, open_client
from secfed.cli.heads import Heads
from secfed.cli.ledgers import Ledgers
from secfed.cli.passphrase import source
from secfed.config import AggregatorConfig, load
from secfed.errors import AuthenticationError, KeyFileError, RevokedError, StorageError
from secfed.identity import keyfile
from secfed.ids import JobId
from secfed.privacy import budget
from secfed.privacy.events import PoissonGaussian
from secfed.store.decisions import DecisionStore

Command = Callable[..., Any]


class Silent:
    def note(self, event: str, **facts: object) -> None:
        pass


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation and hosp-a, which joined with a data set and has never run; no passphrases."""
    root = tmp_path_factory.mktemp("template")
    home = root / "hosp-a"

    def done(*words: object) -> None:
        assert main.run([str(word) for word in words]) == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "TRY_S", 0.1)
        done("init", root / "federation", "--no-passphrase")
        for name in ("hosp-a", "hosp-b", "hosp-c"):
            done("keys", "new", name, "--dir", root / name, "--no-passphrase")
        public = [root / name / f"{name}.pub" for name in ("hosp-a", "hosp-b", "hosp-c")]
        done("enroll", *public, "--dir", root / "federation", "--yes")
        (home / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n')
        done(
            "client", "join", root / "federation" / "invites" / "hosp-a.invite", "--key", home / "hosp-a.key",
            "--dir", home, "--data", home / "rows.jsonl", "--unit", "record", "--public-n", 1000,
        )  # fmt: skip
    return root


@pytest.fixture
def place(template: Path, disk: Path) -> Path:
    """A copy of it."""
    shutil.copytree(template, disk / "place")
    return disk / "place"


@pytest.fixture
def federation(place: Path) -> Path:
    """The owner's folder."""
    return place / "federation"


@pytest.fixture
def site(place: Path) -> Path:
    """The client.toml of hosp-a."""
    return place / "hosp-a" / "client.toml"


def start(config: Path) -> None:
    """As far as a client comes before it speaks to anybody."""
    open_client(config, source(None, None), observer=Silent()).close()


def charge(config_path: Path) -> None:
    """One round, on the data set's ledger."""
    config, _, keys = load_site(config_path, source(None, None))
    ledgers = Ledgers(config.ledger_dir, keys, Heads(config.state_dir), config.data)
    ledger = ledgers.data_set()
    event = PoissonGaussian(2**64 // 100, "1.0", 50, "add-remove", "record")
    ledger.reserve(JobId("job-1"), 1, bytes(32), budget.authorize(ledger.state, event))
    ledgers.close()


def refused(secfed: Command, config: Path) -> str:
    """What `client run` says as it refuses; nothing was left behind that looks like a state of its own."""
    before = set(config.parent.rglob("*"))
    done = secfed("client", "run", "--config", config)
    assert set(config.parent.rglob("*")) == before
    assert done.code == AuthenticationError.exit_code
    assert f"secfed keys rotate {config.parent / 'hosp-a.key'}" in done.remedy
    assert "enroll --rotate" in done.remedy
    return str(done.error)


# -- the mark ----------------------------------------------------------------------------------


def test_the_first_start_notes_the_state_in_the_key_file(site: Path) -> None:
    """Keys, mode and passphrase are untouched, and every later start finds what it noted."""
    key = site.parent / "hosp-a.key"
    before = key.read_bytes()
    assert keyfile.state_of(key) is None
    start(site)
    name = keyfile.state_of(key)
    assert name is not None
    assert key.read_bytes().replace(f"# state: {name}\n".encode(), b"") == before
    assert key.stat().st_mode & 0o777 == 0o600
    noted = key.read_bytes()
    start(site)
    assert key.read_bytes() == noted
    with DecisionStore(site.parent / "state" / key_state.DATABASE) as decisions:
        assert decisions.get("state/name") == name.encode()


def test_another_passphrase_leaves_the_note(site: Path, secfed: Command, write_passphrase: Command) -> None:
    key = site.parent / "hosp-a.key"
    start(site)
    name = keyfile.state_of(key)
    assert (
        secfed("keys", "passphrase", key, "--new-passphrase-file", write_passphrase("open sesame")).code == 0
    )
    assert keyfile.state_of(key) == name
    assert keyfile.load(key, "open sesame").site == "hosp-a"


def test_a_crash_between_the_two_notes_is_no_loss(site: Path) -> None:
    """The state has its name, the key file not yet."""
    key = site.parent / "hosp-a.key"
    fresh = key.read_bytes()
    start(site)
    name = keyfile.state_of(key)
    charge(site)
    key.write_bytes(fresh)
    start(site)
    assert keyfile.state_of(key) == name


def test_a_key_file_that_cannot_be_marked_does_not_serve(site: Path) -> None:
    (site.parent / ".hosp-a.key.new").mkdir()
    with pytest.raises(KeyFileError, match="notes in its file which state") as told:
        start(site)
    assert "Let the owner write" in told.value.hint


def test_a_start_that_fails_binds_no_key(site: Path, federation: Path, secfed: Command) -> None:
    """Its `state_dir` was mistyped, and it was refused for something else: the right one serves still."""
    key = site.parent / "hosp-a.key"
    right, roster = site.read_text(), (site.parent / "roster.txt").read_bytes()
    assert secfed("revoke", "hosp-a", "--dir", federation).code == 0
    shutil.copyfile(federation / "roster.txt", site.parent / "roster.txt")
    site.write_text(right.replace('state_dir = "state"', 'state_dir = "sttae"'))
    with pytest.raises(RevokedError):
        start(site)
    assert keyfile.state_of(key) is None

    site.write_text(right)
    (site.parent / "roster.txt").write_bytes(roster)
    start(site)
    with DecisionStore(site.parent / "state" / key_state.DATABASE) as decisions:
        assert decisions.get("state/name") == (keyfile.state_of(key) or "").encode()


def test_a_key_bound_elsewhere_meanwhile_is_refused(site: Path) -> None:
    """Two first starts at once, each with a state of its own: one of them serves."""
    key, ours = site.parent / "hosp-a.key", site.parent / "state"
    with DecisionStore(ours / key_state.DATABASE) as decisions:
        state = key_state.state_for(key, ours, decisions)
        keyfile.name_state(key, bytes(32).hex())
        with pytest.raises(AuthenticationError, match="another state"):
            key_state.bind(key, ours, decisions, state)


def test_a_damaged_name_is_no_name(site: Path) -> None:
    with DecisionStore(site.parent / "state" / key_state.DATABASE) as decisions:
        decisions.put("state/name", b"\xff")
    with pytest.raises(StorageError, match="damaged"):
        start(site)


# -- a key that comes back -----------------------------------------------------------------------


def test_a_key_without_its_state_is_refused_until_it_is_rotated(
    site: Path, federation: Path, secfed: Command
) -> None:
    """Keys and ledgers are back from their backup, the state is not, and that is not overcome by trying."""
    start(site)
    charge(site)
    home = site.parent
    shutil.rmtree(home / "state")
    for _ in range(2):
        assert "has served with a state that is not in" in refused(secfed, site)

    assert secfed("keys", "rotate", home / "hosp-a.key", "--no-passphrase").code == 0
    (fresh,) = home.glob("hosp-a-*.key")
    public = keyfile.public_path(fresh)
    assert secfed("enroll", public, "--dir", federation, "--rotate", "--yes").code == 0
    shutil.copyfile(federation / "roster.txt", home / "roster.txt")
    assert secfed("ledger", "hand-over", "--config", site, "--to", fresh).code == 0
    site.write_text(site.read_text().replace('key = "hosp-a.key"', f'key = "{fresh.name}"'))
    start(site)
    start(site)
    assert keyfile.state_of(fresh) not in (None, keyfile.state_of(home / "hosp-a.key"))
    config, _, keys = load_site(site, source(None, None))
    ledgers = Ledgers(config.ledger_dir, keys, Heads(config.state_dir), config.data)
    assert len(ledgers.data_set().state.charges) == 1
    ledgers.close()


def test_a_key_file_of_before_its_first_start_is_told_by_the_ledger(site: Path, secfed: Command) -> None:
    """Such a backup carries no note; what was charged is in the ledger's."""
    key = site.parent / "hosp-a.key"
    backup = key.read_bytes()
    start(site)
    charge(site)
    key.write_bytes(backup)
    shutil.rmtree(site.parent / "state")
    cause = refused(secfed, site)
    assert "dataset.ledger holds charges" in cause
    assert keyfile.state_of(key) is None


def test_a_ledger_without_a_charge_is_a_first_start(site: Path) -> None:
    """Joined, and never run: nothing was promised to anybody."""
    shutil.rmtree(site.parent / "state")
    start(site)


def test_another_state_is_not_this_keys(site: Path, secfed: Command, tmp_path: Path) -> None:
    start(site)
    shutil.rmtree(site.parent / "state")
    (site.parent / "state").mkdir(mode=0o700)
    with DecisionStore(site.parent / "state" / key_state.DATABASE) as decisions:
        decisions.put("state/name", bytes(32).hex().encode())
    assert "has served with another state than the one in" in refused(secfed, site)


def test_a_copy_of_a_whole_site_is_turned_away_until_somebody_says_that_it_was_moved(
    site: Path, secfed: Command, tmp_path: Path
) -> None:
    """Name, key and ledger are the same; the original goes on. What was said once need not be said again."""
    start(site)
    charge(site)
    copy = tmp_path / "copy" / site.name
    shutil.copytree(site.parent, copy.parent)
    assert f"{copy.parent / 'state'} is a copy of the state that" in refused(secfed, copy)
    start(site)

    open_client(copy, source(None, None), observer=Silent(), state_moved=True).close()
    start(copy)


def test_a_state_that_was_brought_back_from_a_backup_is_a_copy(site: Path, secfed: Command) -> None:
    """In the very place of the original, which is gone; moved on one disk it stays what it was."""
    start(site)
    state = site.parent / "state"
    shutil.copytree(state, site.parent / "backup")
    state.rename(site.parent / "elsewhere")
    (site.parent / "backup").rename(state)
    assert "is a copy of the state that" in refused(secfed, site)
    shutil.rmtree(state)
    (site.parent / "elsewhere").rename(state)
    start(site)


def test_a_new_key_takes_over_the_state_that_is_there(site: Path, federation: Path, secfed: Command) -> None:
    """Rotation in time: nothing was lost."""
    start(site)
    home = site.parent
    assert secfed("keys", "rotate", home / "hosp-a.key", "--no-passphrase").code == 0
    (fresh,) = home.glob("hosp-a-*.key")
    site.write_text(site.read_text().replace('key = "hosp-a.key"', f'key = "{fresh.name}"'))
    public = keyfile.public_path(fresh)
    assert secfed("enroll", public, "--dir", federation, "--rotate", "--yes").code == 0
    shutil.copyfile(federation / "roster.txt", home / "roster.txt")
    start(site)
    assert keyfile.state_of(fresh) == keyfile.state_of(home / "hosp-a.key")


def test_a_key_that_has_served_joins_nowhere_else(
    site: Path, federation: Path, secfed: Command, tmp_path: Path
) -> None:
    """Before anything is written."""
    start(site)
    done = secfed(
        "client", "join", federation / "invites" / "hosp-a.invite", "--key", site.parent / "hosp-a.key",
        "--dir", tmp_path / "elsewhere",
    )  # fmt: skip
    assert done.code == AuthenticationError.exit_code
    assert "has served with a state" in done.error
    assert not (tmp_path / "elsewhere").exists()


# -- the aggregator ------------------------------------------------------------------------------


def begin(path: Path) -> None:
    config = load(path, AggregatorConfig)
    daemon = build_aggregator.build_daemon(config, build_aggregator.load_keys(config, None), io.StringIO())
    daemon.resources.close()


def rotate(path: Path, federation: Path, secfed: Command) -> None:
    """Give the aggregator a new key, as its operator does in time or after a loss."""
    config = load(path, AggregatorConfig)
    assert secfed("keys", "rotate", config.key, "--no-passphrase").code == 0
    (fresh,) = config.key.parent.glob(f"{config.key.stem}-*.key")
    public = keyfile.public_path(fresh)
    assert secfed("enroll", public, "--dir", federation, "--rotate", "--yes").code == 0
    path.write_text(path.read_text().replace(f'key = "{config.key.name}"', f'key = "{fresh.name}"'))


def test_a_copy_of_an_aggregators_state_is_turned_away(federation: Path, secfed: Command) -> None:
    """Its operator may say that it was moved."""
    path = federation / "aggregator.toml"
    begin(path)
    config = load(path, AggregatorConfig)
    shutil.copytree(config.state_dir, config.state_dir.with_name("copy"))
    shutil.rmtree(config.state_dir)
    config.state_dir.with_name("copy").rename(config.state_dir)
    with pytest.raises(AuthenticationError, match="is a copy of the state that"):
        begin(path)
    keys = build_aggregator.load_keys(config, None)
    build_aggregator.build_daemon(config, keys, io.StringIO(), state_moved=True).resources.close()
    begin(path)


def test_an_aggregator_without_its_state_is_refused_until_it_is_rotated(
    federation: Path, secfed: Command
) -> None:
    path = federation / "aggregator.toml"
    begin(path)
    begin(path)
    config = load(path, AggregatorConfig)
    shutil.rmtree(config.state_dir)
    done = secfed("aggregator", "run", "--config", path)
    assert (done.code, "keys rotate" in done.remedy) == (AuthenticationError.exit_code, True)
    assert "has served with a state that is not in" in done.error
    assert not config.state_dir.exists()
    rotate(path, federation, secfed)
    begin(path)


def test_a_rotated_aggregator_goes_on_with_its_state_and_begins_a_new_log(
    federation: Path, secfed: Command
) -> None:
    """A log is one key's: the old one stays, whole, for whoever wants to verify it."""
    path = federation / "aggregator.toml"
    begin(path)
    state = load(path, AggregatorConfig).state_dir
    (old,) = state.glob("audit-*.jsonl")
    before = old.read_bytes()
    rotate(path, federation, secfed)
    begin(path)
    assert len(list(state.glob("audit-*.jsonl"))) == 2
    assert old.read_bytes() == before
