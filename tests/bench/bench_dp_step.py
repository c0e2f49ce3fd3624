"""The DP-SGD step beside the plain one and beside Opacus' own, held against its targets.

Run as `python tests/bench/bench_dp_step.py [--json] [--repeats 9] [--micro-batch 16] [--models DIR]`.
`secfed.bench.dp_step` says what is timed. Targets at a batch of 64: at most 1.05 of `plain`, and not
above `Opacus`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from secfed.bench.dp_step import measure, settings

TARGET_RATIO = 1.05


def main() -> int:
    """Print the figures; the exit status says whether the targets are met at a batch of 64."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON lines instead of tables")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--micro-batch", type=int, default=16, help="most records of a piece")
    parser.add_argument(
        "--models", type=Path, default=Path(os.environ.get("SECFED_CACHE", "~/.cache/secfed")).expanduser()
    )
    options = parser.parse_args()
    met = True
    with tempfile.TemporaryDirectory() as scratch:
        for batch in (16, 64):
            for setting in settings(options.models, Path(scratch), batch):
                steps = measure(setting, options.micro_batch, options.repeats)
                if options.json:
                    print(json.dumps(asdict(steps)), flush=True)
                else:
                    times = "  ".join(
                        f"{kind} {1e3 * value:.1f} ms" for kind, value in steps.median_s.items()
                    )
                    ratios = f"to plain {steps.to_plain:.3f}  to Opacus {steps.to_opacus:.3f}  "
                    ratios += f"to plain in the same pieces {steps.to_plain_same_pieces:.3f}"
                    print(f"{steps.model}, batch {batch}: {times}  {ratios}", flush=True)
                if batch == 64:
                    met &= steps.to_plain <= TARGET_RATIO and steps.to_opacus <= 1.0
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
