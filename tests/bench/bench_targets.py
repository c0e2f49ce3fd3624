"""All performance targets, one line each.

Run as `python tests/bench/bench_targets.py [--thousand] [--no-training] [--models DIR] [--dir DIR]`.
`secfed bench targets` prints the same with what each missed ratio consists of. Aims: those of
`secfed.bench.targets`, as multiples of the limit of the same run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from aims import tell

from secfed.bench import targets


def main() -> int:
    """Print the figures; the exit status says whether all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--thousand", action="store_true", help="the cohort of a thousand too: minutes, 3 GB")
    parser.add_argument("--no-training", action="store_true", help="without the DP step, which needs torch")
    parser.add_argument(
        "--models", type=Path, default=Path(os.environ.get("SECFED_CACHE", "~/.cache/secfed")).expanduser()
    )
    parser.add_argument("--dir", type=Path, help="where uploads are written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="secfed-bench-", dir=options.dir) as name:
        rows = targets.measure(
            Path(name),
            threads=os.cpu_count() or 1,
            thousand=options.thousand,
            models=None if options.no_training else options.models,
        )
        met = [tell(f"{row.number} {row.target}", row.ratio, row.at_most, "x") for row in rows]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
