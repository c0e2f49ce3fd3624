"""`secfed report`: the account of one or several ledgers, for people and for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from secfed.config import ClientConfig
    from secfed.privacy.ledger import Verdict

__all__ = ["LEDGER_GLOB", "report", "verdicts"]

LEDGER_GLOB = "*.ledger"


def report(
    configs: Annotated[
        list[Path] | None,
        typer.Option("--config", help="A site's client.toml; several are shown side by side."),
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """Show what each job and round spent of each data set's budget, and what is left."""
    import json
    import shlex
    from datetime import UTC, datetime

    from secfed.errors import ConfigError, LedgerError
    from secfed.privacy import report as reports
    from secfed.privacy.report_text import to_text
    from secfed.store import files

    if output_format not in ("text", "json"):
        raise ConfigError(f"--format is text or json, not {output_format!r}")
    paths = configs or [Path("client.toml")]
    found = [verdict for path in paths for verdict in verdicts(path)]
    if not found:
        raise LedgerError(
            "there is no ledger yet",
            hint="A site's ledger is made by `secfed client join --data` or its first job.",
        )
    recompute = shlex.join(
        ["secfed", "report", *(word for path in paths for word in ("--config", str(path)))]
    )
    made = reports.build(found, now=datetime.now(UTC), recompute=recompute)
    text = to_text(made) if output_format == "text" else json.dumps(reports.to_json(made), indent=2) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        with files.storage_errors(output):
            output.write_text(text, encoding="utf-8")
        typer.echo(f"report         {output}")
    broken = [verdict for verdict in found if verdict.fault is not None]
    if broken:
        raise LedgerError(f"{broken[0].path}: {broken[0].fault}")


def verdicts(config_path: Path) -> list[Verdict]:
    """Verify every ledger of one site under the site's own identity key, and against what it remembers.

    Raises:
        StorageError: One that is remembered is gone, or cannot be read.
    """
    from secfed.cli.heads import Heads
    from secfed.config import ClientConfig, load
    from secfed.privacy import ledger

    config = load(config_path, ClientConfig)
    public = _identity_key(config)
    heads = Heads(config.state_dir)
    names = {path.name for path in config.ledger_dir.glob(LEDGER_GLOB)} | heads.names()
    known = {name: heads.known(name) for name in sorted(names)}  # before the ledgers: these may go on
    return [ledger.verify(config.ledger_dir / name, public, expect=head) for name, head in known.items()]


def _identity_key(config: ClientConfig) -> bytes:
    """The site's public key, from the public file beside its key file: no passphrase is needed to read."""
    from secfed.errors import KeyFileError
    from secfed.identity import enrolment, keyfile

    path = keyfile.public_path(config.key)
    try:
        return enrolment.verify(path.read_bytes()).identity_key
    except OSError as problem:
        raise KeyFileError(f"{path}: {problem.strerror}") from problem
