"""`secfed adapter fetch`: a round's adapter as a PEFT folder, or a vector job's sum."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)
