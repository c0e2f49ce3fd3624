"""`secfed bench`: small measurements end to end; what they print, and that it is the true sum."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from secfed.bench.targets import Row
from secfed.errors import StorageError

PATIENCE_S = 150

COLUMNS = [
    "kind", "stage", "side", "part", "cpu_s", "wall_s", "bytes_up", "bytes_down", "peak_mib", "floor_s",
    "ratio",
]  # fmt: skip
PHASES = ["advertise", "encapsulate", "share", "mask", "confirm", "unmask"]
PARTS = {
    "client": {
        "quantise",
        "key agreement",
        "Shamir",
        "AEAD",
        "commitments",
        "signatures",
        "masks",
        "pack",
        "hash",
    },
    "aggregator": {"Shamir", "masks", "unpack and add", "spool", "signatures", "messages"},
}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_sum_with_a_dropout_is_exact_and_every_stage_has_a_line(
    secfed: Callable[..., Any], disk: Path
) -> None:
    """Five members, one of them lost while masking; the last line holds the sum against the truth."""
    size = ("--clients", 5, "--coordinates", 2000, "--dropouts", 0.2, "--repeats", 1)
    done = secfed("bench", "secure-sum", *size, "--dir", disk, "--json")
    assert done.code == 0, done.err
    setting, *figures, last = lines(done.out)
    assert (setting["clients"], setting["coordinates"], setting["dropouts"]) == (5, 2000, 1)
    assert setting["fraction_bits"] == 16
    assert (setting["kind"], setting["schema"], last["kind"]) == ("setting", 1, "result")
    assert {figure["kind"] for figure in figures} == {"figure"}
    assert all(list(figure) == COLUMNS for figure in figures)
    stages = {
        side: [f["stage"] for f in figures if f["side"] == side and f["part"] is None] for side in PARTS
    }
    assert stages["client"] == ["encode", *PHASES, "until sent", "total"]
    assert stages["aggregator"] == ["open", *PHASES, "sum", "total"]
    for side, wanted in PARTS.items():
        assert wanted <= {f["part"] for f in figures if f["side"] == side and f["cpu_s"] > 0}
    (mask,) = [f for f in figures if (f["side"], f["stage"], f["part"]) == ("client", "mask", None)]
    assert mask["bytes_up"] > 2000 * 19 / 8
    assert mask["ratio"] == pytest.approx(mask["cpu_s"] / mask["floor_s"], rel=0.001)
    assert last["exact"] is True
    assert (last["survivors"], last["neighbours"], last["threshold"]) == (4, 4, 3)
    assert last["upload_bytes"] <= last["upload_limit_bytes"]
    assert list(disk.iterdir()) == []


def test_a_round_over_loopback_with_a_dropout_is_exact_and_every_stage_has_a_line(
    secfed: Callable[..., Any], disk: Path
) -> None:
    """A daemon and five clients over mutual TLS, one of which says nothing once its vector is asked for."""
    size = ("--clients", 5, "--coordinates", 2000, "--dropouts", 0.2, "--repeats", 1)
    done = secfed("bench", "secure-sum", "--grpc", *size, "--dir", disk, "--json")
    assert done.code == 0, done.err
    setting, *figures, last = lines(done.out)
    assert setting["dropouts"] == 1
    assert not {"losses", "threads"} & setting.keys()
    assert all(list(figure) == COLUMNS for figure in figures)
    found = {(f["side"], f["stage"], f["part"]): f for f in figures}
    client = [stage for side, stage, part in found if (side, part) == ("client", None)]
    assert client == ["encode", *PHASES, "outcome", "until sent", "total", "round"]
    there = [stage for side, stage, part in found if (side, part) == ("aggregator", None)]
    before = ["open", "advertise", "encapsulate", "share", "mask", "confirm"]
    assert there == [*before, "unmask and sum", "outcome", "total", "round", "upload"]
    stages = [f for (_, stage, part), f in found.items() if part is None and stage not in ("round", "upload")]
    assert all(f["cpu_s"] > 0 and f["floor_s"] > 0 and f["ratio"] > 0 for f in stages)
    one, mask = found["client", "mask", None], found["aggregator", "mask", None]
    assert one["bytes_up"] > 4755  # 2002 words of 19 bits, and the hello
    assert mask["bytes_up"] == 4 * one["bytes_up"]
    assert mask["bytes_down"] == 5 * one["bytes_down"]  # the fifth was asked too
    assert found["aggregator", "upload", None]["bytes_up"] == 4 * 4755
    assert (
        found["aggregator", "upload", None]["ratio"] is last["ratio"] is None
    )  # of 19 kB nothing can be said
    assert last["server_cpu_s_per_gb"] > 0
    assert PARTS["client"] <= {part for side, _, part in found if side == "client"}
    parts = [found["client", "round", part]["wall_s"] for part in ("protocol", "wire", "waiting")]
    assert all(wall_s > 0 for wall_s in parts)
    assert sum(last["shares"].values()) == pytest.approx(1, abs=1e-5)
    assert (last["exact"], last["survivors"]) == (True, 4)
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (("--clients", 10, "--dropouts", 0.4), "4 members are to be lost, and an attempt of 10 survives 3"),
        (("--clients", 10, "--corrupt", 9), "cannot defend themselves"),
        (("--clients", 10, "--losses", 2), "how many of 10 members may be lost follows from their number"),
        (("--clients", 1025, "--coordinates", 1), "at most 1024 sites"),
        (("--clients", 600, "--fraction-bits", 24), "need words of 34 bits"),
        (("--clients", 100, "--coordinates", 10**12), "uploads take"),
        (("--grpc", "--clients", 10, "--dropouts", 0.4), "4 members are to be lost, and an attempt of 10"),
        (("--grpc", "--threads", 1), "chooses its threads"),
        (("--grpc", "--losses", 0), "a ring's losses itself"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_started(
    options: tuple[object, ...], cause: str, secfed: Callable[..., Any], disk: Path
) -> None:
    done = secfed("bench", "secure-sum", *options, "--dir", disk)
    assert done.code != 0
    assert cause in done.error
    assert done.remedy


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (("--clients", 128, "--losses", 0), "Leave out --losses: it is for more than 128 clients."),
        (("--clients", 129, "--dropouts", 0.3), "--losses 39"),
    ],
)
def test_a_remedy_names_the_option(
    options: tuple[object, ...], remedy: str, secfed: Callable[..., Any], disk: Path
) -> None:
    assert remedy in secfed("bench", "secure-sum", *options, "--dir", disk).remedy


def test_a_folder_that_is_none_is_refused_and_not_made(secfed: Callable[..., Any], tmp_path: Path) -> None:
    file, missing = tmp_path / "file", tmp_path / "missing"
    file.touch()
    for path, cause in ((file, "is no folder"), (missing, "does not exist")):
        for command in (("secure-sum",), ("targets", "--no-training")):
            done = secfed("bench", *command, "--dir", path)
            assert (done.code, done.error) == (2, f"{path} {cause}")
            assert "--dir" in done.remedy
    assert not missing.exists()


@pytest.mark.parametrize("command", ["dp-step", "targets"])
def test_missing_models_and_data_are_said_before_the_first_measurement(
    command: str, secfed: Callable[..., Any], tmp_path: Path
) -> None:
    done = secfed("bench", command, "--models", tmp_path)
    assert (done.code, "measuring" in done.err) == (2, False)
    assert "--models" in done.remedy
    model = tmp_path / "models" / "all-MiniLM-L6-v2"
    model.mkdir(parents=True)
    (model / "config.json").touch()
    done = secfed("bench", command, "--models", tmp_path)
    assert (done.code, done.error) == (2, f"there is no {tmp_path / 'data' / 'movies.jsonl'}")


def test_targets_that_were_measured_are_shown_when_a_later_one_fails(
    secfed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object, **__: object) -> Iterator[Row]:
        yield Row(1, "the kernel", 1.2, 1.5, "so fast")
        raise StorageError("the disk is full")

    monkeypatch.setattr("secfed.bench.targets.measure", measure)
    done = secfed("bench", "targets", "--no-training")
    assert done.code == StorageError.exit_code
    assert "1  the kernel  so fast   1.20   1.50     met" in done.out


@pytest.fixture
def two_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is met, one is missed; both say what their ratio consists of."""
    parts = {"rest": 0.25, "key agreement": 0.75, "keystream": 1.0} | {f"part {n}": 0.01 for n in range(5)}
    rows = (
        Row(1, "the kernel", 1.2, 1.5, "so fast", {"keystream": 1.0}),
        Row(2, "a client", 2.05, 2.0, "", parts),
    )
    monkeypatch.setattr("secfed.bench.targets.measure", lambda *_, **__: iter(rows))


@pytest.mark.usefixtures("two_targets")
def test_a_missed_target_says_what_its_ratio_consists_of(secfed: Callable[..., Any]) -> None:
    """The largest parts by name, the rest as one; nothing of a target that is met."""
    done = secfed("bench", "targets", "--no-training")
    *_, head, profile = done.out.splitlines()
    assert head == "What the ratio of a missed target consists of:"
    assert profile == (
        "2  a client: keystream 1.00, key agreement 0.75, rest 0.25, part 0 0.01, part 1 0.01, part 2 0.01, "
        "all else 0.02"
    )


@pytest.mark.usefixtures("two_targets")
def test_targets_as_json_begin_with_the_setting_and_its_schema(secfed: Callable[..., Any]) -> None:
    setting, *targets = lines(secfed("bench", "targets", "--no-training", "--json").out)
    assert (setting["kind"], setting["schema"], setting["training"]) == ("setting", 1, False)
    assert [(row["kind"], row["number"], row["met"]) for row in targets] == [
        ("target", 1, True),
        ("target", 2, False),
    ]
    assert targets[1]["parts"]["key agreement"] == 0.75


def test_a_share_above_none_loses_somebody(secfed: Callable[..., Any], disk: Path) -> None:
    size = ("--clients", 5, "--coordinates", 10, "--dropouts", 0.01, "--repeats", 1)
    done = secfed("bench", "secure-sum", *size, "--dir", disk)
    assert done.code == 0, done.err
    assert "lost 1 of 5 while masking" in done.out.splitlines()
    assert "the opened sum of 4 vectors" in done.out


@pytest.mark.parametrize(
    ("options", "begun", "number", "everybody"),
    [
        (("--clients", 5), "*/client/decisions.sqlite", signal.SIGINT, True),
        (("--clients", 3, "--grpc"), "*/job-*/center/aggregator.toml", signal.SIGINT, True),
        (("--clients", 3, "--grpc"), "*/job-*/center/aggregator.toml", signal.SIGTERM, False),
    ],
)
def test_what_is_broken_off_leaves_no_process_no_folder_and_no_traceback(
    options: tuple[object, ...], begun: str, number: int, everybody: bool, disk: Path
) -> None:
    """Ctrl-C comes to a terminal's whole group; SIGTERM to the one process that a supervisor knows."""
    words = ("bench", "secure-sum", *options, "--coordinates", 100_000, "--repeats", 5000, "--dir", disk)
    with subprocess.Popen(
        [sys.executable, "-m", "secfed", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=_hear_ctrl_c,
    ) as popen:  # fmt: skip
        try:
            wait_for(lambda: bool(list(disk.glob(begun))))
            (os.killpg if everybody else os.kill)(popen.pid, number)
            out, err = popen.communicate(timeout=PATIENCE_S)
            assert (popen.returncode, out, err.splitlines()[-1:]) == (130, "", ["stopped"])
            assert "Traceback" not in err
            wait_for(lambda: not alive(popen.pid))
        finally:
            if alive(popen.pid):
                os.killpg(popen.pid, signal.SIGKILL)
    assert list(disk.iterdir()) == []


def _hear_ctrl_c() -> None:
    """As at a terminal, also where the tests run as a background job that a shell made deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds, on a machine that may be busy."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def alive(group: int) -> bool:
    """Whether any process of a group is there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_limits_have_units(secfed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates, small calls and whole vectors, all above zero."""
    monkeypatch.setattr("secfed.bench.limits.TURNS", 1)
    done = secfed("bench", "keystream", "--json")
    assert done.code == 0, done.err
    setting, *limits = lines(done.out)
    assert (setting["kind"], setting["schema"], setting["turns"]) == ("setting", 1, 1)
    assert {line["kind"] for line in limits} == {"limit"}
    found = {line["limit"]: (line["value"], line["unit"]) for line in limits}
    assert {unit for _, unit in found.values()} == {"GB/s", "us", "ms"}
    assert all(value > 0 for value, _ in found.values())
    assert {"AES-256-CTR", "AES-256-GCM", "X25519", "Ed25519 verify", "quantise 1e6"} <= found.keys()


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_ring_of_a_thousand_is_exact(secfed: Callable[..., Any], tmp_path: Path) -> None:
    size = ("--clients", 1000, "--coordinates", 1000, "--dropouts", 0.05, "--corrupt", 50, "--losses", 50)
    done = secfed("bench", "secure-sum", *size, "--repeats", 1, "--dir", tmp_path, "--json")
    assert done.code == 0, done.err
    last = lines(done.out)[-1]
    assert last["exact"] is True
    assert (last["survivors"], last["neighbours"], last["threshold"]) == (950, 70, 53)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_every_target_has_a_row(secfed: Callable[..., Any], tmp_path: Path) -> None:
    """All but the DP step and the cohort of a thousand; a verdict each, and all sums exact."""
    done = secfed("bench", "targets", "--no-training", "--dir", tmp_path, "--json")
    assert done.code == 0, done.err
    _, *rows = lines(done.out)
    assert {row["number"] for row in rows} == {1, 2, 3, 4, 5, 6, 7}
    assert all(row["met"] is (row["ratio"] <= row["at_most"]) for row in rows)
    assert [row["met"] for row in rows if row["number"] == 7] == [True]
    assert all(row["parts"] for row in rows if row["number"] != 7)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_step_says_what_dp_adds_to_it(secfed: Callable[..., Any]) -> None:
    """Two models, each with the plain step and what each kind of work takes more."""
    done = secfed(
        "bench", "dp-step", "--models", os.environ["SECFED_CACHE"], "--batch", 2, "--repeats", 1, "--json"
    )
    assert done.code == 0, done.err
    setting, *steps = lines(done.out)
    assert (setting["kind"], setting["schema"], setting["batches"]) == ("setting", 1, [2])
    assert [step["kind"] for step in steps] == ["step", "step"]
    for step in steps:
        assert step["parts_to_plain"].keys() == {
            "plain step",
            "backward",
            "clipping and sums",
            "noise",
            "rest",
        }
        assert step["parts_to_plain"]["clipping and sums"] > 0
