"""The account as plain text, for a data-protection officer: words first, then the table.

Every number is one of `report.to_json`. Lines are at most `WIDTH` wide, and nothing but letters,
digits and punctuation is printed, so the text survives a mail, a terminal and a printer.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

from secfed.privacy.report import Report, RoundLine, SiteReport

__all__ = ["WIDTH", "to_text"]

WIDTH = 100
"""Widest line, in characters."""

_LABEL = 16
"""Width of the left column of facts."""

_NAME_MIN = 8
"""A job's name is never shortened below this, even if a line then grows too wide."""

_NOT_PRIVATE = "not private"

_NOISE = (
    "The noise is added at the site before anything leaves it, so the figure holds against everybody: "
    "whoever uses the published model, the aggregator, and the other sites, also together."
)

_SEVERAL_PLANS = ". Several plans were charged: this figure is a claim only if all of them"
_ONE_PLAN = ". This figure is a claim only if the plan and its number of rounds"

_IN_ANY_CASE = (
    " were fixed before the first result was seen, and carried out to their end. In any case epsilon {:.3f} "
    "holds, which is what the gate counts"
)

_NO_NOISE = (
    "A release that is not private carries no noise: whoever sees the published sum may learn something "
    "about single records, and no figure bounds it."
)

_MASKING = (
    "Masking adds that nobody sees one site's update alone, as long as the members behave as the "
    "protocol's trust statement says; it is no part of the figure and does not lower it."
)

_NOT_COVERED = (
    "the data that the public base model was trained on before",
    "persons who are mentioned in a record that belongs to somebody else",
    "that the site took part at all, when, and how long its training took",
    "measuring, choosing settings or stopping early on private data, unless it is charged above",
    "releases that were made outside of this ledger",
)


def to_text(report: Report) -> str:
    """The report as text, ended by a newline."""
    parts = [_title("Privacy account", "="), _federation(report)]
    parts += [_site(site) for site in report.sites]
    parts.append(_closing(report))
    return "\n".join(parts)


def _federation(report: Report) -> str:
    lines = _fact("Made", report.created)
    if math.isinf(report.epsilon):
        what = f"{_NOT_PRIVATE}: at least one release had no privacy bound, so epsilon is infinite"
    elif report.delta is None:
        what = "nothing was released"
    else:
        what = f"epsilon {report.epsilon:.3f} at delta {_delta(report.delta)}"
        what += f" (in any case {report.filter_spent:.3f})"
    if len(report.sites) == 1:
        return lines + _fact("Spent", what)
    several = (
        f"{what}. This is the largest of {len(report.sites)} sites. It holds for whoever's data lie at "
        "one of them; somebody with data at several sites has at most the sum of their figures."
    )
    return lines + _fact("Spent", several)


def _site(site: SiteReport) -> str:
    opening, budget, figure = site.opening, site.opening.budget, site.figure
    text = _title(f"Site {opening.site}", "-")
    text += _fact("Ledger", _chain(site))
    text += _fact("Protected", _promise(site))
    if budget is None or figure is None:
        text += _fact("Budget", "none: a scratch ledger, which takes releases without any privacy bound")
    elif math.isinf(site.epsilon):
        text += _fact("Spent", f"{_NOT_PRIVATE}: a release had no privacy bound, so epsilon is infinite")
        text += _fact("Budget", f"epsilon {float(budget.epsilon):.3f}; exceeded, nothing remains")
    else:
        text += _fact(
            "Spent",
            f"epsilon {site.epsilon:.3f} at delta {_delta(figure.delta)}, by {figure.accountant} "
            f"({figure.accountant_version}); cross-check by Renyi bound {figure.epsilon_rdp:.3f}"
            + (_ONE_PLAN if site.one_plan else _SEVERAL_PLANS)
            + _IN_ANY_CASE.format(site.filter_spent),
        )
        text += _fact(
            "Budget",
            f"epsilon {float(budget.epsilon):.3f}; of it the gate counts {site.filter_spent:.3f} and leaves "
            f"{site.remaining:.3f}. The gate counts more than was spent, because it must stay right whatever "
            "is decided after results were seen.",
        )
        chance = 1.0 if site.chance is None else site.chance
        text += _fact(
            "In plain words",
            "By the figure that holds in any case, somebody who sees all that was released and guesses "
            f"whether one given {opening.unit} was in the data is right in at most {100 * chance:.1f} of 100 "
            "cases; a blind guess is right in 50.",
        )
        curve = ", ".join(f"{delta:.0e}: {value:.3f}" for delta, value in site.curve)
        text += _fact("Other deltas", f"{curve} (of what was spent, under the same condition)")
    if site.jobs:
        text += "\n" + _table(
            ("job", "charges", "epsilon"),
            [(line.job, str(line.charges), _epsilon(line.epsilon)) for line in site.jobs],
        )
    if site.rounds:
        text += "\n" + _table(_HEADER, [_row(line) for line in site.rounds])
    return text


_HEADER = ("job", "round", "q", "sigma", "steps", "epsilon", "so far", "gate", "remaining", "state")


def _row(line: RoundLine) -> tuple[str, ...]:
    so_far = _total(line.epsilon_so_far)
    return (
        line.job,
        str(line.round),
        "-" if line.q is None else f"{line.q:.4g}",
        line.noise_multiplier or "-",
        "-" if line.steps is None else str(line.steps),
        _epsilon(line.epsilon_round),
        so_far if line.exact else f"<= {so_far}",
        _total(line.filter_so_far),
        "-" if line.remaining is None else f"{line.remaining:.3f}",
        line.state if line.attempts < 2 else f"{line.state} ({line.attempts}x)",
    )


def _closing(report: Report) -> str:
    text = _title("How to read this", "-")
    text += _fact("Who is kept out", f"{_NO_NOISE if math.isinf(report.epsilon) else _NOISE} {_MASKING}")
    text += _fact(
        "The columns",
        "epsilon: of this round alone. so far: of all charges up to it, by PLD for events fixed in advance "
        "('<=' marks a bound). gate: what counts against the cap. remaining: cap less gate. A charge counts "
        "once it is reserved, sent or not; void ones do not, because nothing left the site. Sending the "
        "same contribution again under fresh masks costs nothing.",
    )
    text += "Not covered by any figure here:\n"
    text += "".join(
        textwrap.fill(item, WIDTH, initial_indent="  - ", subsequent_indent="    ") + "\n"
        for item in _NOT_COVERED
    )
    return text + _fact("Recompute with", report.recompute)


def _chain(site: SiteReport) -> str:
    chain = site.chain
    if chain.fault is not None:
        return f"DAMAGED: {chain.fault}. Only the {chain.entries} entries before that are shown here."
    compared = (
        "and compared with a head that is known elsewhere"
        if chain.compared
        else "but not compared with a head that is known elsewhere, so entries cut off its end would not be "
        "seen"
    )
    torn = (
        f" A last line of {chain.torn_bytes} bytes, cut short by a crash, does not count."
        if chain.torn_bytes
        else ""
    )
    return f"sound: {chain.entries} entries, chained and signed, {compared}. Head {chain.head[:16]}.{torn}"


def _promise(site: SiteReport) -> str:
    opening = site.opening
    if opening.budget is None or math.isinf(site.epsilon):
        return "nothing, as long as a release without any privacy bound counts here"
    what = f"the presence of one {opening.unit}"
    if opening.unit == "person":
        what += f", with at most {opening.records_per_unit} records"
    if opening.relation == "add-remove":
        return f"{what}: data with and without it look alike (relation add-remove)"
    return f"{what}: data in which it is exchanged for another look alike (relation replace-one)"


def _delta(delta: float) -> str:
    return f"{delta:.12f}".rstrip("0")


def _epsilon(value: float) -> str:
    return _NOT_PRIVATE if math.isinf(value) else f"{value:.3f}"


def _total(value: float) -> str:
    return "infinite" if math.isinf(value) else f"{value:.3f}"


def _title(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


def _fact(label: str, text: str) -> str:
    """A label and its text, wrapped into the right column."""
    first = f"{label:<{_LABEL}}"
    filled = textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=" " * _LABEL, break_on_hyphens=False
    )
    return filled + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as needed, the first as wide as is left: text to the left, numbers to the right."""
    cells = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    spare = WIDTH - sum(widths[1:]) - 2 * len(widths[1:])
    widths[0] = max(_NAME_MIN, min(widths[0], spare))
    cells = [(_shortened(row[0], widths[0]), *row[1:]) for row in cells]
    left = {column for column, name in enumerate(header) if name in ("job", "state")}
    lines = []
    for row in cells:
        padded = (
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines) + "\n"


def _shortened(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 2] + ".."
