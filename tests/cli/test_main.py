"""One way to fail: a line of cause, a line of remedy, a documented exit code; a traceback on demand."""

from __future__ import annotations

import ast
import base64
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secfed import __version__, errors
from secfed.cli import main
from secfed.cli.examples import EXAMPLES
from secfed.errors import ConfigError, NetworkError, PeerError, SecfedError

Command = Callable[..., Any]

DOCUMENTED = {2, 99} | {ten + one for ten in range(10, 80, 10) for one in range(10)}
"""2 usage and configuration, 10s network, … 70s versions, 99 a bug."""


def raising(monkeypatch: pytest.MonkeyPatch, problem: BaseException) -> None:
    """Let the next command run into a problem, deep inside."""

    def fail(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr("secfed.identity.roster.verify", fail)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A roster file, as far as `roster show` looks before it verifies."""
    (tmp_path / "roster.pub").write_text(base64.b64encode(bytes(32)).decode())
    (tmp_path / "roster.txt").write_text("{}")
    return tmp_path / "roster.txt"


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "SecfedError"])
def test_every_error_has_a_documented_code_and_a_remedy(
    name: str, path: Path, secfed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = getattr(errors, name)
    raising(monkeypatch, kind("the cause"))
    done = secfed("roster", "show", path)
    assert done.code == kind.exit_code
    assert done.code in DOCUMENTED - {99}
    assert (done.out, done.err) == ("", f"error: the cause\nremedy: {kind.hint}\n")
    assert "bug" not in done.remedy


def test_an_errors_words_cannot_steer_a_terminal_wherever_they_are_printed() -> None:
    """A peer's reason, a file's content and a file's name stand in them."""
    told = "no\x1b[2K\r\x9b1A\u202e\u2066\u2028fine\n"
    for kind in (ConfigError, NetworkError, PeerError):
        error = kind(told, hint=told)
        assert str(error) == error.hint == "no [2K  1A   fine "


def test_no_two_errors_share_a_code_unless_they_share_a_meaning() -> None:
    """2 stands for configuration, data and encoding alike: input that its owner mends."""
    kinds = {getattr(errors, name) for name in errors.__all__}
    codes = [kind.exit_code for kind in kinds if kind.exit_code != 2]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    ("problem", "code", "cause"),
    [
        (RuntimeError("secret words"), 99, "unexpected RuntimeError inside secfed"),
        (AssertionError(), 99, "unexpected AssertionError inside secfed"),
        (ModuleNotFoundError("x", name="secfed.lost"), 99, "unexpected ModuleNotFoundError inside secfed"),
        (ModuleNotFoundError("x", name="torch"), 2, "this command needs torch, which is not installed"),
        (OSError(28, "No space left on device", "/a"), 60, "/a: No space left on device"),
        (OSError("odd"), 60, "odd"),
    ],
)
def test_what_nobody_foresaw_is_two_lines_too(
    path: Path, secfed: Command, monkeypatch: pytest.MonkeyPatch, problem: Exception, code: int, cause: str
) -> None:
    raising(monkeypatch, problem)
    done = secfed("roster", "show", path)
    assert (done.code, done.error) == (code, cause)
    assert len(done.err.splitlines()) == 2
    assert "secret words" not in done.said


def test_a_traceback_is_shown_only_with_debug(
    path: Path, secfed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch, RuntimeError("words for a developer"))
    done = secfed("--debug", "roster", "show", path)
    assert done.code == 99
    assert "Traceback" in done.err
    assert "words for a developer" in done.err
    assert done.error == "unexpected RuntimeError inside secfed"
    assert "--debug" in done.remedy
    assert "Traceback" not in secfed("roster", "show", path).err


def test_a_peers_words_cannot_steer_the_terminal(
    path: Path, secfed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch, PeerError("says \x1b[2J\nremedy: pay\r\x9b31m\u202ehosp"))
    done = secfed("roster", "show", path)
    assert done.error == "says  [2J remedy: pay  31m hosp"
    assert len(done.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "cause", "command"),
    [
        (("bogus",), "bogus", "secfed --help"),
        (("keys", "nw"), "'new'", "secfed keys --help"),
        (("keys", "new"), "site", "secfed keys new --help"),
        (("keys", "new", "a", "--dayz", "3"), "--dayz", "secfed keys new --help"),
        (("init", "--days", "soon"), "--days", "secfed init --help"),
        (("--colour",), "--colour", "secfed --help"),
    ],
)
def test_a_wrong_command_line_says_where_its_help_is(
    secfed: Command, words: tuple[str, ...], cause: str, command: str
) -> None:
    done = secfed(*words)
    assert done.code == 2
    assert cause in done.error
    assert f"`{command}`" in done.remedy
    assert len(done.err.splitlines()) == 2


def test_help_and_version(secfed: Command) -> None:
    for words in ((), ("--help",)):
        done = secfed(*words)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("Usage: secfed ")
    assert secfed("--version").out == f"secfed {__version__}\n"
    group = secfed("keys")  # a group alone shows what it has
    assert (group.code, "rotate" in group.err, "error:" in group.err) == (2, True, False)


def test_no_command_of_the_overview_is_cut_off(secfed: Command) -> None:
    assert "..." not in secfed("--help").out.partition("Commands:")[2]


def _commands(group: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [words]
    for name, command in getattr(group, "commands", {}).items():
        found += _commands(command, (*words, name))
    return found


def test_every_command_has_a_help_that_explains_each_option(secfed: Command) -> None:
    from typer.main import get_command

    commands = _commands(get_command(main.app))
    assert len(commands) > 25
    for words in commands:
        done = secfed(*words, "--help")
        assert done.code == 0
        options = done.out.partition("Options:")[2].partition("Commands:")[0]
        for line in options.splitlines():
            if line.strip().startswith("--"):
                assert len(line.split()) > 2, (words, line)
        assert "passphrase TEXT" not in done.out  # never in argv


def test_every_command_says_what_it_needs_and_how_it_is_typed() -> None:
    """Every example is held against its command: its options exist, and none that it must have is missing."""
    from typer.main import get_command

    top = get_command(main.app)
    leaves = set()
    for words in _commands(top):
        command: Any = top
        for word in words:
            command = command.commands[word]
        if hasattr(command, "commands"):
            continue
        leaves.add(" ".join(words))
        example = EXAMPLES[" ".join(words)]
        typed = f"secfed {' '.join(words)} {example.words}"
        context = command.make_context(" ".join(words), shlex.split(example.words))
        said = command.get_help(context)
        assert f"  Needs:    {example.needs}.\n" in said.replace("\n" + 12 * " ", " ")
        assert f"Example:  {typed}" in said
    assert leaves == set(EXAMPLES)


def test_every_json_document_names_its_kind_and_schema() -> None:
    """Wherever a document with a schema is made: whoever reads one can tell which one it is."""
    found = 0
    for path in sorted(Path(main.__file__).parents[1].rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if '"schema"' not in text:
            continue
        tree = ast.parse(text)
        lines = [  # of `bench`, whose function adds the kind
            argument
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "as_json"
            for argument in node.args
        ]
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict) and node not in lines:
                keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
                assert "schema" not in keys or "kind" in keys, f"{path}:{node.lineno}"
                found += "schema" in keys
    assert found >= 12


def test_interrupted_is_one_word(path: Path, secfed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    done = secfed("roster", "show", path)
    assert (done.code, done.err) == (130, "stopped\n")


def test_a_process_ends_as_the_command_did(tmp_path: Path, process: Command) -> None:
    done = process("keys", "show", tmp_path / "x.pub")
    assert (done.code, done.out) == (30, "")
    assert done.error == f"{tmp_path / 'x.pub'}: No such file or directory"
    assert len(done.err.splitlines()) == 2


def test_a_reader_that_went_away_is_no_failure(enrolled: Path) -> None:
    """`secfed roster show | head -1` says nothing on standard error."""
    shown = subprocess.Popen(
        [sys.executable, "-m", "secfed", "roster", "show", str(enrolled / "roster.txt")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert shown.stdout is not None
    assert shown.stderr is not None
    shown.stdout.close()
    with shown.stderr as stream:
        assert stream.read() == b""
    assert shown.wait(180) != 99


PROBE = """
import os, resource
from secfed.cli import main
resource.setrlimit(resource.RLIMIT_CORE, (4096, resource.RLIM_INFINITY))
os.environ["HF_HUB_OFFLINE"] = "0"
shown = lambda *_, **__: print(resource.getrlimit(resource.RLIMIT_CORE), os.environ["HF_HUB_OFFLINE"])
main._command = lambda _: shown
main.main()
"""


def test_a_crash_writes_no_keys_to_disk_and_nothing_phones_home() -> None:
    """Whatever the shell set: core dumps are off, for good, and model libraries are offline."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=180, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(0, 0) 1\n", "")


def test_the_base_class_is_for_bugs() -> None:
    assert SecfedError.exit_code == 99
    assert "--debug" in SecfedError.hint
