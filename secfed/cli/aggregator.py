"""`secfed aggregator`: run the federation's one server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secfed.cli.passphrase import Descriptor, PassphraseFile, source

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Run the aggregator."""


@app.command("run")
def run(
    config: Annotated[
        Path, typer.Option("--config", help="The file that `secfed init` wrote.", metavar="FILE")
    ] = Path("aggregator.toml"),
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
    json_logs: Annotated[
        bool, typer.Option("--json-logs", help="JSON log lines, on a terminal too.")
    ] = False,
) -> None:
    """Serve until stopped (SIGTERM or Ctrl-C); state survives a restart, or a crash."""
    import asyncio
    import os
    import sys

    from secfed import telemetry
    from secfed.cli import build_aggregator
    from secfed.config import AggregatorConfig, load

    settings = load(config, AggregatorConfig)
    passphrase = source(passphrase_file, passphrase_fd).for_existing(settings.key)
    keys = build_aggregator.load_keys(settings, passphrase)
    telemetry.configure(settings.log_level, form="json" if json_logs else "auto")
    daemon = build_aggregator.build_daemon(
        settings, keys, sys.stdout, notify_socket=os.environ.get("NOTIFY_SOCKET")
    )
    asyncio.run(build_aggregator.run(daemon))
