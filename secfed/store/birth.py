"""Which file this is, so that a copy of it is told from the original under the same name.

The inode's number alone does not say: a file system gives the number of a deleted file to the next
one. Together with the time at which the inode was made, which no program can set, it does. Python
has that time on other systems than Linux only, before 3.15; there it comes from `statx` of the C
library (statx(2)), and where that or the file system has none, the number alone counts.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["Birth"]

_AT_FDCWD = -100
_STATX_BTIME = 0x800
_STATX_BYTES = 256
_BTIME_AT = 80
"""Where `struct statx` holds the birth time: 8 bytes of seconds, 4 of nanoseconds."""

_NONE = "-"
_FORM = re.compile(r"([0-9]{1,20}) (-|-?[0-9]{1,20})")


@dataclass(frozen=True, slots=True)
class Birth:
    """A file's inode, and when that was made.

    Attributes:
        inode: Its number on its file system.
        born_ns: Nanoseconds since 1970; None where nobody knows.
    """

    inode: int
    born_ns: int | None

    @classmethod
    def of(cls, path: Path) -> Self:
        """The file at `path`.

        Raises:
            OSError: It cannot be looked at.
        """
        return cls(path.stat().st_ino, _born_ns(path))

    @classmethod
    def read(cls, text: str) -> Self:
        """What `str` gave.

        Raises:
            ValueError: It is something else.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError("this is no file's birth")
        inode, born_ns = found.groups()
        return cls(int(inode), None if born_ns == _NONE else int(born_ns))

    def __str__(self) -> str:
        return f"{self.inode} {_NONE if self.born_ns is None else self.born_ns}"

    def same(self, other: Birth) -> bool:
        """Whether both are one file, as far as both are known."""
        if self.inode != other.inode:
            return False
        return self.born_ns is None or other.born_ns is None or self.born_ns == other.born_ns


def _born_ns(path: Path) -> int | None:
    known = getattr(path.stat(), "st_birthtime", None)  # of macOS and the BSDs, in seconds
    if isinstance(known, float):
        return round(known * 10**9)
    try:
        statx = ctypes.CDLL(None).statx
    except (OSError, AttributeError):
        return None
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, found) != 0:
        return None
    (mask,) = struct.unpack_from("=I", found)
    seconds, nanoseconds = struct.unpack_from("=qI", found, _BTIME_AT)
    return int(seconds) * 10**9 + int(nanoseconds) if mask & _STATX_BTIME else None
