"""Logs that cannot show a secret, and the daemon's metrics.

Only daemons and commands that run for long import this module; the core returns facts or
raises. Logs go to stderr, as JSON lines or, on a terminal, for people. Before a line is
rendered every value passes `redact`: a value under a name that speaks of a secret is
dropped, bytes appear as their length only, and an object of unknown type as its type's name.
Text becomes one line that cannot steer a terminal, but for a traceback's own line ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from datetime import date
from enum import Enum as PythonEnum
from pathlib import PurePath
from typing import Any, Final, Literal, TextIO

import structlog

from secfed.ids import one_line

__all__ = ["PHASES", "Metrics", "configure", "redact"]

PHASES: Final = (
    "idle", "train", "advertise", "encapsulate", "share", "mask", "confirm", "unmask", "publish"
)  # fmt: skip
"""Where a round can be, in order."""

_SECRET_WORDS = ("secret", "passphrase", "password", "key", "share", "mask", "seed", "private")
_REDACTED = "(redacted)"
_MAX_DEPTH = 6

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor that takes secrets out of one log entry."""
    return {name: _clean(name, value, _MAX_DEPTH) for name, value in event.items()}


def _clean(name: str, value: object, depth: int) -> object:
    """What may be shown of a value under a name."""
    if name != "event" and any(word in name.lower() for word in _SECRET_WORDS):
        return _REDACTED
    if isinstance(value, str):
        return "\n".join(map(one_line, value.split("\n"))) if name == "exception" else one_line(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(value)} bytes)"
    if isinstance(value, PythonEnum):
        return value.name.lower()
    if isinstance(value, PurePath | date | BaseException):
        return one_line(str(value))
    if depth and isinstance(value, Mapping):
        return {str(inner): _clean(str(inner), each, depth - 1) for inner, each in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_clean("", each, depth - 1) for each in value]
    return f"({type(value).__name__})"


def configure(
    level: Literal["debug", "info", "warning", "error"],
    *,
    form: Literal["auto", "json", "console"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Set up logging for this process.

    Args:
        level: The least that is shown.
        form: auto is for people on a terminal and JSON lines elsewhere.
        stream: Where to; stderr if not given.
    """
    target = sys.stderr if stream is None else stream
    console = form == "console" or (form == "auto" and target.isatty())
    colors = console and target.isatty() and "NO_COLOR" not in os.environ
    renderer = (
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer(sort_keys=True)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,  # a traceback without local variables
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=target),
        cache_logger_on_first_use=False,
    )


class Metrics:
    """A daemon's counters and gauges, in a registry of their own; labels never name a site."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Enum, Gauge  # a client counts nothing

        self._registry = CollectorRegistry()
        self.rounds_published = Counter(
            "secfed_rounds_published", "Rounds whose sum was published.", registry=self._registry
        )
        self.attempts_voided = Counter(
            "secfed_attempts_voided", "Attempts that ended without a sum.", registry=self._registry
        )
        self.upload_bytes = Counter(
            "secfed_upload_bytes", "Bytes of masked updates received.", registry=self._registry
        )
        self.connected_clients = Gauge(
            "secfed_connected_clients", "Clients connected now.", registry=self._registry
        )
        self._phase = Enum(
            "secfed_phase", "Where the current round is.", states=PHASES, registry=self._registry
        )
        self._refusals = Counter(
            "secfed_refusals", "Requests refused, by the class of error.", ["reason"], registry=self._registry
        )

    def enter(self, phase: str) -> None:
        """Say where the round is: one of `PHASES`."""
        self._phase.state(phase)

    def refused(self, error: Exception) -> None:
        """Count a refusal under its class."""
        self._refusals.labels(reason=type(error).__name__).inc()

    def render(self) -> bytes:
        """All of them in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)
