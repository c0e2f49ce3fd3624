"""How many entries a second a site's ledger takes, each durable before the next.

Run as `python tests/bench/bench_ledger.py [--folder .] [--entries 1000] [--standing 0]`.

A round writes two entries, a reservation and a mark that it was sent; both are timed together, as a
client writes them: checked against the ledger's rules, chained, signed, and synced to the disk that
`--folder` lies on. `--standing` puts so many entries there before, to show that a long ledger is as fast.
In turns with them the limit is measured: as many appends of as many bytes, each synced, by nothing but
write and fsync. Aim: 100 entries a second.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from aims import tell
from bench_report import CONTRIBUTION, EVENT, JOB, PLAN, write_ledger

from secfed.crypto.signing import SigningKey
from secfed.ids import RoundId
from secfed.privacy.ledger import Authorization, Ledger

AIM_PER_S = 100.0

SLICE = 10
"""Rounds that are written in a row, before bare writes have their turn: both then meet the same disk."""


def bare(path: Path, lines: int, size: int) -> None:
    """So many synced appends of so many bytes."""
    line = bytes(size)
    with path.open("ab", buffering=0) as file:
        for _ in range(lines):
            file.write(line)
            os.fsync(file.fileno())


def charge(ledger: Ledger, numbers: range) -> None:
    """Reserve and mark as sent, round after round."""
    for number in numbers:
        ledger.reserve(JOB, number, PLAN, Authorization(EVENT, ledger.head, 0.0))
        ledger.mark_sent(RoundId(JOB, number), 1, CONTRIBUTION)


def measure(folder: Path, rounds: int, standing: int) -> tuple[float, float, float]:
    """Seconds and CPU seconds of two entries a round, and seconds of the bare writes."""
    key = SigningKey.from_seed(bytes(range(32)))
    path = write_ledger(folder, "hosp-a", key, standing)
    took = busy = floor = 0.0
    with Ledger.open(path, key=key) as ledger:
        for first in range(0, rounds, SLICE):
            numbers = range(standing + first + 1, standing + min(first + SLICE, rounds) + 1)
            before, begin, used = path.stat().st_size, time.perf_counter(), time.process_time()
            charge(ledger, numbers)
            took, busy = took + time.perf_counter() - begin, busy + time.process_time() - used
            size = (path.stat().st_size - before) // (2 * len(numbers))
            begin = time.perf_counter()
            bare(folder / "bare", 2 * len(numbers), size)
            floor += time.perf_counter() - begin
    return took, busy, floor


def main() -> int:
    """Print the figures; the exit status says whether the aim is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk that is to be measured")
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("--standing", type=int, default=0, help="entries that are there before")
    options = parser.parse_args()
    rounds = options.entries // 2
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="secfed-ledger-") as name:
        took, busy, floor = measure(Path(name), rounds, options.standing // 2)
    print(
        f"{2 * rounds} entries in {took:.2f} s, {busy:.2f} CPU s; bare synced writes {floor:.2f} s, "
        f"so {2 * rounds / floor:.0f} a second; ratio {took / floor:.2f}"
    )
    met = tell("ledger, durable appends", 2 * rounds / took, AIM_PER_S, "/s", least=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
