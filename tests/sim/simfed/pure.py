"""Pure functions remembered while a federation runs: what many parties verify is computed once.

A statement is verified by everybody that it is shown to, a roster is read at every start. These
functions have no memory, so that the second party's result may be the first one's. A refusal is
never remembered: it is worked out again for each party.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any
from unittest import mock

from secfed.crypto import agreement, signing
from secfed.identity import certificate, roster
from secfed.rounds import proposal

PURE: tuple[tuple[ModuleType, str], ...] = (
    (signing, "verify"),
    (agreement, "check_public"),
    (certificate, "parse"),
    (roster, "verify"),
    (proposal, "_read"),
)
"""Each is called through its module everywhere, and depends on nothing but its arguments."""

_KEPT = 1 << 14
"""Results of each function that are kept at a time."""

_REMEMBERED: dict[tuple[str, str], Callable[..., Any]] = {
    (module.__name__, name): lru_cache(_KEPT)(getattr(module, name)) for module, name in PURE
}


@contextmanager
def remembered() -> Iterator[None]:
    """Inside, the functions of `PURE` compute nothing twice."""
    with ExitStack() as stack:
        for module, name in PURE:
            stack.enter_context(mock.patch.object(module, name, _REMEMBERED[module.__name__, name]))
        yield
