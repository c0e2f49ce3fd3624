"""Measure secure sums of many sizes, one JSON line each, for `plot.py`.

    python examples/cost/measure.py [--quick] [--out figures.jsonl] [--dir FOLDER]

Each line is what `secfed bench secure-sum --json` found, in short. Lines that are there already are
kept, so that an interrupted run goes on; delete the file to measure anew. Run it on a machine that
does nothing else: some ten minutes on two cores, a minute with --quick.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

Case = tuple[int, int, float]
"""Members, coordinates, share of members that are lost."""

SHARES = (0.0, 0.1, 0.3)
FEW, MANY = 100_000, 1_000_000


def cases(*, quick: bool) -> Iterator[Case]:
    """What is measured: coordinates at 10 members, then members at 1e5 and 1e6 coordinates."""
    for coordinates in (
        (10_000, FEW) if quick else (10_000, 30_000, FEW, 300_000, MANY, 3_000_000, 10_000_000)
    ):
        for share in SHARES:
            yield 10, coordinates, share
    for clients in (5, 20) if quick else (5, 20, 40, 70, 100, 128, 200, 400):
        for share in SHARES:
            yield clients, FEW, share
    for clients in () if quick else (5, 20, 40, 70, 100):
        yield clients, MANY, 0.0


def lost(clients: int, share: float) -> int:
    """How many members that is; the least member is lost where any is."""
    return max(1, round(share * clients)) if share else 0


def measure(case: Case, folder: Path | None) -> dict[str, Any] | None:
    """One run; None where such a cohort does not survive so many losses."""
    clients, coordinates, share = case
    count = lost(clients, share)
    command = [sys.executable, "-m", "secfed", "bench", "secure-sum", "--json"]
    command += ["--clients", str(clients), "--coordinates", str(coordinates)]
    command += ["--dropouts", str(count / clients), "--repeats", "4" if clients <= 20 else "2"]
    if clients > 128 and count > clients // 10:
        command += ["--losses", str(count)]
    if folder is not None:
        command += ["--dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "are to be lost" in done.stderr:
        return None
    if done.returncode:
        sys.exit(done.stderr)
    setting, *stages, last = map(json.loads, done.stdout.splitlines())
    if not last["exact"]:
        sys.exit(f"the sum of {case} is not exact")
    found = setting | last | _totals(stages)
    del found["kind"]
    return found


def _totals(stages: list[dict[str, Any]]) -> dict[str, float]:
    """What the plots show: a client until its vector is sent, opening the sum, and their floors."""
    found = {}
    for side, stage in (("client", "until sent"), ("aggregator", "sum")):
        (line,) = [
            each for each in stages if (each["side"], each["stage"], each["part"]) == (side, stage, None)
        ]
        found |= {f"{side}_s": line["cpu_s"], f"{side}_floor_s": line["floor_s"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few small cases only")
    parser.add_argument("--out", type=Path, default=HERE / "figures.jsonl")
    parser.add_argument("--dir", type=Path, help="where uploads are written")
    options = parser.parse_args()
    known = {tuple(json.loads(line)["case"]) for line in _lines(options.out)}
    for case in cases(quick=options.quick):
        if case in known:
            continue
        found = measure(case, options.dir)
        words = (
            "more are lost than may be"
            if found is None
            else f"client {found['client_ratio']:.2f} times its floor"
        )
        print(f"{case[0]} members, {case[1]} coordinates, {case[2]:.0%} lost: {words}", flush=True)
        if found is not None:
            with options.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"case": case} | found) + "\n")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
