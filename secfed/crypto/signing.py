"""Sign exact bytes and verify them.

What is signed (label, context, sender, recipient, body) is put together by `identity.signed`;
here are only the key and the primitive.

Source: RFC 8032 (Ed25519).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["PUBLIC_BYTES", "SEED_BYTES", "SIGNATURE_BYTES", "SigningKey", "verify"]

SEED_BYTES = 32
"""Length of a private key as RFC 8032 defines it, bytes."""

PUBLIC_BYTES = 32
"""Length of a public key, bytes."""

SIGNATURE_BYTES = 64
"""Length of a signature, bytes."""

_PARSED_MAX = 256
"""Public keys kept in parsed form: all members of a cohort and some; nothing secret."""


class SigningKey:
    """A member's Ed25519 private key; prints as its class only."""

    __slots__ = ("_key", "_public")

    def __init__(self, seed: bytes) -> None:
        """Take a 32-byte seed; `generate` and `from_seed` read better at the call."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes] = os.urandom) -> SigningKey:
        """A fresh key from 32 bytes of `entropy`."""
        return cls(entropy(SEED_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The key of a stored seed.

        Raises:
            ValueError: The seed is not 32 bytes long.
        """
        return cls(seed)

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, for the key file alone."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """The deterministic 64-byte signature over exactly these bytes."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return "SigningKey(hidden)"


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is the holder's of `public` over exactly these bytes.

    Args:
        public: 32 bytes; anything that is no public key verifies nothing.
        message: What was received, never what was serialised again.
        signature: 64 bytes; any other length is False.
    """
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        _parsed(bytes(public)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=_PARSED_MAX)
def _parsed(public: bytes) -> Ed25519PublicKey:
    """The key of these exact bytes; bytes that are no key raise ValueError and are not kept."""
    return Ed25519PublicKey.from_public_bytes(public)
