"""One measured stage or part as a line, and what a figure is held against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["MIB", "Figure", "as_json", "ratio"]

MIB = 1 << 20

_DIGITS = 6
"""Significant digits in JSON: more than any clock here is good for."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What one stage cost one side, or one part of a stage.

    Attributes:
        stage: A phase of the protocol, what comes before or after, or `until sent` and `total` for several.
        side: `client` (one of them) or `aggregator`.
        part: A kind of work within the stage; None for the whole.
        cpu_s: Processor seconds, all threads.
        wall_s: Seconds; of a client without the waiting for others.
        bytes_up: From client to aggregator, as serialised for the wire.
        bytes_down: From aggregator to client.
        peak_mib: Most memory held, above the idle process.
        floor_s: Processor seconds that the machine's limits of the same run allow at best.
        ratio: cpu_s / floor_s.
    """

    stage: str
    side: str
    part: str | None = None
    cpu_s: float | None = None
    wall_s: float | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    peak_mib: float | None = None
    floor_s: float | None = None
    ratio: float | None = None


def ratio(cost: float, floor: float | None) -> float | None:
    """How many times its floor a cost is."""
    return None if not floor else cost / floor


def as_json(kind: str, facts: Mapping[str, object]) -> str:
    """One JSON line that says what it is, with rounded figures."""
    return json.dumps(_short({"kind": kind, **facts}))


def _short(value: object) -> object:
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
