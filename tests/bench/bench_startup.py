"""How long `secfed --help` takes, against an interpreter that does nothing, in one run.

Run as `python tests/bench/bench_startup.py [--json] [--repeats 15]`.

Both are whole processes, started in turns; the best of each counts, so that a busy machine changes
little. Target: under 0.3 s. The command must load nothing heavy for it: `tests/test_imports.py`
holds that, whatever the machine.
"""

from __future__ import annotations

import argparse
import json
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


def seconds(arguments: Sequence[str]) -> float:
    """Wall time of one process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def measure(repeats: int) -> dict[str, float]:
    """The best time of each command in seconds, and the ratio of `secfed --help` to doing nothing."""
    best = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(repeats):
        for name, arguments in COMMANDS.items():
            best[name] = min(best[name], seconds(arguments))
    return {
        **{f"{name} s": round(value, 3) for name, value in best.items()},
        "ratio": round(best["secfed --help"] / best["python -c pass"], 2),
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
            print(f"{name:26} {value}")
    return 0 if figures["secfed --help s"] <= TARGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
