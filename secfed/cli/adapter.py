"""`secfed adapter fetch`: a published round's folder, verified against the aggregator's signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secfed.cli.passphrase import Descriptor, PassphraseFile

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `fetch` a command of its own, since others will follow."""


@app.command("fetch")
def fetch(
    job: Annotated[str, typer.Option("--job", help="The job's name.")],
    round_number: Annotated[
        int | None, typer.Option("--round", min=1, help="Which round; the last published one if not given.")
    ] = None,
    config: Annotated[Path, typer.Option("--config", help="A client.toml or admin.toml.")] = Path(
        "client.toml"
    ),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new folder; default JOB-round-NNNN.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Fetch a round's adapter (or sum) with its signed manifest; only members can."""
    from secfed.cli.connect import Member
    from secfed.cli.passphrase import source
    from secfed.errors import ConfigError
    from secfed.ids import Digest, JobId
    from secfed.rounds.archive import archive_digest, unpack
    from secfed.store import files

    member = Member(config, source(passphrase_file, passphrase_fd))
    with member.connection() as connection:
        found = [state for state in connection.status(JobId(job)).jobs if state.job == job]
        published = {ended.round: ended for ended in found[0].history if ended.result} if found else {}
        if not published or (round_number is not None and round_number not in published):
            missing = (
                f"no round of job {job!r}" if round_number is None else f"not round {round_number} of {job!r}"
            )
            raise ConfigError(
                f"{missing} was published",
                hint="`secfed status` lists the rounds that were.",
            )
        chosen = published[max(published) if round_number is None else round_number]
        result = Digest(bytes.fromhex(chosen.result))
        target = output or Path(f"{job}-round-{chosen.round:04}")
        if target.exists():
            raise ConfigError(f"{target} exists already", hint="Choose a new folder with --output.")
        aggregator = member.rosters.current.aggregator
        archive = unpack(
            connection.fetch_archive(archive_digest(result)),
            result=result,
            aggregator=aggregator.site,
            public=aggregator.identity_key,
        )
    files.make_directory(target)
    for name, data in archive.files.items():
        files.create_exclusive(target / name, data, mode=files.PUBLIC_MODE)
    typer.echo(f"fetched        {target}  ({len(archive.files)} files, signed by {aggregator.site})")
