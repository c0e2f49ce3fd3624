"""How much slower a round is while the daemon is flooded; aim: twice the quiet one.

Prints the quiet and the flooded rounds of the same daemon (median of each), what was sent meanwhile, and
how many descriptors and how much memory the floods left behind.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "transport"))

from aims import tell
from besieged import Floods, play_round, take_in_hostile
from townhall import Town

TIMES = 2
"""A flooded round may take so many times a quiet one."""

_MEMORY = Path("/dev/shm")


def rounds(town: Town, name: str, count: int, size: int) -> float:
    """Median seconds of a whole job of one round, key agreement to published sum."""
    took = []
    for number in range(count):
        begin = time.perf_counter()
        play_round(town, f"{name}-{number}", size)
        took.append(time.perf_counter() - begin)
    return statistics.median(took)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=300_000, help="a third of a vector's coordinates")
    options = parser.parse_args()
    where = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=where, prefix="secfed-flood-") as folder:
        town = Town(Path(folder))
        take_in_hostile(town)
        town.poll_s = 1.0
        process = town.spawn(upload_idle_s=30)
        play_round(town, "warm", options.size)
        quiet = rounds(town, "quiet", options.rounds, options.size)
        before = process.descriptors, process.rss_mib
        floods = Floods(town)
        time.sleep(5)
        flooded = rounds(town, "flooded", options.rounds, options.size)
        held, counts = process.descriptors, floods.end()
        time.sleep(5)
        left = process.descriptors - before[0], process.rss_mib - before[1]
        town.shut()
    print(f"quiet    {quiet:6.2f} s a round of 3 sites, {3 * options.size} coordinates")
    print(f"flooded  {flooded:6.2f} s")
    print(f"floods   {held} descriptors held meanwhile; sent {counts}")
    print(f"left     {left[0]} descriptors, {left[1]:.0f} MiB")
    return 0 if tell("flooded round over the quiet one", flooded / quiet, TIMES, "") else 1


if __name__ == "__main__":
    sys.exit(main())
