"""`secfed job`: write a job file, start, pause, resume and stop jobs, list them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.cli.passphrase import Descriptor, PassphraseFile

if TYPE_CHECKING:
    from secfed.errors import ConfigError
    from secfed.identity.roster import Roster
    from secfed.rounds.exchange import JobState
    from secfed.rounds.plan import JobPlan

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)

_Config = Annotated[Path, typer.Option("--config", help="The admin's admin.toml.")]
_Name = Annotated[str, typer.Argument(help="The job's name.")]
_ADMIN = Path("federation/admin.toml")


@app.command("init")
def init(
    template: Annotated[str, typer.Option("--template", help="vector, classify, sft, dpo or kto.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")] = Path("JOB.toml"),
) -> None:
    """Write a commented JOB.toml that runs as it stands."""
    from secfed.cli.jobfile import template as make
    from secfed.config import to_toml
    from secfed.errors import ConfigError
    from secfed.store import files

    text = to_toml(make(template), output.parent)
    if output.exists():
        raise ConfigError(f"{output} exists already", hint="Name another file with --output.")
    files.create_exclusive(output, text.encode(), mode=files.PUBLIC_MODE)
    typer.echo(f"job file       {output}  (edit it, then: secfed job start {output})")


@app.command("start")
def start(
    path: Annotated[Path, typer.Argument(help="A JOB.toml.")],
    config: _Config = _ADMIN,
    models: Annotated[Path, typer.Option("--models", help="Folder with base models (training jobs).")] = Path(
        "~/.cache/secfed"
    ),
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Sign the job's plan and hand it to the aggregator."""
    from datetime import UTC, datetime

    from secfed.cli.connect import Member
    from secfed.cli.jobfile import plan_of, require_files
    from secfed.cli.passphrase import source
    from secfed.config import load
    from secfed.config.job import JobFile
    from secfed.rounds.proposal import sign_job_plan

    if not path.exists():
        raise _no_job_file(path)
    job = load(path, JobFile)
    require_files(job)
    admin = Member(config, source(passphrase_file, passphrase_fd))
    with admin.connection() as connection:
        connection.check()  # the newest roster, before anything is signed under it
        plan = plan_of(
            job, admin.rosters.current, admin.keys.site, models=models.expanduser(), now=datetime.now(UTC)
        )
        state = connection.start_job(sign_job_plan(admin.keys.signing, plan).text)
    _say_plan(plan)
    _say_what_holds(plan, admin.rosters.current)
    typer.echo(f"started        {state.job}  {state.state}")


@app.command("pause")
def pause(
    name: _Name,
    config: _Config = _ADMIN,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Let the round at hand finish, then hold."""
    _control(name, "pause", config, passphrase_file, passphrase_fd)


@app.command("resume")
def resume(
    name: _Name,
    config: _Config = _ADMIN,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Go on with a paused job."""
    _control(name, "resume", config, passphrase_file, passphrase_fd)


@app.command("stop")
def stop(
    name: _Name,
    config: _Config = _ADMIN,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """End a job for good; what was published stays."""
    _control(name, "stop", config, passphrase_file, passphrase_fd)


@app.command("list")
def list_jobs(
    config: _Config = _ADMIN,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """List all jobs with their state."""
    import json
    from dataclasses import asdict

    from secfed.cli.connect import connect
    from secfed.cli.passphrase import source
    from secfed.cli.status import progress
    from secfed.cli.tables import table

    with connect(config, source(passphrase_file, passphrase_fd)) as connection:
        jobs = connection.status().jobs
    if as_json:
        typer.echo(json.dumps({"kind": "jobs", "schema": 1, "jobs": [asdict(job) for job in jobs]}, indent=2))
        return
    rows = [(job.job, job.kind, job.state, progress(job), job.waiting_for) for job in jobs]
    typer.echo(table(("job", "kind", "state", "progress", "now"), rows))


def _control(
    name: str, verb: str, config: Path, passphrase_file: Path | None, passphrase_fd: int | None
) -> None:
    from secfed.cli.connect import connect
    from secfed.cli.passphrase import source
    from secfed.ids import JobId
    from secfed.rounds.exchange import JobCommand

    with connect(config, source(passphrase_file, passphrase_fd)) as connection:
        state: JobState = connection.control_job(JobCommand(JobId(name), verb))
    typer.echo(f"job            {state.job}  {state.state}")


def _no_job_file(path: Path) -> ConfigError:
    """Perhaps a job's name was given, as the other verbs take it."""
    from secfed.errors import ConfigError
    from secfed.ids import SITE_PATTERN

    if not SITE_PATTERN.fullmatch(str(path)):
        return ConfigError(f"{path} is not there", hint="`secfed job init` writes a JOB.toml to start from.")
    return ConfigError(
        f"{path} is no file, and a job is started from its JOB.toml",
        hint=f"A paused job goes on by `secfed job resume {path}`; `secfed job list` shows all jobs.",
    )


def _say_plan(plan: JobPlan) -> None:
    """What every site will be asked to agree to, in a few lines."""
    typer.echo(
        f"job            {plan.job}  kind {plan.kind}, rounds {plan.rounds}, at least {plan.min_cohort} sites"
    )
    if plan.training is not None and plan.dp is None:
        typer.echo(
            "privacy        NONE: every round is non_private; sites refuse unless their policy allows it"
        )
    if plan.dp is not None:
        spent = plan.epsilon_by_round[-1] if plan.epsilon_by_round else "see `secfed report`"
        typer.echo(
            f"privacy        epsilon {spent} at delta {plan.dp.delta} for one {plan.dp.unit}, in all "
            f"(q {plan.dp.sampling_rate:.5f}, noise {plan.dp.noise_multiplier}, clip {plan.dp.clip})"
        )
    if plan.kind == "vector":
        typer.echo("privacy        the secure sum only: a vector job is not differentially private by itself")


def _say_what_holds(plan: JobPlan, roster: Roster) -> None:
    """The thresholds of a round over everybody, in words."""
    from secfed.errors import InfeasibleCohortError
    from secfed.identity.roles import Role
    from secfed.secagg.params import Params

    clients, floor = len(roster.active(Role.CLIENT)), max(roster.min_cohort, plan.min_cohort)
    try:
        params = Params.of(clients, roster.corrupt, min_cohort=floor, survivors_min=plan.survivors_min)
    except InfeasibleCohortError as problem:  # a paused job goes on, whoever was revoked meanwhile
        typer.echo(f"note           {problem}")
        return
    typer.echo(f"a full round   {params.in_words()}")
