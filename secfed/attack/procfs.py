"""What a Linux system shows of a running process to whoever may look into /proc."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["FOLDER", "core_limits", "exposed"]

FOLDER = Path("/proc")
"""Where Linux shows its processes; other systems have no such folder."""

_TEXTS = ("environ", "cmdline", "comm", "maps", "status", "mountinfo")


def exposed(pid: int) -> dict[str, bytes]:
    """Environment, arguments, mapped files, open files and threads' names, by the name of the entry.

    Not its memory: a process holds the keys that it works with, and whoever may read it is its owner
    or root.

    Raises:
        OSError: There is no such process, or it is somebody else's.
    """
    folder = FOLDER / str(pid)
    shown = {name: (folder / name).read_bytes() for name in _TEXTS}
    shown["fd"] = b"\n".join(_target(entry) for entry in (folder / "fd").iterdir())
    shown["threads"] = b"\n".join(_text(entry / "comm") for entry in (folder / "task").iterdir())
    return shown


def core_limits(pid: int) -> tuple[str, str]:
    """Soft and hard limit of a core dump's size: `0` for none, `unlimited`, or bytes."""
    for line in (FOLDER / str(pid) / "limits").read_text().splitlines():
        if line.startswith("Max core file size"):
            soft, hard = line.removeprefix("Max core file size").split()[:2]
            return soft, hard
    raise OSError(f"/proc/{pid}/limits does not tell the size of a core dump")


def _target(entry: Path) -> bytes:
    """What a descriptor is of; nothing if it was closed meanwhile."""
    try:
        return os.readlink(entry).encode()
    except FileNotFoundError:
        return b""


def _text(path: Path) -> bytes:
    """A thread's name; nothing if it ended meanwhile."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
