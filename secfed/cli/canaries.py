"""`secfed audit canaries`: a one-run audit, from secret coins to a lower bound on epsilon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from secfed.audit.result import CanaryResult, Claim, Scores

__all__ = ["AsJson", "Keep", "app"]

app = typer.Typer(no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Keep = Annotated[
    Path | None,
    typer.Option(
        "--config", help="A site's client.toml: the result is kept beside its ledger, for the report."
    ),
]


@app.command("make")
def make(
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder for the set.")],
    trainer: Annotated[str, typer.Option("--trainer", help="classify, sft, dpo or kto.")],
    count: Annotated[int, typer.Option("--count", help="Canaries; some hundreds to thousands.")] = 1000,
    labels: Annotated[
        str | None, typer.Option("--labels", help="The job's class names, by commas (classify).")
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option("--words", help="Words to make texts of, one a line; syllables if not given."),
    ] = None,
    length: Annotated[int, typer.Option("--length", min=1, max=1000, help="Words of a text.")] = 12,
    form: Annotated[str, typer.Option("--format", help="Of the rows to add: jsonl or csv.")] = "jsonl",
    numbers: Annotated[
        bool, typer.Option("--numbered-persons", help="The site's person column holds whole numbers.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="The site's client.toml: its columns and its labels.")
    ] = None,
) -> None:
    """Make canaries and toss a secret coin for each: which of them go into the site's data."""
    from secfed.audit import canary
    from secfed.config import ClientConfig, load
    from secfed.config.trainers import trainer_of
    from secfed.errors import ConfigError
    from secfed.store import files

    name = trainer_of(trainer)
    data = None if config is None else load(config, ClientConfig).data
    classes = () if data is None else data.labels
    if labels is not None:
        classes = tuple(label.strip() for label in labels.split(","))
    if count < canary.COUNT_MIN:
        raise ConfigError(
            f"--count {count} is too few: the fewest that can show anything are {canary.COUNT_MIN}"
        )
    if output.exists():
        raise ConfigError(f"{output} exists already", hint="Name a new folder with --output.")
    if form not in ("jsonl", "csv") or (form, name) == ("csv", "kto"):
        raise ConfigError("--format is jsonl, or csv where no column holds a thumb")
    rows = canary.invent(
        name,
        count,
        labels=classes if name == "classify" else (),
        words=canary.WORDS if words is None else _words(words),
        length=length,
    )
    included = canary.flip(count)
    inserted = canary.site_rows(
        [row for row, put_in in zip(rows, included, strict=True) if put_in],
        columns={} if data is None else data.columns,
        person=None if data is None or data.unit == "record" else data.unit,
        numbers=numbers,
    )
    lines = canary.as_lines(rows)

    from secfed.audit import result  # loads for seconds: whatever is wrong above is said at once

    coins = result.Coins(
        trainer=name,
        canaries_sha256=result.file_sha256(lines),
        included="".join("1" if put_in else "0" for put_in in included),
    )
    files.make_directory(output)
    files.create_exclusive(output / "canaries.jsonl", lines)
    insert = output / f"insert.{form}"
    files.create_exclusive(insert, canary.as_lines(inserted) if form == "jsonl" else canary.as_csv(inserted))
    files.create_exclusive(output / "coins.json", result.to_bytes(coins))
    typer.echo(f"canaries       {output / 'canaries.jsonl'}  ({count}, to be scored after training)")
    typer.echo(f"insert         {insert}  (SECRET: add these rows to the site's data)")
    typer.echo(f"coins          {output / 'coins.json'}  (SECRET until the bound is worked out)")
    typer.echo("next           train the job with the rows added; it is charged to the ledger as any job is")
    typer.echo(
        f"then           secfed audit canaries score --canaries {output / 'canaries.jsonl'} --adapter ROUND"
    )


@app.command("score")
def score(
    rows: Annotated[Path, typer.Option("--canaries", help="The canaries.jsonl of the set.")],
    adapter: Annotated[Path, typer.Option("--adapter", help="A round's folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the scores.")] = Path(
        "scores.json"
    ),
    start: Annotated[
        Path | None,
        typer.Option("--start", help="An earlier round's folder to compare with; else the base model."),
    ] = None,
    models: Annotated[Path, typer.Option("--models", help="Folder with base models.")] = Path(
        "~/.cache/secfed"
    ),
    max_length: Annotated[int, typer.Option("--max-length", min=1, help="Longest row in tokens.")] = 128,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Score each canary with a trained adapter: by how much its loss fell."""
    from secfed.aggregation import folder
    from secfed.errors import ConfigError, DataError
    from secfed.store import files
    from secfed.training.models import model_folder

    if output.exists():
        raise ConfigError(f"{output} exists already", hint="Name another file with --output.")
    if device.partition(":")[0] not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device is auto, cpu, cuda or cuda:N, not {device!r}")
    if not rows.is_file():
        raise DataError(f"{rows} is no file", hint="Name the canaries.jsonl of `secfed audit canaries make`.")
    base = model_folder(models.expanduser(), folder.read(adapter)[0].base_model)

    from secfed.audit import result  # load for seconds: whatever is wrong above is said at once
    from secfed.audit import score as scoring

    found = scoring.score(rows, adapter, base, start=start, max_length=max_length, device=device)
    files.create_exclusive(output, result.to_bytes(found))
    typer.echo(f"scores         {output}  ({len(found.scores)} canaries)")
    if found.claim is not None:
        typer.echo(
            f"claim          epsilon {found.claim.epsilon} at delta {found.claim.delta}, by the manifest"
        )
    typer.echo(f"next           secfed audit canaries bound --coins coins.json --scores {output}")


@app.command("bound")
def bound(
    coins: Annotated[Path, typer.Option("--coins", help="The coins.json of the set.")],
    scores: Annotated[Path, typer.Option("--scores", help="What `score` wrote.")],
    delta: Annotated[
        float | None, typer.Option("--delta", help="At which epsilon is bounded; the claim's if not given.")
    ] = None,
    claim: Annotated[
        float | None,
        typer.Option("--claim", help="Epsilon that is claimed; else what the round's manifest says."),
    ] = None,
    guessed_in: Annotated[
        int | None, typer.Option("--guess-in", min=0, help="Canaries to name as in, fixed beforehand.")
    ] = None,
    guessed_out: Annotated[
        int | None, typer.Option("--guess-out", min=0, help="Canaries to name as out, fixed beforehand.")
    ] = None,
    confidence: Annotated[float, typer.Option("--confidence", help="Of each bound.")] = 0.95,
    config: Keep = None,
    as_json: AsJson = False,
) -> None:
    """Turn coins and scores into a lower bound on epsilon, and hold it against the claim."""
    from datetime import UTC, datetime

    import numpy as np

    from secfed.config import ClientConfig, load
    from secfed.errors import AuditFailedError, ConfigError, DataError
    from secfed.identity.fields import write_time

    if (guessed_in is None) != (guessed_out is None):
        raise ConfigError("give both of --guess-in and --guess-out, or neither")
    if not 0 < confidence < 1 or (delta is not None and not 0 < delta < 1):
        raise ConfigError("--confidence and --delta lie between 0 and 1")

    from secfed.audit import guesses, result

    tossed, scored = result.load(coins, result.Coins), result.load(scores, result.Scores)
    if tossed.canaries_sha256 != scored.canaries_sha256 or len(tossed.included) != len(scored.scores):
        raise DataError(
            f"{coins} and {scores} belong to different sets of canaries",
            hint="Score the canaries.jsonl that lies beside these coins.",
        )
    held = _claim(scored, claim, delta)
    at = held.delta if held is not None else delta
    if at is None:
        raise ConfigError(
            "no delta is known for this bound", hint="Give --delta, as the job's budget has it."
        )
    site = None if config is None else load(config, ClientConfig)
    found = guesses.lower_bounds(
        np.array([bit == "1" for bit in tossed.included]),
        np.array(scored.scores),
        delta=at,
        confidence=confidence,
        tried=None if guessed_in is None or guessed_out is None else ((guessed_in, guessed_out),),
    )
    made = result.canary_result(
        scored, found, delta=at, confidence=confidence, claim=held, date=write_time(datetime.now(UTC))
    )
    kept = None if site is None else result.save(made, site.ledger_dir)
    if as_json:
        typer.echo(result.to_bytes(made).decode(), nl=False)
    else:
        _say_bound(made)
        if kept is not None:
            typer.echo(f"kept           {kept}")
    if made.verdict == "refuted":
        raise AuditFailedError(
            f"epsilon is at least {made.epsilon_lower} at delta {at:g}; the claim says less"
        )


def _words(path: Path) -> list[str]:
    from secfed.errors import DataError

    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(
            f"{path} is no file of words: {problem}", hint="Write one word a line, in UTF-8."
        ) from None


def _claim(scored: Scores, epsilon: float | None, delta: float | None) -> Claim | None:
    """What the bound is held against: the option, or what the round's manifest says."""
    from secfed.audit.result import Claim
    from secfed.errors import ConfigError

    if epsilon is not None:
        known = delta if delta is not None else None if scored.claim is None else scored.claim.delta
        if known is None or not 0 < known < 1 or not 0 <= epsilon < float("inf"):
            raise ConfigError("--claim is an epsilon of at least 0, at a --delta between 0 and 1")
        return Claim(epsilon=epsilon, delta=known, source="option")
    if scored.claim is not None and delta not in (None, scored.claim.delta):
        raise ConfigError(
            f"the round's claim is at delta {scored.claim.delta:g}, the bound at {delta:g}",
            hint="Leave --delta out, or give the claim at your delta by --claim.",
        )
    return scored.claim


def _say_bound(made: CanaryResult) -> None:
    plain, curve = made.bounds
    typer.echo(
        f"lower bound    epsilon >= {made.epsilon_lower:.3f} at delta {made.delta:g}, "
        f"confidence {100 * made.confidence:g} %"
    )
    typer.echo(
        f"guesses        {made.right} of {made.guesses} right, of {made.canaries} canaries "
        f"({plain.guessed_in} named in, {plain.guessed_out} out)"
    )
    typer.echo(f"ceiling        {made.ceiling:.3f}: more this audit cannot show, were every guess right")
    typer.echo(
        f"f-DP           epsilon >= {curve.epsilon_lower:.3f} if {curve.assumption} "
        f"({curve.right} of {curve.guessed_in + curve.guessed_out} right, ceiling {curve.ceiling:.3f})"
    )
    claimed = "none"
    if made.claim is not None:
        claimed = f"epsilon {made.claim.epsilon:.3f} at delta {made.claim.delta:g} ({made.claim.source})"
    typer.echo(f"claim          {claimed}")
    typer.echo(f"verdict        {made.verdict}")
    if made.verdict == "consistent" and made.claim is not None and made.ceiling <= made.claim.epsilon:
        typer.echo("note           the ceiling is below the claim: this audit could not have refuted it")
