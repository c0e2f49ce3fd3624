"""Passphrases: from a file, a descriptor or a prompt, and from nowhere else."""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from secfed.cli.passphrase import source
from secfed.errors import KeyPermissionsError, PassphraseError
from secfed.identity import keyfile

Command = Callable[..., object]


def test_the_first_line_of_a_file_counts(write_passphrase: Callable[..., Path]) -> None:
    for text in ("päss wörd", "päss wörd\n", "päss wörd\r\n", "päss wörd\nand a note\n"):
        assert source(write_passphrase(text), None).for_new("x") == "päss wörd"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_passphrase_file_that_others_can_use_is_refused(
    write_passphrase: Callable[..., Path], mode: int
) -> None:
    path = write_passphrase("secret", "my file", mode)
    with pytest.raises(KeyPermissionsError, match=f"mode {mode:04o}") as refused:
        source(path, None).for_new("x")
    assert refused.value.hint == f"chmod 600 '{path}'"
    assert refused.value.exit_code == 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"", "holds no passphrase"), (b"\n", "holds no"), (b"\xff\n", "UTF-8"), (b"x" * 5000, "longer than")],
)
def test_a_file_without_a_passphrase_is_refused(tmp_path: Path, text: bytes, expected: str) -> None:
    path = tmp_path / "p"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(PassphraseError, match=expected):
        source(path, None).for_new("x")


def test_a_missing_passphrase_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PassphraseError, match="No such file"):
        source(tmp_path / "p", None).for_new("x")


def test_nothing_shows_a_passphrase_that_was_read(write_passphrase: Callable[..., Path]) -> None:
    given = source(write_passphrase("open sesame"), None)
    assert given.for_new("x") == "open sesame"
    assert "sesame" not in repr(given)


def test_a_descriptor_is_read_once_and_serves_twice(tmp_path: Path, secfed: Command) -> None:
    """`rotate` needs the old passphrase and a new one; a pipe gives its content only once."""
    reader, writer = os.pipe()
    os.write(writer, b"from a pipe\n")  # the writer stays open: nobody waits for its end
    made = secfed("keys", "new", "a", "--dir", tmp_path, "--passphrase-fd", reader)
    assert made.code == 0, made.err
    os.write(writer, b"from a pipe\n")
    rotated = secfed("keys", "rotate", tmp_path / "a.key", "--passphrase-fd", reader)
    assert rotated.code == 0, rotated.err
    os.close(reader)
    os.close(writer)
    (fresh,) = tmp_path.glob("a-*.key")
    for path in (tmp_path / "a.key", fresh):
        assert keyfile.load(path, "from a pipe")


def test_a_descriptor_of_the_caller_reaches_the_process(tmp_path: Path, process: Command) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"from outside\n")
    os.close(writer)
    done = process("keys", "new", "a", "--dir", tmp_path, "--passphrase-fd", reader, pass_fds=(reader,))
    os.close(reader)
    assert (done.code, done.err) == (0, "")
    assert keyfile.load(tmp_path / "a.key", "from outside")


def test_a_closed_descriptor_is_named(tmp_path: Path, secfed: Command) -> None:
    done = secfed("keys", "new", "a", "--dir", tmp_path, "--passphrase-fd", 987)
    assert (done.code, list(tmp_path.iterdir())) == (31, [])
    assert done.error == "descriptor 987: Bad file descriptor"


def test_without_a_terminal_nobody_is_asked(
    tmp_path: Path, process: Command, write_passphrase: Command, secfed: Command
) -> None:
    new = process("keys", "new", "a", "--dir", tmp_path / "site", stdin="typed\ntyped\n")
    assert (new.code, (tmp_path / "site").exists()) == (31, False)
    assert "no terminal to ask at" in new.error
    assert "--passphrase-file" in new.remedy
    secfed("keys", "new", "a", "--dir", tmp_path, "--passphrase-file", write_passphrase("typed"))
    old = process("keys", "show", tmp_path / "a.key", stdin="typed\n")
    assert old.code == 31
    assert "is encrypted" in old.error


def test_the_environment_is_not_looked_at(
    tmp_path: Path, process: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SECFED_PASSPHRASE", "PASSPHRASE", "SECFED_PASSPHRASE_FILE", "PASSPHRASE_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "p"))
    assert process("keys", "new", "a", "--dir", tmp_path).code == 31


def test_no_passphrase_says_nothing_about_keys_that_are_there(
    tmp_path: Path, secfed: Command, process: Command, write_passphrase: Command
) -> None:
    """`rotate --no-passphrase` still needs the old file's passphrase."""
    secfed("keys", "new", "a", "--dir", tmp_path, "--passphrase-file", write_passphrase("p"))
    done = process("keys", "rotate", tmp_path / "a.key", "--no-passphrase")
    assert done.code == 31
    assert "is encrypted" in done.error


def at_terminal(*words: object, answers: list[tuple[str, str]]) -> tuple[int, str]:
    """Run a command at a terminal of its own, answering each question; its exit code and the screen."""
    child, screen = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "secfed", *map(str, words)])
    shown, seen, deadline = "", 0, time.monotonic() + 180
    while time.monotonic() < deadline:
        if answers and answers[0][0] in shown[seen:]:
            seen = len(shown)
            time.sleep(0.05)  # the echo is off once the question stands there
            os.write(screen, answers.pop(0)[1].encode() + b"\n")
        if select.select([screen], [], [], 0.1)[0]:
            try:
                shown += os.read(screen, 65536).decode()
            except OSError:  # the other side is gone
                break
    os.close(screen)
    assert not answers, shown
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown


def test_at_a_terminal_a_new_passphrase_is_asked_for_twice_and_not_shown(tmp_path: Path) -> None:
    code, screen = at_terminal(
        "keys", "new", "a", "--dir", tmp_path,
        answers=[
            ("New passphrase for a.key", "first try"), ("Repeat", "mistyped"),
            ("New passphrase for a.key", "open sesame"), ("Repeat", "open sesame"),
        ],
    )  # fmt: skip
    assert code == 0, screen
    assert not any(word in screen for word in ("sesame", "first try", "mistyped"))
    assert keyfile.load(tmp_path / "a.key", "open sesame")
    code, screen = at_terminal(
        "keys", "show", tmp_path / "a.key", answers=[("Passphrase for a.key", "open sesame")]
    )
    assert code == 0, screen
    assert "sesame" not in screen


def test_who_ends_the_question_gets_one_cause_and_one_remedy(tmp_path: Path) -> None:
    code, screen = at_terminal(
        "keys", "new", "a", "--dir", tmp_path / "site", answers=[("New passphrase", "\x04")]
    )
    assert code == 2
    assert (screen.count("error: "), screen.count("remedy: ")) == (1, 1)
    assert not (tmp_path / "site").exists()
