"""`secfed budget`: what noise costs, how much noise a target takes, and what a job would spend.

Questions that people ask before they decide. Figures are kept on disk, so that the same question
is answered at once; what decides, a site's policy and its gate, works out its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.cli.typed_event import Delta, NoiseMultiplier, RecordsPerUnit, SamplingRate, Steps

if TYPE_CHECKING:
    from secfed.privacy.accountant import Figure
    from secfed.privacy.cache import FigureCache
    from secfed.privacy.events import PoissonGaussian

__all__ = ["SCHEMA", "app"]

app = typer.Typer(no_args_is_help=True)

SCHEMA = 1
"""Version of the JSON; a field is never given another meaning under one number."""

_Relation = Annotated[
    str, typer.Option("--relation", help="add-remove: a unit is there or not. replace-one: it is another.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Cache = Annotated[
    Path | None, typer.Option("--cache", help="Where figures are kept; ~/.cache/secfed/figures if not given.")
]


@app.command("epsilon")
def epsilon(
    sampling_rate: SamplingRate,
    noise_multiplier: NoiseMultiplier,
    steps: Steps,
    delta: Delta,
    relation: _Relation = "add-remove",
    records_per_unit: RecordsPerUnit = None,
    as_json: _Json = False,
    cache: _Cache = None,
) -> None:
    """Epsilon of so many noisy steps."""
    from secfed.cli.typed_event import check_delta, typed
    from secfed.privacy import accountant

    check_delta(delta)
    event = typed(
        sampling_rate, noise_multiplier, steps, relation=relation, records_per_unit=records_per_unit
    )
    _show(event, accountant.epsilon([event], delta, cache=_figures(cache)), as_json=as_json)


@app.command("calibrate")
def calibrate(
    target: Annotated[float, typer.Option("--epsilon", help="The most that all steps may cost.")],
    sampling_rate: SamplingRate,
    steps: Steps,
    delta: Delta,
    relation: _Relation = "add-remove",
    records_per_unit: RecordsPerUnit = None,
    as_json: _Json = False,
    cache: _Cache = None,
) -> None:
    """The least noise that keeps an epsilon."""
    import math

    from secfed.cli.typed_event import check_delta, typed
    from secfed.errors import ConfigError
    from secfed.privacy.calibrate import noise_multiplier
    from secfed.privacy.events import NOISE_MAX

    if not 0 < target < math.inf:
        raise ConfigError(f"--epsilon is a number above 0, not {target:g}")
    check_delta(delta)
    event = typed(sampling_rate, NOISE_MAX, steps, relation=relation, records_per_unit=records_per_unit)
    found = noise_multiplier(target, event, delta, cache=_figures(cache))
    _show(found.event, found.figure, as_json=as_json, target=target)


@app.command("plan")
def plan(
    config: Annotated[Path, typer.Option("--config", help="A JOB.toml.")],
    site: Annotated[
        Path | None, typer.Option("--site", help="A site's client.toml: what its ledger would have left.")
    ] = None,
    as_json: _Json = False,
    cache: _Cache = None,
) -> None:
    """What a job will spend, a round and in all; nothing is charged, and nobody is asked."""
    import json

    from secfed.cli.outlook import look_ahead
    from secfed.config import load
    from secfed.config.job import JobFile

    outlook = look_ahead(load(config, JobFile), site, _figures(cache))
    if as_json:
        typer.echo(json.dumps({"kind": "outlook", "schema": SCHEMA, **outlook.to_json()}, indent=2))
    else:
        typer.echo(outlook.to_text(), nl=False)


def _figures(directory: Path | None) -> FigureCache | None:
    from secfed.privacy.cache import FigureCache

    try:
        return FigureCache((directory or Path("~/.cache/secfed/figures")).expanduser())
    except RuntimeError:  # no home directory: every figure is worked out
        return None


def _show(event: PoissonGaussian, figure: Figure, *, as_json: bool, target: float | None = None) -> None:
    """One event and its figure, as text or JSON."""
    import json

    from secfed.cli.outlook import chance, guess_words

    if as_json:
        document = {
            "kind": "figure",
            "schema": SCHEMA,
            **figure.to_json(),
            **({} if target is None else {"target_epsilon": target}),
            "sampling_rate": event.q,
            "noise_multiplier": float(event.noise_multiplier),
            "steps": event.steps,
            "unit": event.unit,
            "records_per_unit": event.records_per_unit,
            "chance": chance(figure),
        }
        typer.echo(json.dumps(document, indent=2))
        return
    if target is not None:
        typer.echo(f"noise          {event.noise_multiplier}, the least that keeps epsilon {target:g}")
    typer.echo(f"epsilon        {figure.epsilon:.3f} at delta {figure.delta:g}, if all is fixed in advance")
    typer.echo(f"accountant     {figure.accountant} ({figure.accountant_version}), {figure.relation}")
    if figure.accountant == "RDP":
        typer.echo("cross-check    none: the figure is the Renyi bound itself")
    else:
        typer.echo(f"cross-check    {figure.epsilon_rdp:.3f} by Renyi bound at its best order")
    typer.echo(f"the gate       {figure.epsilon_filter:.3f}, whatever is decided after results were seen")
    typer.echo(f"in words       {guess_words(figure, event.unit)}")
