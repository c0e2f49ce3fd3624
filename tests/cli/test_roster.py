"""`secfed enroll`, `revoke`, `roster`: the roster's next version, invites, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from secfed.errors import StorageError
from secfed.identity import enrolment, invite, keyfile, membership, roster
from secfed.identity.fields import from_base64
from secfed.identity.roster import Roster
from secfed.ids import ClientId

Command = Callable[..., Any]


def read(folder: Path) -> Roster:
    key = from_base64((folder / "roster.pub").read_text().strip(), 32)
    return roster.verify((folder / "roster.txt").read_bytes(), key)


def test_enroll_shows_the_sites_own_fingerprints_and_writes_an_invite_each(
    federation: Path, new_site: Callable[..., Path], secfed: Command
) -> None:
    public = [new_site(f"hosp-{letter}") for letter in "abc"]
    done = secfed("enroll", *public, "--dir", federation, "--yes", "--address", "center.example:8443")
    assert (done.code, done.err) == (0, "")
    found = read(federation)
    assert found.version == 2
    for path in public:
        site = ClientId(path.stem)
        fingerprint = enrolment.verify(path.read_bytes()).fingerprint
        assert any(line.startswith(site) and fingerprint in line for line in done.out.splitlines())
        assert secfed("keys", "show", path.with_suffix(".key")).fact("fingerprint") == fingerprint
        assert found.member(site).fingerprint == fingerprint
        given = invite.verify((federation / "invites" / f"{site}.invite").read_bytes())
        assert (given.site, given.aggregator_address) == (site, "center.example:8443")
        assert given.roster.digest == found.digest
    assert done.fact("roster") == f"{federation / 'roster.txt'}  version 2"
    assert done.fact("a full round").startswith("3 sites: any 1 may collude")


def test_an_invite_names_the_configured_address(enrolled: Path) -> None:
    given = invite.verify((enrolled / "invites" / "hosp-a.invite").read_bytes())
    assert given.aggregator_address == "127.0.0.1:8443"


def test_too_few_sites_are_noted(federation: Path, new_site: Callable[..., Path], secfed: Command) -> None:
    done = secfed("enroll", new_site("hosp-a"), "--dir", federation, "--yes")
    assert (done.code, done.fact("note")) == (0, "sites enrolled: 1; a sum needs at least 3")


def test_a_cohort_that_nothing_protects_is_noted(
    federation: Path, new_site: Callable[..., Path], secfed: Command
) -> None:
    public = [new_site(f"hosp-{letter}") for letter in "abc"]
    done = secfed("enroll", *public, "--dir", federation, "--yes", "--corrupt", 3)
    assert done.code == 0
    assert "3" in done.fact("note")


@pytest.mark.parametrize(
    "words", [("--address", "8443"), ("--address", "a:0"), ("--rotate", "--corrupt", "2")]
)
def test_a_bad_option_changes_nothing(
    federation: Path, new_site: Callable[..., Path], secfed: Command, words: tuple[str, ...]
) -> None:
    done = secfed("enroll", new_site("hosp-a"), "--dir", federation, "--yes", *words)
    assert (done.code, read(federation).version) == (2, 1)
    assert words[0] in done.error
    assert not (federation / "invites").exists()


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_unless_the_fingerprints_are_confirmed_nobody_is_enrolled(
    federation: Path, new_site: Callable[..., Path], process: Command, answer: str
) -> None:
    done = process("enroll", new_site("hosp-a"), "--dir", federation, stdin=answer)
    assert "same fingerprint" in done.err
    assert done.code == (21 if answer else 2)
    assert done.error
    assert done.remedy
    assert read(federation).version == 1


def test_a_yes_enrols(federation: Path, new_site: Callable[..., Path], process: Command) -> None:
    done = process("enroll", new_site("hosp-a"), "--dir", federation, stdin="y\n")
    assert (done.code, read(federation).version) == (0, 2)


def test_a_public_file_that_was_changed_on_the_way_is_refused(
    federation: Path, new_site: Callable[..., Path], secfed: Command
) -> None:
    good, changed = new_site("hosp-a"), new_site("hosp-b")
    text = changed.read_text()
    changed.write_text(text.replace('"role": "client"', '"role": "admin"'))
    assert changed.read_text() != text
    done = secfed("enroll", good, changed, "--dir", federation, "--yes")
    assert (done.code, read(federation).version) == (21, 1)
    assert "hosp-b" in done.error


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 99, b"{}\n"])
def test_something_else_than_a_public_file_is_refused(
    federation: Path, tmp_path: Path, secfed: Command, content: bytes
) -> None:
    (tmp_path / "x.pub").write_bytes(content)
    done = secfed("enroll", tmp_path / "x.pub", "--dir", federation, "--yes")
    assert (done.code, read(federation).version) == (20, 1)


def test_a_private_key_is_not_taken_for_a_public_file(
    federation: Path, new_site: Callable[..., Path], secfed: Command
) -> None:
    done = secfed("enroll", new_site("hosp-a").with_suffix(".key"), "--dir", federation, "--yes")
    assert done.code == 20
    assert "PRIVATE" not in done.said


def test_a_missing_public_file_is_named(federation: Path, tmp_path: Path, secfed: Command) -> None:
    done = secfed("enroll", tmp_path / "x.pub", "--dir", federation, "--yes")
    assert (done.code, done.error) == (2, f"{tmp_path / 'x.pub'}: No such file or directory")


def test_a_site_is_enrolled_once(enrolled: Path, new_site: Callable[..., Path], secfed: Command) -> None:
    public = enrolled.parent / "hosp-a" / "hosp-a.pub"
    again = secfed("enroll", public, "--dir", enrolled, "--yes")
    assert (again.code, read(enrolled).version) == (20, 2)
    assert again.error == "hosp-a is enrolled already"
    assert "--rotate" in again.remedy
    fresh = new_site("hosp-d")
    twice = secfed("enroll", fresh, fresh, "--dir", enrolled, "--yes")
    assert (twice.code, read(enrolled).version) == (20, 2)


def test_rotated_keys_take_the_place_of_the_old_ones(enrolled: Path, secfed: Command) -> None:
    folder = enrolled.parent / "hosp-a"
    old = read(enrolled).member(ClientId("hosp-a")).fingerprint
    rotated = secfed("keys", "rotate", folder / "hosp-a.key", "--no-passphrase")
    (fresh,) = folder.glob("hosp-a-*.pub")
    assert secfed("enroll", fresh, "--dir", enrolled, "--yes").code == 20  # not without --rotate
    done = secfed("enroll", fresh, "--dir", enrolled, "--yes", "--rotate")
    assert done.code == 0, done.err
    found = read(enrolled)
    assert found.version == 3
    assert found.member(ClientId("hosp-a")).fingerprint == rotated.fact("fingerprint") != old
    entries = [each for each in found.members if each.site == "hosp-a"]
    assert [(each.active, each.fingerprint == old) for each in entries] == [(False, True), (True, False)]
    back = secfed("enroll", folder / "hosp-a.pub", "--dir", enrolled, "--yes", "--rotate")
    assert (back.code, read(enrolled).version) == (20, 3)  # a replaced key never comes back


def test_an_aggregators_new_keys_need_no_invite(enrolled: Path, secfed: Command) -> None:
    """It dials nobody."""
    rotated = secfed("keys", "rotate", enrolled / "aggregator.key", "--no-passphrase")
    assert rotated.code == 0, rotated.err
    (fresh,) = enrolled.glob("aggregator-*.pub")
    invites = sorted((enrolled / "invites").iterdir())
    done = secfed("enroll", fresh, "--dir", enrolled, "--yes", "--rotate")
    assert done.code == 0, done.err
    assert sorted((enrolled / "invites").iterdir()) == invites
    assert "invite " not in done.out
    assert read(enrolled).version == 3


def test_only_an_enrolled_site_rotates(
    enrolled: Path, new_site: Callable[..., Path], secfed: Command
) -> None:
    done = secfed("enroll", new_site("hosp-x"), "--dir", enrolled, "--yes", "--rotate")
    assert (done.code, read(enrolled).version) == (21, 2)


def test_a_failed_write_enrols_nobody_and_can_be_repeated(
    federation: Path, new_site: Callable[..., Path], secfed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secfed.store import files

    real = files.replace

    def full(path: Path, data: bytes, **options: Any) -> None:
        if path.name == "hosp-b.invite":
            raise StorageError(f"{path}: No space left on device")
        real(path, data, **options)

    public = [new_site("hosp-a"), new_site("hosp-b")]
    monkeypatch.setattr(files, "replace", full)
    done = secfed("enroll", *public, "--dir", federation, "--yes")
    assert (done.code, read(federation).version) == (60, 1)
    monkeypatch.undo()
    assert secfed("enroll", *public, "--dir", federation, "--yes").code == 0
    given = invite.verify((federation / "invites" / "hosp-a.invite").read_bytes())
    assert given.roster.digest == read(federation).digest


def test_revoke_makes_the_next_version_and_notes_what_is_left(enrolled: Path, secfed: Command) -> None:
    done = secfed("revoke", "hosp-b", "--dir", enrolled)
    assert (done.code, done.fact("revoked")) == (0, "hosp-b")
    assert done.fact("note") == "sites enrolled: 2; a sum needs at least 3"
    found = read(enrolled)
    assert (found.version, found.member(ClientId("hosp-b")).active) == (3, False)
    again = secfed("revoke", "hosp-b", "--dir", enrolled)
    assert (again.code, read(enrolled).version) == (20, 3)
    unknown = secfed("revoke", "hosp-x", "--dir", enrolled)
    assert (unknown.code, unknown.error) == (21, "hosp-x is not in roster version 3")


def test_renew_moves_the_end_and_nothing_else(enrolled: Path, secfed: Command) -> None:
    before = read(enrolled)
    done = secfed("roster", "renew", "--dir", enrolled, "--days", 900)
    assert (done.code, done.err) == (0, "")
    found = read(enrolled)
    assert (found.version, found.not_after - before.not_after > timedelta(days=169)) == (3, True)
    assert found.members == before.members
    assert (found.min_cohort, found.corrupt) == (before.min_cohort, before.corrupt)
    assert done.fact("roster").startswith(f"{enrolled / 'roster.txt'}  version 3, until ")
    assert done.out.count("the keys of ") == 5, "whose own dates end before the roster's now"
    sooner = secfed("roster", "renew", "--dir", enrolled, "--days", 5)
    assert (sooner.code, read(enrolled).version) == (20, 3)
    assert "which is not before" in sooner.error


def test_a_roster_that_had_ended_is_renewed_and_the_sites_need_its_file(
    enrolled: Path, secfed: Command
) -> None:
    key, now = keyfile.load_roster_key(enrolled / "roster.key", None), datetime.now(UTC)
    ended = replace(read(enrolled), not_after=now - timedelta(days=1))
    short = membership.renew(ended, key, not_after=now - timedelta(seconds=5))
    (enrolled / "roster.txt").write_bytes(short.text)
    done = secfed("roster", "renew", "--dir", enrolled)
    assert done.code == 0
    assert "had ended: send" in done.out
    read(enrolled).check_validity(now + timedelta(days=700))


def test_a_revoked_key_never_comes_back(
    enrolled: Path, new_site: Callable[..., Path], secfed: Command
) -> None:
    folder = enrolled.parent / "hosp-b"
    secfed("revoke", "hosp-b", "--dir", enrolled)
    assert secfed("enroll", folder / "hosp-b.pub", "--dir", enrolled, "--yes").code == 20
    for path in folder.iterdir():
        path.unlink()
    assert secfed("enroll", new_site("hosp-b"), "--dir", enrolled, "--yes").code == 0
    assert read(enrolled).member(ClientId("hosp-b")).active


def test_the_owners_key_is_needed(enrolled: Path, federation: Path, tmp_path: Path, secfed: Command) -> None:
    secfed("init", tmp_path / "other", "--no-passphrase")
    (tmp_path / "other" / "roster.key").replace(enrolled / "roster.key")
    done = secfed("revoke", "hosp-a", "--dir", enrolled)
    assert done.code == 20
    assert read(enrolled).version == 2


def test_show_as_table_and_as_json_say_the_same(enrolled: Path, secfed: Command) -> None:
    secfed("revoke", "hosp-c", "--dir", enrolled)
    table = secfed("roster", "show", enrolled / "roster.txt")
    document = json.loads(secfed("roster", "show", enrolled / "roster.txt", "--json").out)
    found = read(enrolled)
    assert document["schema"] == 1
    assert (document["federation"], document["version"]) == (found.federation, 3)
    assert (document["min_cohort"], document["corrupt"]) == (3, 1)
    assert table.fact("federation") == found.federation
    assert table.fact("roster") == f"version 3, until {document['not_after']}"
    rows = [line.split() for line in table.out.splitlines()[-len(found.members) :]]
    assert rows == [
        [each["site"], each["role"], each["status"], each["valid_until"], each["fingerprint"]]
        for each in document["members"]
    ]
    assert {each["site"]: each["status"] for each in document["members"]}["hosp-c"] == "revoked"


def test_verify_compares_with_the_fingerprint_that_was_read_by_phone(tmp_path: Path, secfed: Command) -> None:
    folder = tmp_path / "federation"
    told = secfed("init", folder, "--no-passphrase").fact("fingerprint").split()[0]
    path = folder / "roster.txt"
    good = secfed("roster", "verify", path, "--fingerprint", told)
    assert (good.code, good.fact("signed by")) == (0, told)
    assert "next " not in good.out
    assert "compare" in secfed("roster", "verify", path).fact("next")
    other = secfed("roster", "verify", path, "--fingerprint", "SHA256:" + "A" * 43)
    assert other.code == 20
    assert told in other.error


def test_a_changed_roster_is_refused(enrolled: Path, secfed: Command) -> None:
    path = enrolled / "roster.txt"
    path.write_text(path.read_text().replace('"min_cohort": 3', '"min_cohort": 4'))
    for command in (
        ("roster", "show", path),
        ("roster", "verify", path),
        ("revoke", "hosp-a", "--dir", enrolled),
    ):
        done = secfed(*command)
        assert done.code == 20
        assert done.out == ""


def test_a_roster_signed_by_another_key_is_refused(enrolled: Path, tmp_path: Path, secfed: Command) -> None:
    secfed("init", tmp_path / "other", "--no-passphrase")
    (tmp_path / "other" / "roster.txt").replace(enrolled / "roster.txt")
    assert secfed("roster", "verify", enrolled / "roster.txt").code == 20


@pytest.mark.parametrize("lost", ["roster.txt", "roster.pub"])
def test_a_missing_file_is_named(enrolled: Path, secfed: Command, lost: str) -> None:
    (enrolled / lost).unlink()
    done = secfed("roster", "show", enrolled / "roster.txt")
    assert done.code == 20
    assert str(enrolled / lost) in done.error
