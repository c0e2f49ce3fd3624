"""`secfed data check`: try a site's file, columns, unit and tokenised lengths without any socket."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `check` a command of its own, since others will follow."""


@app.command("check")
def check(
    config: Annotated[Path, typer.Option("--config", help="The site's client.toml.")] = Path("client.toml"),
    trainer: Annotated[str, typer.Option("--trainer", help="classify or sft.")] = "classify",
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

    from secfed.aggregation.spec import AdapterSpec
    from secfed.config import ClientConfig, load
    from secfed.errors import ConfigError, DataError
    from secfed.privacy.events import Unit
    from secfed.training import data
    from secfed.training.adapter import task_columns, task_of
    from secfed.training.assets import MINILM_ID, SMOLLM2_ID
    from secfed.training.models import model_folder

    settings = load(config, ClientConfig)
    if settings.data is None:
        raise DataError(f"{config} has no [data] section", hint="Join again with --data, or add the section.")
    if trainer == "classify":
        classes = settings.data.labels
        if labels is not None:
            classes = tuple(label.strip() for label in labels.split(","))
        if not classes:
            raise ConfigError("classify needs --labels, as the job plan will list them")
        spec = AdapterSpec(
            base_model or MINILM_ID,
            "main",
            "classify",
            ("query", "value"),
            1,
            1,
            classes,
        )
    elif trainer == "sft":
        spec = AdapterSpec(base_model or SMOLLM2_ID, "main", "sft", ("q_proj", "v_proj"), 1, 1)
    else:
        raise ConfigError(f"--trainer is classify or sft, not {trainer!r}")
    own = settings.data
    names = {"text": own.text, "label": own.label, "prompt": own.prompt, "completion": own.completion}
    needed = task_columns(spec)
    table = data.load(
        own.file,
        needed,
        scratch=settings.state_dir,
        columns={name: names.get(name, name) for name in needed},
        unit=own.unit,
    )
    kind: Unit = "record" if own.unit == data.RECORD else "person"
    # Which of a person's records stay is drawn with the site's key; for counts any key serves.
    units = data.group(table, kind, own.max_records_per_unit or 1, os.urandom(32))
    task = task_of(spec, model_folder(settings.models_dir, spec.base_model), max_length)
    facts = data.check(table, units, task, nominal_units=nominal_units)
    typer.echo(f"file           {own.file}")
    typer.echo(f"columns        {', '.join(f'{name} = {there!r}' for name, there in facts.columns.items())}")
    typer.echo(f"unit           {own.unit} ({kind})")
    typer.echo(f"rows           {facts.rows}, of which {facts.rows_used} count")
    typer.echo(f"units          {facts.units}")
    lengths = ", ".join(f"{100 * quantile:g} %: {length}" for quantile, length in facts.lengths.items())
    typer.echo(f"tokens a row   {lengths}; {facts.cut_rows} are longer than {max_length} and are cut")
    if facts.far_from_plan:
        typer.echo(
            f"warning: {facts.units} units are more than a factor of 10 from the plan's {nominal_units}: "
            "this site would add mostly noise, or drown the others",
            err=True,
        )
    typer.echo("These figures are private. Nothing was sent.")
