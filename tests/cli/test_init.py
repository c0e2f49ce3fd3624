"""`secfed init`: a whole federation, or nothing; no secret where it does not belong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from secfed.cli import federation as commands
from secfed.config import AdminConfig, AggregatorConfig, load
from secfed.errors import StorageError
from secfed.identity import enrolment, keyfile, roster
from secfed.identity.fields import from_base64
from secfed.identity.fingerprint import roster_fingerprint
from secfed.identity.roles import Role
from secfed.ids import ClientId

Command = Callable[..., object]

PRIVATE = {"roster.key", "aggregator.key", "admin.key"}
PUBLIC = {"roster.txt", "roster.pub", "aggregator.pub", "admin.pub", "aggregator.toml", "admin.toml"}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_it_writes_keys_roster_and_configurations(tmp_path: Path, secfed: Command) -> None:
    folder = tmp_path / "deep" / "federation"
    done = secfed("init", folder, "--address", "center.example:8443", "--listen", "0.0.0.0:8443",
                  "--days", 400, "--min-cohort", 5, "--no-passphrase")  # fmt: skip
    assert done.code == 0
    assert {path.name for path in folder.iterdir()} == PRIVATE | PUBLIC
    assert {path.name for path in folder.parent.iterdir()} == {"federation"}  # no draft is left
    assert mode(folder) == 0o700
    assert {mode(folder / name) for name in PRIVATE} == {0o600}
    assert {mode(folder / name) for name in PUBLIC} == {0o644}

    key = keyfile.load_roster_key(folder / "roster.key", None)
    found = roster.verify((folder / "roster.txt").read_bytes(), key.public)
    assert (found.version, found.min_cohort) == (1, 5)
    assert [(member.site, member.role) for member in found.members] == [
        ("admin", Role.ADMIN),
        ("aggregator", Role.AGGREGATOR),
    ]
    assert from_base64((folder / "roster.pub").read_text().strip(), 32) == key.public
    assert done.fact("fingerprint").startswith(roster_fingerprint(key.public))
    assert done.fact("federation").startswith(found.federation)

    config = load(folder / "aggregator.toml", AggregatorConfig)
    assert (config.listen, config.advertise) == ("0.0.0.0:8443", "center.example:8443")
    assert (config.ops_listen, config.health_listen) == ("127.0.0.1:9443", "127.0.0.1:9444")
    assert config.key == folder / "aggregator.key"
    assert from_base64(config.roster_key, 32) == key.public
    admin = load(folder / "admin.toml", AdminConfig)
    assert (admin.key, admin.aggregator) == (folder / "admin.key", "center.example:8443")
    for config_key, name in ((config.key, "aggregator"), (admin.key, "admin")):
        keys = keyfile.load(config_key, None)
        assert found.member(ClientId(name)).fingerprint == keys.fingerprint
        assert enrolment.verify((folder / f"{name}.pub").read_bytes()).fingerprint == keys.fingerprint


def test_the_configuration_holds_no_path_of_this_machine(federation: Path) -> None:
    """The folder may be moved: everything in it is named relative to it."""
    for name in ("aggregator.toml", "admin.toml"):
        assert str(federation.parent) not in (federation / name).read_text()


def test_all_private_keys_are_encrypted_under_the_passphrase(
    tmp_path: Path, secfed: Command, write_passphrase: Callable[..., Path]
) -> None:
    folder = tmp_path / "federation"
    done = secfed("init", folder, "--passphrase-file", write_passphrase("correct horse\nsecond line\n"))
    assert done.code == 0
    assert "warning" not in done.err
    for name in PRIVATE:
        text = (folder / name).read_text()
        assert "BEGIN ENCRYPTED PRIVATE KEY" in text
        assert "BEGIN PRIVATE KEY" not in text
    keyfile.load_roster_key(folder / "roster.key", "correct horse")
    keyfile.load(folder / "admin.key", "correct horse")
    assert "correct horse" not in done.said


def test_no_secret_is_printed_or_written_elsewhere(federation: Path, secfed: Command, tmp_path: Path) -> None:
    done = secfed("init", tmp_path / "other", "--no-passphrase")
    assert "warning: no passphrase" in done.err
    secrets = set()
    for name in PRIVATE:
        text = (tmp_path / "other" / name).read_text()
        blocks = re.findall(r"BEGIN PRIVATE KEY-----\n(.+?)\n-----END", text, flags=re.DOTALL)
        secrets |= {line for block in blocks for line in block.splitlines() if len(line) > 20}
    seed = keyfile.load_roster_key(tmp_path / "other" / "roster.key", None).seed
    secrets |= {seed.hex()}
    assert len(secrets) > 4
    for secret in secrets:
        assert secret not in done.said
        for name in PUBLIC:
            assert secret not in (tmp_path / "other" / name).read_text()


def test_a_second_federation_in_the_same_folder_is_refused(federation: Path, secfed: Command) -> None:
    before = {path.name: path.read_bytes() for path in federation.iterdir()}
    done = secfed("init", federation, "--no-passphrase")
    assert done.code == 2
    assert "already holds a federation" in done.error
    assert done.remedy == "Choose a new folder."
    assert {path.name: path.read_bytes() for path in federation.iterdir()} == before


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, secfed: Command) -> None:
    (tmp_path / "mine").mkdir()
    done = secfed("init", tmp_path / "mine", "--no-passphrase")
    assert (done.code, list((tmp_path / "mine").iterdir())) == (2, [])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--address", "8443"), "--address '8443': expected host:port"),
        (("--address", "center:0"), "--address 'center:0': an address to dial needs its port"),
        (("--listen", "0.0.0.0"), "listen: expected host:port"),
        (("--listen", "a:99999"), "listen: a port is at most 65535"),
        (("--ops", "0.0.0.0:9443"), "ops_listen: must be a loopback address"),
        (("--health", "0.0.0.0:9444"), "health_listen: must be a loopback address"),
        (("--min-cohort", "2"), "--min-cohort"),
        (("--days", "0"), "--days"),
        (("--passphrase-fd", "9", "--passphrase-file", "x"), "give only one of"),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_written(
    tmp_path: Path, secfed: Command, options: tuple[str, ...], expected: str
) -> None:
    done = secfed("init", tmp_path / "federation", *options)
    assert done.code == 2
    assert expected in done.error
    assert done.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails_at", range(4))
def test_when_a_write_fails_nothing_is_left_behind(
    tmp_path: Path, secfed: Command, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """The disk fills up while the n-th text is written: no half of a federation, and a second try works."""
    from secfed.store import files

    real, written = files.create_exclusive, []

    def full(path: Path, data: bytes, **options: int) -> None:
        if path.suffix in (".txt", ".toml") or path.name == "roster.pub":
            if len(written) == fails_at:
                raise StorageError(f"{path}: No space left on device")
            written.append(path)
        real(path, data, **options)

    monkeypatch.setattr(files, "create_exclusive", full)
    done = secfed("init", tmp_path / "federation", "--no-passphrase")
    assert (done.code, len(written)) == (60, fails_at)
    assert "No space left" in done.error
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert secfed("init", tmp_path / "federation", "--no-passphrase").code == 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, secfed: Command) -> None:
    (tmp_path / "file").write_text("")
    done = secfed("init", tmp_path / "file" / "federation", "--no-passphrase")
    assert done.code == 60
    assert str(tmp_path / "file") in done.error


def test_the_default_folder_is_that_of_the_other_commands() -> None:
    """`init`, `enroll` and `revoke` without a folder mean the same one."""
    assert commands.init.__defaults__[0] == Path("federation")
    assert Path("federation") in commands.enroll.__defaults__
    assert Path("federation") in commands.revoke.__defaults__
