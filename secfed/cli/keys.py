"""`secfed keys`: make, show and rotate a site's key file, or change its passphrase."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secfed.cli.passphrase import Descriptor, NoPassphrase, PassphraseFile
from secfed.limits import ENROLMENT_BYTES_MAX

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)

_CONFIGS = {
    "client": "client.toml",
    "aggregator": "aggregator.toml",
    "admin": "admin.toml",
    "auditor": "admin.toml",
}
"""Which configuration file names a role's key file."""

_Days = Annotated[int, typer.Option("--days", min=1, max=3650, help="How long keys and certificate serve.")]


@app.command("new")
def new(
    site: Annotated[str, typer.Argument(help="The site's name: lower-case letters, digits, inner hyphens.")],
    directory: Annotated[
        Path, typer.Option("--dir", help="Where SITE.key and SITE.pub are written.")
    ] = Path(),
    role: Annotated[str, typer.Option("--role", help="client, admin, auditor or aggregator.")] = "client",
    days: _Days = 730,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
    no_passphrase: NoPassphrase = False,
) -> None:
    """Make a site's keys: SITE.key stays here, SITE.pub goes to the federation's owner."""
    from datetime import UTC, datetime, timedelta

    from secfed.cli.passphrase import source
    from secfed.errors import ConfigError
    from secfed.identity import keyfile
    from secfed.identity.fields import site_name
    from secfed.identity.roles import Role

    if role not in {each.value for each in Role}:
        raise ConfigError(f"--role is client, admin, auditor or aggregator, not {role!r}")
    try:
        name, chosen = site_name(site), Role(role)
    except ValueError as problem:
        raise ConfigError(f"{site!r}: {problem}") from problem
    path = directory / f"{name}.key"
    secret = source(passphrase_file, passphrase_fd, no_passphrase).for_new(path.name)
    keys = keyfile.create(
        path,
        site=name,
        role=chosen,
        passphrase=secret,
        now=datetime.now(UTC),
        validity=timedelta(days=days),
    )
    typer.echo(f"private keys   {path}  (0600; back it up, never send it)")
    typer.echo(f"public file    {keyfile.public_path(path)}  (send it to the federation's owner)")
    typer.echo(f"fingerprint    {keys.fingerprint}")
    typer.echo("next           read the fingerprint to the owner by phone; `secfed enroll` shows it there")


@app.command("show")
def show(
    path: Annotated[Path, typer.Argument(help="A SITE.pub or SITE.key file.")],
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Show a public or private key file's site, role, dates and fingerprint; never a secret."""
    from secfed.cli.passphrase import source
    from secfed.errors import KeyFileError
    from secfed.identity import enrolment, keyfile
    from secfed.identity.fields import write_time
    from secfed.store import files

    if path.suffix == ".pub":
        try:
            public = enrolment.verify(files.read_small(path, ENROLMENT_BYTES_MAX))
        except OSError as problem:
            raise KeyFileError(f"{path}: {problem.strerror}") from problem
    else:
        public = keyfile.load(path, source(passphrase_file, passphrase_fd).for_existing(path)).enrolment
    typer.echo(f"site           {public.site}")
    typer.echo(f"role           {public.role.value}")
    typer.echo(f"created        {write_time(public.created)}")
    typer.echo(f"expires        {write_time(public.expires)}")
    typer.echo(f"fingerprint    {public.fingerprint}")


@app.command("rotate")
def rotate(
    path: Annotated[Path, typer.Argument(help="The key file in use.")],
    days: _Days = 730,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
    no_passphrase: NoPassphrase = False,
) -> None:
    """Make new keys for the same site beside the old file; the owner enrols them with `enroll --rotate`."""
    from datetime import UTC, datetime, timedelta

    from secfed.cli.passphrase import source
    from secfed.identity import keyfile
    from secfed.identity.roles import Role

    secrets = source(passphrase_file, passphrase_fd, no_passphrase)
    old = keyfile.load(path, secrets.for_existing(path))
    now = datetime.now(UTC)
    fresh = path.with_name(f"{old.site}-{now:%Y%m%d%H%M%S}.key")
    keys = keyfile.create(
        fresh,
        site=old.site,
        role=old.role,
        passphrase=secrets.for_new(fresh.name),
        now=now,
        validity=timedelta(days=days),
    )
    typer.echo(f"private keys   {fresh}  (0600; back it up, never send it)")
    typer.echo(f"public file    {keyfile.public_path(fresh)}  (send it to the federation's owner)")
    typer.echo(f"fingerprint    {keys.fingerprint}")
    typer.echo(
        f"next           once it is enrolled, set `key` in {_CONFIGS[old.role.value]} to {fresh.name};"
    )
    typer.echo(f"               until then {path.name} stays valid")
    if old.role is Role.CLIENT:
        typer.echo(f"ledgers        just before that, client stopped: `secfed ledger hand-over --to {fresh}`")


@app.command("passphrase")
def passphrase(
    path: Annotated[Path, typer.Argument(help="The key file whose passphrase changes.")],
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
    new_passphrase_file: Annotated[
        Path | None, typer.Option("--new-passphrase-file", help="Read the new passphrase from this file.")
    ] = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Remove the passphrase. Not advised.")
    ] = False,
) -> None:
    """Encrypt a key file under another passphrase; the keys and the fingerprint stay."""
    from secfed.cli.passphrase import source
    from secfed.identity import keyfile

    old = source(passphrase_file, passphrase_fd).for_existing(path)
    new_secret = source(new_passphrase_file, None, no_passphrase).for_new(path.name)
    keyfile.change_passphrase(path, old, new_secret)
    typer.echo(f"passphrase     {'removed' if new_secret is None else 'changed'}: {path}")
