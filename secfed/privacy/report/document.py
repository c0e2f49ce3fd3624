"""The account as a document: sections of facts, tables and plots, in an order made for a reader.

What is said, and in which words, is settled here once; `form_text`, `form_md` and `form_html`
only lay it out. Every number is one of `form_json`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from secfed.privacy.report import site_words, words
from secfed.privacy.report.lines import Report, SiteReport

__all__ = ["Block", "Facts", "Items", "Plot", "Section", "Table", "at_even_distances", "document"]


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Facts:
    """Questions and their answers: each a short label and a text."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under column names; `left` names the columns that are words, not numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[str]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Items:
    """A list under a sentence."""

    title: str
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """Where a form that can draw shows a plot: `rounds` or `deltas` of a site, or `sites` of all."""

    kind: str
    sites: tuple[SiteReport, ...]


Block = Facts | Table | Items | Plot


@dataclass(frozen=True, slots=True)
class Section:
    """A title and what stands under it; the first section is the summary, those of a site name it."""

    title: str
    blocks: tuple[Block, ...]
    site: SiteReport | None = None


def document(report: Report, *, rows_max: int | None = None) -> tuple[Section, ...]:
    """All sections of an account.

    Args:
        rows_max: Most rows of rounds in all; where there are more, rows at even distances are shown and the
            table says so. None for all rows.
    """
    share = None if rows_max is None else max(2, rows_max // len(report.sites))
    return (
        Section("Privacy account", _summary(report)),
        *(Section(f"Site {site.site}", _site(site, share), site) for site in report.sites),
        *(Section("How noise is added", (Facts(rows),)) for rows in (words.training(report),) if rows),
        Section("Who could learn what", (Facts(words.adversaries(report)), Facts(words.masking()))),
        Section("Not covered by any figure here", (Items("", words.NOT_COVERED),)),
        Section("How to read the tables", (Facts(words.COLUMNS),)),
        Section("How this account was made", (Facts(words.made(report)),)),
    )


def _summary(report: Report) -> tuple[Block, ...]:
    facts = Facts((("Made", report.created), ("Spent", words.spent_in_all(report))))
    if len(report.sites) == 1:
        return (facts,)
    header = ("site", "ledger", "epsilon", "gate", "cap", "remaining", "delta", "charges")
    rows = tuple(
        (
            site.site,
            site.opening.ledger[:8],
            words.at_least(site.epsilon, sound=site.sound),
            words.at_least(site.filter_spent, sound=site.sound),
            words.figure(site.cap),
            words.figure(site.remaining),
            "-" if site.delta is None else words.decimal(site.delta),
            str(sum(job.charges for job in site.jobs)),
        )
        for site in report.sites
    )
    table = Table("All ledgers side by side", header, rows, frozenset({"site", "ledger"}), _caveat(report))
    return (facts, Plot("sites", report.sites), table)


def _caveat(report: Report) -> str:
    """Under which sites' figures stands a condition, or nothing at all."""
    damaged = ", ".join(site.site for site in report.sites if not site.sound)
    said = ", ".join(site.site for site in report.sites if site.sound and site.declared)
    notes = (
        f"{damaged}: {words.DAMAGED}." if damaged else "",
        f"The figures of {said} hold {words.AS_DECLARED}." if said else "",
    )
    return " ".join(filter(None, notes))


def _site(site: SiteReport, rows_max: int | None) -> tuple[Block, ...]:
    blocks: list[Block] = [Facts(site_words.outcome(site))]
    if site.rounds and site.delta is not None and site.sound:
        blocks.append(Plot("rounds", (site,)))
        blocks.append(Plot("deltas", (site,)))
    blocks.append(Facts(site_words.promise(site)))
    if site.jobs:
        blocks.append(_jobs(site))
    blocks.append(Facts(site_words.practice(site)))
    if site.rounds:
        blocks.append(_rounds(site, rows_max))
    return tuple(blocks)


def _jobs(site: SiteReport) -> Table:
    header = ("job", "plan", "mechanism", "q", "sigma", "steps", "charges", "epsilon")
    note = "" if site.sound else _CUT_OFF
    rows = []
    for job in site.jobs:
        plans = " ".join(plan.hex()[:12] for plan in job.plans)
        for place, (event, count) in enumerate(job.events):
            kind, q, sigma, steps = site_words.mechanism(event)
            total = words.epsilon(job.epsilon) if place == 0 else ""
            rows.append((job.job, plans, kind, q, sigma, steps, str(count), total))
        if not job.events:
            rows.append((job.job, plans, "nothing that counts", "-", "-", "-", "0", "0.000"))
    return Table("Jobs", header, tuple(rows), frozenset({"job", "plan", "mechanism"}), note)


ROUND_HEADER = (
    "job", "round", "date", "q", "sigma", "steps", "epsilon", "so far", "gate", "remaining", "state",
)  # fmt: skip

_LEFT_OUT = (
    "{} of {} charges are shown, at even distances; the same account as text, CSV or JSON has all of them."
)

_CUT_OFF = "The ledger is damaged: whatever was charged after these cannot be read, and counts all the same."


def _rounds(site: SiteReport, rows_max: int | None) -> Table:
    shown, left_out = at_even_distances(site.rounds, rows_max)
    note = _LEFT_OUT.format(len(shown), len(site.rounds)) if left_out else ""
    if not site.sound:
        note = f"{note} {_CUT_OFF}".lstrip()
    rows = tuple(
        (
            line.job,
            str(line.round),
            line.at[:10],
            words.rate(line.q),
            line.noise_multiplier or "-",
            "-" if line.steps is None else str(line.steps),
            words.epsilon(line.epsilon_round),
            words.total(line.epsilon_so_far) if line.exact else f"<= {words.total(line.epsilon_so_far)}",
            words.total(line.filter_so_far),
            words.figure(line.remaining),
            site_words.state(line),
        )
        for line in shown
    )
    return Table("Every charge to this data set", ROUND_HEADER, rows, frozenset({"job", "state"}), note)


def at_even_distances(lines: Sequence[T], rows_max: int | None) -> tuple[Sequence[T], bool]:
    """At most so many (2 or more), the first and the last among them; and whether any were left out."""
    if rows_max is None or len(lines) <= rows_max:
        return lines, False
    places = {round(place * (len(lines) - 1) / (rows_max - 1)) for place in range(rows_max)}
    return [lines[place] for place in sorted(places)], True
