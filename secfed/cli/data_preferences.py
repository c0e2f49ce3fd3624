"""`secfed data unpair` and `secfed data redistribute`: preference pairs as feedback on single responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from secfed.training.data import Table
    from secfed.training.modes import Mode
    from secfed.training.preferences import Feedback, Spread

__all__ = ["MANIFEST", "redistribute", "unpair"]

MANIFEST = "manifest.json"
"""What a folder of spread rows was made of, beside them."""

UnitColumn = Annotated[
    str | None,
    typer.Option("--unit", help="Column that names the person; it is carried over. None: pairs stand alone."),
]


def unpair(
    source: Annotated[
        Path, typer.Argument(help="Pairs: prompt (or none), chosen, rejected; .jsonl, .csv or .parquet.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new .jsonl file.")],
    unit: UnitColumn = None,
) -> None:
    """Turn each preference pair into two rows: the chosen response with label true, the other with false."""
    _check_new(output, suffix=".jsonl")

    from secfed.store import files
    from secfed.training.preferences import feedback

    with _scratch(output) as scratch:
        table = _load(source, unit, scratch, pairs_only=True)
    files.create_exclusive(output, _lines(feedback(table), unit))
    typer.echo(f"pairs          {len(table.rows)}")
    typer.echo(f"rows           {2 * len(table.rows)} in {output}")
    if unit is None:
        typer.echo(
            "A pair was one record and is two now: a promise for one record covers one response. To cover "
            "both, give a column of persons or pairs by --unit, and name it as `unit` in client.toml."
        )


def redistribute(
    sources: Annotated[
        list[Path], typer.Argument(help="One file a site: pairs, or rows with prompt, completion, label.")
    ],
    mode: Annotated[str, typer.Option("--mode", help="drop, split, shuffle or label-skew.")],
    seed: Annotated[int, typer.Option("--seed", help="Any whole number: the same seed, the same rows.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new folder.")],
    concentration: Annotated[
        float | None,
        typer.Option("--concentration", help="Dirichlet parameter (label-skew): small is skewed."),
    ] = None,
    unit: UnitColumn = None,
) -> None:
    """Spread feedback over sites, for experiments: drop, split, shuffle and label-skew, with a manifest."""
    from secfed.training.modes import mode_of

    chosen = mode_of(mode, concentration)
    _check_new(output)

    from secfed.training import preferences

    with _scratch(output) as scratch:
        tables = [_load(source, unit, scratch) for source in sources]
        spread = preferences.redistribute(tables, chosen, seed, concentration=concentration)
        manifest = _write(scratch, output, tables, spread, chosen, seed, concentration, unit)
    typer.echo(f"mode           {mode}, seed {seed}")
    for entry in manifest["outputs"]:
        typer.echo(
            f"site           {entry['rows']} rows, {entry['true']} up, {entry['false']} down: {entry['file']}"
        )
    typer.echo(f"manifest       {output / MANIFEST}")
    _warn(manifest)


def _warn(manifest: dict[str, Any]) -> None:
    """What the spread rows cannot promise."""
    for entry in manifest["outputs"]:
        for label in entry["missing"]:
            weight, thumb = ("desirable_weight", "up") if label else ("undesirable_weight", "down")
            typer.echo(
                f"warning: {entry['file']} has no thumb {thumb}: {weight} counts as 0 there; "
                "never set the weights from a site's counts",
                err=True,
            )
    if manifest["shared_owners"]:
        who = "pairs" if manifest["unit"] is None else "persons"
        typer.echo(
            f"warning: {manifest['shared_owners']} {who} have rows at two sites or more. The sites are not "
            "disjoint, so the federation's epsilon is not the largest of theirs: an owner pays for all its "
            "sites together. Report their sum, or use --mode drop, which leaves every row with its owner",
            err=True,
        )


def _write(
    scratch: Path,
    output: Path,
    tables: Sequence[Table],
    spread: Spread,
    mode: Mode,
    seed: int,
    concentration: float | None,
    unit: str | None,
) -> dict[str, Any]:
    """Make the whole folder beside its place, then give it its name; the manifest is returned."""
    import hashlib
    import json
    import platform

    from secfed import __version__
    from secfed.store import files

    draft = scratch / "draft"
    files.make_directory(draft)
    names = [table.path.with_suffix(".jsonl").name for table in tables]
    if len(set(names)) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names, start=1)]
    outputs = []
    for name, rows in zip(names, spread.sites, strict=True):
        content = _lines(rows, unit)
        files.create_exclusive(draft / name, content)
        counts = {label: sum(row.label is label for row in rows) for label in (True, False)}
        outputs.append(
            {
                "file": name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "rows": len(rows),
                "true": counts[True],
                "false": counts[False],
                "missing": [label for label, count in counts.items() if not count],
            }
        )
    manifest = {
        "kind": "redistribution",
        "schema": 1,
        "mode": mode,
        "seed": seed,
        "concentration": concentration,
        "unit": unit,
        "secfed": __version__,
        "python": platform.python_version(),
        "inputs": [
            {
                "file": table.path.name,
                "sha256": hashlib.sha256(table.path.read_bytes()).hexdigest(),
                "rows": len(table.rows),
            }
            for table in tables
        ],
        "outputs": outputs,
        "shared_owners": spread.shared_owners,
    }
    files.create_exclusive(draft / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    with files.storage_errors(output):
        draft.rename(output)
    files.sync_directory(output.absolute().parent)
    return manifest


def _load(source: Path, unit: str | None, scratch: Path, *, pairs_only: bool = False) -> Table:
    """One site's rows."""
    from secfed.cli.inputs import load_rows
    from secfed.errors import ConfigError
    from secfed.training.data import RECORD
    from secfed.training.preferences import INPUT_FORMATS
    from secfed.training.rows import COLUMN_KINDS, PAIRS

    if unit in COLUMN_KINDS or unit == RECORD:
        raise ConfigError(f"--unit names the person's column; {unit!r} is none")
    formats = PAIRS if pairs_only else INPUT_FORMATS
    remedy = "Mend the named file or option and start again; nothing was written."
    return load_rows(source, formats, scratch=scratch, remedy=remedy, unit=unit)


def _lines(rows: Sequence[Feedback], unit: str | None) -> bytes:
    """Rows as JSON lines, in TRL's format of unpaired preferences."""
    import dataclasses
    import json

    lines = []
    for row in rows:
        cells: dict[str, Any] = {"prompt": row.prompt, "completion": row.completion}
        for name, value in cells.items():
            if isinstance(value, tuple):
                cells[name] = [dataclasses.asdict(message) for message in value]
        cells["label"] = row.label
        if unit is not None:
            cells[unit] = row.owner
        lines.append(json.dumps(cells, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def _check_new(output: Path, *, suffix: str | None = None) -> None:
    """Refuse to write over anything, before any work is done."""
    from secfed.errors import ConfigError

    if suffix is not None and output.suffix != suffix:
        raise ConfigError(f"{output}: the output is a {suffix} file")
    if output.exists() or output.is_symlink():
        raise ConfigError(f"{output} is there already", hint="Name another place; nothing is overwritten.")


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A private folder beside the output, on the same disk, that is gone afterwards."""
    import tempfile

    from secfed.store import files

    parent = output.absolute().parent
    files.make_directory(parent)
    with files.storage_errors(parent):
        made = tempfile.TemporaryDirectory(dir=parent, prefix=".secfed-")
    with made as folder:
        yield Path(folder)
