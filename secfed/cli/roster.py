"""`secfed roster`: show the signed list of members, verify it against a pinned key, move its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.cli.federation import (
    ROSTER_FILE,
    ROSTER_KEY_FILE,
    FederationFolder,
    open_roster,
    publish_roster,
)
from secfed.cli.passphrase import Descriptor, PassphraseFile, source
from secfed.limits import ROSTER_FILE_BYTES_MAX

if TYPE_CHECKING:
    from secfed.identity.roster import Roster

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)

_KEY_FILE_BYTES = 256
"""Of `roster.pub`: one line of 44."""

_File = Annotated[Path, typer.Argument(help="A roster file.")]
_Key = Annotated[
    str | None,
    typer.Option("--fingerprint", help="The roster key's SHA256: fingerprint that you were told by phone."),
]


@app.command("show")
def show(
    path: _File = Path("roster.txt"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show members, roles, status and validity. (Whether to believe it: `roster verify`.)"""
    import json

    from secfed.cli.tables import table
    from secfed.identity.fields import write_time

    found = _load(path)
    if as_json:
        members = [
            {
                "site": member.site,
                "role": member.role.value,
                "status": member.status.value,
                "valid_until": write_time(member.valid_until),
                "fingerprint": member.fingerprint,
            }
            for member in found.members
        ]
        document = {
            "kind": "roster",
            "schema": 1,
            "federation": found.federation,
            "version": found.version,
            "not_after": write_time(found.not_after),
            "min_cohort": found.min_cohort,
            "corrupt": found.corrupt,
            "members": members,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(f"federation     {found.federation}")
    typer.echo(f"roster         version {found.version}, until {write_time(found.not_after)}")
    typer.echo(
        f"a sum          takes at least {found.min_cohort} sites; of all sites {found.corrupt} may collude "
        "with the aggregator"
    )
    typer.echo("")
    rows = [
        (m.site, m.role.value, m.status.value, write_time(m.valid_until), m.fingerprint)
        for m in found.members
    ]
    typer.echo(table(("site", "role", "status", "valid until", "fingerprint"), rows))


@app.command("verify")
def verify(path: _File = Path("roster.txt"), fingerprint: _Key = None) -> None:
    """Verify the roster's signature, and compare its key with a fingerprint or with the invite's."""
    from secfed.errors import RosterError
    from secfed.identity.fingerprint import roster_fingerprint

    key = _pinned_key(path)
    found = _load(path)
    actual = roster_fingerprint(key)
    if fingerprint is not None and fingerprint != actual:
        raise RosterError(f"{path} is signed by {actual}, not by {fingerprint}")
    typer.echo(
        f"roster         {path}  version {found.version}, {len(found.members)} entries, signature good"
    )
    typer.echo(f"signed by      {actual}")
    if fingerprint is None:
        typer.echo("next           compare it with the fingerprint that the federation's owner reads to you")


@app.command("renew")
def renew(
    directory: FederationFolder = Path("federation"),
    days: Annotated[
        int, typer.Option("--days", min=1, max=3650, help="How long the roster serves from now on.")
    ] = 730,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Move the roster's end; a running aggregator takes it up, and sites fetch it from there."""
    from datetime import UTC, datetime, timedelta

    from secfed.identity import membership
    from secfed.identity.fields import write_time

    secret = source(passphrase_file, passphrase_fd).for_existing(directory / ROSTER_KEY_FILE)
    key, before = open_roster(directory, secret)
    now = datetime.now(UTC)
    renewed = membership.renew(before, key, not_after=now + timedelta(days=days))
    publish_roster(directory, renewed)
    path = directory / ROSTER_FILE
    typer.echo(f"roster         {path}  version {renewed.version}, until {write_time(renewed.not_after)}")
    if before.not_after < now:
        typer.echo(f"note           the one before had ended: send {path} to the sites, for theirs")
    for member in renewed.members:
        if member.active and member.valid_until < renewed.not_after:
            typer.echo(
                f"note           the keys of {member.site} end on {write_time(member.valid_until)}; "
                "`secfed keys rotate` makes new ones"
            )


def _pinned_key(path: Path) -> bytes:
    """The roster key that lies beside the roster, as `init` and `join` wrote it."""
    from secfed.errors import RosterError
    from secfed.identity.fields import from_base64
    from secfed.store import files

    beside = path.with_name("roster.pub")
    try:
        return from_base64(files.read_small(beside, _KEY_FILE_BYTES).decode("ascii").strip(), 32)
    except (OSError, ValueError) as problem:
        raise RosterError(f"{beside} does not hold the pinned roster key: {problem}") from problem


def _load(path: Path) -> Roster:
    from secfed.errors import RosterError
    from secfed.identity import roster
    from secfed.store import files

    try:
        data = files.read_small(path, ROSTER_FILE_BYTES_MAX)
    except OSError as problem:
        raise RosterError(f"{path}: {problem.strerror}") from problem
    return roster.verify(data, _pinned_key(path))
