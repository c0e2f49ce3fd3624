"""`secfed bench`: what a secure sum and a DP step cost here, beside this machine's limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from secfed.bench.cohort import Setting
    from secfed.bench.costs import Bill
    from secfed.bench.figures import Figure
    from secfed.bench.loopback import RoundTrip
    from secfed.bench.targets import Row

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_JSON = typer.Option("--json", help="Print a JSON line for each figure.")
_DIR = typer.Option("--dir", help="An existing folder for uploads; a temporary folder if not given.")

_HEAD = ("SIDE", "STAGE", "CPU ms", "WALL ms", "UP kB", "DOWN kB", "PEAK MiB", "FLOOR ms", "RATIO")

_MODELS = Path("~/.cache/secfed")

_WORTH_TELLING = 20_000_000
"""Coordinates of all members from which on a person may wonder what takes so long."""

_TRAINING = ("torch", "transformers", "peft", "opacus")
"""What a training step is made of."""

_SHOWN = 0.02
"""Parts are shown to people from this share of their side's cost on; JSON has all."""


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
    sum bit for bit. With --grpc the whole round runs over the network, and wall time is split instead.

    FLOOR is what this machine's keystream and additions of the same run allow; short vectors lie far above
    it, because keys, shares and signatures cost the same whatever the length. `until sent` is all that a
    client does before its vector is on its way. Parts are from one more round, which is profiled;
    `masks: ...` splits `masks`.
    """
    from secfed.bench.cohort import Setting
    from secfed.errors import ConfigError

    if grpc and not (threads is None and losses is None and not dropouts):
        raise ConfigError(
            "--grpc measures a round that nobody is lost in, by an aggregator that chooses its threads",
            hint="Leave out --dropouts, --losses and --threads, or measure them without --grpc.",
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
    measured = _over_loopback if grpc else _in_processes
    measured(setting, directory, as_json=as_json)


@app.command(short_help="This machine's limits, in the units that costs are held against.")
def keystream(as_json: Annotated[bool, _JSON] = False) -> None:
    """Time keystreams, additions, key agreement, signatures and sharing: what no protocol here can beat."""
    import json

    from secfed.bench import limits
    from secfed.cli.tables import table

    found = limits.every_limit(limits.TURNS)
    if as_json:
        for name, (value, unit) in found.items():
            typer.echo(json.dumps({"limit": name, "value": round(value, 3), "unit": unit}))
        return
    rows = [(name, f"{value:9.2f}", unit) for name, (value, unit) in found.items()]
    typer.echo(table(("LIMIT", "ONE THREAD", ""), rows))


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
    import json
    from dataclasses import asdict

    from secfed.cli.tables import table

    models = models.expanduser()
    _check_training(models, "")

    from secfed.bench import dp_step as steps

    rows = []
    with _folder(None) as scratch:
        for batch in batches or (16, 64):
            for setting in steps.settings(models, scratch, batch):
                found = steps.measure(setting, micro_batch, repeats)
                if as_json:
                    typer.echo(json.dumps(asdict(found)))
                times = [f"{1e3 * value:.1f}" for value in found.median_s.values()]
                rows.append((found.model, batch, *times, f"{found.to_plain:.3f}", f"{found.to_opacus:.3f}"))
    if not as_json:
        head = (
            "MODEL",
            "BATCH",
            "PLAIN ms",
            "OWN LAYERS ms",
            "OPACUS ms",
            "DP-SGD ms",
            "TO PLAIN",
            "TO OPACUS",
        )
        typer.echo(table(head, rows))


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
    import json
    from dataclasses import asdict

    models = models.expanduser()
    if training:
        _check_training(models, ", or leave the DP step out with --no-training")

    from secfed.bench import targets as wanted

    rows: list[Row] = []
    with _folder(directory) as folder:
        try:
            for row in wanted.measure(
                folder,
                threads=os.cpu_count() or 1,
                thousand=thousand,
                models=models if training else None,
                tell=lambda words: typer.echo(f"measuring {words}", err=True),
            ):
                if as_json:
                    typer.echo(json.dumps(asdict(row) | {"met": row.met}))
                rows.append(row)
        finally:  # what was measured before a failure took minutes
            if rows and not as_json:
                typer.echo(_verdicts(rows))


def _verdicts(rows: list[Row]) -> str:
    from secfed.cli.tables import table

    cells = (
        (
            row.number, row.target, row.measured, f"{row.ratio:.2f}", f"{row.at_most:.2f}",
            "met" if row.met else "missed",
        )
        for row in sorted(rows, key=lambda row: row.number)
    )  # fmt: skip
    return table(("", "TARGET", "MEASURED", "RATIO", "AT MOST", "VERDICT"), cells)


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


# -- a secure sum ------------------------------------------------------------------------------


def _in_processes(setting: Setting, directory: Path | None, *, as_json: bool) -> None:
    from secfed.bench import secure_sum as measured

    with _folder(directory) as folder:
        bill = measured.measure(setting, folder, _progress(setting))
    if as_json:
        _print_lines(_header(setting), list(bill.figures()), _last_line(bill))
        return
    typer.echo(bill.params.in_words())
    if setting.dropouts:
        typer.echo(f"lost {setting.dropouts} of {setting.clients} while masking")
    typer.echo(_stages(bill) + "\n")
    keystream, add = bill.client_rates.keystream / 1e9, bill.aggregator_rates.add / 1e9
    peak, peak_limit = bill.peak_mib, bill.peak_limit_mib
    typer.echo(f"limits      {keystream:.1f} GB/s of keystream, {add:.1f} GB/s of additions, in one thread")
    typer.echo(f"upload      {bill.upload_bytes:,} bytes of at most {bill.upload_limit_bytes:,}")
    typer.echo(f"aggregator  {peak:.0f} MiB above the idle process, of at most {peak_limit:.0f}")
    typer.echo(f"exact       {_yes(bill.exact)}: the opened sum of {bill.survivors} vectors, bit for bit")


def _stages(bill: Bill) -> str:
    from secfed.bench.costs import TOTAL
    from secfed.cli.tables import table

    figures = list(bill.figures())
    whole = {each.side: each.cpu_s or 0.0 for each in figures if each.stage == TOTAL}
    shown = [
        each for each in figures if each.part is None or (each.cpu_s or 0.0) >= _SHOWN * whole[each.side]
    ]
    return table(_HEAD, map(_cells, shown))


def _cells(figure: Figure) -> tuple[str, ...]:
    name = figure.stage if figure.part is None else f"  {figure.part}"

    def number(value: float | None, factor: float, digits: int) -> str:
        return "" if value is None else f"{factor * value:.{digits}f}"

    return (
        figure.side, name, number(figure.cpu_s, 1e3, 2), number(figure.wall_s, 1e3, 2),
        number(figure.bytes_up, 1e-3, 1), number(figure.bytes_down, 1e-3, 1), number(figure.peak_mib, 1, 1),
        number(figure.floor_s, 1e3, 2), number(figure.ratio, 1, 2),
    )  # fmt: skip


def _last_line(bill: Bill) -> dict[str, object]:
    return {
        "exact": bill.exact,
        "survivors": bill.survivors,
        "neighbours": bill.params.neighbours,
        "threshold": bill.params.threshold,
        "quorum": bill.params.quorum,
        "client_ratio": bill.client_ratio,
        "client_kernel_ratio": bill.client_kernel_ratio,
        "aggregator_ratio": bill.aggregator_ratio,
        "upload_bytes": bill.upload_bytes,
        "upload_limit_bytes": bill.upload_limit_bytes,
        "peak_mib": bill.peak_mib,
        "peak_limit_mib": bill.peak_limit_mib,
        "keystream_gb_s": bill.client_rates.keystream / 1e9,
        "add_gb_s": bill.aggregator_rates.add / 1e9,
    }


# -- over loopback -----------------------------------------------------------------------------


def _over_loopback(setting: Setting, directory: Path | None, *, as_json: bool) -> None:
    from secfed.bench import loopback
    from secfed.cli.tables import table

    with _folder(directory) as folder:
        trip = loopback.measure(setting, folder, _progress(setting))
    figures = list(trip.figures())
    if as_json:
        header = _header(setting)
        for name in ("dropouts", "losses", "threads"):  # not this command's to choose
            del header[name]
        _print_lines(header, figures, _last_of_trip(trip))
        return
    shares = ", ".join(f"{name} {share:.0%}" for name, share in trip.shares().items())
    server, bare = trip.cpu_s_per_gb, trip.bare.cpu_s_per_gb
    typer.echo(table(_HEAD, map(_cells, figures)))
    typer.echo(f"\nround       {trip.wall_s:.2f} s; of a client's time {shares}")
    if trip.ratio_shown is None:
        typer.echo("server      too few bytes for its processor time to be told: name more --coordinates")
    else:
        typer.echo(
            f"server      {server:.2f} CPU s an uploaded GB, "
            f"{trip.ratio_shown:.2f} times a bare stream's {bare:.2f}"
        )
    typer.echo(f"exact       {_yes(trip.exact)}: the published sum, to the last step of the grid")


def _last_of_trip(trip: RoundTrip) -> dict[str, object]:
    return {
        "exact": trip.exact,
        "round_s": trip.wall_s,
        "shares": trip.shares(),
        "server_cpu_s_per_gb": trip.cpu_s_per_gb,
        "bare_cpu_s_per_gb": trip.bare.cpu_s_per_gb,
        "ratio": trip.ratio_shown,
        "peak_mib": trip.peak_mib,
        "empty_call_s": trip.empty_call_s,
    }


# -- what they share ---------------------------------------------------------------------------


def _header(setting: Setting) -> dict[str, object]:
    from dataclasses import asdict

    return {"fraction_bits" if name == "bits" else name: value for name, value in asdict(setting).items()}


def _print_lines(header: dict[str, object], figures: list[Figure], last: dict[str, object]) -> None:
    from secfed.bench.figures import as_json

    typer.echo(as_json({"kind": "setting", "schema": 1} | header))
    for figure in figures:
        typer.echo(as_json(figure))
    typer.echo(as_json({"kind": "result"} | last))


def _progress(setting: Setting) -> Callable[[str], None]:
    """Says where a measurement stands that takes a while."""
    large = setting.clients * setting.coordinates > _WORTH_TELLING

    def tell(words: str) -> None:
        if large:
            typer.echo(words, err=True)

    return tell


@contextmanager
def _folder(directory: Path | None) -> Iterator[Path]:
    """A folder of its own, removed at the end, which SIGTERM brings about as Ctrl-C does.

    Raises:
        ConfigError: There is no such folder to make it in.
    """
    import signal
    import tempfile

    from secfed.errors import ConfigError

    if directory is not None and not directory.is_dir():
        what = "is no folder" if directory.exists() else "does not exist"
        raise ConfigError(f"{directory} {what}", hint="Name an existing folder with --dir.")
    former = signal.signal(signal.SIGTERM, _stop)
    try:
        with tempfile.TemporaryDirectory(prefix="secfed-bench-", dir=directory) as name:
            yield Path(name)
    finally:
        signal.signal(signal.SIGTERM, former)


def _stop(number: int, _frame: FrameType | None) -> None:
    """SIGTERM: the daemon and the folder with its keys would outlive the command otherwise."""
    import signal

    signal.signal(number, signal.SIG_IGN)  # a second one would cut the clearing away short
    raise KeyboardInterrupt


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
