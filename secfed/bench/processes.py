"""An object in a process of its own, called by name: so that its time and memory are its own."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Self

from secfed.errors import SecfedError

__all__ = ["Apart", "end", "serve", "unheard"]

_END_S, _BROKEN_OFF_S = 60.0, 5.0
"""How long a process may take to end by itself: after its work, and after it was broken off."""


@contextmanager
def unheard() -> Iterator[None]:
    """A process that is started in here never hears of Ctrl-C: whoever started it ends it.

    It inherits what is held back, so this holds for its first moments too. Here the signal comes afterwards.
    """
    resource_tracker.ensure_running()  # it would let the signal through again if it had to start first
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def end(process: SpawnProcess, patience_s: float) -> None:
    """Wait until a process has ended by itself; kill it if it does not."""
    process.join(patience_s)
    if process.is_alive():
        process.kill()
        process.join()


class Apart:
    """One object in a fresh process; use `with`.

    Args:
        make: Makes the object, over there; importable by name, like all that it is given.
        arguments: Its arguments.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=serve, args=(far, make, arguments), daemon=True)
        with unheard():
            self._process.start()
        far.close()
        try:
            self._answer()
        except BaseException:
            self._end(_BROKEN_OFF_S)
            raise

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method over there and wait for what it gives.

        Raises:
            SecfedError: What it raised; anything else comes as its traceback's text.
        """
        self._pipe.send((name, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            failure, value = self._pipe.recv()
        except EOFError:
            raise SecfedError("a process of the measurement has ended") from None
        if failure is not None:
            raise failure
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.call("close")
        self._end(_END_S if error is None else _BROKEN_OFF_S)

    def _end(self, patience_s: float) -> None:
        self._pipe.close()
        end(self._process, patience_s)


def serve(pipe: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Over there: make the object, and answer calls until nobody asks any more."""
    with suppress(EOFError, ConnectionError):
        made = _attempt(pipe, make, arguments)
        while made is not None:
            name, given = pipe.recv()
            _attempt(pipe, getattr(made, name), given, tell=True)


def _attempt(
    pipe: Connection, call: Callable[..., Any], arguments: tuple[Any, ...], *, tell: bool = False
) -> Any:
    """Call, and tell what came of it; of an object that was made, only that it is there."""
    try:
        value = call(*arguments)
    except SecfedError as refusal:
        pipe.send((refusal, None))
        return None
    except Exception:  # noqa: BLE001 - it is raised again on the other side
        pipe.send((RuntimeError(traceback.format_exc()), None))
        return None
    pipe.send((None, value if tell else None))
    return value
