"""Options that mean the same on both sides."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["KeepTrying", "StateMoved"]

KeepTrying = Annotated[
    bool, typer.Option("--keep-trying", help="Wait for an aggregator that does not answer at the start.")
]

StateMoved = Annotated[
    bool,
    typer.Option(
        "--state-moved",
        help="Once, after a move to another disk: the state directory came here whole, and no other copy of "
        "it will ever start, the former one included. Never after a backup was brought back.",
    ),
]
