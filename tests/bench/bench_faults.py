"""Five faults at a client's start: what each says, its exit code, and how long it takes to say so.

Run as `python tests/bench/bench_faults.py`.

Wrong address, wrong certificate, expired key, revoked key, wrong passphrase, against a live aggregator,
one whole process after the other; CPU seconds are shown beside wall time, because a busy machine changes
them less. `client run` tries an aggregator that never answered for some seconds.
Target: a cause and a remedy of one line each within 10 s.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "e2e"))

from aims import tell
from faults import Fault, five, impostor
from loopback import Loopback, Outcome

TARGET_S = 10.0
SITES = ("hosp-a", "hosp-b", "hosp-c")


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def examine(play: Loopback, fault: Fault) -> tuple[float, int, str, str]:
    """Seconds, exit code, cause and remedy of `doctor`."""
    begin = time.perf_counter()
    process = fault.start(play, "doctor", "--json")
    out, _ = process.communicate()
    took = time.perf_counter() - begin
    failed = next(check for check in json.loads(out)["checks"] if check["verdict"] == "fail")
    return took, process.returncode, failed["text"], failed["remedy"]


def run(play: Loopback, fault: Fault) -> tuple[float, int, str, str]:
    """The same of `client run`."""
    begin = time.perf_counter()
    process = fault.start(play, "client", "run")
    out, err = process.communicate()
    ended = Outcome(process.returncode, out, err)
    return time.perf_counter() - begin, ended.code, ended.error, ended.remedy


def main() -> int:
    """Print the table; the exit status says whether the target is met."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    slowest, causes = 0.0, set()
    with tempfile.TemporaryDirectory() as folder:
        root, spoilt = Path(folder) / "play", Path(folder) / "spoilt"
        spoilt.mkdir()
        with Loopback(root, threads=1) as play, impostor(spoilt) as stranger:
            play.open(SITES)
            faults = five(play, spoilt, stranger)
            for fault in faults:
                print(fault.name)
                for command, measure in (("doctor", examine), ("client run", run)):
                    used = _cpu_of_children()
                    took, code, cause, remedy = measure(play, fault)
                    used = _cpu_of_children() - used
                    assert code == fault.code, f"{fault.name}: {code} {cause}"
                    print(f"  {command:10}  exit {code:>2}  {took:5.1f} s  {used:4.1f} CPU s  {cause}")
                    print(f"  {'':10}  {remedy}")
                    slowest = max(slowest, took)
                    causes.add(cause if command == "doctor" else "")
    told_apart = len(causes - {""})
    met = tell("slowest cause", slowest, TARGET_S, "s")
    met &= tell("causes told apart", told_apart, len(faults), "", least=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
