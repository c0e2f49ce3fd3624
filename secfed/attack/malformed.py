"""Bytes that are almost a message, as protobuf writes them: what is added to one that is right."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ENDLESS", "NESTED", "UNKNOWN_FIELD", "field", "pickled"]

UNKNOWN_FIELD = bytes([15 << 3 | 0, 1])

ENDLESS = bytes([2 << 3 | 2]) + b"\xff" * 8 + b"\x7f"
"""A field whose declared length is 2^63 - 1 bytes."""

NESTED = bytes([2 << 3 | 3]) * 5000
"""Groups in groups in groups: what a recursive parser would follow."""


def field(number: int, data: bytes) -> bytes:
    """Bytes, text or a message in a field of this number."""
    head, length = bytes([number << 3 | 2]), len(data)
    while length > 127:
        head, length = head + bytes([length & 127 | 128]), length >> 7
    return head + bytes([length]) + data


def pickled(trap: Path) -> bytes:
    """A pickle that makes a folder when it is read."""
    return b"cos\nmkdir\n(V" + os.fsencode(trap) + b"\ntR."
