"""One linear regression over several sites, from sums that no site shows to anybody.

`make` is a site's part: X'X and X'y over its own rows, written as a safetensors file. `check` takes
the folder of the published round and compares sum and coefficients with those of all rows
together, which only this example can do: its rows follow from the sites' names.
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

SCALE = 1000.0
"""Public: every site divides by it, so that all values stay within the job's bound."""

STEP = 2.0 / (2**24 - 1)
"""The grid of JOB.toml: bound 1, 24 bits."""

TRUTH = np.array([0.3, 0.5, -0.25, 0.75])
"""Intercept and slopes that the rows are drawn around."""


def rows(site: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A site's rows: X with a column of ones, shape (n, 4), and y, shape (n,)."""
    rng = np.random.default_rng(zlib.crc32(site.encode()))
    count = int(rng.integers(150, 350))
    x = np.column_stack([np.ones(count), rng.uniform(-1.0, 1.0, (count, len(TRUTH) - 1))])
    return x, x @ TRUTH + rng.normal(0.0, 0.1, count)


def statistics(site: str) -> dict[str, NDArray[np.float64]]:
    """What one site contributes: X'X and X'y, scaled."""
    x, y = rows(site)
    return {"gram": x.T @ x / SCALE, "moment": x.T @ y / SCALE}


def check(folder: Path, sites: list[str]) -> None:
    """Compare the published sum with the rows; fails with an AssertionError."""
    included = json.loads((folder / "secfed_manifest.json").read_text())["included"]
    assert included == sorted(sites), f"in the sum: {included}"
    found = load_file(folder / "sum.safetensors")
    own = [statistics(site) for site in sites]
    worst = max(
        float(np.abs(found[f"weighted_sum.{name}"] - sum(each[name] for each in own)).max())
        for name in ("gram", "moment")
    )
    assert worst < len(sites) * STEP, f"the sum is off by {worst:.1e}"
    fitted = np.linalg.solve(found["weighted_sum.gram"], found["weighted_sum.moment"])
    x, y = (np.concatenate(parts) for parts in zip(*map(rows, sites), strict=True))
    pooled = np.linalg.lstsq(x, y, rcond=None)[0]
    assert np.allclose(fitted, pooled, atol=1e-4), f"{fitted} instead of {pooled}"
    print(f"in the sum     {', '.join(included)}  ({len(y)} rows)")
    print(f"the sum        equal to the grid: PASS (largest error {worst:.1e})")
    print(f"coefficients   {np.array2string(fitted, precision=4)}: those of all rows together: PASS")


def main() -> None:
    """Run one of the two parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    make = parts.add_parser("make", help="write a site's update")
    make.add_argument("site")
    make.add_argument("file", type=Path)
    checking = parts.add_parser("check", help="check a published round")
    checking.add_argument("folder", type=Path)
    checking.add_argument("sites", nargs="+")
    chosen = parser.parse_args()
    if chosen.part == "make":
        save_file(statistics(chosen.site), chosen.file)
    else:
        check(chosen.folder, chosen.sites)


if __name__ == "__main__":
    main()
