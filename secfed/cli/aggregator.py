"""`secfed aggregator`: run the federation's one server; verify what it logged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secfed.cli.options import StateMoved
from secfed.cli.passphrase import Descriptor, PassphraseFile, source

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Run the aggregator; verify its audit log."""


@app.command("run")
def run(
    config: Annotated[
        Path, typer.Option("--config", help="The file that `secfed init` wrote.", metavar="FILE")
    ] = Path("aggregator.toml"),
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
    json_logs: Annotated[
        bool, typer.Option("--json-logs", help="JSON log lines, on a terminal too.")
    ] = False,
    state_moved: StateMoved = False,
) -> None:
    """Serve until stopped (SIGTERM or Ctrl-C); state survives a restart, or a crash."""
    import asyncio
    import os
    import sys

    from secfed import telemetry
    from secfed.cli import build_aggregator
    from secfed.config import AggregatorConfig, load

    settings = load(config, AggregatorConfig)
    passphrase = source(passphrase_file, passphrase_fd).for_existing(settings.key)
    keys = build_aggregator.load_keys(settings, passphrase)
    telemetry.configure(settings.log_level, form="json" if json_logs else "auto")
    daemon = build_aggregator.build_daemon(
        settings,
        keys,
        sys.stdout,
        notify_socket=os.environ.get("NOTIFY_SOCKET"),
        state_moved=state_moved,
    )
    asyncio.run(build_aggregator.run(daemon))


@app.command("verify-log")
def verify_log(
    path: Annotated[
        Path, typer.Argument(help="The aggregator's audit log: state/audit-KEY.jsonl.", metavar="LOG")
    ],
    public: Annotated[
        Path, typer.Option("--public", help="The aggregator's .pub; its identity key signed the entries.")
    ],
    head: Annotated[
        str | None,
        typer.Option(
            "--head", help="ENTRIES:DIGEST known elsewhere, in the place of the note beside the log."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify an audit log's chain and every signature, and show what is in it; no secret key is needed."""
    import json
    from collections import Counter

    from secfed.cli.heads import typed_head, write_head
    from secfed.errors import AuditLogError, KeyFileError
    from secfed.identity import enrolment
    from secfed.store.chain import EMPTY, Entry
    from secfed.transport import auditlog

    try:
        identity = enrolment.verify(public.read_bytes())
    except OSError as problem:
        raise KeyFileError(f"{public}: {problem.strerror}") from problem
    outcomes: Counter[str] = Counter()
    times: list[str] = []

    def take(entry: Entry) -> None:
        times[1:] = [str(entry.body["at"])]
        outcomes[str(entry.body["outcome"]).partition(":")[0]] += int(str(entry.body["count"]))

    expect = typed_head(head)
    report, known = auditlog.verify(path, identity.identity_key, expect=expect, each=take)
    if report.fault is not None:
        raise AuditLogError(f"{path}: {report.fault}")
    if as_json:
        document = {
            "kind": "audit-log-verdict",
            "schema": 1,
            "log": str(path),
            "signed_by": identity.site,
            "verdict": "good",
            "entries": report.head.count,
            "from": times[0] if times else None,
            "to": times[-1] if times else None,
            "outcomes": dict(sorted(outcomes.items())),
            "head": write_head(report.head),
            "torn_bytes": report.torn_bytes,
            "compared": known != EMPTY,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(f"audit log      {path}")
    typer.echo(f"verdict        good: {report.head.count} entries, every signature by {identity.site}")
    if times:
        typer.echo(f"from, to       {times[0]}, {times[-1]}")
    for outcome, count in sorted(outcomes.items()):
        typer.echo(f"  {outcome:<28} {count:>8}")
    typer.echo(f"head           {write_head(report.head)}")
    if report.torn_bytes:
        typer.echo(
            f"note           a crash cut a last line of {report.torn_bytes} bytes short; it never counted"
        )
    if known == EMPTY:
        typer.echo(
            "note           without its note beside it, or --head, entries cut off at the end are not noticed"
        )
