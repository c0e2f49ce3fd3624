"""What a site sends to be enrolled: its public keys, in a text it signed itself (`SITE.pub`).

The signature shows that the sender holds the identity key, and the certificate's own that
it holds the TLS key. It does not show who the sender is: that is what comparing the
fingerprint by phone is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from secfed.crypto.labels import Label
from secfed.crypto.signing import PUBLIC_BYTES, SigningKey
from secfed.errors import AuthenticationError, RosterError
from secfed.identity import certificate, signed
from secfed.identity.certificate import Certificate
from secfed.identity.fields import Fields, read_time, site_name, to_base64, write_time
from secfed.identity.fingerprint import member_fingerprint
from secfed.identity.roles import Role
from secfed.ids import ClientId
from secfed.limits import ENROLMENT_BYTES_MAX
from secfed.store import jsontext

__all__ = ["Enrolment", "verify"]

_KIND = "secfed-enrolment"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A site's public half.

    Attributes:
        site: The name it asks for.
        role: The role it asks for.
        identity_key: Ed25519, 32 bytes.
        certificate: For TLS.
        created: When the keys were made.
        expires: Until when they serve.
    """

    site: ClientId
    role: Role
    identity_key: bytes
    certificate: Certificate
    created: datetime
    expires: datetime

    @property
    def fingerprint(self) -> str:
        """`SHA256:…` of both keys, to be compared by phone."""
        return member_fingerprint(self.identity_key, self.certificate.der)

    def sign(self, key: SigningKey) -> bytes:
        """The text of the public file, signed with the identity key itself."""
        if key.public != self.identity_key:
            raise ValueError("an enrolment is signed by the key that it names")
        text = jsontext.pretty(
            {
                "kind": _KIND,
                "version": _VERSION,
                "site": self.site,
                "role": self.role.value,
                "identity_key": to_base64(self.identity_key),
                "tls_certificate": self.certificate.pem,
                "created": write_time(self.created),
                "expires": write_time(self.expires),
            }
        )
        return signed.sign_text(key, Label.SIGN_ENROLMENT, text)


def verify(data: bytes) -> Enrolment:
    """Read a public file.

    Raises:
        AuthenticationError: It is not signed by the key that it names.
        RosterError: It is malformed, or its certificate is.
    """
    if len(data) > ENROLMENT_BYTES_MAX:
        raise RosterError("the enrolment file is too long")
    text = signed.unverified_text(data, what="the enrolment file")
    fields = Fields.parse(text, "the enrolment file")
    fields.constant("kind", _KIND)
    fields.constant("version", _VERSION)
    site = fields.read("site", site_name)
    role = fields.read("role", Role)
    identity_key = fields.bytes("identity_key", PUBLIC_BYTES)
    pem = fields.text("tls_certificate")
    created = fields.read("created", read_time)
    expires = fields.read("expires", read_time)
    fields.finish()
    what = f"the enrolment file of {site}"
    signed.open_text(data, identity_key, Label.SIGN_ENROLMENT, what=what, error=AuthenticationError)
    return Enrolment(site, role, identity_key, certificate.parse(pem, site), created, expires)
