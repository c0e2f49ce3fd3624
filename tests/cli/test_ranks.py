"""Which of a launch's processes this one is, from what a launcher says."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from secfed.cli.client import run
from secfed.cli.ranks import Place, assist, device_of, launcher, place, team
from secfed.errors import ConfigError

LAUNCHED = {
    "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip


def test_without_a_launcher_a_process_is_the_whole_site() -> None:
    assert place({}, "7-1") is None
    assert place({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, "7-1") is None


def test_the_ranks_of_one_launch_meet_under_one_name() -> None:
    """A launcher that starts them again, and another launcher, have names of their own."""
    first, second = (place(LAUNCHED | {"RANK": rank, "LOCAL_RANK": rank}, "7-1") for rank in "01")
    assert first is not None
    assert second is not None
    assert (first.rank, second.rank, second.size) == (0, 1, 2)
    again = place(LAUNCHED | {"TORCHELASTIC_RESTART_COUNT": "1"}, "7-1")
    elsewhere = place(LAUNCHED, "7-2")
    assert again is not None
    assert elsewhere is not None
    assert first.launch == second.launch
    assert len({second.launch, again.launch, elsewhere.launch}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"LOCAL_WORLD_SIZE": "1"}, "1 of 2 processes of this site are on this machine"),
        ({"RANK": "2"}, "2 of 2 processes"),
        ({"RANK": ""}, "no number"),
        ({"LOCAL_WORLD_SIZE": "-2"}, "no number"),
        ({"WORLD_SIZE": "two"}, "no number"),
    ],
)
def test_ranks_on_several_machines_and_nonsense_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place(LAUNCHED | changes, "7-1")


@pytest.mark.parametrize(
    "changes", [{"TORCHELASTIC_RUN_ID": None}, {"LOCAL_RANK": "0"}, {"LOCAL_RANK": None}]
)
def test_numbers_that_another_program_set_are_refused(changes: dict[str, str | None]) -> None:
    environ = {name: value for name, value in (LAUNCHED | changes).items() if value is not None}
    with pytest.raises(ConfigError, match="several processes") as refused:
        place(environ, "7-1")
    assert "Unset RANK, LOCAL_RANK, WORLD_SIZE and LOCAL_WORLD_SIZE" in str(refused.value.hint)


def test_a_launcher_of_a_container_has_another_name_at_each_start(tmp_path: Path) -> None:
    """The same process number, at another time or after the machine's restart."""
    stat, boot = tmp_path / "7" / "stat", tmp_path / "sys/kernel/random/boot_id"
    stat.parent.mkdir()
    boot.parent.mkdir(parents=True)
    names = []
    for started, booted in ((5, "one"), (6, "one"), (5, "two")):
        stat.write_text(f"7 (a ) b) S {' '.join('0' * 18)} {started} 1 2\n")
        boot.write_text(f"{booted}\n")
        names.append(launcher(7, tmp_path))
    assert names == ["7-5-one", "7-6-one", "7-5-two"]
    assert launcher(8, tmp_path) == "8"
    assert launcher(os.getpid()).count("-") == 6  # the boot id has four


def test_an_earlier_launchs_meeting_is_not_in_the_way(tmp_path: Path) -> None:
    """What a killed container left, under the same process number: the ranks meet all the same."""
    leftover = tmp_path / "ranks-7-5-one-0"
    leftover.write_bytes(b"left behind" * 9)
    config: Any = SimpleNamespace(
        state_dir=tmp_path, models_dir=tmp_path, precision="float32", threads=None, device="cpu"
    )
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(assist, config, Place(1, 2, "7-6-one-0"))
        here = team(config, Place(0, 2, "7-6-one-0"))
        assert not list(tmp_path.glob("ranks-*"))  # nor does this one leave its secret behind
        here.alive()
        here.close()
        assert ended.exception(60) is None


def test_the_help_names_the_launchers_whole_command() -> None:
    told = " ".join((run.__doc__ or "").split())
    assert "--multi_gpu --num_processes N --num_machines 1 --module secfed client run`" in told


def test_a_device_that_is_named_is_taken() -> None:
    assert device_of("cpu", Place(1, 2, "7-0")) == "cpu"
    assert device_of("cuda:3", None) == "cuda:3"
    assert device_of("auto", None) == "auto"


def test_several_processes_do_not_share_one_device() -> None:
    with pytest.raises(ConfigError, match="cuda:3, which 2 processes of this site would share"):
        device_of("cuda:3", Place(0, 2, "7-0"))


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_more_processes_than_devices_are_refused_in_each(
    wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Number 0 too, which would wait for the others."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [device_of(wanted, Place(rank, 2, "7-0")) for rank in range(2)] == ["cuda:0", "cuda:1"]
    for rank in range(3):
        with pytest.raises(ConfigError, match="3 processes of this site were started"):
            device_of(wanted, Place(rank, 3, "7-0"))


@pytest.mark.gpu
def test_each_rank_has_the_cuda_device_of_its_number() -> None:
    devices = torch.cuda.device_count()
    assert device_of("auto", Place(devices - 1, devices, "7-0")) == f"cuda:{devices - 1}"
