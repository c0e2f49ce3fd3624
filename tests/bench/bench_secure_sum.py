"""One secure sum, stage by stage, held against its targets.

Run as `python tests/bench/bench_secure_sum.py [--clients 10] [--coordinates 1000000] [--dropouts 0.3]`,
over the network with --grpc. `secfed bench secure-sum` says what is timed. Aims, as multiples of the floor of
the same run: a client's rounding, keys, shares and masks 2.0 and the aggregator's sum 1.8 at 10 members with
10^6 coordinates, of which 30 % are lost; name others for other sizes. With --grpc: the server's processor
time a byte, 1.3 of a bare stream's. Always: the exact sum, and no more memory and bytes than allowed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from aims import tell

from secfed.bench import loopback, secure_sum
from secfed.bench.cohort import Setting
from secfed.cli import bench_lines


def in_processes(setting: Setting, folder: Path, client: float, aggregator: float) -> list[bool]:
    """The aims of a sum without the network."""
    bill = secure_sum.measure(setting, folder)
    print("\n".join(bench_lines.sum_words(bill)))
    return [
        tell("client: rounding, keys, shares, masks", bill.client_kernel_ratio, client, "x"),
        tell("aggregator's sum", bill.aggregator_ratio, aggregator, "x"),
        tell("aggregator's peak memory", bill.peak_mib, bill.peak_limit_mib, "MiB"),
        tell("upload", bill.upload_bytes / 1e6, bill.upload_limit_bytes / 1e6, "MB"),
        tell("exact sums", bill.exact, 1, "", least=True),
    ]


def over_loopback(setting: Setting, folder: Path, server: float) -> list[bool]:
    """The aims of a round over the network."""
    trip = loopback.measure(setting, folder)
    print("\n".join(bench_lines.trip_words(setting, trip)))
    return [
        tell("server's processor time a byte, of a bare stream's", trip.ratio, server, "x"),
        tell("exact sums", trip.exact, 1, "", least=True),
    ]


def main() -> int:
    """Print the figures; the exit status says whether all aims are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=10, metavar="N")
    parser.add_argument("--coordinates", type=int, default=1_000_000, metavar="D")
    parser.add_argument("--dropouts", type=float, default=0.3, metavar="F", help="share that is lost")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--grpc", action="store_true", help="over loopback with mutual TLS")
    parser.add_argument("--client", type=float, default=2.0, help="at most so many times its floor")
    parser.add_argument("--aggregator", type=float, default=1.8, help="likewise")
    parser.add_argument("--server", type=float, default=1.3, help="with --grpc: times a bare stream's")
    options = parser.parse_args()
    lost = max(1, round(options.dropouts * options.clients)) if options.dropouts else 0
    setting = Setting(
        options.clients, options.coordinates, lost, repeats=options.repeats, threads=os.cpu_count() or 1
    )
    with tempfile.TemporaryDirectory(prefix="secfed-bench-") as name:
        if options.grpc:
            met = over_loopback(setting, Path(name), options.server)
        else:
            met = in_processes(setting, Path(name), options.client, options.aggregator)
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
