"""What one new site needs to join, in one file: where the aggregator is and whom to trust.

An invite is public but for its meaning: it holds no secret. It is signed by the roster key
that it brings, so it stands or falls with that key, whose fingerprint the site compares by
phone. The site's first roster is in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from secfed.config import check_dialled
from secfed.crypto.labels import Label
from secfed.crypto.signing import PUBLIC_BYTES, SigningKey
from secfed.errors import RosterError
from secfed.identity import roster as rosters
from secfed.identity import signed
from secfed.identity.fields import Fields, site_name, to_base64
from secfed.identity.fingerprint import federation_id, roster_fingerprint
from secfed.identity.roster import Member, Roster
from secfed.ids import ClientId
from secfed.limits import INVITE_BYTES_MAX
from secfed.store import jsontext

__all__ = ["Invite", "create", "verify"]

_KIND = "secfed-invite"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Invite:
    """A verified invite.

    Attributes:
        site: For whom it is.
        aggregator_address: `host:port` to dial.
        roster_key: To be pinned, 32 bytes.
        roster: The version of the day, in which the site and the aggregator are active.
    """

    site: ClientId
    aggregator_address: str
    roster_key: bytes = field(repr=False)
    roster: Roster

    @property
    def aggregator(self) -> Member:
        """The aggregator's entry, with its TLS certificate."""
        return self.roster.aggregator

    @property
    def fingerprint(self) -> str:
        """`SHA256:…` of the roster key, to be compared by phone."""
        return roster_fingerprint(self.roster_key)


def create(key: SigningKey, roster: Roster, site: ClientId, aggregator_address: str) -> bytes:
    """Write and sign a site's invite.

    Args:
        key: The roster key.
        roster: In which the site is active.
        site: For whom.
        aggregator_address: `host:port` under which the site reaches the aggregator.

    Raises:
        RosterError: The site or the aggregator is not active, the key is another federation's, or nobody
            can dial the address.
    """
    text = jsontext.pretty(
        {
            "kind": _KIND,
            "version": _VERSION,
            "federation": roster.federation,
            "site": site,
            "aggregator_address": aggregator_address,
            "aggregator_certificate": roster.aggregator.certificate.pem,
            "roster_key": to_base64(key.public),
            "roster": roster.text.decode("utf-8"),
        }
    )
    data = signed.sign_text(key, Label.SIGN_INVITE, text)
    verify(data)
    return data


def verify(data: bytes) -> Invite:
    """Read an invite; what it says is as trustworthy as its roster key, whose fingerprint is to be compared.

    Raises:
        RosterError: It is malformed or changed, or its parts contradict each other.
    """
    if len(data) > INVITE_BYTES_MAX:
        raise RosterError("the invite is too long")
    fields = Fields.parse(signed.unverified_text(data, what="the invite"), "the invite")
    fields.constant("kind", _KIND)
    fields.constant("version", _VERSION)
    roster_key = fields.bytes("roster_key", PUBLIC_BYTES)
    signed.open_text(data, roster_key, Label.SIGN_INVITE, what="the invite")
    fields.constant("federation", federation_id(roster_key))
    site = fields.read("site", site_name)
    address = fields.read("aggregator_address", check_dialled)
    pem = fields.text("aggregator_certificate")
    roster = rosters.verify(fields.text("roster").encode("utf-8"), roster_key)
    fields.finish()
    if not roster.member(site).active:
        raise RosterError(f"the invite is for {site}, which its roster lists as revoked")
    if roster.aggregator.certificate.pem != pem:
        raise RosterError("the invite's aggregator certificate is not the one in its roster")
    return Invite(site, address, roster_key, roster)
