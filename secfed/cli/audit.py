"""`secfed audit`: measure the mechanism, and bound from below what an adapter gives away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.cli import canaries
from secfed.cli.canaries import AsJson, Keep

if TYPE_CHECKING:
    from secfed.aggregation.spec import Trainer
    from secfed.audit.result import MechanismResult
    from secfed.audit.workbench import Mechanism
    from secfed.config import ClientConfig
    from secfed.config.job import JobFile, TrainingSection
    from secfed.rounds.plan import DpoSpec, KtoSpec

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)
app.add_typer(canaries.app, name="canaries", help="One-run audit: make canaries, score them, bound epsilon.")

_SMALL, _SITE = "small", "site"


@app.command("mechanism")
def mechanism(
    job: Annotated[
        Path | None, typer.Option("--job", help="A JOB.toml: its trainer, noise, clipping norm and batch.")
    ] = None,
    trainer: Annotated[
        str | None, typer.Option("--trainer", help="classify, sft, dpo or kto; all four without --job.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="small: random weights, in seconds. site: the job's base model in the site's models folder.",
        ),
    ] = _SMALL,
    trials: Annotated[
        int, typer.Option("--trials", min=10, max=100_000, help="Data sets in which one unit changes.")
    ] = 100,
    config: Keep = None,
    as_json: AsJson = False,
) -> None:
    """Run the real DP-SGD code on made-up rows: is the noise what is charged for, and the clipping sure?

    No private row is read, nothing is sent, and nothing is charged.

    kto without --job, or with `kl = "ride-along"` in its job, has one coordinate beside the adapter: the
    reference point that rides along, with a share of the clipping norm. How far one row moves it is
    measured too.
    """
    import json
    import tempfile
    from datetime import UTC, datetime

    from secfed.config import ClientConfig, load
    from secfed.config.job import JobFile
    from secfed.errors import AuditFailedError, ConfigError
    from secfed.identity.fields import write_time

    if model not in (_SMALL, _SITE):
        raise ConfigError(f"--model is {_SMALL} or {_SITE}, not {model!r}")
    site = None if config is None else load(config, ClientConfig)
    file = None if job is None else load(job, JobFile)
    if model == _SITE and (site is None or file is None):
        raise ConfigError("--model site needs --config client.toml and --job JOB.toml")
    trainers = _trainers(file, trainer)

    from secfed.audit import result  # loads for seconds: whatever is wrong above is said at once
    from secfed.audit.mechanism import ERROR, audit

    done: list[MechanismResult] = []
    for name in trainers:
        with tempfile.TemporaryDirectory() as scratch:
            made = _mechanism(name, file, site if model == _SITE else None, Path(scratch))
            checks = audit(made, trials=trials)
        done.append(
            result.MechanismResult(
                date=write_time(datetime.now(UTC)),
                job=None if file is None else file.name,
                trainer=name,
                base_model=made.adapter.base_model if model == _SITE else "random weights",
                noise_multiplier=float(made.dp.noise_multiplier),
                clip=float(made.dp.clip),
                batch=made.dp.batch,
                error=ERROR,
                passed=all(check.passed for check in checks),
                checks=checks,
            )
        )
    kept = [] if site is None else [result.save(one, site.ledger_dir) for one in done]
    if as_json:
        documents = [one.model_dump(mode="json", by_alias=True) for one in done]
        typer.echo(json.dumps({"kind": "audits", "schema": 1, "audits": documents}, indent=2))
    else:
        for one in done:
            _say_mechanism(one)
        for path in kept:
            typer.echo(f"kept           {path}")
    failed = [f"{check.name} ({one.trainer})" for one in done for check in one.checks if not check.passed]
    if failed:
        raise AuditFailedError(f"the mechanism is not what is charged for: {', '.join(failed)}")


# -- what to audit -----------------------------------------------------------------------------


def _trainers(file: JobFile | None, wanted: str | None) -> list[Trainer]:
    """The trainers to audit: the job's own, the one asked for, or all."""
    from secfed.config.trainers import TRAINERS, trainer_of
    from secfed.errors import ConfigError

    if file is None:
        return list(TRAINERS) if wanted is None else [trainer_of(wanted)]
    if file.training is None or file.privacy is None:
        raise ConfigError(
            f"job {file.name} trains nothing with differential privacy, so it has no mechanism to measure",
            hint="Name a JOB.toml with the sections [training] and [privacy].",
        )
    if wanted not in (None, file.training.trainer):
        raise ConfigError(f"job {file.name} has the trainer {file.training.trainer}, not {wanted}")
    return [file.training.trainer]


def _mechanism(trainer: Trainer, file: JobFile | None, site: ClientConfig | None, scratch: Path) -> Mechanism:
    """A job's mechanism, or the one of a plain default, on the small model or the site's."""
    from secfed.aggregation.spec import AdapterSpec
    from secfed.audit.canary import WORDS
    from secfed.audit.small_model import SMALL_POSITIONS, target_modules, write_small_model
    from secfed.audit.workbench import Mechanism
    from secfed.cli.jobfile import privacy_spec
    from secfed.rounds.plan import DpSpec, KtoSpec
    from secfed.training.models import model_folder

    section = None if file is None else file.training
    preference = _loss(trainer, section)
    rides = isinstance(preference, KtoSpec) and preference.kl == "ride-along"
    labels: tuple[str, ...] = ("no", "yes") if trainer == "classify" else ()
    base, modules, rank, alpha, length = "small/random", target_modules(trainer), 8, 8, SMALL_POSITIONS
    if section is not None:
        labels, rank, alpha = section.labels, section.r, section.alpha
    if site is not None and section is not None:
        base, modules, length = section.base_model, section.target_modules, section.max_length
        folder = model_folder(site.models_dir, section.base_model)
    else:
        folder = scratch
        write_small_model(folder, trainer, WORDS)
    if file is None or section is None or file.privacy is None:
        dp = DpSpec(
            unit="record",
            sampling_num=2**62,
            noise_multiplier="1",
            clip="1",
            nominal_units=256,
            delta="0.00001",
        )
    else:
        dp = privacy_spec(file, file.privacy, section)
    return Mechanism(
        adapter=AdapterSpec(base, "main", trainer, modules, rank, alpha, labels, point=rides),
        base_folder=folder,
        strategy="fedavg" if section is None else section.strategy,
        dp=dp,
        max_length=length,
        preference=preference,
    )


def _loss(trainer: Trainer, section: TrainingSection | None) -> DpoSpec | KtoSpec | None:
    """The job's loss on preferences; constants that do no more than scale gradients keep their defaults.

    Without a job `kto` has the point that rides along: a coordinate with a clipping norm of its own, which is
    the most there is to measure.
    """
    from secfed.rounds.plan import DpoSpec, KtoSpec, PublicPair

    if section is not None and section.dpo is not None:
        return DpoSpec(loss_type=section.dpo.loss_type)
    if trainer != "kto":
        return None
    loss = "kto" if section is None or section.kto is None else section.kto.loss_type
    if section is not None and (section.kto is None or section.kto.kl != "ride-along"):
        return KtoSpec(loss_type=loss)
    from secfed.audit.workbench import made_up_pairs

    pairs = (PublicPair(prompt=prompt, completion=answer) for prompt, answer in made_up_pairs())
    return KtoSpec(loss_type=loss, kl="ride-along", kl_pairs=tuple(pairs))


# -- what is said ------------------------------------------------------------------------------


def _say_mechanism(made: MechanismResult) -> None:
    from secfed.cli.tables import table

    typer.echo(
        f"mechanism      {made.trainer} on {made.base_model}: sigma {made.noise_multiplier:g}, "
        f"C {made.clip:g}, B {made.batch:g}"
    )
    rows = [
        (
            check.name,
            f"{check.figure:.6g}",
            _range(check.low, check.high),
            "PASS" if check.passed else "FAIL",
            check.about,
        )
        for check in made.checks
    ]
    typer.echo(table(("check", "figure", "bound", "", "what"), rows))
    typer.echo(f"error          a right mechanism fails one of these in {made.error:g} of all audits\n")


def _range(low: float | None, high: float | None) -> str:
    """A range in words."""
    if low is None or high is None:
        return f">= {low:.3g}" if low is not None else f"<= {high:.7g}"
    return f"{low:.6g} to {high:.7g}"
