"""`secfed client`: join a federation, take part in its rounds, push an update made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.cli.passphrase import Descriptor, PassphraseFile
from secfed.cli.typed_event import DECLARED

if TYPE_CHECKING:
    from types import FrameType

    from secfed.cli.build_client import Client, UpdateFile
    from secfed.cli.passphrase import Source
    from secfed.cli.site_lines import Lines
    from secfed.ids import JobId
    from secfed.rounds.client import RoundEnd

__all__ = ["app"]

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
    job: Annotated[str | None, typer.Option("--job", help="Take part in this job alone, to its end.")] = None,
    update: Annotated[
        Path | None, typer.Option("--update", help="What to give to vector jobs: a .safetensors file.")
    ] = None,
    weight: Annotated[int, typer.Option("--weight", min=1, help="Weight of that update.")] = 1,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Take part in rounds until stopped; trains here, under this site's policy and budget."""
    from secfed.cli.build_client import UpdateFile
    from secfed.cli.passphrase import source

    given = None if update is None else UpdateFile(_existing(update), weight)
    secrets = source(passphrase_file, passphrase_fd)
    _take_part(config, secrets, job=job, update=given, one_round=False)


@app.command("push")
def push(
    update: Annotated[Path, typer.Option("--update", help="The vector: a .safetensors file.")],
    config: _Config = _CONFIG,
    job: Annotated[str | None, typer.Option("--job", help="Only a round of this job.")] = None,
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
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Take part in one round with a vector trained elsewhere; without a declared event it is not private."""
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
    _take_part(config, secrets, job=job, update=given, one_round=True)


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
    config: Path, secrets: Source, *, job: str | None, update: UpdateFile | None, one_round: bool
) -> None:
    import signal

    from secfed.cli.build_client import open_client
    from secfed.cli.site_lines import Lines, Teller
    from secfed.config import ClientConfig, load
    from secfed.ids import JobId
    from secfed.telemetry import configure

    configure(load(config, ClientConfig).log_level)
    lines = Lines()
    only = None if job is None else JobId(job)
    with open_client(
        config,
        secrets,
        observer=Teller(lines),
        only=only,
        update=update,
        on_step=lines.step,
        on_retry=lines.retry,
    ) as client:
        former = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            lines.say(f"{client.config.site} takes part at {client.config.aggregator}")
            _rounds(client, lines, only, one_round=one_round)
        except _StopRequested:
            lines.say("stopped")
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _StopRequested


def _rounds(client: Client, lines: Lines, only: JobId | None, *, one_round: bool) -> None:
    """Hear facts until stopped, or until what was asked for is done."""
    import time

    from secfed.errors import RoundAbortedError
    from secfed.rounds.client import RoundEnd
    from secfed.rounds.conversation import Awaited, DeclinedRound, Setback, take_part

    for fact in take_part(client.rounds, client.link, time.sleep):
        match fact:
            case DeclinedRound(reason):
                if one_round or only is not None:
                    raise reason
                lines.say(f"declined: {reason}")
            case RoundEnd():
                lines.say(_round_line(client, fact))
                if one_round and not fact.included:
                    raise RoundAbortedError(f"round {fact.round} of {fact.job}: {fact.reason}")
                if one_round:
                    return
            case Setback(reason):
                lines.say(f"setback: {reason}")
            case Awaited():
                lines.awaited(fact)
        if only is not None and isinstance(fact, RoundEnd | Awaited) and _is_over(client, lines, only):
            return


def _round_line(client: Client, end: RoundEnd) -> str:
    from secfed.cli.site_lines import epsilon_words, round_words
    from secfed.privacy.events import declared

    state = client.ledgers.last_used.state
    said = sum(map(declared, state.spent))
    note = f", {said} of {len(state.spent)} charges {DECLARED}" if said else ""
    return round_words(end, epsilon_words(state) + note)


def _is_over(client: Client, lines: Lines, job: JobId) -> bool:
    """Whether the one job that this client is for came to its end."""
    from secfed.errors import RoundAbortedError

    for state in client.link.status(job).jobs:
        if state.state == "failed":
            raise RoundAbortedError(f"job {job} failed: {state.waiting_for}")
        if state.state in ("done", "stopped"):
            lines.say(f"job {job} is {state.state}")
            return True
    return False
