"""What `secfed bench` prints: tables for people, or JSON lines, the first with setting and schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from secfed.bench.figures import Figure, as_json
from secfed.cli.tables import table

if TYPE_CHECKING:
    from secfed.bench.cohort import Setting
    from secfed.bench.costs import Bill
    from secfed.bench.dp_step import Steps
    from secfed.bench.roundtrip import RoundTrip
    from secfed.bench.targets import Row

__all__ = [
    "limit_lines", "limit_table", "opening", "step_line", "step_table", "sum_lines", "sum_words",
    "target_line", "target_table", "trip_lines", "trip_words",
]  # fmt: skip

_SCHEMA = 1
"""Of all JSON lines of a command; its first line says so."""

_HEAD = ("SIDE", "STAGE", "CPU ms", "WALL ms", "UP kB", "DOWN kB", "PEAK MiB", "FLOOR ms", "RATIO")

_SHOWN = 0.02
"""Parts are shown to people from this share of their side's cost on; JSON has all."""

_NAMED = 6
"""As many parts of a missed target are named; the others are one sum."""


def opening(facts: Mapping[str, object]) -> str:
    """The first of a command's JSON lines: what is measured."""
    return as_json("setting", {"schema": _SCHEMA, **facts})


# -- a secure sum ------------------------------------------------------------------------------


def sum_lines(bill: Bill) -> Iterator[str]:
    """A JSON line for what was measured, for each stage and part, and for the result."""
    yield opening(_facts(bill.setting))
    yield from (as_json("figure", asdict(figure)) for figure in bill.figures())
    yield as_json(
        "result",
        {
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
            "keystream_gb_s": bill.client.rates.keystream / 1e9,
            "add_gb_s": bill.aggregator.rates.add / 1e9,
        },
    )


def sum_words(bill: Bill) -> Iterator[str]:
    """The same for people."""
    setting = bill.setting
    yield bill.params.in_words()
    if setting.dropouts:
        yield f"lost {setting.dropouts} of {setting.clients} while masking"
    yield _table(_worth_telling(bill.figures()))
    keystream, add = bill.client.rates.keystream / 1e9, bill.aggregator.rates.add / 1e9
    peak, peak_limit = bill.peak_mib, bill.peak_limit_mib
    yield ""
    yield f"limits      {keystream:.1f} GB/s of keystream, {add:.1f} GB/s of additions, in one thread"
    yield f"upload      {bill.upload_bytes:,} bytes of at most {bill.upload_limit_bytes:,}"
    yield f"aggregator  {peak:.0f} MiB above the idle process, of at most {peak_limit:.0f}"
    yield f"exact       {_yes(bill.exact)}: the opened sum of {bill.survivors} vectors, bit for bit"


def trip_lines(setting: Setting, trip: RoundTrip) -> Iterator[str]:
    """The JSON lines of a round over loopback."""
    facts = _facts(setting)
    for name in ("losses", "threads"):  # not that measurement's to choose
        del facts[name]
    yield opening(facts)
    yield from (as_json("figure", asdict(figure)) for figure in trip.figures())
    yield as_json(
        "result",
        {
            "exact": trip.exact,
            "survivors": setting.clients - setting.dropouts,
            "round_s": trip.wall_s,
            "shares": trip.shares(),
            "server_cpu_s_per_gb": trip.cpu_s_per_gb,
            "bare_cpu_s_per_gb": trip.bare.cpu_s_per_gb,
            "ratio": trip.ratio_shown,
            "peak_mib": trip.peak_mib,
            "empty_call_s": trip.empty_call_s,
        },
    )


def trip_words(setting: Setting, trip: RoundTrip) -> Iterator[str]:
    """The same for people."""
    if setting.dropouts:
        yield f"lost {setting.dropouts} of {setting.clients} before their vectors"
    yield _table(_worth_telling(trip.figures()))
    shares = ", ".join(f"{name} {share:.0%}" for name, share in trip.shares().items())
    yield ""
    yield f"round       {trip.wall_s:.2f} s; of a client's time {shares}"
    if trip.ratio_shown is None:
        yield "server      too few bytes for its processor time to be told: name more --coordinates"
    else:
        yield (
            f"server      {trip.cpu_s_per_gb:.2f} CPU s an uploaded GB, "
            f"{trip.ratio_shown:.2f} times a bare stream's {trip.bare.cpu_s_per_gb:.2f}"
        )
    survivors = setting.clients - setting.dropouts
    yield f"exact       {_yes(trip.exact)}: the published sum of {survivors} vectors, to the grid's last step"


def _facts(setting: Setting) -> dict[str, object]:
    return {"fraction_bits" if name == "bits" else name: value for name, value in asdict(setting).items()}


def _worth_telling(figures: Iterable[Figure]) -> list[Figure]:
    """Without the parts that hardly cost anything."""
    from secfed.bench.costs import TOTAL

    found = list(figures)
    whole = {each.side: each.cpu_s or 0.0 for each in found if each.stage == TOTAL}
    return [
        each
        for each in found
        if each.part is None or each.cpu_s is None or each.cpu_s >= _SHOWN * whole[each.side]
    ]


def _table(figures: Iterable[Figure]) -> str:
    return table(_HEAD, map(_cells, figures))


def _cells(figure: Figure) -> tuple[str, ...]:
    name = figure.stage if figure.part is None else f"  {figure.part}"

    def number(value: float | None, factor: float, digits: int) -> str:
        return "" if value is None else f"{factor * value:.{digits}f}"

    return (
        figure.side, name, number(figure.cpu_s, 1e3, 2), number(figure.wall_s, 1e3, 2),
        number(figure.bytes_up, 1e-3, 1), number(figure.bytes_down, 1e-3, 1), number(figure.peak_mib, 1, 1),
        number(figure.floor_s, 1e3, 2), number(figure.ratio, 1, 2),
    )  # fmt: skip


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


# -- limits, steps, targets --------------------------------------------------------------------


def limit_lines(found: Mapping[str, tuple[float, str]]) -> Iterator[str]:
    """A JSON line for each limit of the machine."""
    for name, (value, unit) in found.items():
        yield as_json("limit", {"limit": name, "value": value, "unit": unit})


def limit_table(found: Mapping[str, tuple[float, str]]) -> str:
    """The same for people."""
    rows = ((name, f"{value:9.2f}", unit) for name, (value, unit) in found.items())
    return table(("LIMIT", "ONE THREAD", ""), rows)


def step_line(steps: Steps) -> str:
    """A training step of one model and batch as a JSON line."""
    return as_json("step", asdict(steps))


def step_table(found: Iterable[Steps]) -> str:
    """All of them for people, a row for each kind of step."""
    rows = (
        (steps.model, steps.batch, kind, f"{1e3 * spent:.1f}", f"{steps.each_to_plain[kind]:.3f}")
        for steps in found
        for kind, spent in steps.median_s.items()
    )
    return table(("MODEL", "BATCH", "STEP", "CPU ms", "TO PLAIN"), rows)


def target_line(row: Row) -> str:
    """A target as a JSON line."""
    return as_json("target", asdict(row) | {"met": row.met})


def target_table(rows: Iterable[Row]) -> str:
    """All targets for people, and of what is missed where it goes."""
    ordered = sorted(rows, key=lambda row: row.number)
    cells = (
        (
            row.number, row.target, row.measured, f"{row.ratio:.2f}", f"{row.at_most:.2f}",
            "met" if row.met else "missed",
        )
        for row in ordered
    )  # fmt: skip
    told = [table(("", "TARGET", "MEASURED", "RATIO", "AT MOST", "VERDICT"), cells)]
    missed = [row for row in ordered if row.parts and not row.met]
    if missed:
        told += ["", "What the ratio of a missed target consists of:"]
        told += [f"{row.number}  {row.target}: {_in_words(row.parts)}" for row in missed]
    return "\n".join(told)


def _in_words(parts: Mapping[str, float]) -> str:
    """The largest parts first; the smallest as one."""
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    named, others = ordered[:_NAMED], sum(value for _, value in ordered[_NAMED:])
    words = [f"{name} {value:.2f}" for name, value in named]
    return ", ".join(words + ([f"all else {others:.2f}"] if others else []))
