"""Helper processes for a command that verifies long ledgers: started only where that pays."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from secfed.privacy.ledger import Verdict
    from secfed.store.journal import Head

__all__ = ["WORTH_BYTES", "Wanted", "provers", "verified"]

WORTH_BYTES = 4 << 20
"""Ledgers of fewer bytes in all are verified sooner than helpers start: some ten thousand entries."""

_MOST = 8
"""Most helpers: the rest of verifying is one process's work and keeps no more busy."""

Wanted: TypeAlias = "tuple[Path, bytes, Head | None]"
"""A ledger, the public key in force at its end, and a head known elsewhere."""


def verified(
    ledgers: Sequence[Wanted],
    meanwhile: Callable[[], object] = lambda: None,
    each: Callable[[Verdict], object] = lambda _verdict: None,
) -> list[Verdict]:
    """Verify ledgers, in this order: many long ones side by side, a single one piece by piece.

    Args:
        meanwhile: What this process does while helpers verify; not called where there are none.
        each: Then, what it does with each verdict while they verify the next.

    Raises:
        StorageError: One cannot be read.
    """
    from secfed.privacy import ledger

    sizes = [_size(path) for path, _, _ in ledgers]
    with provers(path for path, _, _ in ledgers) as pool:
        if pool is None or max(sizes) * _cores() > sum(sizes):
            return [ledger.verify(path, public, expect=head, helpers=pool) for path, public, head in ledgers]
        asked = [pool.submit(ledger.verify, path, public, expect=head) for path, public, head in ledgers]
        meanwhile()
        found = []
        for pair in zip(asked, ledgers, strict=True):
            found.append(_verdict(*pair))
            each(found[-1])
        return found


@contextmanager
def provers(ledgers: Iterable[Path]) -> Iterator[Executor | None]:
    """Processes for `ledger.verify`, or None where the ledgers are short or there is one core."""
    size, cores = sum(map(_size, ledgers)), _cores()
    if size < WORTH_BYTES or cores < 2:
        yield None
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # A copy of this process starts at once; beside another thread it could inherit a lock that nobody frees.
    context = get_context("fork" if threading.active_count() == 1 else "spawn")
    with ProcessPoolExecutor(min(cores, _MOST), mp_context=context) as pool:
        yield pool


def _verdict(asked: Future[Verdict], wanted: Wanted) -> Verdict:
    """What a helper found; without one, what this process finds."""
    from secfed.privacy import ledger

    path, public, head = wanted
    try:
        return asked.result()
    except BrokenExecutor:
        return ledger.verify(path, public, expect=head)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cores() -> int:
    return len(os.sched_getaffinity(0))
