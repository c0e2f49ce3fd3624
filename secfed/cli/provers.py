"""Helper processes for a command that verifies long ledgers: started only where that pays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

__all__ = ["WORTH_BYTES", "provers"]

WORTH_BYTES = 4 << 20
"""Ledgers of fewer bytes in all are verified sooner than helpers start: some ten thousand entries."""

_MOST = 8
"""Most helpers: the rest of verifying is one process's work and keeps no more busy."""


@contextmanager
def provers(ledgers: Iterable[Path]) -> Iterator[Executor | None]:
    """Processes for `ledger.verify`, or None where the ledgers are short or there is one core."""
    size = sum(path.stat().st_size for path in ledgers if path.exists())
    cores = len(os.sched_getaffinity(0))
    if size < WORTH_BYTES or cores < 2:
        yield None
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(min(cores, _MOST), mp_context=get_context("spawn")) as pool:
        yield pool
