"""The public file: signed by the key that it names, and strict."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from secfed.crypto.labels import Label
from secfed.errors import AuthenticationError, RosterError
from secfed.identity import enrolment, signed
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roles import Role


@pytest.fixture
def keys(make_member: Callable[..., MemberKeys]) -> MemberKeys:
    return make_member("hosp-a")


def forge(keys: MemberKeys, **changes: Any) -> bytes:
    """The public file with members changed (None: taken out), signed as if that were right."""
    text = signed.unverified_text(keys.enrolment.sign(keys.signing), what="it")
    members = {**json.loads(text), **changes}
    plain = {name: value for name, value in members.items() if value is not None}
    return signed.sign_text(keys.signing, Label.SIGN_ENROLMENT, json.dumps(plain).encode() + b"\n")


def test_it_is_read_back(keys: MemberKeys) -> None:
    assert enrolment.verify(keys.enrolment.sign(keys.signing)) == keys.enrolment
    assert enrolment.verify(forge(keys)) == keys.enrolment


def test_a_changed_word_is_refused(keys: MemberKeys) -> None:
    data = keys.enrolment.sign(keys.signing)
    with pytest.raises(AuthenticationError, match="hosp-a"):
        enrolment.verify(data.replace(b'"client"', b'"admin"'))


def test_somebody_elses_key_cannot_be_named(keys: MemberKeys, make_member: Callable[..., MemberKeys]) -> None:
    """A key is enrolled only by who holds it."""
    other = make_member("hosp-b")
    named = json.loads(signed.unverified_text(other.enrolment.sign(other.signing), what="it"))
    with pytest.raises(AuthenticationError):
        enrolment.verify(forge(keys, identity_key=named["identity_key"]))
    with pytest.raises(ValueError, match="the key that it names"):
        keys.enrolment.sign(other.signing)


def test_another_sites_certificate_cannot_be_named(
    keys: MemberKeys, make_member: Callable[..., MemberKeys]
) -> None:
    with pytest.raises(RosterError, match="another name"):
        enrolment.verify(forge(keys, tls_certificate=make_member("hosp-b").certificate.pem))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extra": 1}, "unknown member 'extra'"),
        ({"site": None}, "site is missing"),
        ({"site": "Hosp A"}, "no site name"),
        ({"site": "../etc"}, "no site name"),
        ({"site": 7}, "site is not text"),
        ({"role": "root"}, "role"),
        ({"version": 2}, "version is '2'"),
        ({"version": True}, "version is 'True'"),
        ({"kind": "secfed-roster"}, "kind is"),
        ({"created": "2026-02-30T00:00:00Z"}, "created"),
        ({"created": "yesterday"}, "is no time"),
        ({"identity_key": "AAAA"}, "not 32 bytes"),
        ({"identity_key": "é"}, "identity_key"),
    ],
    ids=str,
)
def test_malformed_files_are_refused_by_member(
    keys: MemberKeys, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RosterError) as refused:
        enrolment.verify(forge(keys, **changes))
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    "data", [b"", b"x" * 100_000, b"[]\n", b"\xff\n"], ids=["empty", "long", "list", "noise"]
)
def test_what_is_no_such_file_is_refused(keys: MemberKeys, data: bytes) -> None:
    with pytest.raises(RosterError):
        enrolment.verify(data)
    if data.endswith(b"\n"):
        with pytest.raises(RosterError):
            enrolment.verify(signed.sign_text(keys.signing, Label.SIGN_ENROLMENT, data))


def test_the_role_asked_for_is_kept(make_member: Callable[..., MemberKeys]) -> None:
    for role in Role:
        keys = make_member("x", role)
        assert enrolment.verify(keys.enrolment.sign(keys.signing)).role is role
