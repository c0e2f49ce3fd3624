"""The `secfed` command: groups of commands, one way to fail.

Every failure is one line of cause, one line of remedy and a documented exit code; a traceback
appears only with `--debug`. Nothing heavy is imported here, so that `--help` is quick.
"""

from __future__ import annotations

import copy
import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

from secfed import __version__
from secfed.cli import (
    adapter,
    aggregator,
    attack,
    audit,
    bench,
    budget,
    client,
    data,
    demo,
    doctor,
    evaluate,
    examples,
    federation,
    job,
    keys,
    ledger,
    report,
    roster,
    status,
)
from secfed.errors import ConfigError, SecfedError, StorageError
from secfed.ids import one_line

__all__ = ["app", "main", "run"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 and the signal's number."""

app = typer.Typer(
    name="secfed",
    help="Fine-tune one language model across sites that may not share data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"secfed {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    # `_version` acts on the one and `run` on the other, so that it holds for wrong options too.
    del debug, version


app.command("demo", short_help="A whole federation on this machine, in about two minutes.")(demo.demo)
app.command("init", short_help="Make a federation: roster key, aggregator and admin.")(federation.init)
app.command("enroll", short_help="Take sites into the roster; an invite for each.")(federation.enroll)
app.command("revoke", short_help="Take a site out of the roster.")(federation.revoke)
app.add_typer(keys.app, name="keys", help="Make, show and rotate key files; change a passphrase.")
app.add_typer(roster.app, name="roster", help="Show, verify or renew the signed list of members.")
app.add_typer(aggregator.app, name="aggregator", help="Run the aggregator; verify its audit log.")
app.add_typer(client.app, name="client", help="Join a federation; train, or push an update.")
app.add_typer(job.app, name="job", help="Write, start, pause, resume, stop and list jobs.")
app.command("status")(status.status)
app.command("doctor", short_help="What would keep this member from working, before it starts.")(doctor.doctor)
app.add_typer(adapter.app, name="adapter", help="Fetch a round's adapter.")
app.command("eval")(evaluate.evaluate)
app.add_typer(data.app, name="data", help="Check a site's data; make feedback of preference pairs.")
app.add_typer(budget.app, name="budget", help="What noise costs, and what a job would spend.")
app.command("report", short_help="What was spent of a data set's budget, and what is left.")(report.report)
app.add_typer(ledger.app, name="ledger", help="Verify a ledger's chain and signatures.")
app.add_typer(audit.app, name="audit", help="Measure the mechanism; bound epsilon from below.")
app.add_typer(bench.app, name="bench", help="What sums and training steps cost on this machine.")
app.command("attack", short_help="Attack this software on loopback, and see what holds.")(attack.attack)
examples.attach(app)


def main() -> None:
    """Run the command line's command and exit with its code."""
    _keep_to_itself()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command in this process.

    Args:
        arguments: As on the command line, without the program's name; none at all asks for help.

    Returns:
        The exit code; what failed was said on standard error, in two lines.
    """
    first = next((at for at, word in enumerate(arguments) if not word.startswith("-")), len(arguments))
    debug = "--debug" in arguments[:first]
    command = _command(arguments[first] if first < len(arguments) else None)
    try:
        code = command(list(arguments) or ["--help"], prog_name="secfed", standalone_mode=False)
    except typer.TyperException as problem:
        return _misused(problem)
    except Exception as problem:  # noqa: BLE001 - the last line of defence against a raw traceback
        if debug:
            traceback.print_exception(problem)
        return _failed(_in_our_words(problem))
    if code == INTERRUPTED:
        typer.echo("stopped", err=True)
    return code if isinstance(code, int) else 0


@functools.cache
def _command(word: str | None) -> Callable[..., Any]:
    """The whole command, in which groups of another name than this are left without their commands.

    Making the commands of all groups takes longer than all else that a short command does.
    """
    trunk = copy.copy(app)
    trunk.registered_groups = []
    for group in app.registered_groups:
        if group.name != word:
            group = copy.copy(group)
            group.typer_instance = typer.Typer()
        trunk.registered_groups.append(group)
    return get_command(trunk)


def _keep_to_itself() -> None:
    """Nothing phones home; errors of a library come as our own; a crash writes no keys to disk."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _in_our_words(problem: Exception) -> SecfedError:
    """What a person is told; an unknown exception's text is not shown: who knows what stands in it."""
    match problem:
        case SecfedError():
            return problem
        case typer.Abort():
            return ConfigError(
                "a question was left without an answer", hint="Answer it at a terminal, or by an option."
            )
        case ModuleNotFoundError(name=str(name)) if not name.startswith("secfed"):
            return ConfigError(
                f"this command needs {name}, which is not installed", hint="pip install 'secfed[train]'"
            )
        case OSError():
            what = "" if problem.filename is None else f"{problem.filename}: "
            return StorageError(f"{what}{problem.strerror or problem}")
        case _:
            return SecfedError(f"unexpected {type(problem).__name__} inside secfed")


def _failed(error: SecfedError) -> int:
    """Say cause and remedy; the exit code."""
    typer.echo(f"error: {error}", err=True)
    typer.echo(f"remedy: {error.hint}", err=True)
    return error.exit_code


def _misused(problem: typer.TyperException) -> int:
    """A command line that does not parse; a group without a command shows its help."""
    message = problem.format_message()
    if message.startswith("Usage:"):
        typer.echo(message, err=True)
        return ConfigError.exit_code
    context = getattr(problem, "ctx", None)
    command = "secfed" if context is None else context.command_path
    typer.echo(f"error: {one_line(message)}", err=True)
    typer.echo(f"remedy: `{command} --help` says what it takes.", err=True)
    return ConfigError.exit_code
