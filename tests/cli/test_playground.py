"""A demo that fails says why, as its processes did; a demo that waits says for what."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from secfed.cli import demo_train, demo_vector
from secfed.cli.playground import Playground, failure
from secfed.errors import BudgetExceededError, ConfigError, RosterError, RoundAbortedError, SecfedError

SAID = '{"event": "accepted"}\nround 1/3  included\nerror: the cap is 8: no more\nremedy: stop here\n'


@pytest.mark.parametrize(("code", "kind"), [(50, BudgetExceededError), (2, ConfigError), (99, SecfedError)])
def test_a_failed_process_hands_on_its_own_words_and_code(code: int, kind: type[SecfedError]) -> None:
    found = failure("hosp-a", code, SAID)
    assert type(found) is kind
    assert (str(found), found.hint, found.exit_code) == ("hosp-a: the cap is 8: no more", "stop here", code)


@pytest.mark.parametrize(("code", "how"), [(-9, "was ended by signal 9"), (1, "ended with exit code 1")])
def test_a_process_that_says_nothing_leaves_its_log(code: int, how: str, tmp_path: Path) -> None:
    found = failure("hosp-a", code, "Killed\n", tmp_path / "hosp-a.log")
    assert type(found) is RoundAbortedError
    assert str(found) == f"hosp-a: {how}"
    assert str(tmp_path / "hosp-a.log") in found.hint


def test_a_command_in_a_playground_says_its_own_cause(tmp_path: Path) -> None:
    with Playground(tmp_path / "play") as play, pytest.raises(RosterError) as told:
        play.run("roster", "show", str(tmp_path / "nowhere.txt"))
    assert "secfed roster show" in str(told.value)
    assert "nowhere.txt" in str(told.value)
    assert "error:" not in str(told.value)


def test_a_playgrounds_ports_are_its_own_from_first_to_last(tmp_path: Path) -> None:
    """Between a choice of ports and a start, and between two starts, no other program is given one."""
    with Playground(tmp_path / "play") as play:
        assert play.port != play.ops_port
        for port in (play.port, play.ops_port):
            with socket.socket() as other, pytest.raises(OSError, match="in use") as taken:
                other.bind(("127.0.0.1", port))
            assert taken.value.errno == errno.EADDRINUSE
            with socket.socket() as dial:
                assert dial.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
            for _start in range(2):
                with socket.create_server(("127.0.0.1", port)) as server, socket.socket() as dial:
                    dial.connect(server.getsockname())
    with contextlib.ExitStack() as stack:
        for port in (play.port, play.ops_port):
            stack.enter_context(socket.create_server(("127.0.0.1", port)))


def test_a_failed_check_is_two_lines_and_a_documented_code(
    tmp_path: Path, secfed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_vector, "run_vector", lambda *_: False)
    done = secfed("demo", "--task", "vector", "--dir", tmp_path / "demo")
    assert done.code == 99
    assert "FAIL" in done.error
    assert str(tmp_path / "demo") in done.remedy


def test_a_failed_site_ends_the_demo_with_its_words_and_code(
    tmp_path: Path, secfed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise failure("hosp-b", 50, SAID)

    monkeypatch.setattr(demo_vector, "run_vector", fail)
    done = secfed("demo", "--task", "vector", "--dir", tmp_path / "demo")
    assert (done.code, done.error, done.remedy) == (50, "hosp-b: the cap is 8: no more", "stop here")


@pytest.mark.parametrize(
    ("line", "standing"),
    [
        ("", "gets ready"),
        ("hosp-a takes part at 127.0.0.1:9", "gets ready"),
        ("job classify  accepted  3 rounds cost epsilon 2.828 by plan", "loads its model and rows"),
        ("training: step 3/8", "trains, step 3/8"),
        (
            "waiting: job classify round 2: waiting for 2 sites: hosp-b, hosp-c, for 30 s at most",
            "waits for hosp-b, hosp-c",
        ),
        ("waiting: job classify round 1, attempt 1, mask: waiting for hosp-b", "waits for hosp-b"),
        (
            "waiting: no job is running, until that changes or this client is stopped",
            "waits (no job is running)",
        ),
        (
            "waiting: job classify round 1: missing 1 site: b, until that changes or this client is stopped",
            "waits (job classify round 1: missing 1 site: b)",
        ),
        ("waiting: job classify, which is not started yet, for 600 s at most", "gets ready"),
    ],
)
def test_a_waiting_demo_says_what_it_waits_for(line: str, standing: str, tmp_path: Path) -> None:
    class Client:
        running = True
        output = f'{line}\n{{"event": "a log line"}}\n'

    assert demo_train._standing(Client()) == standing


class Acted:
    """A process of a demo that says a word a second, for so long, and ends with a code."""

    def __init__(
        self, name: str, clock: list[float], log: Path, talks_s: float, ends_s: float, code: int = 0
    ):
        self.name, self.log, self._clock = name, log, clock
        self._talks_s, self._ends_s, self._code = talks_s, ends_s, code
        self.popen = self

    def poll(self) -> int | None:
        return self._code if self._clock[0] >= self._ends_s else None

    @property
    def running(self) -> bool:
        self.log.write_text("word\n" * int(1 + min(self._clock[0], self._talks_s)))
        return self.poll() is None

    @property
    def output(self) -> str:
        return "error: the disk is full\nremedy: make room\n"


def watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *plans: tuple[float, ...]
) -> tuple[float, list[str]]:
    """When the vector demo's wait ended, and what it said; the plans are those of `Acted`."""
    clock = [0.0]
    said: list[str] = []

    def sleep(_: float) -> None:
        clock[0] += 1

    monkeypatch.setattr(demo_vector, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    sites = [
        Acted(f"hosp-{number}", clock, tmp_path / f"{number}.log", *plan) for number, plan in enumerate(plans)
    ]
    play: Any = SimpleNamespace(processes=sites, root=tmp_path)
    for each in sites:
        each.log.touch()
    try:
        demo_vector._watch(play, sites, said.append)
    except SecfedError as problem:
        said.append(f"{type(problem).__name__}: {problem}")
    return clock[0], said


def test_a_vector_demo_waits_as_long_as_something_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an hour of a slow machine is no fault; every few seconds it is said who is waited for."""
    ended, said = watched(tmp_path, monkeypatch, (1500, 1800), (0, 5))
    assert ended == 1800
    assert len(said) > 100
    assert set(said[1:60]) == {"  ... waiting for hosp-0, for 300 s at most unless one goes on"}


def test_a_vector_demo_that_stands_still_ends_and_says_for_whom_it_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, said = watched(tmp_path, monkeypatch, (100, 9999), (0, 5))
    assert 390 < ended < 410
    assert said[-1].startswith(
        "NetworkError: waited for hosp-0, and no process has said anything new for 300 s"
    )


def test_a_vector_demo_ends_with_the_first_site_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, said = watched(tmp_path, monkeypatch, (0, 9999), (0, 5, 60))
    assert (ended, said) == (5, ["StorageError: hosp-1: the disk is full"])


def test_the_demo_names_a_missing_model_before_it_makes_keys(
    tmp_path: Path, secfed: Callable[..., Any]
) -> None:
    done = secfed("demo", "--dir", tmp_path / "demo", "--models", tmp_path / "empty")
    assert done.code == 2
    assert "make setup-assets" in done.remedy
    assert not (tmp_path / "demo" / "federation").exists()
