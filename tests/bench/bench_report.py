"""How long an account of many sites takes, and how long a long ledger takes to verify.

Run as `python tests/bench/bench_report.py [--json] [--sites 20] [--rounds 1000] [--entries 100000]`.

The report is made as `secfed report` makes it: the ledgers verified, with helper processes where that
pays, every figure worked out, the text written (and, beside it, the HTML page). All sites took part in
one job; `--missed N` lets each but the first miss N more rounds than the one before it, so that no two
histories are alike. Times are wall-clock seconds, beside the CPU seconds of this process and of the
helpers: on a busy machine compare the latter. Targets, on two quiet cores: 20 sites of 1000 rounds in
5 s, 100 000 entries in 10 s.

Beside both stands a limit of the same machine and minute, in CPU seconds: what no such account could do
without. It is one signature an entry and, for the report, loading dp_accounting and one distribution
of one round and of all rounds by it. The ratio to that tells good code from a fast machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from aims import tell

from secfed.cli.provers import verified
from secfed.crypto import signing
from secfed.crypto.signing import SigningKey
from secfed.ids import ClientId, Digest, JobId, RoundId
from secfed.privacy import accountant
from secfed.privacy.entries import Budget
from secfed.privacy.events import PoissonGaussian
from secfed.privacy.ledger import Authorization, Ledger, Verdict
from secfed.privacy.report.account import Report, ahead, build
from secfed.privacy.report.figures import Figures, points_for
from secfed.privacy.report.form_html import to_html
from secfed.privacy.report.form_text import to_text

REPORT_TARGET_S = 5.0
VERIFY_TARGET_S = 10.0
JOB = JobId("bench")
WHAT = {
    "long ledger": "one long ledger verified",
    "verify": "all sites' ledgers verified, figures worked out",
    "account": "their account from that, as text",
    "page": "the HTML page",
}
EVENT = PoissonGaussian(round(0.01 * 2**64), "1.1", 8, "add-remove", "record")
"""One round of every site."""

SIGNATURES = 2000
"""Verified for the limit; entries cost as many times as much as there are more of them."""

PLAN, CONTRIBUTION = Digest(b"\x01" * 32), Digest(b"\x02" * 32)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU time of one call; CPU time counts helper processes that have ended."""
    begin, busy = time.perf_counter(), os.times()
    work()
    now = os.times()
    cpu = sum(now[:4]) - sum(busy[:4])
    return round(time.perf_counter() - begin, 2), round(cpu, 2)


def limits(entries: int, charges: int, rounds: int) -> tuple[float, float]:
    """CPU seconds of bare signatures for each number of entries; the second with bare distributions too.

    To be asked before anything else loads dp_accounting.
    """
    key, line = SigningKey.from_seed(bytes(range(32))), b"x" * 500
    signature = key.sign(line)

    def signatures() -> None:
        for _ in range(SIGNATURES):
            signing.verify(key.public, line, signature)

    def distributions() -> None:
        from dp_accounting.pld import privacy_loss_distribution as pld

        one = pld.from_gaussian_mechanism(
            float(EVENT.noise_multiplier), value_discretization_interval=1e-4, sampling_prob=EVENT.q
        )
        one.self_compose(EVENT.steps * rounds).get_epsilon_for_delta(1e-6)

    each = seconds(signatures)[1] / SIGNATURES
    return each * entries, each * charges + seconds(distributions)[1]


def write_ledger(folder: Path, site: str, key: SigningKey, rounds: int) -> Path:
    """A ledger of `rounds` charges, each sent once: 2 rounds + 1 entries. It need not survive a crash."""
    path = folder / f"{site}.ledger"
    stamp = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    with (
        mock.patch("os.fsync"),
        Ledger.create(
            path, key=key, site=ClientId(site), unit="record", records_per_unit=1, relation="add-remove",
            budget=Budget("100", "0.000001", 10_000), now=lambda: stamp,
        ) as ledger,
    ):  # fmt: skip
        for number in range(1, rounds + 1):
            ledger.reserve(JOB, number, PLAN, Authorization(EVENT, ledger.head, 0.0))
            ledger.mark_sent(RoundId(JOB, number), 1, CONTRIBUTION)
    return path


def measure(
    folder: Path, sites: int, rounds: int, missed: int, entries: int
) -> dict[str, tuple[float, float]]:
    """All figures, (wall, CPU) seconds."""
    key = SigningKey.from_seed(bytes(range(32)))
    many = [write_ledger(folder, f"site-{place}", key, rounds - missed * place) for place in range(sites)]
    long = [write_ledger(folder, "long", key, entries // 2)]
    verdicts: list[Verdict] = []
    reports: list[Report] = []
    made: list[Figures] = []

    def check(paths: list[Path]) -> None:
        made[:] = [Figures(points=points_for(len(paths)))]
        verdicts[:] = verified(
            [(path, key.public, None) for path in paths],
            meanwhile=accountant.load,
            each=lambda verdict: ahead(verdict, made[0]),
        )
        faults = [verdict.fault for verdict in verdicts if verdict.fault is not None]
        if faults:
            raise SystemExit(f"a good ledger was refused: {faults[0]}")

    def account() -> None:
        report = build(verdicts, now=datetime.now(UTC), recompute="secfed report", figures=made[0])
        to_text(report)
        reports.append(report)

    figures: dict[str, tuple[float, float]] = {
        "long ledger": seconds(lambda: check(long)),
        "verify": seconds(lambda: check(many)),
        "account": seconds(account),
        "page": seconds(lambda: to_html(reports[0])),
    }
    return figures


def main() -> int:
    """Print the figures; the exit status says whether both targets are met."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--sites", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--missed", type=int, default=0)
    parser.add_argument("--entries", type=int, default=100_000)
    options = parser.parse_args()
    entries = sum(2 * (options.rounds - options.missed * place) + 1 for place in range(options.sites))
    least_long, least = limits(options.entries, entries, options.rounds)
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), options.sites, options.rounds, options.missed, options.entries)
    verified, busy_verified = figures["long ledger"]
    report, busy = (a + b for a, b in zip(figures["verify"], figures["account"], strict=True))
    rows = {
        f"report of {options.sites} sites, {options.rounds} rounds": (report, REPORT_TARGET_S, busy, least),
        f"{options.entries} entries verified": (verified, VERIFY_TARGET_S, busy_verified, least_long),
    }
    if options.json:
        ratios = {
            "report ratio": round(busy / least, 2),
            "entries ratio": round(busy_verified / least_long, 2),
        }
        print(json.dumps(figures | {"report s": round(report, 2)} | ratios))
    else:
        print(f"{'':44} {'wall s':>8} {'CPU s':>8}")
        for what, name in WHAT.items():
            wall, cpu = figures[what]
            print(f"{name:44} {wall:8.2f} {cpu:8.2f}")
        for name, (wall, aim, cpu, limit) in rows.items():
            print(f"{name:44} {cpu:8.2f} CPU s, limit {limit:.2f}, ratio {cpu / limit:.2f}")
            tell(name, wall, aim, "s")
    return 0 if all(wall <= aim for wall, aim, *_ in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
