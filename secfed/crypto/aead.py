"""Seal one text under a key that serves once, bound to its context.

Every key is derived for exactly one text (an envelope from i to j, a recovery blob), so the
nonce can be zero. A key that seals twice would lose everything: callers build a sealed text
once and resend its bytes.

Source: NIST SP 800-38D (AES-256-GCM), RFC 5116.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secfed.crypto.kdf import KEY_BYTES
from secfed.errors import PeerError

__all__ = ["OVERHEAD_BYTES", "open_", "seal"]

OVERHEAD_BYTES = 16
"""How much longer a sealed text is than its plaintext, bytes: the tag."""

_NONCE = bytes(12)


def seal(key: bytes, plaintext: bytes, *, aad: bytes) -> bytes:
    """Encrypt and authenticate; the inverse of `open_`.

    Args:
        key: 32 bytes, derived for this text alone and never used again.
        plaintext: Any length.
        aad: Context that both sides know and that is not sent.

    Returns:
        Ciphertext and tag, `OVERHEAD_BYTES` longer than the plaintext.
    """
    return _cipher(key).encrypt(_NONCE, plaintext, aad)


def open_(key: bytes, sealed: bytes, *, aad: bytes) -> bytes:
    """Verify and decrypt; the inverse of `seal`.

    Raises:
        PeerError: Text, key or context is not what was sealed.
    """
    cipher = _cipher(key)
    try:
        return cipher.decrypt(_NONCE, sealed, aad)
    except InvalidTag:
        raise PeerError("a sealed text does not open: it was changed, or sealed for something else") from None


def _cipher(key: bytes) -> AESGCM:
    """AES-256 only: a 16- or 24-byte key is a caller's bug, not a smaller suite."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a sealing key has {KEY_BYTES} bytes, not {len(key)}")
    return AESGCM(key)
