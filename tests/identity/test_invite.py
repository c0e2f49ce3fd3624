"""An invite: everything one site needs, and nothing that contradicts itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.errors import AuthenticationError, RosterError
from secfed.identity import invite, membership, signed
from secfed.identity.fields import to_base64
from secfed.identity.fingerprint import roster_fingerprint
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roster import Roster
from secfed.ids import ClientId

A = ClientId("hosp-a")
ADDRESS = "center.example:8443"


def forge(data: bytes, key: SigningKey, **changes: Any) -> bytes:
    members = {**json.loads(signed.unverified_text(data, what="it")), **changes}
    return signed.sign_text(key, Label.SIGN_INVITE, json.dumps(members).encode() + b"\n")


def test_an_invite_brings_what_a_site_needs(roster: Roster, roster_key: SigningKey) -> None:
    found = invite.verify(invite.create(roster_key, roster, A, ADDRESS))
    assert found.site == A
    assert found.aggregator_address == ADDRESS
    assert found.roster_key == roster_key.public
    assert found.roster == roster
    assert found.aggregator == roster.aggregator
    assert found.fingerprint == roster_fingerprint(roster_key.public)


def test_a_changed_word_is_refused(roster: Roster, roster_key: SigningKey) -> None:
    data = invite.create(roster_key, roster, A, ADDRESS)
    with pytest.raises(RosterError, match="another key, or changed"):
        invite.verify(data.replace(b"center.example", b"center.example.org"))


def test_who_exchanges_the_roster_key_changes_the_fingerprint_and_breaks_the_roster(
    roster: Roster, roster_key: SigningKey
) -> None:
    other = SigningKey.from_seed(bytes(32))
    data = invite.create(roster_key, roster, A, ADDRESS)
    with pytest.raises(RosterError):
        invite.verify(forge(data, other))
    with pytest.raises(RosterError, match="federation is"):
        invite.verify(forge(data, other, roster_key=to_base64(other.public)))


def test_its_parts_must_agree(
    roster: Roster, roster_key: SigningKey, make_member: Callable[..., MemberKeys]
) -> None:
    data = invite.create(roster_key, roster, A, ADDRESS)
    with pytest.raises(RosterError, match="aggregator certificate is not the one"):
        invite.verify(forge(data, roster_key, aggregator_certificate=make_member("center").certificate.pem))
    with pytest.raises(AuthenticationError, match="hosp-z is not in roster"):
        invite.verify(forge(data, roster_key, site="hosp-z"))
    with pytest.raises(RosterError, match="federation is"):
        invite.verify(forge(data, roster_key, federation="0" * 32))
    with pytest.raises(RosterError, match="unknown member"):
        invite.verify(forge(data, roster_key, extra=""))


STEERING = "[::1\x1b7\x1b[4A\r\x1b[2Kroster key     SHA256:the-genuine-one\x1b8]:8443"
"""Would overwrite, from the last line that `join` prints, the fingerprint above it."""


@pytest.mark.parametrize(
    "address",
    [STEERING, "center.example\u202e:8443", "center.example\r:8443", "a b:8443", "center.example:0"],
)
def test_an_address_that_is_none_is_never_printed(
    roster: Roster, roster_key: SigningKey, address: str
) -> None:
    """Whoever forges an invite signs it with a key of their own, whose fingerprint must stay to be seen."""
    forged = forge(invite.create(roster_key, roster, A, ADDRESS), roster_key, aggregator_address=address)
    with pytest.raises(RosterError, match="aggregator_address: ") as refused:
        invite.verify(forged)
    assert str(refused.value).isprintable()
    with pytest.raises(RosterError, match="aggregator_address: "):
        invite.create(roster_key, roster, A, address)


def test_a_revoked_site_gets_none(roster: Roster, roster_key: SigningKey) -> None:
    revoked = membership.revoke(roster, roster_key, A)
    with pytest.raises(RosterError, match="lists as revoked"):
        invite.create(roster_key, revoked, A, ADDRESS)


def test_another_federations_key_signs_none(roster: Roster) -> None:
    with pytest.raises(RosterError):
        invite.create(SigningKey.from_seed(bytes(32)), roster, A, ADDRESS)
