"""One site as several processes: `accelerate launch --module secfed client run` on several devices.

The launcher starts the same command once a device and tells each process its number by environment
variables, as torchrun does. Number 0 is the client. The others open neither keys, ledger, data nor
network; they read `client.toml` and sum what number 0 deals out (`secfed.training.ranks`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from secfed.cli.loading import large_libraries
from secfed.errors import ConfigError

if TYPE_CHECKING:
    from secfed.config import ClientConfig
    from secfed.training.channel import Channel
    from secfed.training.ranks import Team

__all__ = ["Place", "assist", "device_of", "launcher", "place", "team"]

_MEETING = "ranks-"
"""How the files begin, in a site's state folder, through which the ranks of one launch meet."""

_START_TIME = 22 - 3
"""Field 22 of /proc/PID/stat, counted behind the process's name, which is field 2 (proc_pid_stat(5))."""

_OPENED_S = 600
"""How long number 0 may take to open the site's state: a person may have to type a passphrase."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which of a launch's processes this one is.

    Attributes:
        rank: From 0; 0 is the client.
        size: How many there are, at least 2.
        launch: What this launch is called on this machine; no other one is ever called so.
    """

    rank: int
    size: int
    launch: str


def launcher(parent: int, proc: Path = Path("/proc")) -> str:
    """What a launcher is called, for good: in a container its process number is the same at each start.

    Args:
        parent: Its process number: the ranks are its children.
        proc: Where the system tells of its processes; without it the number stands alone.
    """
    name = str(parent)
    with contextlib.suppress(OSError, IndexError):
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        after_name = (proc / name / "stat").read_text().rpartition(")")[2].split()
        return f"{name}-{after_name[_START_TIME]}-{boot}"
    return name


def place(environ: Mapping[str, str], launched_by: str) -> Place | None:
    """Where a launcher put this process; None if there is no launcher, or this process is its only one.

    Args:
        environ: The process's environment.
        launched_by: What the launcher is called (`launcher`).

    Raises:
        ConfigError: The ranks are on several machines, the numbers make no sense, or they are another
            program's: what a batch system sets for its own processes, for instance.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    given = [environ.get(name, "") for name in names]
    if not given[1] or given[1] == "1":
        return None
    foreign = ConfigError(
        "WORLD_SIZE says that this site is several processes, and neither accelerate nor torchrun set it",
        hint="Unset RANK, LOCAL_RANK, WORLD_SIZE and LOCAL_WORLD_SIZE, or start with `accelerate launch "
        "--multi_gpu` or `torchrun`.",
    )
    if "TORCHELASTIC_RUN_ID" not in environ:
        raise foreign
    if not all(each.isascii() and each.isdigit() for each in given):
        raise ConfigError(
            "WORLD_SIZE is set, and RANK or LOCAL_WORLD_SIZE is no number",
            hint="Start several processes with `accelerate launch` or `torchrun`, or unset WORLD_SIZE.",
        )
    rank, size, here = map(int, given)
    if here != size or not rank < size:
        raise ConfigError(
            f"{here} of {size} processes of this site are on this machine",
            hint="Use the devices of one machine: what the processes tell each other is not encrypted.",
        )
    if environ.get("LOCAL_RANK") != environ["RANK"]:
        raise foreign
    return Place(rank, size, f"{launched_by}-{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}")


def device_of(wanted: str, where: Place | None) -> str:
    """The device of this process: where all of a machine's may be used, number N takes CUDA's number N.

    Raises:
        ConfigError: Several processes would share one device.
    """
    if where is not None and wanted.startswith("cuda:"):
        raise ConfigError(
            f"device is {wanted}, which {where.size} processes of this site would share",
            hint='Set device = "cuda" in client.toml, and each process takes a device of its own.',
        )
    if where is None or wanted not in ("auto", "cuda"):
        return wanted
    import torch

    if not torch.cuda.is_available():
        return wanted
    if where.size > torch.cuda.device_count():
        raise ConfigError(
            f"{where.size} processes of this site were started, and the machine shows "
            f"{torch.cuda.device_count()} CUDA devices",
            hint="Start as many processes as there are devices, or let CUDA_VISIBLE_DEVICES show more.",
        )
    return f"cuda:{where.rank}"


def team(config: ClientConfig, where: Place) -> Team:
    """The other processes, for number 0, whose state folder is open; returns when all are there."""
    with large_libraries():
        from secfed.training.models import model_folder
        from secfed.training.ranks import Team

    for leftover in config.state_dir.glob(f"{_MEETING}*"):
        if leftover != _meeting(config, where):  # of a launch that was killed; the state's lock is held
            leftover.unlink(missing_ok=True)
    return Team(
        _channel(config, where), lambda model: model_folder(config.models_dir, model), config.precision
    )


def assist(config: ClientConfig, where: Place) -> None:
    """What every process but number 0 does, until that one ends.

    Raises:
        ConfigError: Number 0 did not open the site's state.
        SecfedError: See `secfed.training.ranks.assist`.
    """
    with large_libraries():
        import torch

        from secfed.training import ranks
        from secfed.training.models import model_folder

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    until = time.monotonic() + _OPENED_S
    while not config.state_dir.is_dir():
        if time.monotonic() > until:
            raise ConfigError(f"process 0 of this site did not open {config.state_dir}")
        time.sleep(0.1)
    ranks.assist(
        _channel(config, where),
        lambda model: model_folder(config.models_dir, model),
        device=device_of(config.device, where),
        precision=config.precision,
        on_refusal=lambda problem: typer.echo(
            f"process {where.rank + 1} of {where.size} cannot load a job, so it is declined: {problem}",
            err=True,
        ),
    )


def _meeting(config: ClientConfig, where: Place) -> Path:
    """The file that the ranks of this launch meet through; its folder is the site's user's alone."""
    return config.state_dir / f"{_MEETING}{where.launch}"


def _channel(config: ClientConfig, where: Place) -> Channel:
    from secfed.training.channel import Channel

    return Channel(where.rank, where.size, _meeting(config, where))
