"""Hash and derive keys under a label, over fields that cannot run into each other.

Every digest and every derived key of the project is made here. A field goes in with its
length before it, so ("ab", "c") and ("a", "bc") are different inputs, and a label goes first,
so bytes made for one purpose mean nothing for another.

Source: FIPS 180-4 (SHA-256), RFC 5869 (HKDF).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from secfed.crypto.labels import Label
from secfed.ids import Digest

__all__ = [
    "KEY_BYTES", "derive", "derive_from_prk", "digest", "digest_pieces", "expand", "extract", "lengthed",
]  # fmt: skip

KEY_BYTES = 32
"""Length of every symmetric key and seed, bytes: AES-256 and HKDF-SHA256's own width."""

_LONG_BYTES = 1 << 16
"""From here on fields are hashed one after the other: an adapter is not copied to be joined."""


def lengthed(*fields: bytes) -> bytes:
    """Join fields so that no two different lists give the same bytes.

    Args:
        fields: Any byte strings, empty ones included.

    Returns:
        Each field after its length as an unsigned 64-bit big-endian integer.
    """
    return b"".join([len(field).to_bytes(8, "big") + field for field in fields])


def digest(label: Label, *fields: bytes) -> Digest:
    """SHA-256 over the label and the fields, each with its length before it.

    Returns:
        32 bytes.
    """
    if sum(map(len, fields)) < _LONG_BYTES:
        return Digest(hashlib.sha256(lengthed(label.value, *fields)).digest())
    hashed = hashlib.sha256(lengthed(label.value))
    for field in fields:
        hashed.update(len(field).to_bytes(8, "big"))
        hashed.update(field)
    return Digest(hashed.digest())


def digest_pieces(label: Label, pieces: Iterable[bytes | memoryview], size_bytes: int) -> Digest:
    """As `digest` of one field, for one that is too long to be held: its pieces, of so many bytes in all.

    Raises:
        ValueError: The pieces have another size.
    """
    hashed, left = hashlib.sha256(lengthed(label.value) + size_bytes.to_bytes(8, "big")), size_bytes
    for piece in pieces:
        hashed.update(piece)
        left -= len(piece)
    if left:
        raise ValueError(f"the pieces of a field of {size_bytes} bytes have {size_bytes - left}")
    return Digest(hashed.digest())


def extract(key: bytes, salt: bytes) -> bytes:
    """HKDF-Extract (RFC 5869, section 2.2): 32 uniform bytes from keying material.

    Args:
        key: Input keying material, not necessarily uniform.
        salt: Public, any length; empty stands for 32 zero bytes, as the RFC says.
    """
    return hmac.digest(salt, key, "sha256")


def expand(prk: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand (RFC 5869, section 2.3).

    Args:
        prk: 32 uniform bytes.
        info: What the output is for.
        length: Bytes wanted, 1 to 8160.

    Raises:
        ValueError: `length` is out of range.
    """
    if not 1 <= length <= 255 * KEY_BYTES:
        raise ValueError(f"HKDF-SHA256 gives 1 to {255 * KEY_BYTES} bytes, not {length}")
    block = okm = hmac.digest(prk, info + b"\x01", "sha256")
    for number in range(2, -(-length // KEY_BYTES) + 1):
        block = hmac.digest(prk, block + info + number.to_bytes(1, "big"), "sha256")
        okm += block
    return okm[:length]


def derive_from_prk(prk: bytes, label: Label, *context: bytes, length: int = KEY_BYTES) -> bytes:
    """The second half of `derive`, for a secret that was extracted once and serves several labels."""
    return expand(prk, lengthed(label.value, *context), length)


def derive(key: bytes, label: Label, *context: bytes, salt: bytes = b"", length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256: one key for one purpose in one context.

    Args:
        key: Secret keying material.
        label: The purpose.
        context: What the key is bound to; goes into HKDF's info after the label.
        salt: Public; see `extract`.
        length: Bytes wanted, 1 to 8160.
    """
    return derive_from_prk(extract(key, salt), label, *context, length=length)
