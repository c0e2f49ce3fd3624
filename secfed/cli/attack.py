"""`secfed attack`: the shipped adversary, row by row, against unmodified parties on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from secfed.attack.catalogue import Result, Row
    from secfed.errors import SecfedError

__all__ = ["attack"]

_NO_RESULT = "NO RESULT"
"""Verdict of an attack that was not carried to its end: it says nothing about the defence."""


def attack(
    name: Annotated[str, typer.Argument(help="A row's name, `all`, or `list` for the names.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    threads: Annotated[
        bool,
        typer.Option("--threads", help="Clients are threads of this process, not processes: quicker."),
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Where its federations live; a temporary folder if not given."),
    ] = None,
) -> None:
    """Play a hostile aggregator, a hostile member or a thief against real, unmodified parties on loopback.

    Each row ends DEFENDED, BROKEN or, where its part of the product is not there yet, NOT BUILT, with the
    evidence. One row that is BROKEN ends the command with exit code 47.
    """
    from secfed.attack.catalogue import ROWS, find
    from secfed.cli.scratch import scratch_folder

    if name == "list":
        _list(ROWS, as_json=as_json)
        return
    rows = ROWS if name == "all" else (find(name),)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    with scratch_folder("secfed-attack-", directory) as root:
        _carry_out(rows, root, processes=not threads, as_json=as_json)


def _list(rows: tuple[Row, ...], *, as_json: bool) -> None:
    import json

    from secfed.cli.tables import table

    if as_json:
        listed = [{"name": row.name, "row": row.words, "against": row.against} for row in rows]
        typer.echo(json.dumps({"kind": "attacks", "schema": 1, "rows": listed}, indent=2))
        return
    typer.echo(table(("NAME", "AGAINST", "ROW"), [(row.name, row.against, row.words) for row in rows]))


def _carry_out(rows: tuple[Row, ...], root: Path, *, processes: bool, as_json: bool) -> None:
    """Carry attacks out one by one; what was found is said at once, or in one JSON document at the end.

    Until that document comes, each of several rows has a line on standard error.
    """
    import json

    from secfed import __version__
    from secfed.attack.finding import Verdict
    from secfed.attack.venue import Venue
    from secfed.errors import AttackSucceededError, SecfedError

    results: list[Result] = []
    failures: list[tuple[Row, SecfedError]] = []
    for row in rows:
        venue = Venue(root / row.name, processes=processes)
        try:
            results.append(row.run(venue))
        except SecfedError as problem:
            failures.append((row, problem))
            told = f"{_NO_RESULT:<10} {row.name}: {problem}"
        else:
            told = _in_words(results[-1])
        if not as_json:
            typer.echo(told)
        elif len(rows) > 1:
            typer.echo(told.splitlines()[0], err=True)
    broken = [result.row.name for result in results if result.finding.verdict is Verdict.BROKEN]
    if as_json:
        document = {
            "kind": "findings",
            "schema": 1,
            "version": __version__,
            "rows": [*map(_as_json, results), *(_as_failure(*failure) for failure in failures)],
            "broken": broken,
        }
        typer.echo(json.dumps(document, indent=2))
    elif len(rows) > 1:
        typer.echo(_summary(results, len(failures)))
    if broken:
        raise AttackSucceededError(f"{len(broken)} of {len(rows)} attacks succeeded: {', '.join(broken)}")
    if failures:
        unfinished, cause = failures[0]
        raise type(cause)(f"attack {unfinished.name} came to no end: {cause}", hint=cause.hint)


def _in_words(result: Result) -> str:
    """A line for the row, and its evidence below."""
    row, finding = result.row, result.finding
    head = f"{finding.verdict.value:<10} {row.name}: {row.words}  ({result.seconds:.1f} s)"
    return "\n".join([head, *(f"           {fact}" for fact in finding.evidence)])


def _summary(results: list[Result], failures: int) -> str:
    from collections import Counter

    counts = Counter(result.finding.verdict.value for result in results)
    counts |= Counter({_NO_RESULT: failures} if failures else {})
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    return f"\n{len(results) + failures} attacks in {sum(result.seconds for result in results):.0f} s: {told}"


def _as_json(result: Result) -> dict[str, object]:
    row, finding = result.row, result.finding
    return {
        "name": row.name,
        "row": row.words,
        "against": row.against,
        "verdict": finding.verdict.value,
        "seconds": round(result.seconds, 2),
        "evidence": list(finding.setting),
        "parts": [
            {"name": part.name, "verdict": part.verdict.value, "evidence": [*part.facts, *part.gains]}
            for part in finding.parts
        ],
    }


def _as_failure(row: Row, problem: SecfedError) -> dict[str, object]:
    return {
        "name": row.name,
        "row": row.words,
        "against": row.against,
        "verdict": _NO_RESULT,
        "seconds": None,
        "evidence": [str(problem)],
        "parts": [],
    }
