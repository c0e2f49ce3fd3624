"""`secfed status`: which round, which phase, who is missing, since when."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.cli.passphrase import Descriptor, PassphraseFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from secfed.ids import ClientId
    from secfed.rounds.exchange import JobState

__all__ = ["progress", "status"]


def status(
    config: Annotated[Path, typer.Option("--config", help="An admin.toml or client.toml.")] = Path(
        "federation/admin.toml"
    ),
    job: Annotated[str | None, typer.Option("--job", help="Only this job.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Ask the aggregator how every job stands."""
    import json
    from dataclasses import asdict

    from secfed.cli.connect import connect
    from secfed.cli.passphrase import source
    from secfed.ids import JobId

    with connect(config, source(passphrase_file, passphrase_fd)) as connection:
        reply = connection.status(None if job is None else JobId(job))
    if as_json:
        typer.echo(json.dumps({"kind": "status", "schema": 1, **asdict(reply)}, indent=2))
        return
    typer.echo(f"aggregator     secfed {reply.version}")
    typer.echo(f"federation     {reply.federation}  roster version {reply.roster_version}")
    typer.echo(f"connected      {', '.join(reply.connected) or 'nobody'}")
    if not reply.jobs:
        typer.echo("jobs           none yet")
    for each in reply.jobs:
        typer.echo("")
        typer.echo(_in_words(each, reply.connected))


def progress(job: JobState) -> str:
    """The round at hand; between rounds and at the end, how many were published."""
    if job.round:
        return f"round {job.round}/{job.rounds}"
    published = sum(ended.state == "published" for ended in job.history)
    return f"{published}/{job.rounds} published"


def _in_words(job: JobState, connected: Sequence[ClientId]) -> str:
    lines = [f"job            {job.job}  kind {job.kind}, {job.state}, {progress(job)}"]
    if job.phase:
        attempt = f", attempt {job.attempt}" if job.attempt else ""
        lines.append(f"phase          {job.phase}{attempt}")
    if job.waiting_for:
        left = f", {job.remaining_s} s left" if job.remaining_s else ""
        lines.append(f"now            {job.waiting_for}{left}")
    for member in job.members:
        away = "" if member.site in connected else ", not connected"
        lines.append(f"  {member.site:<24} {member.state}, for {member.since_s} s{away}")
    for ended in job.history:
        dropped = "".join(f", {site}: {why}" for site, why in ended.dropped)
        epsilon = f"  eps by plan {ended.epsilon_by_plan}" if ended.epsilon_by_plan else ""
        counts = f"asked {ended.asked}  in {len(ended.included)}  dropped {len(ended.dropped)}{dropped}"
        lines.append(
            f"  round {ended.round}/{job.rounds}  {ended.state}  {counts}{epsilon}  {ended.seconds} s"
        )
        lines += [f"    {site} is in the sum, lost after the freeze: {why}" for site, why in ended.lost]
    return "\n".join(lines)
