"""How close the mask kernel comes to the best keystream that `cryptography` gives, in one run.

Run as `python tests/bench/bench_keystream.py [--json] [--neighbours 9] [--coordinates 1000000]`.

The kernel puts k edge masks and one self mask on a vector of d words: (k + 1) 4 d bytes of
keystream, each byte also added. The reference only draws keystream into a buffer that stays in
cache. Both run in one thread, are taken in turns, are timed in CPU seconds, and the best of each
counts, so a busy machine changes the rates and hardly the ratio. Target: at most 1.5 for k >= 9, d >= 10^6.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM

from secfed.crypto import prg

TARGET_RATIO = 1.5
REFERENCE_BYTES = 16 << 20
TILE_BYTES = 1 << 17


def seconds(work: Callable[[], None]) -> float:
    """CPU time of one call in this thread."""
    begin = time.thread_time()
    work()
    return time.thread_time() - begin


def reference(cipher: Callable[[], Cipher[CTR] | Cipher[GCM]]) -> Callable[[], None]:
    """Keystream alone: one cipher over and over into one tile."""
    zeros, out = bytes(TILE_BYTES), bytearray(TILE_BYTES)

    def draw() -> None:
        context = cipher().encryptor()
        for _ in range(REFERENCE_BYTES // TILE_BYTES):
            context.update_into(zeros, out)

    return draw


def measure(neighbours: int, coordinates: int, repeats: int) -> dict[str, float | str]:
    """Rates in GB/s (1e9 bytes a CPU second) and the ratio of the best reference to the kernel."""
    half = neighbours // 2
    add = [os.urandom(32) for _ in range(half + 1)]
    subtract = [os.urandom(32) for _ in range(neighbours - half)]
    words = np.zeros(coordinates, np.uint32)
    masked_bytes = 4 * coordinates * (neighbours + 1)
    key = os.urandom(32)
    work = {
        "kernel": (masked_bytes, lambda: prg.combine_masks(words, add, subtract)),
        "AES-256-CTR": (REFERENCE_BYTES, reference(lambda: Cipher(AES(key), CTR(bytes(16))))),
        "AES-256-GCM": (REFERENCE_BYTES, reference(lambda: Cipher(AES(key), GCM(bytes(12))))),
        "AES-128-CTR": (REFERENCE_BYTES, reference(lambda: Cipher(AES(key[:16]), CTR(bytes(16))))),
        "AES-128-GCM": (REFERENCE_BYTES, reference(lambda: Cipher(AES(key[:16]), GCM(bytes(12))))),
    }
    best = dict.fromkeys(work, 0.0)
    for _ in range(repeats):
        for name, (size, run) in work.items():
            best[name] = max(best[name], size / seconds(run) / 1e9)
    own_strength = max(rate for name, rate in best.items() if name.startswith("AES-256"))
    return {
        "neighbours": neighbours,
        "coordinates": coordinates,
        "mode": prg.fastest_mode().value,
        **{f"{name} GB/s": round(rate, 2) for name, rate in best.items()},
        "ratio": round(own_strength / best["kernel"], 3),
        "ratio_to_aes128": round(max(best["AES-128-CTR"], best["AES-128-GCM"]) / best["kernel"], 3),
        "target": TARGET_RATIO,
    }


def main() -> int:
    """Print the figures; the exit status says whether the target is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--neighbours", type=int, default=9, metavar="K")
    parser.add_argument("--coordinates", type=int, default=1_000_000, metavar="D")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    figures = measure(options.neighbours, options.coordinates, options.repeats)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:16} {value}")
    return 0 if float(figures["ratio"]) <= TARGET_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
