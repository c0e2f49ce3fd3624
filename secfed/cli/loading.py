"""Loading large libraries without paying Python's collector for it.

The model libraries bring half a million objects, nearly all of which live as long as the process.
The collector would go through them again and again: while they are made, during the work after,
and once more before the process ends, which alone takes a second. So it rests while they are
loaded, and leaves what is there by then alone for good (`gc.freeze`).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["large_libraries"]


@contextmanager
def large_libraries() -> Iterator[None]:
    """Import them within this; what a process holds at the end of it is never looked at again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
