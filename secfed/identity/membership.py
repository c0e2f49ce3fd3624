"""How one roster version follows from the one before: enrol, revoke, rotate, renew.

Pure functions: an old roster in, a new one out. Each result was signed and read back before
it is returned, so what the owner publishes is what every member accepts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from secfed.crypto.signing import SigningKey
from secfed.errors import RosterError
from secfed.identity.certificate import CLOCK_TOLERANCE
from secfed.identity.enrolment import Enrolment
from secfed.identity.fields import write_time
from secfed.identity.fingerprint import federation_id
from secfed.identity.roles import Role
from secfed.identity.roster import DEFAULT_MIN_COHORT, Member, Roster, Status, publish
from secfed.ids import ClientId

__all__ = ["create", "default_corrupt", "enroll", "renew", "revoke", "rotate"]


def default_corrupt(clients: int) -> int:
    """A where nothing else is asked for: a tenth of the clients, rounded up, at least one."""
    return max(1, -(-clients // 10))


def create(
    key: SigningKey,
    enrolments: Iterable[Enrolment],
    *,
    now: datetime,
    not_after: datetime,
    min_cohort: int = DEFAULT_MIN_COHORT,
    corrupt: int | None = None,
) -> Roster:
    """The first version of a federation's roster.

    Args:
        key: The roster key, which makes the federation.
        enrolments: Verified public files: the aggregator, a first admin, and who else is there.
        now: From when the entries count.
        not_after: Until when the roster may be used.
        min_cohort: Fewest members whose sum may be opened.
        corrupt: A; None for the default.

    Raises:
        CertificateExpiredError: A certificate is outside its dates.
        RosterError: A site, key or certificate stands twice, or a number makes no sense.
    """
    members = [_enrolled(enrolment, now) for enrolment in enrolments]
    chosen = default_corrupt(_clients(members)) if corrupt is None else corrupt
    return publish(key, 1, not_after, min_cohort, chosen, members)


def enroll(
    roster: Roster,
    key: SigningKey,
    enrolments: Iterable[Enrolment],
    *,
    now: datetime,
    corrupt: int | None = None,
) -> Roster:
    """The next version, with further sites; a revoked one comes back only with a new key.

    Args:
        roster: The version before.
        key: The roster key.
        enrolments: Verified public files whose fingerprints were compared.
        now: From when the entries count.
        corrupt: A; None keeps it, or raises it to the default for the new number of clients.

    Raises:
        RosterError: A site is enrolled already, or a key or certificate was ever used before.
    """
    members = [*roster.members, *(_enrolled(enrolment, now) for enrolment in enrolments)]
    chosen = max(roster.corrupt, default_corrupt(_clients(members))) if corrupt is None else corrupt
    return _next(roster, key, members, corrupt=chosen)


def revoke(roster: Roster, key: SigningKey, site: ClientId) -> Roster:
    """The next version, in which a site's key counts no longer.

    Raises:
        RosterError: The site is not active.
    """
    return _next(roster, key, _without(roster, site))


def rotate(roster: Roster, key: SigningKey, enrolment: Enrolment, *, now: datetime) -> Roster:
    """The next version, in which an active site has new keys and the old ones count no longer.

    Raises:
        RosterError: The site is not active, asks for another role, or a key was ever used before.
    """
    members = _without(roster, enrolment.site)
    if roster.member(enrolment.site).role is not enrolment.role:
        raise RosterError(f"{enrolment.site} asks for another role; revoke it and enrol it anew")
    return _next(roster, key, [*members, _enrolled(enrolment, now)])


def renew(roster: Roster, key: SigningKey, *, not_after: datetime) -> Roster:
    """The next version with the same members and a later end.

    Raises:
        RosterError: The roster ends later than that already.
    """
    if not_after <= roster.not_after:
        raise RosterError(
            f"roster version {roster.version} ends on {write_time(roster.not_after)}, "
            f"which is not before {write_time(not_after)}",
            hint="A renewal only moves the end further; revoke sites that shall not take part any more.",
        )
    return _next(roster, key, roster.members, not_after=not_after)


def _enrolled(enrolment: Enrolment, now: datetime) -> Member:
    """A new entry; it counts a little earlier, for members whose clock is behind."""
    enrolment.certificate.check_validity(now)
    return Member(
        site=enrolment.site,
        role=enrolment.role,
        identity_key=enrolment.identity_key,
        certificate=enrolment.certificate,
        status=Status.ACTIVE,
        valid_from=now.replace(microsecond=0) - CLOCK_TOLERANCE,
        valid_until=min(enrolment.expires, enrolment.certificate.not_after),
        revoked_in=None,
    )


def _clients(members: Iterable[Member]) -> int:
    return sum(member.active and member.role is Role.CLIENT for member in members)


def _without(roster: Roster, site: ClientId) -> list[Member]:
    """All entries, the site's active one marked as revoked in the next version."""
    member = roster.member(site)
    if not member.active:
        raise RosterError(f"{site} is not active: revoked in version {member.revoked_in}")
    revoked = replace(member, status=Status.REVOKED, revoked_in=roster.version + 1)
    return [revoked if each is member else each for each in roster.members]


def _next(
    roster: Roster,
    key: SigningKey,
    members: Iterable[Member],
    *,
    corrupt: int | None = None,
    not_after: datetime | None = None,
) -> Roster:
    if federation_id(key.public) != roster.federation:
        raise RosterError("this roster key is another federation's")
    return publish(
        key,
        roster.version + 1,
        not_after or roster.not_after,
        roster.min_cohort,
        roster.corrupt if corrupt is None else corrupt,
        members,
    )
