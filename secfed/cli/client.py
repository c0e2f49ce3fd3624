"""`secfed client`: join a federation, take part in its rounds, push an update made elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.cli.options import KeepTrying, StateMoved
from secfed.cli.passphrase import Descriptor, PassphraseFile
from secfed.cli.typed_event import DECLARED

if TYPE_CHECKING:
    from types import FrameType

    from secfed.cli.build_client import UpdateFile
    from secfed.cli.passphrase import Source
    from secfed.cli.ranks import Place
    from secfed.ids import JobId

__all__ = ["app"]

JOB_WAIT_S = 600
"""How long a client waits for the job that it was started for, seconds, if nothing else is said."""

ARRIVAL_S = 6.0
"""How long an aggregator that has never answered this process is tried, seconds: its address may be wrong.
One that has answered is waited for without end."""

app = typer.Typer(no_args_is_help=True)

_Config = Annotated[Path, typer.Option("--config", help="The site's client.toml.")]
_CONFIG = Path("client.toml")


@app.command("join")
def join(
    invite: Annotated[Path, typer.Argument(help="The invite that the federation's owner sent.")],
    key: Annotated[Path, typer.Option("--key", help="This site's key file.")],
    directory: Annotated[Path, typer.Option("--dir", help="Where the site's files go.")] = Path(),
    data: Annotated[
        Path | None, typer.Option("--data", help="What to train on: .jsonl, .csv or .parquet.")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option("--unit", help='What privacy protects: "record", or the column naming the person.'),
    ] = None,
    max_records_per_unit: Annotated[
        int | None, typer.Option("--max-records-per-unit", min=1, help="Records of one person that count.")
    ] = None,
    public_n: Annotated[
        int | None, typer.Option("--public-n", min=1, help="A public round figure for the number of units.")
    ] = None,
    epsilon: Annotated[
        float, typer.Option("--epsilon", help="The data set's whole budget; fixed for good.")
    ] = 8.0,
    models: Annotated[
        Path | None, typer.Option("--models", help="Folder of the base models to train.")
    ] = None,
    allow_non_private: Annotated[
        bool, typer.Option("--allow-non-private", help="Accept releases WITHOUT a privacy bound.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Write the site's configuration and policy, open its ledger, and try a signed round trip."""
    from secfed.cli import joining
    from secfed.cli.passphrase import source

    wishes = joining.Wishes(
        data=data,
        unit=unit,
        max_records_per_unit=max_records_per_unit,
        public_n=public_n,
        epsilon=epsilon,
        models=models,
        allow_non_private=allow_non_private,
    )
    joining.join(invite, key, directory, wishes, source(passphrase_file, passphrase_fd))


@app.command("run")
def run(
    config: _Config = _CONFIG,
    job: Annotated[
        str | None, typer.Option("--job", help="Take part in this job alone, to its end; it may start later.")
    ] = None,
    wait: Annotated[
        int | None,
        typer.Option("--wait", min=0, help=f"Seconds that --job may take to be started ({JOB_WAIT_S})."),
    ] = None,
    update: Annotated[
        Path | None, typer.Option("--update", help="What to give to vector jobs: a .safetensors file.")
    ] = None,
    weight: Annotated[int, typer.Option("--weight", min=1, help="Weight of that update.")] = 1,
    keep_trying: KeepTrying = False,
    state_moved: StateMoved = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Take part in rounds until stopped; trains here, under this site's policy and budget.

    A plan that policy or budget refuses is declined and logged; with --job, or once no other job is left,
    the command then ends with that refusal's exit code. An aggregator that has answered once is waited for
    when it is away; one that never does ends the command after some seconds.

    On several devices of one machine: `accelerate launch --multi_gpu --num_processes N --num_machines 1
    --module secfed client run`.
    """
    from secfed.errors import ConfigError

    only = _job(job)
    if wait is not None and only is None:
        raise ConfigError(
            "--wait says how long --job may take to be started, and no --job is given",
            hint="Name the job with --job, or leave --wait out: without a job a client waits for ever.",
        )

    from secfed.cli import ranks
    from secfed.config import ClientConfig, load

    where = ranks.place(os.environ, ranks.launcher(os.getppid()))
    if where is not None and where.rank > 0:
        typer.echo(f"process {where.rank + 1} of {where.size} of this site, started by a launcher")
        ranks.assist(load(config, ClientConfig), where)
        return

    from secfed.cli.build_client import UpdateFile
    from secfed.cli.passphrase import source

    given = None if update is None else UpdateFile(_existing(update), weight)
    secrets = source(passphrase_file, passphrase_fd)
    job_wait_s = JOB_WAIT_S if wait is None else wait
    _take_part(
        config,
        secrets,
        only=only,
        update=given,
        one_round=False,
        job_wait_s=job_wait_s,
        where=where,
        arrival_s=None if keep_trying else ARRIVAL_S,
        state_moved=state_moved,
    )


@app.command("push")
def push(
    update: Annotated[Path, typer.Option("--update", help="The vector: a .safetensors file.")],
    config: _Config = _CONFIG,
    job: Annotated[str | None, typer.Option("--job", help="Only a round of this job.")] = None,
    wait: Annotated[
        int, typer.Option("--wait", min=0, help="Seconds that the job may take to be started.")
    ] = JOB_WAIT_S,
    weight: Annotated[int, typer.Option("--weight", min=1, help="Weight of the vector.")] = 1,
    dataset_ledger: Annotated[
        bool,
        typer.Option("--dataset-ledger", help="Charge the data set's ledger, not a scratch ledger."),
    ] = False,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(
            "--noise-multiplier",
            help="Declare what the vector cost: noise standard deviation over the clipping norm. "
            "Charged to the data set's ledger as declared by the site, not enforced.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Declared: noisy steps in all.")] = None,
    sampling_rate: Annotated[
        float | None,
        typer.Option(
            "--sampling-rate",
            help="Declared: Poisson sampling rate; left out for noise over the whole data set.",
        ),
    ] = None,
    records_per_unit: Annotated[
        int | None,
        typer.Option(
            "--records-per-unit",
            help="Declared: records were drawn and clipped each by itself, at most so many of one person; "
            "1: each person as a whole. Needed for persons with a sampling rate.",
        ),
    ] = None,
    keep_trying: KeepTrying = False,
    state_moved: StateMoved = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Take part in one round with a vector trained elsewhere; without a declared event it is not private."""
    only = _job(job)

    from secfed.cli.build_client import UpdateFile
    from secfed.cli.ledgers import unit_of
    from secfed.cli.passphrase import source
    from secfed.cli.typed_event import declaration, described
    from secfed.config import ClientConfig, load
    from secfed.errors import ConfigError

    data = load(config, ClientConfig).data
    unit, most_records, _ = ("record", 1, None) if data is None else unit_of(data)
    event = declaration(
        unit,
        noise_multiplier=noise_multiplier,
        steps=steps,
        sampling_rate=sampling_rate,
        records_per_unit=records_per_unit,
        most_records=most_records,
    )
    if event is not None and data is None:
        raise ConfigError(
            f"a declared event is charged to a data set, and {config} has no [data] section",
            hint="Join again with --data, or push without a declaration.",
        )
    given = UpdateFile(_existing(update), weight, trained=True, charge_data_set=dataset_ledger, event=event)
    secrets = source(passphrase_file, passphrase_fd)
    if event is not None:
        typer.echo(f"the vector is charged to the data set's ledger as {DECLARED}: {described(event)}")
    _take_part(
        config,
        secrets,
        only=only,
        update=given,
        one_round=True,
        job_wait_s=wait,
        arrival_s=None if keep_trying else ARRIVAL_S,
        state_moved=state_moved,
    )


def _job(name: str | None) -> JobId | None:
    """The job that was named: one that no job can be called by would be waited for in vain."""
    from secfed.errors import ConfigError
    from secfed.ids import SITE_PATTERN, JobId

    if name is None:
        return None
    if not SITE_PATTERN.fullmatch(name):
        raise ConfigError(
            f"--job: {name[:80]!r} is no job name: 1 to 63 lower-case letters, digits and inner hyphens",
            hint="`secfed job list` shows the names of all jobs.",
        )
    return JobId(name)


def _existing(update: Path) -> Path:
    """The file that will be read once a job asks for it: a slip of the pen is told before the wait."""
    from secfed.errors import DataError

    if not update.is_file():
        raise DataError(f"{update} is not there", hint="Name the .safetensors file that holds the update.")
    return update.absolute()


# -- the loop ----------------------------------------------------------------------------------


class _StopRequested(BaseException):
    """SIGTERM or SIGINT. It may come at any moment, as a crash may: what matters is durable by then."""


def _take_part(
    config: Path,
    secrets: Source,
    *,
    only: JobId | None,
    update: UpdateFile | None,
    one_round: bool,
    job_wait_s: int = JOB_WAIT_S,
    where: Place | None = None,
    arrival_s: float | None = ARRIVAL_S,
    state_moved: bool = False,
) -> None:
    import signal

    from secfed.cli.attending import attend
    from secfed.cli.build_client import open_client
    from secfed.cli.glance import look_at
    from secfed.cli.site_lines import Lines, Teller
    from secfed.config import ClientConfig, load
    from secfed.ids import one_line
    from secfed.telemetry import configure

    settings = load(config, ClientConfig)
    configure(settings.log_level)
    if settings.data is not None and update is None:
        for doubt in look_at(settings.data):
            typer.echo(one_line(f"warning: {doubt}"), err=True)
    lines = Lines()
    with open_client(
        config,
        secrets,
        observer=Teller(lines, ends=one_round or only is not None),
        only=only,
        update=update,
        on_step=lines.step,
        on_retry=lines.retry,
        arrival_s=arrival_s,
        where=where,
        state_moved=state_moved,
    ) as client:
        former = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            lines.say(f"{client.config.site} takes part at {client.config.aggregator}")
            attend(client, lines, only=only, one_round=one_round, job_wait_s=job_wait_s)
        except _StopRequested:
            lines.say("stopped")
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _StopRequested
