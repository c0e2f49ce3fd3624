"""The `secfed` command: groups of commands, one way to fail.

Every failure is one line of cause, one line of remedy and a documented exit code; a traceback
appears only with `--debug`. Nothing heavy is imported here, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from secfed import __version__
from secfed.cli import (
    adapter,
    aggregator,
    client,
    data,
    demo,
    evaluate,
    federation,
    job,
    keys,
    ledger,
    report,
    roster,
    status,
)
from secfed.errors import SecfedError

__all__ = ["app", "main"]

app = typer.Typer(
    name="secfed",
    help="Fine-tune one language model across sites that may not share data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_debug = False


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"secfed {__version__}")
        raise typer.Exit


def _core_dumps_off() -> None:
    """A core dump would hold keys and masks; a crash must not write them to disk."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
    version: Annotated[  # noqa: ARG001 - the callback above acts on it
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    global _debug
    _debug = debug


app.command("demo")(demo.demo)
app.command("init")(federation.init)
app.command("enroll")(federation.enroll)
app.command("revoke")(federation.revoke)
app.add_typer(keys.app, name="keys", help="Make, show, rotate key files; change a passphrase.")
app.add_typer(roster.app, name="roster", help="Show or verify the signed list of members.")
app.add_typer(aggregator.app, name="aggregator", help="Run the aggregator.")
app.add_typer(client.app, name="client", help="Join a federation; train, or push an update.")
app.add_typer(job.app, name="job", help="Write, start, pause, resume, stop and list jobs.")
app.command("status")(status.status)
app.add_typer(adapter.app, name="adapter", help="Fetch a round's adapter.")
app.command("eval")(evaluate.evaluate)
app.add_typer(data.app, name="data", help="Try a site's data without any socket.")
app.command("report")(report.report)
app.add_typer(ledger.app, name="ledger", help="Verify a ledger's chain and signatures.")


def _fail(error: SecfedError) -> int:
    """Cause, remedy, exit code."""
    if _debug:
        traceback.print_exception(error)
    typer.echo(f"error: {error}", err=True)
    typer.echo(f"remedy: {error.hint}", err=True)
    return error.exit_code


def main() -> None:
    """Run one command and exit with its code."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing phones home
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its errors come as our own, with a cause
    _core_dumps_off()
    try:
        app()
    except SecfedError as error:
        sys.exit(_fail(error))
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - the last line of defence against a raw traceback
        if _debug:
            traceback.print_exception(error)
        typer.echo(f"error: unexpected {type(error).__name__} inside secfed", err=True)
        typer.echo(f"remedy: {SecfedError.hint}", err=True)
        sys.exit(SecfedError.exit_code)
