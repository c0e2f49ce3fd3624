"""`secfed ledger`: is this one whole, in order, signed by its site; and another key signs from now on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secfed.cli.passphrase import Descriptor, PassphraseFile

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


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
            "--head",
            help="ENTRIES:DIGEST known elsewhere; finds a cut tail. With --config: what the site remembers.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify the chain and every signature; a fault names the entry and what is wrong with it."""
    import json

    from secfed.cli.heads import Heads, typed_head, write_head
    from secfed.cli.provers import verified
    from secfed.config import ClientConfig, load
    from secfed.errors import ConfigError, KeyFileError, LedgerError
    from secfed.identity import enrolment, keyfile

    expect = typed_head(head)
    if config is not None and public is None:
        site = load(config, ClientConfig)
        key_file = keyfile.public_path(site.key)
        if expect is None and path.resolve().parent == site.ledger_dir.resolve():
            expect = Heads(site.state_dir).known(path.name)
    elif public is not None and config is None:
        key_file = public
    else:
        raise ConfigError("give one of --public SITE.pub and --config client.toml")
    try:
        identity = enrolment.verify(key_file.read_bytes())
    except OSError as problem:
        raise KeyFileError(f"{key_file}: {problem.strerror}") from problem
    (verdict,) = verified([(path, identity.identity_key, expect)])
    if verdict.fault is not None:
        raise LedgerError(f"{path}: {verdict.fault}")
    if as_json:
        document = {
            "kind": "ledger-verdict",
            "schema": 1,
            "ledger": str(path),
            "site": identity.site,
            "verdict": "good",
            "entries": verdict.head.count,
            "head": write_head(verdict.head),
            "torn_bytes": verdict.torn_bytes,
            "compared": verdict.compared,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(f"ledger         {path}")
    typer.echo(f"verdict        good: {verdict.head.count} entries, every signature by {identity.site}")
    typer.echo(f"head           {write_head(verdict.head)}")
    if verdict.torn_bytes:
        typer.echo(
            f"note           a crash cut a last line of {verdict.torn_bytes} bytes short; it never counted"
        )
    if not verdict.compared:
        typer.echo("note           without --head, entries cut off at the end are not noticed")


@app.command("hand-over")
def hand_over(
    to: Annotated[Path, typer.Option("--to", help="The site's new key file, made by `secfed keys rotate`.")],
    config: Annotated[
        Path, typer.Option("--config", help="The site's client.toml, which still names the old key file.")
    ] = Path("client.toml"),
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Let the site's new key sign all its ledgers from now on; needs both keys, and the client stopped."""
    from functools import partial

    from secfed.cli.heads import Heads
    from secfed.cli.passphrase import source
    from secfed.cli.report import LEDGER_GLOB
    from secfed.config import ClientConfig, load
    from secfed.errors import AuthenticationError
    from secfed.identity import keyfile
    from secfed.privacy import ledger

    site = load(config, ClientConfig)
    secrets, heads = source(passphrase_file, passphrase_fd), Heads(site.state_dir)
    old, new = (keyfile.load(path, secrets.for_existing(path)) for path in (site.key, to))
    if (old.site, old.role) != (new.site, new.role) or old.fingerprint == new.fingerprint:
        raise AuthenticationError(f"{to} holds no other key of {old.site}")
    for path in sorted(site.ledger_dir.glob(LEDGER_GLOB)):
        if ledger.verify(path, new.signing.public, expect=heads.known(path.name)).fault is None:
            typer.echo(f"ledger         {path}  was handed over before")
            continue
        with ledger.Ledger.open(
            path,
            key=old.signing,
            expect=heads.known(path.name),
            on_head=partial(heads.note, path.name),
        ) as opened:
            opened.hand_over(old.signing, new.signing)
        typer.echo(f"ledger         {path}  is handed over")
    typer.echo(f"next           set `key` in {config} to {to.name}; the old key opens no ledger any more")
