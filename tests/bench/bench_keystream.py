"""How close the mask kernel comes to the best keystream that `cryptography` gives, in one run.

Run as `python tests/bench/bench_keystream.py [--json] [--neighbours 9] [--coordinates 1000000]`.
`secfed.bench.limits.kernel_ratio` says what is timed. Target: at most 1.5 for k >= 9, d >= 10^6.
"""

from __future__ import annotations

import argparse
import json
import sys

from secfed.bench.limits import kernel_ratio
from secfed.crypto import prg

TARGET_RATIO = 1.5


def main() -> int:
    """Print the figures; the exit status says whether the target is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--neighbours", type=int, default=9, metavar="K")
    parser.add_argument("--coordinates", type=int, default=1_000_000, metavar="D")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    kernel, keystream, ratio = kernel_ratio(options.neighbours, options.coordinates, options.repeats)
    figures = {
        "neighbours": options.neighbours,
        "coordinates": options.coordinates,
        "mode": prg.fastest_mode().value,
        "kernel GB/s": round(kernel / 1e9, 2),
        "keystream GB/s": round(keystream / 1e9, 2),
        "ratio": round(ratio, 3),
        "target": TARGET_RATIO,
    }
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:16} {value}")
    return 0 if ratio <= TARGET_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
