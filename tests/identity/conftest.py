"""What the identity tests share: a moment, a roster key, and members with real key files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from secfed.crypto.signing import SigningKey
from secfed.identity import keyfile, membership
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import ClientId

MakeMember = Callable[..., MemberKeys]


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def roster_key() -> SigningKey:
    return SigningKey.from_seed(bytes(range(32)))


@pytest.fixture
def make_member(tmp_path: Path, now: datetime) -> MakeMember:
    """Fresh keys of a site; a name may be used again, for new keys of the same site."""
    made = 0

    def make(site: str, role: Role = Role.CLIENT, validity: timedelta = timedelta(days=365)) -> MemberKeys:
        nonlocal made
        made += 1
        path = tmp_path / f"keys-{made}" / f"{site}.key"
        return keyfile.create(
            path, site=ClientId(site), role=role, passphrase=None, now=now, validity=validity
        )

    return make


@pytest.fixture
def roster(make_member: MakeMember, roster_key: SigningKey, now: datetime) -> Roster:
    """Version 1: an aggregator, an admin and three clients."""
    members = [
        make_member("center", Role.AGGREGATOR),
        make_member("office", Role.ADMIN),
        *(make_member(f"hosp-{letter}") for letter in "abc"),
    ]
    return membership.create(
        roster_key, [each.enrolment for each in members], now=now, not_after=now + timedelta(days=700)
    )
