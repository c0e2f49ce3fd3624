"""The roster: versions that only grow, members that may act, and every way to forge one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from secfed.crypto import kdf
from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.errors import (
    AuthenticationError,
    CertificateExpiredError,
    NotPermittedError,
    RevokedError,
    RosterError,
)
from secfed.identity import membership, signed
from secfed.identity import roster as rosters
from secfed.identity.fingerprint import federation_id
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roles import Role
from secfed.identity.roster import Roster, RosterPin, Status
from secfed.ids import ClientId

MakeMember = Callable[..., MemberKeys]
A = ClientId("hosp-a")


def forge(old: Roster, key: SigningKey, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A roster's text with something changed, signed as if that were right."""
    members = json.loads(signed.unverified_text(old.text, what="it"))
    change(members)
    return signed.sign_text(key, Label.SIGN_ROSTER, json.dumps(members, indent=2).encode() + b"\n")


def test_a_roster_is_read_back_from_its_text(roster: Roster, roster_key: SigningKey) -> None:
    found = rosters.verify(roster.text, roster_key.public)
    assert found == roster
    assert (found.version, found.min_cohort, found.corrupt) == (1, 3, 1)
    assert found.federation == federation_id(roster_key.public)
    assert re.fullmatch("[0-9a-f]{32}", found.federation)
    assert [member.site for member in found.members] == ["center", "hosp-a", "hosp-b", "hosp-c", "office"]
    assert found.aggregator.site == "center"
    assert len(found.active(Role.CLIENT)) == 3
    text = signed.unverified_text(roster.text, what="it")
    assert found.digest == kdf.digest(Label.ROSTER, text)


def test_another_key_or_a_changed_word_is_refused(roster: Roster, roster_key: SigningKey) -> None:
    other = SigningKey.from_seed(bytes(32))
    with pytest.raises(RosterError, match="another key, or changed"):
        rosters.verify(roster.text, other.public)
    with pytest.raises(RosterError, match="another key, or changed"):
        rosters.verify(roster.text.replace(b'"corrupt": 1', b'"corrupt": 2'), roster_key.public)
    with pytest.raises(RosterError, match="another key, or changed"):
        rosters.verify(forge(roster, other, lambda _members: None), roster_key.public)


def test_a_text_signed_for_another_purpose_is_no_roster(roster: Roster, roster_key: SigningKey) -> None:
    text = signed.unverified_text(roster.text, what="it")
    with pytest.raises(RosterError):
        rosters.verify(signed.sign_text(roster_key, Label.SIGN_INVITE, text), roster_key.public)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.update(version=0), "make no sense"),
        (lambda r: r.update(version="2"), "version is not an integer"),
        (lambda r: r.update(min_cohort=2), "make no sense"),
        (lambda r: r.update(corrupt=0), "make no sense"),
        (lambda r: r.update(federation="0" * 32), "federation is"),
        (lambda r: r.update(extra=1), "unknown member"),
        (lambda r: r.pop("not_after"), "not_after is missing"),
        (lambda r: r.update(members={}), "members is not a list"),
        (lambda r: r["members"].reverse(), "not sorted"),
        (lambda r: r["members"].append("x"), "not a JSON object"),
        (lambda r: r["members"].insert(1, r["members"][1]), "stands twice"),
        (lambda r: r["members"][1].update(extra=1), "unknown member"),
        (lambda r: r["members"][1].update(role="aggregator"), "more than one active aggregator"),
        (lambda r: r["members"][1].update(role="king"), "role"),
        (lambda r: r["members"][1].update(status="asleep"), "status"),
        (lambda r: r["members"][1].update(status="revoked"), "contradicts itself"),
        (lambda r: r["members"][1].update(revoked_in=1), "contradicts itself"),
        (lambda r: r["members"][1].update(status="revoked", revoked_in=2), "contradicts itself"),
        (lambda r: r["members"][1].update(revoked_in="1"), "not an integer"),
        (
            lambda r: r["members"][1].update(identity_key=r["members"][2]["identity_key"]),
            "identity key stands",
        ),
        (
            lambda r: r["members"][1].update(tls_certificate=r["members"][2]["tls_certificate"]),
            "another name",
        ),
        (lambda r: r["members"][1].update(site="hosp-B"), "no site name"),
        (lambda r: r["members"][1].update(valid_from="2026-01-01"), "is no time"),
    ],
)
def test_a_roster_that_contradicts_itself_is_refused_whoever_signed_it(
    roster: Roster, roster_key: SigningKey, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    with pytest.raises(RosterError) as refused:
        rosters.verify(forge(roster, roster_key, change), roster_key.public)
    assert reason in str(refused.value)


@pytest.mark.parametrize(("clients", "expected"), [(0, 1), (1, 1), (10, 1), (11, 2), (20, 2), (1000, 100)])
def test_the_default_a_is_a_tenth_rounded_up(clients: int, expected: int) -> None:
    assert membership.default_corrupt(clients) == expected


def test_enrolling_makes_the_next_version_and_keeps_the_old_one(
    roster: Roster, roster_key: SigningKey, make_member: MakeMember, now: datetime
) -> None:
    before = roster.text
    keys = make_member("hosp-d")
    found = membership.enroll(roster, roster_key, [keys.enrolment], now=now)
    assert found.version == 2
    assert found.member(ClientId("hosp-d")).fingerprint == keys.fingerprint
    assert [each for each in found.members if each.site != "hosp-d"] == list(roster.members)
    assert roster.text == before


def test_a_only_rises_by_itself(
    roster: Roster, roster_key: SigningKey, make_member: MakeMember, now: datetime
) -> None:
    eight = [make_member(f"new-{number}").enrolment for number in range(8)]
    found = membership.enroll(roster, roster_key, eight, now=now)
    assert found.corrupt == 2  # 11 clients
    for number in range(8):
        found = membership.revoke(found, roster_key, ClientId(f"new-{number}"))
    assert (found.corrupt, len(found.active(Role.CLIENT))) == (2, 3)
    last = membership.enroll(found, roster_key, [make_member("late").enrolment], now=now, corrupt=1)
    assert last.corrupt == 1


def test_a_revoked_member_may_do_nothing_more(roster: Roster, roster_key: SigningKey, now: datetime) -> None:
    roster.require(A, Role.CLIENT, now)
    found = membership.revoke(roster, roster_key, A)
    assert (found.version, found.member(A).status, found.member(A).revoked_in) == (2, Status.REVOKED, 2)
    with pytest.raises(RevokedError, match="hosp-a was revoked in roster version 2"):
        found.require(A, Role.CLIENT, now)
    with pytest.raises(RosterError, match="not active"):
        membership.revoke(found, roster_key, A)


def test_a_revoked_key_never_comes_back(
    roster: Roster, roster_key: SigningKey, make_member: MakeMember, now: datetime
) -> None:
    old = make_member("hosp-d")
    found = membership.enroll(roster, roster_key, [old.enrolment], now=now)
    found = membership.revoke(found, roster_key, old.site)
    with pytest.raises(RosterError, match="is one that was revoked"):
        membership.enroll(found, roster_key, [old.enrolment], now=now)
    new = make_member("hosp-d")
    found = membership.enroll(found, roster_key, [new.enrolment], now=now)
    assert found.require(old.site, Role.CLIENT, now).fingerprint == new.fingerprint
    assert [each.status.value for each in found.members if each.site == old.site] == ["revoked", "active"]


def test_rotating_replaces_keys_and_keeps_the_site(
    roster: Roster, roster_key: SigningKey, make_member: MakeMember, now: datetime
) -> None:
    for version in (2, 3):
        new = make_member("hosp-a")
        roster = membership.rotate(roster, roster_key, new.enrolment, now=now)
        assert roster.version == version
        assert roster.require(A, Role.CLIENT, now).fingerprint == new.fingerprint
    assert len(roster.active(Role.CLIENT)) == 3
    assert [each.revoked_in for each in roster.members if each.site == "hosp-a"] == [2, 3, None]


def test_rotating_changes_no_role_and_enrols_nobody(
    roster: Roster, roster_key: SigningKey, make_member: MakeMember, now: datetime
) -> None:
    with pytest.raises(RosterError, match="another role"):
        membership.rotate(roster, roster_key, make_member("hosp-a", Role.ADMIN).enrolment, now=now)
    with pytest.raises(AuthenticationError, match="not in roster"):
        membership.rotate(roster, roster_key, make_member("hosp-z").enrolment, now=now)


def test_a_site_is_enrolled_once_and_one_aggregator_serves(
    roster: Roster, roster_key: SigningKey, make_member: MakeMember, now: datetime
) -> None:
    with pytest.raises(RosterError, match="site stands twice"):
        membership.enroll(roster, roster_key, [make_member("hosp-a").enrolment], now=now)
    with pytest.raises(RosterError, match="more than one active aggregator"):
        membership.enroll(roster, roster_key, [make_member("two", Role.AGGREGATOR).enrolment], now=now)
    without = membership.revoke(roster, roster_key, ClientId("center"))
    with pytest.raises(RosterError, match="no active aggregator"):
        _ = without.aggregator
    found = membership.enroll(without, roster_key, [make_member("two", Role.AGGREGATOR).enrolment], now=now)
    assert found.aggregator.site == "two"


def test_an_expired_certificate_is_not_enrolled(
    roster: Roster, roster_key: SigningKey, make_member: MakeMember, now: datetime
) -> None:
    short = make_member("hosp-d", validity=timedelta(days=1))
    with pytest.raises(CertificateExpiredError):
        membership.enroll(roster, roster_key, [short.enrolment], now=now + timedelta(days=2))


def test_only_the_federations_own_key_goes_on(roster: Roster) -> None:
    with pytest.raises(RosterError, match="another federation"):
        membership.revoke(roster, SigningKey.from_seed(bytes(32)), A)


def test_unknown_and_wrongly_placed_members_are_refused_by_their_own_class(
    roster: Roster, now: datetime
) -> None:
    with pytest.raises(AuthenticationError, match="hosp-z is not in roster version 1"):
        roster.require(ClientId("hosp-z"), Role.CLIENT, now)
    with pytest.raises(NotPermittedError, match="hosp-a is enrolled as client; this needs admin or auditor"):
        roster.require(A, (Role.AUDITOR, Role.ADMIN), now)
    assert roster.require(A, frozenset(Role), now).site == "hosp-a"


def test_the_clock_refuses_before_and_after(
    roster: Roster, roster_key: SigningKey, make_member: MakeMember, now: datetime
) -> None:
    roster.require(A, Role.CLIENT, now - timedelta(minutes=9))
    with pytest.raises(CertificateExpiredError, match="hosp-a is enrolled from"):
        roster.require(A, Role.CLIENT, now - timedelta(minutes=11))
    with pytest.raises(CertificateExpiredError, match="hosp-a was enrolled to"):
        roster.require(A, Role.CLIENT, now + timedelta(days=366))
    with pytest.raises(CertificateExpiredError, match="roster version 1 ended") as refused:
        roster.require(A, Role.CLIENT, now + timedelta(days=701))
    assert "next roster version" in refused.value.hint
    long_lived = make_member("hosp-d", validity=timedelta(days=900))
    later = membership.enroll(roster, roster_key, [long_lived.enrolment], now=now)
    later = membership.renew(later, roster_key, not_after=now + timedelta(days=800))
    assert later.version == 3
    later.require(long_lived.site, Role.CLIENT, now + timedelta(days=701))
    with pytest.raises(RosterError, match="which is not before"):
        membership.renew(later, roster_key, not_after=later.not_after)


def test_a_pin_refuses_rollback_and_fork(
    roster: Roster, roster_key: SigningKey, make_member: MakeMember, now: datetime
) -> None:
    second = membership.revoke(roster, roster_key, A)
    fork = membership.enroll(roster, roster_key, [make_member("hosp-x").enrolment], now=now)
    pin = RosterPin.of(roster).check_successor(second)
    assert pin == RosterPin(2, second.digest)
    assert pin.check_successor(second) == pin
    with pytest.raises(RosterError, match="version 1 is older than version 2"):
        pin.check_successor(roster)
    with pytest.raises(RosterError, match="fork"):
        pin.check_successor(fork)
    skipped = membership.renew(second, roster_key, not_after=now + timedelta(days=900))
    assert RosterPin.of(roster).check_successor(skipped).version == 3


def test_a_pin_is_stored_and_read_back(roster: Roster) -> None:
    pin = RosterPin.of(roster)
    assert RosterPin.from_text(pin.to_text()) == pin
    for text in (b"", b"{}", b'{"version":1,"digest":"AAAA"}', pin.to_text().replace(b"}", b',"x":1}')):
        with pytest.raises(RosterError, match="stored roster pin"):
            RosterPin.from_text(text)
