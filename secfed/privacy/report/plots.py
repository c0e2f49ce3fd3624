"""The plots of an account as inline SVG: small, the same at every run, in the page's own colours.

matplotlib lays them out; its SVG is then fitted into a page that holds several: ids are made unique,
colours become the page's variables (so that they follow a dark page and a printer), text stays text in
the page's font, and neither a date nor a font is embedded. matplotlib is loaded when a plot is drawn.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from secfed.privacy.report import words
from secfed.privacy.report.document import Plot, at_even_distances
from secfed.privacy.report.lines import SiteReport

__all__ = ["CAPTIONS", "svg"]

CAPTIONS = {
    "rounds": "What was spent after each charge, against the cap",
    "deltas": "What was spent, stated at other deltas",
    "sites": "What each ledger spent by the gate's count, against its cap",
}

_POINTS_MAX = 200
"""Most points of a line: more than a screen shows."""

_STEPS_MAX = 40
"""So many charges are drawn as a line, fewer as stairs."""

_INK, _FAINT, _CLAIM, _GATE, _CAP = "#010101", "#020202", "#030303", "#040404", "#050505"
"""Stand-ins that matplotlib writes down, each for one of the page's colours."""

_VARIABLES = {_INK: "--ink", _FAINT: "--faint", _CLAIM: "--claim", _GATE: "--gate", _CAP: "--cap"}

_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "secfed",
    "font.size": 10,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.5,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.unicode_minus": False,
}

_SIZE = (4.6, 2.7)
"""Inches: as wide as a phone shows without shrinking the text much."""


def svg(plot: Plot, name: str) -> str:
    """One plot as an `<svg>` element for a page.

    Args:
        name: Letters and digits, another for each plot of the page: its ids begin with it.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**mpl.rcParamsDefault, **_SETTINGS}):
        size = (_SIZE[0], 0.95 + 0.24 * len(plot.sites)) if plot.kind == "sites" else _SIZE
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        match plot.kind:
            case "rounds":
                said = _rounds(axes, plot.sites[0])
            case "deltas":
                said = _deltas(axes, plot.sites[0])
            case _:
                said = _sites(axes, plot.sites)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(_NO_METADATA))
    return _fitted(out.getvalue(), name, said)


_NO_METADATA = ("Creator", "Date", "Format", "Type")


# -- what is drawn; each says it in words, for whoever does not see it ---------------------------


def _rounds(axes: Any, site: SiteReport) -> str:
    lines = site.rounds
    places, _ = at_even_distances(range(len(lines)), _POINTS_MAX)
    charges = [float(place + 1) for place in places]
    claim = [lines[place].epsilon_so_far for place in places]
    gate = [lines[place].filter_so_far for place in places]
    gate_is = "gate: holds as far as declared" if site.declared else "gate: holds in any case"
    drawn: dict[str, Any] = {"linewidth": 1.8}
    if len(lines) < _STEPS_MAX:  # each charge is a tread around its number, the last one too
        drawn["drawstyle"] = "steps-post"
        charges = [charge - 0.5 for charge in charges] + [len(lines) + 0.5] * bool(lines)
        gate, claim = gate + gate[-1:], claim + claim[-1:]
    axes.plot(*_finite(charges, gate), color=_GATE, label=gate_is, **drawn)
    axes.plot(*_finite(charges, claim), color=_CLAIM, linestyle="--", label="by fixed plans", **drawn)
    cap = site.cap or 0.0
    axes.axhline(cap, color=_CAP, linewidth=1.2, linestyle=":", label="cap")
    axes.set_xlabel("charges to this data set")
    axes.set_ylabel("epsilon")
    width = max(1, len(lines))
    axes.set_xlim(0.5 - 0.02 * width, width + 0.5 + 0.02 * width)
    axes.set_ylim(0, 1.08 * max([cap, *(value for value in gate if math.isfinite(value))]))
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.figure.legend(loc="outside upper left", ncols=3, handlelength=1.6, columnspacing=1.0)
    return (
        f"After {len(lines)} charges the gate counts epsilon {words.total(site.filter_spent)}, by fixed "
        f"plans {words.total(site.epsilon)} was spent; the cap is {words.figure(site.cap)}."
    )


def _deltas(axes: Any, site: SiteReport) -> str:
    deltas, values = zip(*site.curve, strict=True)
    axes.plot(*_finite(deltas, values), "o-", color=_CLAIM, linewidth=1.8, markersize=4)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xlabel("delta: chance that the figure may fail")
    axes.set_ylabel("epsilon")
    axes.set_ylim(0, 1.15 * max([1e-3, *(value for value in values if math.isfinite(value))]))
    axes.set_xticks(deltas, [f"{delta:.0e}" for delta in deltas])
    axes.minorticks_off()
    said = ", ".join(f"{words.total(value)} at {delta:.0e}" for delta, value in site.curve)
    return f"Epsilon by fixed plans: {said}."


def _sites(axes: Any, sites: Sequence[SiteReport]) -> str:
    rows = range(len(sites))
    spent = [site.filter_spent if math.isfinite(site.filter_spent) else 0.0 for site in sites]
    axes.barh(rows, spent, height=0.55, color=_GATE, label="spent, by the gate's count")
    capped = [(place, site.cap) for place, site in enumerate(sites) if site.cap is not None]
    axes.plot(
        [cap for _, cap in capped],
        [place for place, _ in capped],
        "|",
        color=_CAP,
        markersize=13,
        markeredgewidth=2,
        label="cap",
    )
    widest = max([1e-3, *spent, *(cap for _, cap in capped)])
    for place, site in enumerate(sites):
        axes.annotate(
            words.at_least(site.filter_spent, sound=site.sound),
            (spent[place], place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_xlim(0, 1.18 * widest)
    axes.set_yticks(rows, [site.site for site in sites])
    axes.set_ylim(len(sites) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("epsilon")
    axes.figure.legend(loc="outside upper left", ncols=2, handlelength=1.4)
    said = ", ".join(
        f"{site.site} {words.at_least(site.filter_spent, sound=site.sound)} of {words.figure(site.cap)}"
        for site in sites
    )
    return f"Spent by the gate's count, of the cap: {said}."


def _finite(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """The points that can be drawn: a figure that is infinite ends the line."""
    kept = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
    return [a for a, _ in kept], [b for _, b in kept]


# -- into the page -------------------------------------------------------------------------------


def _fitted(drawn: str, name: str, said: str) -> str:
    """The `<svg>` element alone, with unique ids, the page's colours and font, and a title."""
    text = drawn[drawn.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"font-family:[^;\"]*;?|font: ([0-9.]+px)[^;\"]*", _font, text)
    width, height = re.findall(r'(?:width|height)="([0-9.]+)pt"', text)[:2]
    text = re.sub(
        r"<svg[^>]*>",
        f'<svg viewBox="0 0 {width} {height}" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-labelledby="{name}-said"><title id="{name}-said">{html.escape(said)}</title>',
        text,
        count=1,
    )
    text = re.sub(r'(?<= (?:d|x|y)=")[^"]*', _shorter, text)
    return re.sub(r">\s+<", "><", text).strip()


def _shorter(found: re.Match[str]) -> str:
    """Coordinates to a hundredth of a point."""
    return re.sub(r"\s+", " ", re.sub(r"(\.\d\d)\d+", r"\1", found[0])).strip()


def _font(found: re.Match[str]) -> str:
    return f"font-size: {found[1]}" if found[1] else ""
