"""The catalogue is complete, and the command says what was found by words, JSON and exit code."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gains import GAINS
from weakened import WEAKENED
from weaker import WEAKER

import secfed.attack
from secfed.attack.catalogue import ROWS, find
from secfed.attack.finding import Finding, Part, Report, Verdict
from secfed.attack.venue import Venue
from secfed.cli import main
from secfed.errors import AttackSucceededError, ConfigError, NetworkError

ROW = find("double-unmask")

Run = Callable[[Venue, Report], None]

PATIENCE_S = 180

WHOLE_KIT_S = 300
"""What all attacks together may take on a machine that does nothing else."""


def carry_out(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """`secfed attack`, in this process."""
    code = main.run(["attack", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def fail(_venue: Venue, _report: Report) -> None:
    raise NetworkError("site-0 said nothing")


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Put something else in the place of one attack."""

    def put(run: Run) -> None:
        monkeypatch.setattr("secfed.attack.double_unmask.run", run)

    return put


def test_every_row_has_its_module_and_every_attack_its_row() -> None:
    modules = {each.name for each in pkgutil.iter_modules(secfed.attack.__path__)}
    attacks = {name for name in modules if hasattr(importlib.import_module(f"secfed.attack.{name}"), "run")}
    assert attacks == {row.module for row in ROWS}
    assert len({row.name for row in ROWS}) == len({row.words for row in ROWS}) == len(ROWS)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="no attack is called 'nothing'"):
        find("nothing")


def test_every_part_of_every_attack_is_shown_to_succeed() -> None:
    """What each gains is looked for against weakened victims of all rows; so no part is only watched."""
    assert {name: tuple(parts) for name, parts in GAINS.items()} == {row.name: row.parts for row in ROWS}
    assert all(gains for parts in GAINS.values() for gains in parts.values())
    weakened = [*WEAKENED, *WEAKER, "leaked-secrets"]
    assert sorted(weakened) == sorted(row.name for row in ROWS)


def test_the_verdict_follows_from_what_is_held() -> None:
    report = Report(("one", "other"))
    report.saw("a setting")
    report.part("one").saw("a fact")
    report.part("other").saw("another")
    held = Part("one", Verdict.DEFENDED, ("a fact",), ())
    other = Part("other", Verdict.DEFENDED, ("another",), ())
    assert report.finding == Finding(Verdict.DEFENDED, ("a setting",), (held, other))
    report.part("other").gained("a vector")
    broken = Part("other", Verdict.BROKEN, ("another",), ("a vector",))
    assert report.finding == Finding(Verdict.BROKEN, ("a setting",), (held, broken))
    assert report.finding.evidence == (
        "a setting",
        "DEFENDED   one",
        "  a fact",
        "BROKEN     other",
        "  another",
        "  the adversary holds a vector",
    )


def test_a_part_that_was_not_carried_out_is_no_defence() -> None:
    report = Report(("one", "other"))
    report.part("one").saw("a fact")
    with pytest.raises(ConfigError, match="not carried out: other"):
        _ = report.finding
    report.part("other")
    with pytest.raises(ConfigError, match="not carried out: other"):
        _ = report.finding
    with pytest.raises(ValueError, match="no part 'third'"):
        report.part("third")


def test_what_is_not_built_is_never_called_defended() -> None:
    report = Report(("one",), Verdict.NOT_BUILT)
    report.part("one").saw("a fact")
    assert report.finding.verdict is Verdict.NOT_BUILT
    assert report.finding.evidence == ("NOT BUILT  one", "  a fact")


def test_the_list_names_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = carry_out(capsys, "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == [row.name for row in ROWS]
    code, out, _ = carry_out(capsys, "list", "--json")
    assert [row["name"] for row in json.loads(out)["rows"]] == [row.name for row in ROWS]


def test_a_row_that_holds_ends_with_code_0(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The attack itself, over real sockets; nothing is left of its federation."""
    code, out, err = carry_out(capsys, ROW.name, "--threads", "--dir", str(disk))
    assert (code, err) == (0, "")
    assert out.startswith(f"DEFENDED   {ROW.name}: {ROW.words}  (")
    assert "opened: nothing" in out
    assert list(disk.iterdir()) == []


def test_a_row_that_is_broken_ends_with_its_own_code(
    instead: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def gain(_venue: Venue, report: Report) -> None:
        for name in ROW.parts:
            report.part(name).saw("a fact")
        report.part(ROW.parts[-1]).gained("a vector")

    instead(gain)
    code, out, err = carry_out(capsys, ROW.name)
    assert code == AttackSucceededError.exit_code != 0
    told = [line.strip() for line in out.splitlines()[1:]]
    assert told == [
        f"DEFENDED   {ROW.parts[0]}",
        "a fact",
        f"BROKEN     {ROW.parts[1]}",
        "a fact",
        "the adversary holds a vector",
    ]
    assert f"1 of 1 attacks succeeded: {ROW.name}" in err
    code, out, _ = carry_out(capsys, ROW.name, "--json")
    assert code == AttackSucceededError.exit_code
    document = json.loads(out)
    assert document["broken"] == [ROW.name]
    (row,) = document["rows"]
    assert row["verdict"] == "BROKEN"
    assert row["parts"] == [
        {"name": ROW.parts[0], "verdict": "DEFENDED", "evidence": ["a fact"]},
        {"name": ROW.parts[1], "verdict": "BROKEN", "evidence": ["a fact", "a vector"]},
    ]


def test_an_attack_that_came_to_no_end_is_no_defence(
    instead: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    instead(fail)
    code, out, err = carry_out(capsys, ROW.name)
    assert code == NetworkError.exit_code
    assert out.startswith(f"NO RESULT  {ROW.name}: site-0 said nothing")
    assert f"attack {ROW.name} came to no end" in err
    code, out, _ = carry_out(capsys, ROW.name, "--json")
    assert (code, json.loads(out)["rows"][0]["verdict"]) == (NetworkError.exit_code, "NO RESULT")


def test_of_several_rows_each_is_told_while_the_document_is_awaited(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hold(_venue: Venue, report: Report) -> None:
        report.part(held.parts[0]).saw("a fact")

    held = find("second-attempt")
    monkeypatch.setattr("secfed.attack.double_unmask.run", fail)
    monkeypatch.setattr("secfed.attack.second_attempt.run", hold)
    monkeypatch.setattr("secfed.attack.catalogue.ROWS", (ROW, held))
    code, out, err = carry_out(capsys, "all", "--json")
    assert code == NetworkError.exit_code
    seconds = {row["name"]: row["seconds"] for row in json.loads(out)["rows"]}
    assert seconds[ROW.name] is None
    assert seconds[held.name] >= 0
    first, second, *_ = err.splitlines()
    assert first == f"NO RESULT  {ROW.name}: site-0 said nothing"
    assert second.startswith(f"DEFENDED   {held.name}: {held.words}  (")


def running(folder: Path) -> dict[int, str]:
    """Processes whose command line names something in this folder."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f"{folder}/" in words:
                found[int(path.parent.name)] = words
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="what runs is read from /proc")
@pytest.mark.parametrize(
    ("row", "program"), [("double-unmask", "client run"), ("leaked-secrets", "aggregator run")]
)
def test_sigterm_leaves_no_program_and_no_key_behind(disk: Path, row: str, program: str) -> None:
    """As Ctrl-C does: as soon as the first victim was begun, in the middle of its start."""
    attack = subprocess.Popen(
        [sys.executable, "-m", "secfed", "attack", row, "--dir", str(disk)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_S
    while not any(program in words for words in running(disk).values()):
        assert attack.poll() is None, attack.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    attack.terminate()
    out, err = attack.communicate(timeout=PATIENCE_S)
    left = running(disk)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == {}
    assert list(disk.iterdir()) == []
    assert (attack.returncode, out) == (main.INTERRUPTED, ""), err


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_all_rows_against_real_processes(disk: Path) -> None:
    """`secfed attack all` as a reviewer types it."""
    done = subprocess.run(
        [sys.executable, "-m", "secfed", "attack", "all", "--json", "--dir", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(done.stdout)
    verdicts = {row["name"]: row["verdict"] for row in document["rows"]}
    assert done.returncode == 0, done.stderr
    assert list(verdicts) == [row.name for row in ROWS]
    assert {name for name, verdict in verdicts.items() if verdict != "DEFENDED"} == {"noise-shortfall"}
    assert verdicts["noise-shortfall"] == "NOT BUILT"
    assert sum(row["seconds"] for row in document["rows"]) < WHOLE_KIT_S
    print(
        "\n".join(f"{row['verdict']:<10} {row['seconds']:6.1f} s  {row['name']}" for row in document["rows"])
    )
