"""A hash that costs its price each time: for what an adversary could otherwise try again and again.

Source: RFC 9106 (Argon2id).
"""

from __future__ import annotations

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from secfed.crypto.kdf import KEY_BYTES
from secfed.crypto.labels import Label

__all__ = ["slow_key"]

_PASSES = 3
_LANES = 1
_MEMORY_KIB = 64 * 1024
"""About 0.2 s on one core: a million tries, 2^20, take two and a half days of one. Part of the protocol."""


def slow_key(data: bytes, label: Label) -> bytes:
    """32 bytes that follow from public data, a fifth of a second and 64 MiB later.

    Args:
        data: What the key is of.
        label: The purpose; serves as the salt.
    """
    return Argon2id(
        salt=label.value, length=KEY_BYTES, iterations=_PASSES, lanes=_LANES, memory_cost=_MEMORY_KIB
    ).derive(data)
