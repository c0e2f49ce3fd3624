"""How the cost of a secure sum grows, as two SVG files: one for light pages, one for dark ones.

    python examples/cost/plot.py [--figures figures.jsonl] [--out FOLDER]

Solid lines are measured processor seconds, dashed ones the floor: what this machine's best keystream
and additions of the same run allow. Both axes are logarithmic, so a straight line of slope one costs in
proportion to what it is drawn over.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator, StrMethodFormatter

HERE = Path(__file__).parent

Record = dict[str, Any]


@dataclass(frozen=True)
class Theme:
    """Colours of a page; the lines' are told apart without red and green, and by their markers."""

    name: str
    page: str
    ink: str
    grid: str
    lines: tuple[str, str, str]


THEMES = (
    Theme("light", "#ffffff", "#1f2328", "#d0d7de", ("#0072b2", "#b85c00", "#7a3b96")),
    Theme("dark", "#0d1117", "#e6edf3", "#30363d", ("#58b4f0", "#f0a355", "#cf9bea")),
)
MARKERS = ("o", "s", "^")

TICKS = (5, 10, 20, 50, 100, 200, 500, 1000)
"""Of members and neighbours."""

FAR = 0.05
"""A share of members that is further from a line's is not drawn on it."""

ROOM = 10
"""How many times the highest value is left free above the lines, for their names."""


def draw(records: list[Record], theme: Theme) -> Figure:
    """Four panels: a client above, the aggregator below."""
    figure = Figure(figsize=(9.6, 7.4), facecolor=theme.page, layout="constrained")
    FigureCanvasSVG(figure)
    (client_d, client_k), (sum_n, sum_d) = figure.subplots(2, 2)
    ten, few = [r for r in records if r["clients"] == 10], [r for r in records if r["coordinates"] == 100_000]
    whole = [r for r in records if not r["dropouts"]]
    panel(client_d, theme, "A client, 10 members", "coordinates d", "coordinates", "client",
          {"nobody lost": [r for r in ten if not r["dropouts"]]})  # fmt: skip
    near = [r for r in whole if r["neighbours"] == r["clients"] - 1]
    sizes = {"d = 100 000": 100_000, "d = 1 000 000": 1_000_000}
    lines = {name: [r for r in near if r["coordinates"] == size] for name, size in sizes.items()}
    ring = [r for r in whole if r["neighbours"] < r["clients"] - 1]
    panel(client_k, theme, "A client, by its neighbours", "neighbours k", "neighbours", "client",
          lines | ({"d = 100 000, of 200 and 400 on a ring": ring} if ring else {}))  # fmt: skip
    panel(
        sum_n, theme, "The aggregator's sum, d = 100 000", "members n", "clients", "aggregator", by_share(few)
    )
    panel(sum_d, theme, "The aggregator's sum, 10 members", "coordinates d", "coordinates", "aggregator",
          by_share(ten))  # fmt: skip
    figure.suptitle("What a secure sum costs: measured (solid) and this machine's floor (dashed)",
                    color=theme.ink, fontsize=13)  # fmt: skip
    return figure


def by_share(records: list[Record]) -> dict[str, list[Record]]:
    """Records by the share of members that were lost.

    Of very few members nobody can lose a tenth: where one member is far more, the record is on no line.
    """
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if abs(record["dropouts"] / record["clients"] - record["case"][2]) > FAR:
            continue
        found[f"{record['case'][2]:.0%} lost"].append(record)
    return dict(sorted(found.items(), key=lambda item: item[1][0]["case"][2]))


def panel(
    axes: Axes, theme: Theme, title: str, label: str, over: str, side: str, lines: dict[str, list[Record]]
) -> None:
    """One side's processor seconds over one quantity."""
    legend = []
    for (name, records), colour, marker in zip(lines.items(), theme.lines, MARKERS, strict=False):
        ordered = sorted(records, key=lambda record: record[over])
        places = [record[over] for record in ordered]
        axes.plot(places, [r[f"{side}_s"] for r in ordered], color=colour, marker=marker, markersize=4)
        axes.plot(places, [r[f"{side}_floor_s"] for r in ordered], color=colour, linestyle=(0, (4, 3)))
        legend.append(Line2D([], [], color=colour, marker=marker, markersize=4, label=name))
    axes.set(xscale="log", yscale="log", facecolor=theme.page)
    axes.set_ylim(top=axes.get_ylim()[1] * ROOM)
    if over != "coordinates":
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(title, color=theme.ink, fontsize=11)
    axes.set_xlabel(f"{label} (log)", color=theme.ink)
    axes.set_ylabel("processor seconds (log)", color=theme.ink)
    axes.tick_params(which="both", colors=theme.ink, labelsize=9)
    axes.grid(which="major", color=theme.grid, linewidth=0.6)
    for spine in axes.spines.values():
        spine.set_color(theme.grid)
    shown = axes.legend(handles=legend, loc="upper left", frameon=False, fontsize=9)
    for text in shown.get_texts():
        text.set_color(theme.ink)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figures", type=Path, default=HERE / "figures.jsonl")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    if not options.figures.exists():
        sys.exit("no figures yet: run measure.py first")
    records = [json.loads(line) for line in options.figures.read_text(encoding="utf-8").splitlines()]
    settings = {"svg.fonttype": "none", "svg.hashsalt": "secfed", "font.family": "sans-serif"}
    for theme in THEMES:
        path = options.out / f"cost-{theme.name}.svg"
        with mpl.rc_context(settings):
            draw(records, theme).savefig(
                path,
                format="svg",
                facecolor=theme.page,
                metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
            )
        print(path)


if __name__ == "__main__":
    main()
