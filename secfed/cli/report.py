"""`secfed report`: the account of one or several ledgers, or of a job's plan, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.cli.passphrase import Descriptor, PassphraseFile

if TYPE_CHECKING:
    from secfed.cli.provers import Wanted
    from secfed.config import ClientConfig
    from secfed.privacy.ledger import Verdict
    from secfed.privacy.report.account import Report
    from secfed.privacy.report.audits import Audit

__all__ = ["FORMATS", "LEDGER_GLOB", "report", "verdicts"]

LEDGER_GLOB = "*.ledger"

FORMATS = ("text", "json", "csv", "md", "html")

_PLAN_FORMATS = ("text", "json")


def report(
    configs: Annotated[
        list[Path] | None,
        typer.Option("--config", help="A site's client.toml; several are shown side by side."),
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="text, json, csv, md or html.")] = "text",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this new file.")] = None,
    job: Annotated[
        str | None, typer.Option("--job", help="Work out this job's plan again, instead of a ledger.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="The signed plan in this file, instead of the aggregator's.")
    ] = None,
    save_plan: Annotated[
        Path | None, typer.Option("--save-plan", help="With --job: keep the signed plan in this new file.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Show what each job and round spent of each data set's budget, and what is left."""
    from secfed.cli.passphrase import source
    from secfed.errors import ConfigError

    of_plan = job is not None or plan is not None
    known = _PLAN_FORMATS if of_plan else FORMATS
    if output_format not in known:
        raise ConfigError(f"--format is one of {', '.join(known)} here, not {output_format!r}")
    if save_plan is not None and not of_plan:
        raise ConfigError("--save-plan belongs to --job", hint="Name the job whose plan is to be kept.")
    for written in (output, save_plan):
        if written is not None and written.exists():
            raise ConfigError(f"{written} exists already", hint="Name another file.")
    paths = configs or [Path("client.toml")]
    if not of_plan:
        _of_ledgers(paths, output_format, output)
        return
    if len(paths) > 1:
        raise ConfigError("a plan is looked at with one --config, an admin's or a site's")
    from secfed.cli import report_job

    if plan is None:
        proposal = report_job.fetch(str(job), paths[0], source(passphrase_file, passphrase_fd))
    else:
        proposal = report_job.read(plan, paths[0])
    account, dp = report_job.check(proposal, job)
    write = report_job.to_text if output_format == "text" else report_job.to_json
    _put(write(proposal, account, dp), output)
    if save_plan is not None:
        from secfed.store import files

        files.create_exclusive(save_plan, proposal.text, mode=files.PUBLIC_MODE)
        typer.echo(f"plan kept      {save_plan}", err=True)
    report_job.refuse_wrong(proposal, account)


def _of_ledgers(paths: list[Path], output_format: str, output: Path | None) -> None:
    import shlex
    from datetime import UTC, datetime

    from secfed.cli.provers import verified
    from secfed.errors import LedgerError
    from secfed.privacy import accountant
    from secfed.privacy.report import account
    from secfed.privacy.report.figures import Figures, points_for

    wanted = _wanted(paths)
    figures = Figures(points=points_for(len(wanted)))
    found = verified(wanted, meanwhile=accountant.load, each=lambda verdict: account.ahead(verdict, figures))
    if not found:
        raise LedgerError(
            "there is no ledger yet",
            hint="A site's ledger is made by `secfed client join --data` or its first job.",
        )
    made = account.build(
        found,
        now=datetime.now(UTC),
        recompute=shlex.join(
            ["secfed", "report", *(word for path in paths for word in ("--config", str(path)))]
        ),
        code=_code(),
        audits=_audits(found),
        figures=figures,
    )
    _put(_written(made, output_format), output)
    broken = [verdict for verdict in found if verdict.fault is not None]
    if broken:
        raise LedgerError(f"{broken[0].path}: {broken[0].fault}")


def _audits(found: Sequence[Verdict]) -> dict[Path, tuple[Audit, ...]]:
    """The audits of each folder of ledgers, shown once: beside the data set's, or else the first one."""
    from secfed.privacy.report import audits

    bearer: dict[Path, Verdict] = {}
    for verdict in found:
        if verdict.state is not None:
            bearer.setdefault(verdict.path.parent, verdict)
            if verdict.state.opening.budget is not None:
                bearer[verdict.path.parent] = verdict
    return {verdict.path: audits.read(folder / audits.AUDITS) for folder, verdict in bearer.items()}


def _written(made: Report, output_format: str) -> str:
    """The account in one of its forms."""
    import json

    match output_format:
        case "json":
            from secfed.privacy.report.form_json import to_json

            return json.dumps(to_json(made), indent=2) + "\n"
        case "csv":
            from secfed.privacy.report.form_csv import to_csv

            return to_csv(made)
        case "md":
            from secfed.privacy.report.form_md import to_md

            return to_md(made)
        case "html":
            from secfed.privacy.report.form_html import to_html

            return to_html(made)
        case _:
            from secfed.privacy.report.form_text import to_text

            return to_text(made)


def _put(text: str, output: Path | None) -> None:
    from secfed.store import files

    if output is None:
        typer.echo(text, nl=False)
        return
    with files.storage_errors(output):
        output.write_text(text, encoding="utf-8")
    typer.echo(f"report         {output}")


def _code() -> str:
    """SHA-256 over the names and contents of this program's files, in hexadecimal."""
    import hashlib
    from importlib import resources

    import secfed

    root = Path(str(resources.files(secfed)))
    whole = hashlib.sha256()
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.j2")]):
        name = path.relative_to(root).as_posix()
        whole.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def verdicts(config_path: Path) -> list[Verdict]:
    """Verify every ledger of one site, under its identity key and against what the site remembers.

    Raises:
        StorageError: One that is remembered is gone, or cannot be read.
    """
    from secfed.cli.provers import verified

    return verified(_wanted([config_path]))


def _wanted(configs: Sequence[Path]) -> list[Wanted]:
    """The ledgers of these sites, each with its site's identity key and what the site remembers of it."""
    from secfed.cli.heads import Heads
    from secfed.config import ClientConfig, load

    wanted: list[Wanted] = []
    for path in configs:
        config = load(path, ClientConfig)
        public, heads = _identity_key(config), Heads(config.state_dir)
        names = {path.name for path in config.ledger_dir.glob(LEDGER_GLOB)} | heads.names()
        # what is known is read before the ledgers: these may go on
        wanted += [(config.ledger_dir / name, public, heads.known(name)) for name in sorted(names)]
    return wanted


def _identity_key(config: ClientConfig) -> bytes:
    """The site's public key, from the public file beside its key file: no passphrase is needed to read."""
    from secfed.errors import KeyFileError
    from secfed.identity import enrolment, keyfile

    path = keyfile.public_path(config.key)
    try:
        return enrolment.verify(path.read_bytes()).identity_key
    except OSError as problem:
        raise KeyFileError(f"{path}: {problem.strerror}") from problem
