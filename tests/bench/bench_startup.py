"""How long `secfed --help` takes, against an interpreter that does nothing, in one run.

Run as `python tests/bench/bench_startup.py [--json] [--repeats 15]`.

Both are whole processes, started in turns; the best of each counts. CPU seconds are shown beside
wall time, because a busy machine changes them less. Target: under 0.3 s of wall time. That nothing
heavy is loaded for it, whatever the machine, is held by `tests/test_imports.py`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

TARGET_S = 0.3

COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "secfed --help": ("-m", "secfed", "--help"),
    "secfed job start --help": ("-m", "secfed", "job", "start", "--help"),
    "secfed --version": ("-m", "secfed", "--version"),
}


def seconds(arguments: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU time of one process."""
    begin, used = time.perf_counter(), _cpu_of_children()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin, _cpu_of_children() - used


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(repeats: int) -> dict[str, float]:
    """The best times of each command in seconds, and the ratio of `secfed --help` to doing nothing."""
    wall = dict.fromkeys(COMMANDS, float("inf"))
    cpu = dict(wall)
    for _ in range(repeats):
        for name, arguments in COMMANDS.items():
            taken, used = seconds(arguments)
            wall[name], cpu[name] = min(wall[name], taken), min(cpu[name], used)
    return {
        **{f"{name} s": round(value, 3) for name, value in wall.items()},
        **{f"{name} CPU s": round(value, 3) for name, value in cpu.items()},
        "ratio": round(wall["secfed --help"] / wall["python -c pass"], 2),
        "target s": TARGET_S,
    }


def main() -> int:
    """Print the figures; the exit status says whether the target is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    figures = measure(options.repeats)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:32} {value}")
    return 0 if figures["secfed --help s"] <= TARGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
