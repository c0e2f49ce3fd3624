"""`secfed keys`: files, modes, fingerprints; never overwritten, never printed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from secfed.identity import enrolment, keyfile
from secfed.identity.roles import Role

Command = Callable[..., object]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_new_writes_a_private_and_a_public_file(tmp_path: Path, secfed: Command) -> None:
    done = secfed("keys", "new", "hosp-a", "--dir", tmp_path / "site", "--no-passphrase", "--days", 30)
    assert done.code == 0
    private, public = tmp_path / "site" / "hosp-a.key", tmp_path / "site" / "hosp-a.pub"
    assert (mode(private), mode(public)) == (0o600, 0o644)
    keys, sent = keyfile.load(private, None), enrolment.verify(public.read_bytes())
    assert (keys.site, keys.role, (keys.expires - keys.created).days) == ("hosp-a", Role.CLIENT, 30)
    assert keys.fingerprint == sent.fingerprint == done.fact("fingerprint")
    assert "warning: no passphrase for hosp-a.key" in done.err


@pytest.mark.parametrize("role", ["admin", "auditor", "aggregator"])
def test_other_roles_can_be_asked_for(tmp_path: Path, secfed: Command, role: str) -> None:
    assert secfed("keys", "new", "x", "--dir", tmp_path, "--role", role, "--no-passphrase").code == 0
    assert keyfile.load(tmp_path / "x.key", None).role is Role(role)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("Hosp",), "'Hosp'"),
        (("../x",), "'../x'"),
        (("a b",), "'a b'"),
        (("x", "--role", "roster"), "--role is client, admin, auditor or aggregator, not 'roster'"),
    ],
)
def test_a_bad_name_or_role_writes_nothing(
    tmp_path: Path, secfed: Command, words: tuple[str, ...], expected: str
) -> None:
    done = secfed("keys", "new", *words, "--dir", tmp_path, "--no-passphrase")
    assert (done.code, list(tmp_path.iterdir())) == (2, [])
    assert expected in done.error


@pytest.mark.parametrize("there", ["hosp-a.key", "hosp-a.pub"])
def test_an_existing_file_is_never_overwritten(tmp_path: Path, secfed: Command, there: str) -> None:
    (tmp_path / there).write_text("mine")
    done = secfed("keys", "new", "hosp-a", "--dir", tmp_path, "--no-passphrase")
    assert done.code == 30
    assert f"{tmp_path / there} exists already" in done.error
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "mine")]


def test_show_says_the_same_of_both_files_and_no_secret(
    tmp_path: Path, secfed: Command, write_passphrase: Callable[..., Path]
) -> None:
    secret = write_passphrase("open sesame")
    made = secfed("keys", "new", "hosp-a", "--dir", tmp_path, "--passphrase-file", secret)
    public = secfed("keys", "show", tmp_path / "hosp-a.pub")
    private = secfed("keys", "show", tmp_path / "hosp-a.key", "--passphrase-file", secret)
    assert (public.code, private.code, public.err, private.err) == (0, 0, "", "")
    assert public.out == private.out
    assert public.fact("fingerprint") == made.fact("fingerprint")
    assert (public.fact("site"), public.fact("role")) == ("hosp-a", "client")
    keys = keyfile.load(tmp_path / "hosp-a.key", "open sesame")
    body = "".join(re.findall(r"^[A-Za-z0-9+/=]{40,}$", keys.tls_key_pem.decode(), flags=re.MULTILINE))
    for said in (made.said, public.said, private.said):
        assert keys.signing.seed.hex() not in said
        assert "BEGIN" not in said
        assert body[:40] not in said
        assert "open sesame" not in said


def test_show_needs_the_public_file_alone(tmp_path: Path, secfed: Command, write_passphrase: Command) -> None:
    secfed("keys", "new", "a", "--dir", tmp_path, "--passphrase-file", write_passphrase("p"))
    (tmp_path / "a.key").unlink()
    assert secfed("keys", "show", tmp_path / "a.pub").code == 0


def test_a_wrong_passphrase_is_said(tmp_path: Path, secfed: Command, write_passphrase: Command) -> None:
    secfed("keys", "new", "a", "--dir", tmp_path, "--passphrase-file", write_passphrase("right"))
    done = secfed("keys", "show", tmp_path / "a.key", "--passphrase-file", write_passphrase("wrong", "other"))
    assert done.code == 31
    assert str(tmp_path / "a.key") in done.error
    assert "--passphrase-file" in done.remedy
    assert "right" not in done.said


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused_with_the_exact_chmod(
    tmp_path: Path, secfed: Command, bits: int
) -> None:
    folder = tmp_path / "my keys"
    secfed("keys", "new", "a", "--dir", folder, "--no-passphrase")
    (folder / "a.key").chmod(bits)
    done = secfed("keys", "show", folder / "a.key")
    assert done.code == 32
    assert f"mode {bits:04o}" in done.error
    assert done.remedy == f"chmod 600 '{folder / 'a.key'}'"


def test_a_missing_file_is_named_and_nobody_is_asked(tmp_path: Path, secfed: Command) -> None:
    for name in ("a.key", "a.pub"):
        done = secfed("keys", "show", tmp_path / name)
        assert done.code == 30
        assert done.error == f"{tmp_path / name}: No such file or directory"


def test_rotate_makes_new_keys_beside_the_old_ones(tmp_path: Path, secfed: Command) -> None:
    secfed("keys", "new", "hosp-a", "--dir", tmp_path, "--no-passphrase")
    before = (tmp_path / "hosp-a.key").read_bytes()
    done = secfed("keys", "rotate", tmp_path / "hosp-a.key", "--no-passphrase", "--days", 90)
    assert done.code == 0
    assert (tmp_path / "hosp-a.key").read_bytes() == before
    (fresh,) = tmp_path.glob("hosp-a-*.key")
    assert mode(fresh) == 0o600
    keys = keyfile.load(fresh, None)
    assert (keys.site, keys.role) == ("hosp-a", Role.CLIENT)
    assert keys.fingerprint == done.fact("fingerprint")
    assert keys.fingerprint != keyfile.load(tmp_path / "hosp-a.key", None).fingerprint
    assert enrolment.verify(keyfile.public_path(fresh).read_bytes()).fingerprint == keys.fingerprint
    assert f"`key` in client.toml to {fresh.name}" in done.fact("next")


@pytest.mark.parametrize(("role", "config"), [("admin", "admin.toml"), ("aggregator", "aggregator.toml")])
def test_rotate_names_the_configuration_of_the_role(
    tmp_path: Path, secfed: Command, role: str, config: str
) -> None:
    secfed("keys", "new", "x", "--dir", tmp_path, "--role", role, "--no-passphrase")
    assert config in secfed("keys", "rotate", tmp_path / "x.key", "--no-passphrase").fact("next")


def test_the_passphrase_can_be_changed_and_removed(
    tmp_path: Path, secfed: Command, write_passphrase: Callable[..., Path]
) -> None:
    old, new = write_passphrase("old", "old"), write_passphrase("new", "new")
    path = tmp_path / "a.key"
    made = secfed("keys", "new", "a", "--dir", tmp_path, "--passphrase-file", old)
    changed = secfed("keys", "passphrase", path, "--passphrase-file", old, "--new-passphrase-file", new)
    assert (changed.code, mode(path)) == (0, 0o600)
    assert changed.fact("passphrase") == f"changed: {path}"
    assert keyfile.load(path, "new").fingerprint == made.fact("fingerprint")
    refused = secfed("keys", "show", path, "--passphrase-file", old)
    assert refused.code == 31
    removed = secfed("keys", "passphrase", path, "--passphrase-file", new, "--no-passphrase")
    assert (removed.code, removed.fact("passphrase")) == (0, f"removed: {path}")
    assert keyfile.load(path, None).fingerprint == made.fact("fingerprint")


def test_a_wrong_old_passphrase_changes_nothing(
    tmp_path: Path, secfed: Command, write_passphrase: Callable[..., Path]
) -> None:
    path = tmp_path / "a.key"
    secfed("keys", "new", "a", "--dir", tmp_path, "--passphrase-file", write_passphrase("old", "old"))
    before = path.read_bytes()
    wrong, new = write_passphrase("wrong", "wrong"), write_passphrase("new", "new")
    done = secfed("keys", "passphrase", path, "--passphrase-file", wrong, "--new-passphrase-file", new)
    assert (done.code, path.read_bytes()) == (31, before)


def test_the_roster_key_takes_another_passphrase_too(
    federation: Path, secfed: Command, write_passphrase: Command
) -> None:
    new = write_passphrase("new")
    before = keyfile.load_roster_key(federation / "roster.key", None).public
    done = secfed("keys", "passphrase", federation / "roster.key", "--new-passphrase-file", new)
    assert done.code == 0
    assert keyfile.load_roster_key(federation / "roster.key", "new").public == before
