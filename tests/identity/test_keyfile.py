"""Key files: private, exclusive, encrypted, and consistent."""

from __future__ import annotations

import os
import shlex
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from secfed.crypto.signing import SigningKey
from secfed.errors import KeyFileError, KeyPermissionsError, PassphraseError
from secfed.identity import enrolment, keyfile
from secfed.identity.fingerprint import roster_fingerprint
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roles import Role
from secfed.ids import ClientId


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "hosp-a.key"


def create(path: Path, now: datetime, passphrase: str | None = None) -> MemberKeys:
    return keyfile.create(path, site=ClientId("hosp-a"), role=Role.CLIENT, passphrase=passphrase, now=now)


def same(first: MemberKeys, second: MemberKeys) -> bool:
    return (first.signing.seed, first.tls_key_pem, first.certificate, first.created, first.expires) == (
        second.signing.seed,
        second.tls_key_pem,
        second.certificate,
        second.created,
        second.expires,
    )


def test_encrypted_keys_come_back_with_their_passphrase_only(path: Path, now: datetime) -> None:
    keys = create(path, now, "a passphrase")
    assert same(keyfile.load(path, "a passphrase"), keys)
    assert b"BEGIN PRIVATE KEY" not in path.read_bytes()
    assert path.read_bytes().count(b"BEGIN ENCRYPTED PRIVATE KEY") == 2
    with pytest.raises(PassphraseError, match=r"hosp-a\.key"):
        keyfile.load(path, "another")
    with pytest.raises(PassphraseError, match="no passphrase"):
        keyfile.load(path, None)


def test_the_comments_say_whose_file_it_is(path: Path, now: datetime) -> None:
    keys = create(path, now)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# secfed key file, version 1. Private")
    assert lines[1:6] == [
        "# site: hosp-a",
        "# role: client",
        "# created: 2026-03-01T12:00:00Z",
        "# expires: 2028-02-29T12:00:00Z",
        f"# fingerprint: {keys.fingerprint}",
    ]


def test_the_key_file_is_0600_whatever_the_umask(path: Path, now: datetime) -> None:
    before = os.umask(0)
    try:
        create(path, now)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert keyfile.public_path(path).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("taken", ["hosp-a.key", "hosp-a.pub"])
def test_nothing_is_overwritten(path: Path, now: datetime, taken: str) -> None:
    path.parent.mkdir()
    (path.parent / taken).write_text("mine")
    with pytest.raises(KeyFileError, match=f"{taken} exists already"):
        create(path, now)
    assert (path.parent / taken).read_text() == "mine"
    assert len(list(path.parent.iterdir())) == 1


def test_a_dangling_link_is_not_written_through(path: Path, now: datetime) -> None:
    path.parent.mkdir()
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(KeyFileError, match="exists already"):
        create(path, now)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o777])
def test_a_key_that_others_can_use_is_refused_with_the_exact_remedy(
    tmp_path: Path, now: datetime, mode: int
) -> None:
    path = tmp_path / "with space" / "hosp-a.key"
    create(path, now)
    path.chmod(mode)
    with pytest.raises(KeyPermissionsError) as refused:
        keyfile.load(path, None)
    program, argument, target = shlex.split(refused.value.hint)
    assert (program, argument, target) == ("chmod", "600", str(path))
    path.chmod(int(argument, 8))
    keyfile.load(path, None)


def test_a_pipe_in_place_of_a_key_is_not_waited_for(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        keyfile.load(path, None)


def test_the_public_file_is_what_is_enrolled_and_holds_no_secret(path: Path, now: datetime) -> None:
    keys = create(path, now)
    data = keyfile.public_path(path).read_bytes()
    found = enrolment.verify(data)
    assert found == keys.enrolment
    assert found.fingerprint == keys.fingerprint
    assert b"PRIVATE" not in data


def test_secrets_are_not_printed(path: Path, now: datetime) -> None:
    keys = create(path, now)
    shown = repr(keys) + str(keys)
    assert keys.signing.seed.hex() not in shown
    assert repr(keys.signing.seed) not in shown
    assert "PRIVATE" not in shown
    assert "tls_key_pem" not in shown


def test_mixed_up_files_are_refused(tmp_path: Path, now: datetime) -> None:
    """Each part of one file replaced by another file's: comments, keys, certificate."""
    first, second = tmp_path / "1" / "hosp-a.key", tmp_path / "2" / "hosp-a.key"
    create(first, now)
    create(second, now + timedelta(days=1))
    ours, theirs = (each.read_text() for each in (first, second))
    begin = "-----BEGIN"
    parts, foreign = ours.split(begin), theirs.split(begin)
    assert len(parts) == 4
    for index in range(4):
        mixed = [*parts[:index], foreign[index], *parts[index + 1 :]]
        first.write_text(begin.join(mixed))
        with pytest.raises(KeyFileError, match=r"fingerprint|certificate"):
            keyfile.load(first, None)
    first.write_text(ours)
    keyfile.load(first, None)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 100, b"# secfed key file, version 1.\n", b"# secfed key file, version 2.\n"]
)
def test_what_is_no_key_file_is_refused(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="not the key file"):
        keyfile.load(path, None)


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"hosp-a\.key: No such file"):
        keyfile.load(path, None)


def test_a_key_file_cut_short_is_refused(path: Path, now: datetime) -> None:
    create(path, now)
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(KeyFileError):
            keyfile.load(path, None)


def test_a_bad_site_name_is_refused_before_anything_is_written(path: Path, now: datetime) -> None:
    with pytest.raises(ValueError, match="no site name"):
        keyfile.create(path, site=ClientId("../x"), role=Role.CLIENT, passphrase=None, now=now)
    assert not path.parent.exists()


def test_the_roster_key_has_a_file_of_its_own_kind(tmp_path: Path, path: Path, now: datetime) -> None:
    roster_path = tmp_path / "roster.key"
    key = keyfile.create_roster_key(roster_path, passphrase="pw", now=now)
    assert keyfile.load_roster_key(roster_path, "pw").seed == key.seed
    assert roster_fingerprint(key.public) in roster_path.read_text()
    assert roster_path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(PassphraseError):
        keyfile.load_roster_key(roster_path, "no")
    with pytest.raises(KeyFileError, match="exists already"):
        keyfile.create_roster_key(roster_path, passphrase="pw", now=now)
    create(path, now)
    with pytest.raises(KeyFileError):
        keyfile.load_roster_key(path, None)
    with pytest.raises(KeyFileError):
        keyfile.load(roster_path, "pw")


def test_the_identity_key_comes_from_the_entropy_given(path: Path, now: datetime) -> None:
    keys = keyfile.create(
        path, site=ClientId("hosp-a"), role=Role.CLIENT, passphrase=None, now=now, entropy=bytes
    )
    assert keys.signing.public == SigningKey.from_seed(bytes(32)).public


@pytest.mark.parametrize(("old", "new"), [("first", "second"), ("first", None), (None, "second")])
def test_a_changed_passphrase_keeps_keys_and_comments(
    path: Path, now: datetime, old: str | None, new: str | None
) -> None:
    keys = create(path, now, old)
    public, head = keyfile.public_path(path).read_bytes(), path.read_bytes().split(b"-----")[0]
    keyfile.change_passphrase(path, old, new)
    assert same(keyfile.load(path, new), keys)
    assert path.read_bytes().split(b"-----")[0] == head
    assert keyfile.public_path(path).read_bytes() == public
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(list(path.parent.iterdir())) == 2
    if new is not None:
        with pytest.raises(PassphraseError):
            keyfile.load(path, old)


def test_a_wrong_passphrase_changes_nothing(path: Path, now: datetime) -> None:
    create(path, now, "first")
    before = path.read_bytes()
    with pytest.raises(PassphraseError):
        keyfile.change_passphrase(path, "wrong", "second")
    assert path.read_bytes() == before


def test_the_roster_keys_passphrase_is_changed_too(tmp_path: Path, now: datetime) -> None:
    path = tmp_path / "roster.key"
    key = keyfile.create_roster_key(path, passphrase=None, now=now)
    keyfile.change_passphrase(path, None, "new")
    assert keyfile.load_roster_key(path, "new").seed == key.seed
