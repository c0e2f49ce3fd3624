"""A folder for the length of one command, which nothing outlives."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

__all__ = ["scratch_folder"]


@contextmanager
def scratch_folder(prefix: str, directory: Path | None) -> Iterator[Path]:
    """A folder of its own, removed at the end, which SIGTERM brings about as Ctrl-C does.

    Processes that were started and keys that were written would outlive the command otherwise.

    Args:
        directory: Where it is made; None for the system's place for temporary files.
    """
    former = signal.signal(signal.SIGTERM, _stop)
    try:
        with tempfile.TemporaryDirectory(prefix=prefix, dir=directory) as name:
            yield Path(name)
    finally:
        signal.signal(signal.SIGTERM, former)


def _stop(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would cut the clearing away short
    raise KeyboardInterrupt
