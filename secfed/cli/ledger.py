"""`secfed ledger verify`: is this ledger whole, in order, and signed by its site?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from secfed.store.journal import Head

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `verify` a command of its own, since others will follow."""


@app.command("verify")
def verify(
    path: Annotated[Path, typer.Argument(help="A .ledger file.")],
    public: Annotated[
        Path | None,
        typer.Option("--public", help="The site's SITE.pub; its identity key signed the entries."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="The site's client.toml, instead of --public.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            "--head", help="ENTRIES:DIGEST known elsewhere (a countersigned head); finds a cut tail."
        ),
    ] = None,
) -> None:
    """Verify the chain and every signature; a fault names the entry and what is wrong with it."""
    from secfed.config import ClientConfig, load
    from secfed.errors import ConfigError, KeyFileError, LedgerError
    from secfed.identity import enrolment, keyfile
    from secfed.privacy import ledger

    if config is not None and public is None:
        key_file = keyfile.public_path(load(config, ClientConfig).key)
    elif public is not None and config is None:
        key_file = public
    else:
        raise ConfigError("give one of --public SITE.pub and --config client.toml")
    try:
        identity = enrolment.verify(key_file.read_bytes())
    except OSError as problem:
        raise KeyFileError(f"{key_file}: {problem.strerror}") from problem
    verdict = ledger.verify(path, identity.identity_key, expect=_head(head))
    if verdict.fault is not None:
        raise LedgerError(f"{path}: {verdict.fault}")
    typer.echo(f"ledger         {path}")
    typer.echo(f"verdict        good: {verdict.head.count} entries, every signature by {identity.site}")
    typer.echo(f"head           {verdict.head.count}:{verdict.head.digest.hex()}")
    if verdict.torn_bytes:
        typer.echo(
            f"note           a crash cut a last line of {verdict.torn_bytes} bytes short; it never counted"
        )
    if not verdict.countersigned:
        typer.echo("note           without --head, entries cut off at the end are not noticed")


def _head(text: str | None) -> Head | None:
    """Read `ENTRIES:DIGEST`."""
    from secfed.errors import ConfigError
    from secfed.ids import NO_DIGEST, Digest
    from secfed.store.journal import Head

    if text is None:
        return None
    count, _, digest = text.partition(":")
    if not re.fullmatch(rf"[0-9]{{1,18}}:[0-9a-f]{{{2 * len(NO_DIGEST)}}}", text):
        raise ConfigError(f"--head is ENTRIES:DIGEST, not {text[:80]!r}")
    return Head(int(count), Digest(bytes.fromhex(digest)))
