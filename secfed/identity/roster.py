"""The signed list of a federation's members: their keys, certificates, roles and status.

A roster is a text signed by an offline key that every member pins. Its version only grows;
enrolling, rotating and revoking each make the next version and touch nobody else's files.
An entry is never removed: a key that was revoked or replaced stays listed as revoked, so it
can never come back, and a site has at most one active entry. How a version follows from the one
before is in `membership`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Final

from secfed.crypto import kdf
from secfed.crypto.labels import Label
from secfed.crypto.signing import PUBLIC_BYTES, SigningKey
from secfed.errors import (
    AuthenticationError,
    CertificateExpiredError,
    NotPermittedError,
    RevokedError,
    RosterError,
)
from secfed.identity import certificate, signed
from secfed.identity.certificate import Certificate
from secfed.identity.fields import Fields, read_time, site_name, to_base64, write_time
from secfed.identity.fingerprint import federation_id, member_fingerprint
from secfed.identity.roles import Role
from secfed.ids import NO_DIGEST, ClientId, Digest, FederationId
from secfed.limits import ROSTER_FILE_BYTES_MAX
from secfed.store import jsontext
from secfed.store.jsontext import Json

__all__ = [
    "DEFAULT_MIN_COHORT", "Member", "Roster", "RosterPin", "RosterRolledBackError", "Status",
    "publish", "verify",
]  # fmt: skip

DEFAULT_MIN_COHORT: Final = 3
"""Fewest members whose sum may be opened; also the least that a roster may ask for."""

_KIND = "secfed-roster"
_VERSION = 1


class Status(Enum):
    """Whether an entry counts."""

    ACTIVE = "active"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Member:
    """One entry: a site with one pair of keys.

    Attributes:
        site: Its name.
        role: What it may do.
        identity_key: Ed25519, 32 bytes.
        certificate: For TLS.
        status: Whether the entry counts.
        valid_from: When it was enrolled.
        valid_until: Until when it counts.
        revoked_in: The roster version that revoked or replaced it, or None.
    """

    site: ClientId
    role: Role
    identity_key: bytes
    certificate: Certificate
    status: Status
    valid_from: datetime
    valid_until: datetime
    revoked_in: int | None

    @property
    def active(self) -> bool:
        """Whether the entry was neither revoked nor replaced."""
        return self.status is Status.ACTIVE

    @property
    def fingerprint(self) -> str:
        """`SHA256:…` of identity key and certificate, as the site's own key file shows it."""
        return member_fingerprint(self.identity_key, self.certificate.der)


@dataclass(frozen=True, slots=True)
class Roster:
    """One verified version.

    Attributes:
        federation: Derived from the roster key.
        version: From 1, only grows.
        not_after: Until when this version may be used.
        min_cohort: Fewest members whose sum may be opened.
        corrupt: A, how many clients of the whole roster may collude with the aggregator.
        members: Sorted by site; of one site, revoked entries first, in the order of their revocation.
        text: The exact signed bytes, as they are stored and sent.
        digest: Of the statement in them.
    """

    federation: FederationId
    version: int
    not_after: datetime
    min_cohort: int
    corrupt: int
    members: tuple[Member, ...]
    text: bytes = field(repr=False)
    digest: Digest
    _latest: dict[ClientId, Member] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # The active entry of a site comes last, so it is the one that stays.
        object.__setattr__(self, "_latest", {member.site: member for member in self.members})

    def member(self, site: ClientId) -> Member:
        """A site's entry: the active one, else the one revoked last.

        Raises:
            AuthenticationError: The roster does not know the site.
        """
        if site not in self._latest:
            raise AuthenticationError(f"{str(site)[:80]} is not in roster version {self.version}")
        return self._latest[site]

    def require(self, site: ClientId, allowed: Role | Collection[Role], now: datetime) -> Member:
        """A site's entry, if it may act now in one of the allowed roles.

        Raises:
            AuthenticationError: The roster does not know the site.
            RevokedError: Its key was revoked.
            NotPermittedError: It has another role.
            CertificateExpiredError: Entry, certificate or the roster itself is outside its dates.
        """
        member = self.member(site)
        if not member.active:
            raise RevokedError(f"{site} was revoked in roster version {member.revoked_in}")
        roles = (allowed,) if isinstance(allowed, Role) else allowed
        if member.role not in roles:
            wanted = " or ".join(sorted(role.value for role in roles))
            raise NotPermittedError(f"{site} is enrolled as {member.role.value}; this needs {wanted}")
        self.check_validity(now)
        if now < member.valid_from:
            raise CertificateExpiredError(
                f"{site} is enrolled from {write_time(member.valid_from)} on; it is {write_time(now)}"
            )
        if now > member.valid_until:
            raise CertificateExpiredError(
                f"{site} was enrolled to {write_time(member.valid_until)}; it is {write_time(now)}"
            )
        member.certificate.check_validity(now)
        return member

    def check_validity(self, now: datetime) -> None:
        """Refuse a roster past its date.

        Raises:
            CertificateExpiredError: With the date.
        """
        if now > self.not_after:
            raise CertificateExpiredError(
                f"roster version {self.version} ended on {write_time(self.not_after)}",
                hint="Ask the federation's owner for the next roster version.",
            )

    def active(self, role: Role, now: datetime | None = None) -> list[Member]:
        """All active members of a role, sorted by site; with `now`, those whose entry has not run out."""
        return [
            member
            for member in self.members
            if member.active and member.role is role and (now is None or now <= member.valid_until)
        ]

    @property
    def aggregator(self) -> Member:
        """The one active aggregator.

        Raises:
            RosterError: It was revoked and not yet replaced.
        """
        found = self.active(Role.AGGREGATOR)
        if not found:
            raise RosterError(f"roster version {self.version} has no active aggregator")
        return found[0]


class RosterRolledBackError(RosterError):
    """A roster of a lower version than one that was accepted before."""


@dataclass(frozen=True, slots=True)
class RosterPin:
    """The newest roster that a member has accepted; stored, so that none before it is taken again."""

    version: int
    digest: Digest

    @classmethod
    def of(cls, roster: Roster) -> RosterPin:
        """Pin this roster."""
        return cls(roster.version, roster.digest)

    def check_successor(self, roster: Roster) -> RosterPin:
        """The pin after this roster; unchanged if it is the same one.

        Raises:
            RosterRolledBackError: A lower version.
            RosterError: The same version with other content (forked).
        """
        if roster.version < self.version:
            raise RosterRolledBackError(
                f"roster version {roster.version} is older than version {self.version}, already accepted"
            )
        if roster.version == self.version and roster.digest != self.digest:
            raise RosterError(f"two different rosters bear version {self.version}: one of them is a fork")
        return RosterPin.of(roster)

    def to_text(self) -> bytes:
        """As JSON, for a file or a decision."""
        return jsontext.compact({"version": self.version, "digest": to_base64(self.digest)})

    @classmethod
    def from_text(cls, text: bytes) -> RosterPin:
        """The inverse of `to_text`; raises RosterError for anything else."""
        fields = Fields.parse(text, "the stored roster pin")
        version = fields.integer("version")
        digest = Digest(fields.bytes("digest", len(NO_DIGEST)))
        fields.finish()
        return cls(version, digest)


def publish(
    key: SigningKey,
    version: int,
    not_after: datetime,
    min_cohort: int,
    corrupt: int,
    members: Iterable[Member],
) -> Roster:
    """Write, sign, and read back: what is published is what every member will accept.

    Raises:
        RosterError: A site, key or certificate stands twice, or a number makes no sense.
    """
    text = jsontext.pretty(
        {
            "kind": _KIND,
            "format": _VERSION,
            "federation": federation_id(key.public),
            "version": version,
            "not_after": write_time(not_after),
            "min_cohort": min_cohort,
            "corrupt": corrupt,
            "members": [_write_member(member) for member in sorted(members, key=_order)],
        }
    )
    return verify(signed.sign_text(key, Label.SIGN_ROSTER, text), key.public)


def verify(data: bytes, roster_key: bytes) -> Roster:
    """Read a roster.

    Args:
        data: The whole text.
        roster_key: The pinned key, 32 bytes.

    Raises:
        RosterError: It is signed by another key, changed, malformed, or contradicts itself.
    """
    if len(data) > ROSTER_FILE_BYTES_MAX:
        raise RosterError(f"the roster is longer than {ROSTER_FILE_BYTES_MAX} bytes")
    text = signed.open_text(data, roster_key, Label.SIGN_ROSTER, what="the roster")
    fields = Fields.parse(text, "the roster")
    fields.constant("kind", _KIND)
    fields.constant("format", _VERSION)
    fields.constant("federation", federation_id(roster_key))
    version = fields.integer("version")
    not_after = fields.read("not_after", read_time)
    min_cohort = fields.integer("min_cohort")
    corrupt = fields.integer("corrupt")
    members = tuple(_read_member(each) for each in fields.array("members"))
    fields.finish()
    _check(version, min_cohort, corrupt, members)
    digest = kdf.digest(Label.ROSTER, text)
    return Roster(federation_id(roster_key), version, not_after, min_cohort, corrupt, members, data, digest)


def _order(member: Member) -> tuple[str, bool, int]:
    """By site, the active entry last."""
    return member.site, member.active, member.revoked_in or 0


def _write_member(member: Member) -> dict[str, Json]:
    return {
        "site": member.site,
        "role": member.role.value,
        "identity_key": to_base64(member.identity_key),
        "tls_certificate": member.certificate.pem,
        "status": member.status.value,
        "valid_from": write_time(member.valid_from),
        "valid_until": write_time(member.valid_until),
        "revoked_in": member.revoked_in,
    }


def _read_member(value: Json) -> Member:
    """The inverse of `_write_member`."""
    fields = Fields(value, "a roster entry")
    site = fields.read("site", site_name)
    member = Member(
        site=site,
        role=fields.read("role", Role),
        identity_key=fields.bytes("identity_key", PUBLIC_BYTES),
        certificate=certificate.parse(fields.text("tls_certificate"), site),
        status=fields.read("status", Status),
        valid_from=fields.read("valid_from", read_time),
        valid_until=fields.read("valid_until", read_time),
        revoked_in=fields.optional_integer("revoked_in"),
    )
    fields.finish()
    return member


def _check(version: int, min_cohort: int, corrupt: int, members: tuple[Member, ...]) -> None:
    """Refuse what contradicts itself, whoever signed it."""
    if version < 1 or min_cohort < DEFAULT_MIN_COHORT or corrupt < 1:
        raise RosterError(
            f"the roster's numbers make no sense: version {version}, min_cohort {min_cohort} (at least"
            f" {DEFAULT_MIN_COHORT}), corrupt {corrupt} (at least 1)"
        )
    if list(members) != sorted(members, key=_order):
        raise RosterError("the roster's members are not sorted")
    active = [member.site for member in members if member.active]
    _refuse_repeats("site", active)
    _refuse_repeats("identity key", [member.identity_key for member in members])
    _refuse_repeats("TLS certificate", [member.certificate.digest for member in members])
    if sum(member.active and member.role is Role.AGGREGATOR for member in members) > 1:
        raise RosterError("the roster has more than one active aggregator")
    for member in members:
        ended = member.revoked_in
        sound = ended is None if member.active else ended is not None and 1 < ended <= version
        if not sound:
            raise RosterError(f"the roster's entry of {member.site} contradicts itself on its revocation")


def _refuse_repeats(what: str, values: list[ClientId] | list[bytes] | list[Digest]) -> None:
    if len(set(values)) != len(values):
        raise RosterError(f"a {what} stands twice in the roster, or is one that was revoked")
