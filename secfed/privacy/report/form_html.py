"""The account as one self-contained HTML page: no script, no request, plots as inline SVG.

The template beside this module lays the document out; it reads on a phone, in the dark, and on A4.
jinja2 escapes all text; only the plots, made here, are put in as they are. Loads jinja2 and matplotlib
when a page is written.
"""

from __future__ import annotations

from importlib import resources

from secfed.privacy.report.document import Facts, Items, Plot, Section, Table, document
from secfed.privacy.report.lines import Report
from secfed.privacy.report.site_words import headline

__all__ = ["BYTES_MAX", "to_html"]

BYTES_MAX = 1_000_000
"""A page is never longer: it must open on a phone and go through any mail."""

_ROWS_MAX = 3000
"""Most rows of rounds on a page: about 400 kB, and more than anybody reads there."""

_PLOTTED_SITES_MAX = 8
"""With more sites each has its row and its bar, and no plots of its own."""

_TEMPLATE = "page.html.j2"


def to_html(report: Report) -> str:
    """The report as a page."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from secfed.privacy.report import plots as drawn

    sections = document(report, rows_max=_ROWS_MAX)
    plots: dict[Plot, Markup] = {}
    for plot in _shown(sections, plotted=len(report.sites) <= _PLOTTED_SITES_MAX):
        plots[plot] = Markup(drawn.svg(plot, f"plot{len(plots) + 1}"))  # noqa: S704 - made here
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("secfed.privacy.report").joinpath(_TEMPLATE).read_text("utf-8")
    return environment.from_string(source).render(
        report=report,
        sections=sections,
        plots=plots,
        captions=drawn.CAPTIONS,
        headline=headline,
        kind_of=_kind,
    )


def _shown(sections: tuple[Section, ...], *, plotted: bool) -> list[Plot]:
    found = [block for section in sections for block in section.blocks if isinstance(block, Plot)]
    return [plot for plot in found if plotted or plot.kind == "sites"]


def _kind(block: object) -> str:
    """What the template tells blocks apart by."""
    kinds = {Facts: "facts", Items: "items", Table: "table", Plot: "plot"}
    return kinds[type(block)]
