"""Commands as an operator gives them: in this process where that shows the same, else in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from secfed.cli import main


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of cause."""
        return self._only("error: ")

    @property
    def remedy(self) -> str:
        """The one line of remedy."""
        return self._only("remedy: ")

    @property
    def said(self) -> str:
        """Everything that was printed."""
        return self.out + self.err

    def fact(self, label: str) -> str:
        """The right column of the one line with this label on its left."""
        (found,) = [line[15:] for line in self.out.splitlines() if line[:15].rstrip() == label]
        return found

    def _only(self, start: str) -> str:
        (found,) = [line for line in self.err.splitlines() if line.startswith(start)]
        assert found.removeprefix(start).strip()
        return found.removeprefix(start)


@pytest.fixture
def secfed(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Gives a command in this process."""

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        code = main.run([str(word) for word in words])
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return call


@pytest.fixture
def process() -> Callable[..., Outcome]:
    """Gives a command in a process of its own; `stdin` is what it may read."""

    def call(*words: object, stdin: str = "", pass_fds: tuple[int, ...] = ()) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "secfed", *map(str, words)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            pass_fds=pass_fds,
            env=dict(os.environ, OMP_NUM_THREADS="1"),
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def write_passphrase(tmp_path: Path) -> Callable[..., Path]:
    """Writes a passphrase file that only its owner may read."""

    def write(passphrase: str, name: str = "passphrase", mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.write_text(passphrase, encoding="utf-8")
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def federation(tmp_path: Path, secfed: Callable[..., Outcome]) -> Path:
    """A federation whose keys are not encrypted, so that its tests are quick."""
    folder = tmp_path / "federation"
    assert secfed("init", folder, "--no-passphrase").code == 0
    return folder


@pytest.fixture
def new_site(tmp_path: Path, secfed: Callable[..., Outcome]) -> Callable[..., Path]:
    """Makes a site's keys, not encrypted; returns its public file."""

    def make(name: str, *options: object) -> Path:
        done = secfed("keys", "new", name, "--dir", tmp_path / name, "--no-passphrase", *options)
        assert done.code == 0, done.err
        return tmp_path / name / f"{name}.pub"

    return make


@pytest.fixture
def enrolled(federation: Path, new_site: Callable[..., Path], secfed: Callable[..., Outcome]) -> Path:
    """The federation with three sites in roster version 2."""
    public = [new_site(f"hosp-{letter}") for letter in "abc"]
    done = secfed("enroll", *public, "--dir", federation, "--yes")
    assert done.code == 0, done.err
    return federation
