"""`secfed demo`: a whole federation on this machine, with real processes, keys, sockets and checks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    task: Annotated[
        str,
        typer.Option("--task", help="classify (MiniLM on movie sentences), sft (SmolLM2 chat) or vector."),
    ] = "classify",
    directory: Annotated[
        Path | None, typer.Option("--dir", help="A new folder for everything; default demo-out/TIME.")
    ] = None,
    models: Annotated[Path, typer.Option("--models", help="Folder with base models and data sets.")] = Path(
        "~/.cache/secfed"
    ),
) -> None:
    """Run an aggregator and several sites on loopback, and check what the aggregator saw."""
    from datetime import datetime

    from secfed.cli.playground import Playground
    from secfed.errors import ConfigError, SecfedError

    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    root = (directory or Path("demo-out") / f"{task}-{stamp}").resolve()
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} is not empty", hint="Choose a new folder with --dir.")
    if task == "vector":
        from secfed.cli.demo_vector import run_vector

        with Playground(root) as play:
            passed = run_vector(play, typer.echo)
    elif task in ("classify", "sft"):
        from secfed.cli.demo_train import run_training

        with Playground(root, threads=1) as play:
            passed = run_training(play, task, models.expanduser(), typer.echo)
    else:
        raise ConfigError(f"--task is classify, sft or vector, not {task!r}")
    if not passed:
        raise SecfedError(
            "a check of the demo failed, the one that says FAIL above",
            hint=f"This is a bug in secfed: please report it, with the folder {root}.",
        )
