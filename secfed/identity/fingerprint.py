"""Short names of public keys, for people to compare by phone and for programs to pin."""

from __future__ import annotations

import base64

from secfed.crypto import kdf
from secfed.crypto.labels import Label
from secfed.ids import Digest, FederationId

__all__ = ["federation_id", "member_fingerprint", "roster_fingerprint"]

_FEDERATION_DIGITS = 32
"""128 bits: enough that nobody makes a second roster key with the same id."""


def member_fingerprint(identity_key: bytes, certificate_der: bytes) -> str:
    """`SHA256:…` over a member's identity key together with its TLS certificate."""
    return _shown(kdf.digest(Label.CERTIFICATE, identity_key, certificate_der))


def roster_fingerprint(roster_key: bytes) -> str:
    """`SHA256:…` of the federation's roster key."""
    return _shown(kdf.digest(Label.ROSTER_KEY, roster_key))


def federation_id(roster_key: bytes) -> FederationId:
    """The federation that a roster key makes: a new key is a new federation."""
    return FederationId(kdf.digest(Label.ROSTER_KEY, roster_key).hex()[:_FEDERATION_DIGITS])


def _shown(digest: Digest) -> str:
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")
