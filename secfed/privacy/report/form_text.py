"""The account as plain text, for a data-protection officer: words first, then the tables.

Every number is one of `form_json`'s. Lines are at most `WIDTH` wide, and nothing but plain letters,
digits and punctuation is printed, so the text survives a mail, a terminal and a printer.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from secfed.privacy.report.document import Block, Facts, Items, Table, document
from secfed.privacy.report.lines import Report

__all__ = ["WIDTH", "to_text"]

WIDTH = 100
"""Widest line, in characters."""

_LABEL = 21
"""Width of the left column of facts."""

_NAME_MIN = 8
"""A job's name is never shortened below this, even if a line then grows too wide."""

_TOO_WIDE = frozenset({"date", "plan"})
"""Columns for which a line of text has no room."""


def to_text(report: Report) -> str:
    """The report as text, ended by a newline."""
    parts = []
    for place, section in enumerate(document(report)):
        line = "-" if place else "="
        blocks = "\n".join(text for block in section.blocks if (text := _block(block)))
        parts.append(f"{section.title}\n{line * len(section.title)}\n{blocks}")
    return "\n".join(parts).encode("ascii", "backslashreplace").decode("ascii")


def _block(block: Block) -> str:
    match block:
        case Facts():
            return "".join(_fact(label, text) for label, text in block.rows)
        case Items():
            return "".join(
                textwrap.fill(item, WIDTH, initial_indent="  - ", subsequent_indent="    ") + "\n"
                for item in block.items
            )
        case Table():
            return _table(block)
        case _:
            return ""  # text draws no plots; their numbers stand in the facts and tables


def _fact(label: str, text: str) -> str:
    """A label and its text, wrapped into the right column; a longer label has a line of its own."""
    first = f"{label:<{_LABEL}}" if len(label) < _LABEL else f"{label}\n{'':<{_LABEL}}"
    filled = textwrap.fill(
        text,
        WIDTH,
        initial_indent=" " * _LABEL,
        subsequent_indent=" " * _LABEL,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return f"{first}{filled[_LABEL:]}\n"


def _table(table: Table) -> str:
    """Columns as wide as needed, the first as wide as is left: words to the left, numbers to the right."""
    kept = [place for place, name in enumerate(table.header) if name not in _TOO_WIDE]
    header = [table.header[place] for place in kept]
    cells = [header, *([row[place] for place in kept] for row in table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    spare = WIDTH - sum(widths[1:]) - 2 * len(widths[1:])
    widths[0] = max(_NAME_MIN, min(widths[0], spare))
    lines = [_row(row, header, widths, table.left) for row in cells]
    lines.insert(1, "-" * max(map(len, lines)))
    lines += textwrap.wrap(f"({table.note})", WIDTH) if table.note else []
    return f"{table.title}:\n" + "\n".join(lines) + "\n"


def _row(cells: Sequence[str], header: Sequence[str], widths: Sequence[int], left: frozenset[str]) -> str:
    first, *others = cells
    padded = (
        text.ljust(width) if name in left else text.rjust(width)
        for text, name, width in zip((_shortened(first, widths[0]), *others), header, widths, strict=True)
    )
    return "  ".join(padded).rstrip()


def _shortened(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 2] + ".."
