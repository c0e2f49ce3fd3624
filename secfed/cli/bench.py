"""`secfed bench`: what a secure sum and a DP step cost here, beside this machine's limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from secfed.bench.cohort import Setting
    from secfed.bench.dp_step import Steps
    from secfed.bench.targets import Row

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_JSON = typer.Option("--json", help="Print a JSON line for each figure.")
_DIR = typer.Option("--dir", help="An existing folder for uploads; a temporary folder if not given.")

_MODELS = Path("~/.cache/secfed")

_WORTH_TELLING = 20_000_000
"""Coordinates of all members from which on a person may wonder what takes so long."""

_TRAINING = ("torch", "transformers", "peft", "opacus")
"""What a training step is made of."""


@app.command("secure-sum", short_help="A secure sum, stage by stage, on both sides.")
def secure_sum(
    clients: Annotated[
        int, typer.Option("--clients", min=3, metavar="N", help="Members of the cohort.")
    ] = 10,
    coordinates: Annotated[
        int, typer.Option("--coordinates", min=1, metavar="D", help="Coordinates of each vector.")
    ] = 1_000_000,
    dropouts: Annotated[
        float,
        typer.Option(
            "--dropouts",
            min=0,
            max=0.99,
            metavar="F",
            help="Share of members that are lost while masking: one at least, if not 0.",
        ),
    ] = 0.0,
    bits: Annotated[
        int,
        typer.Option("--fraction-bits", min=2, max=24, metavar="B", help="Bits of the grid of one vector."),
    ] = 16,
    corrupt: Annotated[
        int | None,
        typer.Option(
            "--corrupt",
            min=1,
            metavar="A",
            help="Corrupt members to be defended against; a tenth, rounded up, if not given.",
        ),
    ] = None,
    losses: Annotated[
        int | None,
        typer.Option(
            "--losses",
            min=0,
            help="Above 128 clients, how many may be lost; a tenth if not given, or what is possible.",
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Rounds; of each side the cheapest counts.")
    ] = 3,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Of the aggregator's unmasking; all cores if not given."),
    ] = None,
    grpc: Annotated[
        bool, typer.Option("--grpc", help="A real aggregator and clients over loopback with mutual TLS.")
    ] = False,
    directory: Annotated[Path | None, _DIR] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Run the real protocol, and print what each stage costs a client and the aggregator.

    Every message is serialised as for the wire. One client and the aggregator are processes of their own,
    which are timed; all others only play their part. The last line says whether the sum is the survivors'
    sum bit for bit. With --grpc the whole round runs over the network: one client and the aggregator are real
    processes, the other clients threads; who is lost says nothing more when it is asked for its vector, and
    is waited for (10 s and more). Wall time is split too. There a stage of the aggregator goes from the first
    client that hears of it to the first that hears of the next, without parts; its floor is two signatures a
    message, the bare stream of the vectors, and what the sum's additions and keystreams allow.

    FLOOR is of the same run. Of `mask`, `until sent` and `sum` it is what keystream and additions allow;
    short vectors lie far above it, as keys, shares and signatures cost the same whatever the length. Of a
    part it is its calls and bytes at the price of the bare primitive: X25519, ML-KEM and HKDF; Shamir in
    Python's integers; AES-GCM; Ed25519; SHA-256; rounding by numpy; a synced write; of messages, statements
    and packing one copy. Of any other stage it is the sum of its parts. `rest` has none. `until sent` is
    all that a client does before its vector is on its way. Parts are of the last round, which is profiled
    and counts only if it is the only one; `masks: ...` is the kernel, timed with and without its additions.
    """
    from secfed.bench.cohort import Setting
    from secfed.errors import ConfigError

    if grpc and not (threads is None and losses is None):
        raise ConfigError(
            "--grpc measures an aggregator that chooses its threads and a ring's losses itself",
            hint="Leave out --losses and --threads, or measure them without --grpc.",
        )
    setting = Setting(
        clients,
        coordinates,
        max(1, round(dropouts * clients)) if dropouts else 0,
        bits,
        corrupt,
        losses,
        repeats,
        threads or os.cpu_count() or 1,
    )
    with _folder(directory) as folder:
        printed = (_over_loopback if grpc else _in_processes)(setting, folder, as_json=as_json)
    for line in printed:
        typer.echo(line)


@app.command(short_help="This machine's limits, in the units that costs are held against.")
def keystream(as_json: Annotated[bool, _JSON] = False) -> None:
    """Time keystreams, additions, key agreement, signatures and sharing: what no protocol here can beat."""
    from secfed.bench import limits
    from secfed.cli import bench_lines

    found = limits.every_limit(limits.TURNS)
    if as_json:
        typer.echo(bench_lines.opening({"turns": limits.TURNS}))
        for line in bench_lines.limit_lines(found):
            typer.echo(line)
    else:
        typer.echo(bench_lines.limit_table(found))


@app.command("dp-step", short_help="A step of DP-SGD beside one without privacy.")
def dp_step(
    models: Annotated[Path, typer.Option("--models", help="Where models and data are kept.")] = _MODELS,
    batches: Annotated[
        list[int] | None, typer.Option("--batch", min=2, help="Records of a step; may be repeated.")
    ] = None,
    micro_batch: Annotated[int, typer.Option("--micro-batch", min=1, help="Most records of a piece.")] = 16,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Turns; their median counts.")] = 9,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Time the private step, the plain one and Opacus' own on the same batches, in turns."""
    models = models.expanduser()
    _check_training(models, "")

    from secfed.bench import dp_step as steps
    from secfed.cli import bench_lines

    sizes = batches or [16, 64]
    if as_json:
        facts = {"batches": sizes, "micro_batch": micro_batch, "repeats": repeats}
        typer.echo(bench_lines.opening(facts))
    found: list[Steps] = []
    with _folder(None) as scratch:
        for batch in sizes:
            for setting in steps.settings(models, scratch, batch):
                found.append(steps.measure(setting, micro_batch, repeats))
                if as_json:
                    typer.echo(bench_lines.step_line(found[-1]))
    if not as_json:
        typer.echo(bench_lines.step_table(found))


@app.command(short_help="All performance targets, each as met or not.")
def targets(
    thousand: Annotated[
        bool, typer.Option("--thousand", help="The cohort of a thousand too: minutes, and 3 GB of disk.")
    ] = False,
    training: Annotated[
        bool, typer.Option("--training/--no-training", help="The DP step too, which needs torch.")
    ] = True,
    models: Annotated[Path, typer.Option("--models", help="Where models and data are kept.")] = _MODELS,
    directory: Annotated[Path | None, _DIR] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Measure every target beside the limit of the same run, and print ratio, bound and verdict.

    A target that is missed is no error: the exit code says only whether all were measured.
    """
    models = models.expanduser()
    if training:
        _check_training(models, ", or leave the DP step out with --no-training")

    from secfed.bench import targets as wanted
    from secfed.cli import bench_lines

    threads = os.cpu_count() or 1
    rows: list[Row] = []
    with _folder(directory) as folder:
        if as_json:
            facts = {"threads": threads, "thousand": thousand, "training": training}
            typer.echo(bench_lines.opening(facts))
        try:
            for row in wanted.measure(
                folder,
                threads=threads,
                thousand=thousand,
                models=models if training else None,
                tell=lambda words: typer.echo(f"measuring {words}", err=True),
            ):
                if as_json:
                    typer.echo(bench_lines.target_line(row))
                rows.append(row)
        finally:  # what was measured before a failure took minutes
            if rows and not as_json:
                typer.echo(bench_lines.target_table(rows))


def _check_training(models: Path, otherwise: str) -> None:
    """Before the first measurement: whether a training step can be measured at all.

    Raises:
        ConfigError: A library, the model or the data is not there; `otherwise` ends the remedy.
    """
    from importlib.util import find_spec

    from secfed.errors import ConfigError
    from secfed.training.assets import MINILM_ID
    from secfed.training.models import model_folder

    for name in _TRAINING:
        if find_spec(name) is None:
            raise ConfigError(
                f"the DP step needs {name}, which is not installed",
                hint=f"pip install 'secfed[train]'{otherwise}",
            )
    hint = f"Name the folder that `make setup-assets` filled with --models{otherwise}."
    try:
        model_folder(models, MINILM_ID)
    except ConfigError as problem:
        raise ConfigError(str(problem), hint=hint) from None
    data = models / "data" / "movies.jsonl"
    if not data.is_file():
        raise ConfigError(f"there is no {data}", hint=hint)


def _in_processes(setting: Setting, folder: Path, *, as_json: bool) -> Iterator[str]:
    """What a measured sum prints."""
    from secfed.bench import secure_sum as measured
    from secfed.cli import bench_lines

    bill = measured.measure(setting, folder, _progress(setting))
    return bench_lines.sum_lines(bill) if as_json else bench_lines.sum_words(bill)


def _over_loopback(setting: Setting, folder: Path, *, as_json: bool) -> Iterator[str]:
    """What a measured round over loopback prints."""
    from secfed.bench import loopback
    from secfed.cli import bench_lines

    trip = loopback.measure(setting, folder, _progress(setting))
    return bench_lines.trip_lines(setting, trip) if as_json else bench_lines.trip_words(setting, trip)


def _progress(setting: Setting) -> Callable[[str], None]:
    """Says where a measurement stands that takes a while."""
    large = setting.clients * setting.coordinates > _WORTH_TELLING

    def tell(words: str) -> None:
        if large:
            typer.echo(words, err=True)

    return tell


@contextmanager
def _folder(directory: Path | None) -> Iterator[Path]:
    """A folder for a measurement.

    Raises:
        ConfigError: There is no such folder to make it in.
    """
    from secfed.cli.scratch import scratch_folder
    from secfed.errors import ConfigError

    if directory is not None and not directory.is_dir():
        what = "is no folder" if directory.exists() else "does not exist"
        raise ConfigError(f"{directory} {what}", hint="Name an existing folder with --dir.")
    with scratch_folder("secfed-bench-", directory) as folder:
        yield folder
