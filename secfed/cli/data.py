"""`secfed data`: try a site's file without any socket; make feedback out of preference pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.cli import data_preferences

if TYPE_CHECKING:
    from secfed.aggregation.spec import AdapterSpec
    from secfed.config.trainers import Trainer
    from secfed.training.data import DataFacts, Table

__all__ = ["app"]

_CLASSES_MOST = 50
"""With more different labels, or few that stand twice, a column is taken for something else than classes, and
nothing of it is shown."""

app = typer.Typer(no_args_is_help=True)

app.command("unpair")(data_preferences.unpair)
app.command("redistribute")(data_preferences.redistribute)


@app.command("check")
def check(
    config: Annotated[Path, typer.Option("--config", help="The site's client.toml.")] = Path("client.toml"),
    trainer: Annotated[str, typer.Option("--trainer", help="classify, sft, dpo or kto.")] = "classify",
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Public id of the base model, for tokenised lengths.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", help="The job's class names, by commas (classify); those of client.toml if not given."
        ),
    ] = None,
    max_length: Annotated[int, typer.Option("--max-length", min=1, help="Longest row in tokens.")] = 128,
    nominal_units: Annotated[
        int | None, typer.Option("--nominal-units", min=1, help="The plan's public number of units.")
    ] = None,
) -> None:
    """Check what training would need. The figures are private: they are shown here and sent nowhere."""
    import os

    from secfed.config import ClientConfig, load
    from secfed.config.trainers import trainer_of
    from secfed.errors import ConfigError, DataError
    from secfed.privacy.events import Unit

    name = trainer_of(trainer)
    if labels is not None and name != "classify":
        raise ConfigError(
            f"--labels names classes, and {name} has none", hint="Leave --labels out, or use classify."
        )
    settings = load(config, ClientConfig)
    own = settings.data
    if own is None:
        raise DataError(f"{config} has no [data] section", hint="Join again with --data, or add the section.")

    from secfed.training.models import model_folder
    from secfed.training.rowfile import reader_of
    from secfed.training.rows import FORMATS

    reader_of(own.file)

    from secfed.training import data

    table = data.load(own.file, FORMATS[name], scratch=settings.state_dir, columns=own.columns, unit=own.unit)
    classes = own.labels if labels is None else tuple(label.strip() for label in labels.split(","))
    if name == "classify" and not classes:
        classes = _own_classes(table)
    spec = _spec(name, base_model, classes)
    kind: Unit = "record" if own.unit == data.RECORD else "person"

    from secfed.training.adapter import task_of  # seconds, and a file that does not fit is told before

    # Which of a person's records stay is drawn with the site's key; for counts any key serves.
    units = data.group(table, kind, own.max_records_per_unit or 1, os.urandom(32))
    task = task_of(spec, model_folder(settings.models_dir, spec.base_model), max_length)
    facts = data.check(table, units, task, nominal_units=nominal_units)
    typer.echo(f"file           {own.file}")
    typer.echo(f"columns        {', '.join(f'{name} = {there!r}' for name, there in table.columns.items())}")
    typer.echo(f"unit           {own.unit} ({kind})")
    _show(table, facts, trainer, max_length)
    typer.echo("These figures are private. Nothing was sent.")


def _own_classes(table: Table) -> tuple[str, ...]:
    """The file's own labels, where nobody said which ones a plan will name.

    Raises:
        DataError: They are not two at least, or too many for classes.
    """
    from secfed.errors import DataError
    from secfed.ids import one_line

    found = sorted({str(row["label"]) for row in table.rows})
    if not 2 <= len(found) <= min(_CLASSES_MOST, len(table.rows) // 2):
        raise DataError(
            f"{table.path}: column {table.columns['label']!r} holds {len(found)} different "
            f"{'label' if len(found) == 1 else 'labels'}, and the job's class names are not known here",
            hint="Name the classes by --labels, or as labels in [data] of client.toml.",
        )
    typer.echo(
        f"warning: no class names were given, so the file's own were taken: {one_line(', '.join(found))}; "
        "with a plan that names others this site stays out (--labels tries its names)",
        err=True,
    )
    return tuple(found)


def _spec(trainer: Trainer, base_model: str | None, classes: tuple[str, ...]) -> AdapterSpec:
    """As much of an adapter as the trainer's task needs to know."""
    from secfed.aggregation.spec import AdapterSpec
    from secfed.training.assets import MINILM_ID, SMOLLM2_ID

    if trainer != "classify":
        return AdapterSpec(base_model or SMOLLM2_ID, "main", trainer, ("q_proj", "v_proj"), 1, 1)
    return AdapterSpec(base_model or MINILM_ID, "main", trainer, ("query", "value"), 1, 1, classes)


def _show(table: Table, facts: DataFacts, trainer: str, max_length: int) -> None:
    """The counts, and what stands out."""
    from secfed.training.cells import MEANING

    typer.echo(
        f"values         {', '.join(f'{name}: {MEANING[kind]}' for name, kind in table.kinds.items())}"
    )
    typer.echo(f"rows           {facts.rows}, of which {facts.rows_used} count")
    typer.echo("refused rows   none")
    typer.echo(f"units          {facts.units}")
    lengths = ", ".join(f"{100 * quantile:g} %: {length}" for quantile, length in facts.lengths.items())
    typer.echo(f"tokens a row   {lengths}; {facts.cut_rows} are longer than {max_length} and are cut")
    if facts.labels:
        counts = ", ".join(f"{_name(label)}: {count}" for label, count in sorted(facts.labels.items()))
        typer.echo(f"labels         {counts}")
    if trainer == "kto" and len(facts.labels) < 2:
        missing = "down" if True in facts.labels else "up"
        typer.echo(
            f"warning: no thumb {missing} here: this site's rows pull one way only; "
            "the weights of the plan stay as they are",
            err=True,
        )
    if facts.far_from_plan:
        typer.echo(
            f"warning: {facts.units} units are more than a factor of 10 from the plan's "
            f"{facts.nominal_units}: this site would add mostly noise, or drown the others",
            err=True,
        )


def _name(label: str | bool) -> str:
    """A label, or a thumb, in words."""
    return label if isinstance(label, str) else "up" if label else "down"
