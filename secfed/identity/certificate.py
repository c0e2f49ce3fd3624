"""A member's TLS certificate: P-256, self-signed, its name in the SAN.

gRPC's TLS does not speak Ed25519, so the channel has a key of its own. A certificate is
trusted because the signed roster holds it, not because of who issued it: both sides give TLS
exactly the roster's certificates as roots. It says CA:FALSE, so a member cannot issue
another certificate under its own. TLS only carries the channel; who speaks is decided again
by signed messages.

Source: RFC 5280 (profile), RFC 6125 (names in the SAN, not the CN).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secfed.crypto import kdf
from secfed.crypto.labels import Label
from secfed.errors import CertificateExpiredError, RosterError
from secfed.identity.fields import write_time
from secfed.identity.roles import Role
from secfed.ids import ClientId, Digest
from secfed.limits import CERTIFICATE_BYTES_MAX

__all__ = ["AGGREGATOR_TLS_NAME", "CLOCK_TOLERANCE", "Certificate", "create", "parse"]

AGGREGATOR_TLS_NAME = "aggregator.secfed.internal"
"""Every aggregator's second name, which clients demand whatever address they dial. Nobody can
own it: `.internal` is reserved for private use."""

CLOCK_TOLERANCE = timedelta(minutes=10)
"""A fresh certificate is valid a little earlier, for a peer whose clock is behind."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """One parsed TLS certificate.

    Attributes:
        site: The name in CN and SAN.
        pem: Its text, as TLS and the roster take it.
        der: Its exact bytes.
        not_before: First moment of its validity.
        not_after: Last moment of its validity.
    """

    site: ClientId
    pem: str
    der: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime

    @property
    def digest(self) -> Digest:
        """Digest of the exact bytes, by which a peer's certificate is recognised."""
        return kdf.digest(Label.CERTIFICATE, self.der)

    def check_validity(self, now: datetime) -> None:
        """Refuse a certificate outside its dates.

        Raises:
            CertificateExpiredError: With both dates.
        """
        if not self.not_before <= now <= self.not_after:
            raise CertificateExpiredError(
                f"the TLS certificate of {self.site} is valid from {write_time(self.not_before)}"
                f" to {write_time(self.not_after)}; it is {write_time(now)}"
            )

    def belongs_to(self, key: ec.EllipticCurvePrivateKey) -> bool:
        """Whether this is the certificate of a private key."""
        own = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        certified = x509.load_der_x509_certificate(self.der).public_key()
        return own == certified.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def create(
    key: ec.EllipticCurvePrivateKey, site: ClientId, role: Role, *, now: datetime, valid_until: datetime
) -> Certificate:
    """Issue a member's certificate with its own key.

    Args:
        key: On P-256.
        site: Goes into CN and SAN.
        role: An aggregator's gets `AGGREGATOR_TLS_NAME` too, and may serve; every role may dial.
        now: It is valid from shortly before.
        valid_until: The last moment.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    names, usages = [site], [ExtendedKeyUsageOID.CLIENT_AUTH]
    if role is Role.AGGREGATOR:
        names.append(ClientId(AGGREGATOR_TLS_NAME))
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    issued = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_TOLERANCE)
        .not_valid_after(valid_until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(key, hashes.SHA256())
    )
    return parse(issued.public_bytes(Encoding.PEM).decode("ascii"), site)


def parse(pem: str, site: ClientId) -> Certificate:
    """Read one certificate and hold it to the profile.

    Args:
        pem: Exactly one certificate as `create` writes it.
        site: Whose it must be.

    Raises:
        RosterError: Not one certificate, another site's, not on P-256, or one that could issue others.
    """
    try:
        if len(pem) > CERTIFICATE_BYTES_MAX:
            raise ValueError("too long")
        found = x509.load_pem_x509_certificate(pem.encode("ascii"))
        if found.public_bytes(Encoding.PEM).decode("ascii") != pem:
            raise ValueError("text besides one certificate")
        names = [str(each.value) for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        public = found.public_key()
        found.verify_directly_issued_by(found)
    except Exception as problem:  # the parser of a hostile text has no closed list of errors
        reason = type(problem).__name__
        raise RosterError(f"the TLS certificate of {site} cannot be read ({reason})") from problem
    if names != [site] or site not in alternatives.get_values_for_type(x509.DNSName):
        raise RosterError(f"the TLS certificate given for {site} bears another name")
    if constraints.ca or not isinstance(public, ec.EllipticCurvePublicKey):
        raise RosterError(f"the TLS certificate of {site} is not a member's: P-256, not an authority")
    if not isinstance(public.curve, ec.SECP256R1):
        raise RosterError(f"the TLS certificate of {site} is not on P-256")
    return Certificate(
        site,
        pem,
        found.public_bytes(Encoding.DER),
        found.not_valid_before_utc,
        found.not_valid_after_utc,
    )
