"""The account as Markdown: the same document with headings, lists and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable

from secfed.privacy.report.document import Block, Facts, Items, Table, document
from secfed.privacy.report.lines import Report

__all__ = ["to_md"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#&~])")
"""What Markdown or HTML in it would read as something else than itself."""


def to_md(report: Report) -> str:
    """The report as Markdown, ended by a newline."""
    parts = []
    for place, section in enumerate(document(report)):
        blocks = [text for block in section.blocks if (text := _block(block))]
        parts += [f"{'##' if place else '#'} {_plain(section.title)}", *blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Facts():
            return "\n".join(f"- **{_plain(label)}**: {_plain(text)}" for label, text in block.rows)
        case Items():
            return "\n".join(f"- {_plain(item)}" for item in block.items)
        case Table():
            lines = [
                _row(block.header),
                _row(":--" if name in block.left else "--:" for name in block.header),
                *(_row(map(_plain, row)) for row in block.rows),
            ]
            return "\n\n".join(filter(None, (f"**{block.title}**", "\n".join(lines), _plain(block.note))))
        case _:
            return ""  # plots are drawn in HTML; their numbers stand in the facts and tables


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
