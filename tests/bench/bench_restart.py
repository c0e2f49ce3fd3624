"""How long an aggregator with years of history takes to serve again, against importing its code alone.

Run as `python tests/bench/bench_restart.py [--json] [--rounds 10000] [--sites 3] [--repeats 3]`.

The history is what 10 000 rounds leave behind: for each its plan, attempt, survivor list, signatures,
end, folder and countersignatures among the decisions, and 20 entries in the audit log. Three kinds of
processes are started in turns, and the best of each counts: an interpreter that imports what the daemon
imports, a daemon without any history, and one with all of it. CPU seconds are shown beside wall time,
because a busy machine changes them less. Target: 5 s of wall time from the start until /readyz says yes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

from aims import tell

from secfed.cli.main import run
from secfed.cli.playground import held_port
from secfed.config import AggregatorConfig, load
from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.identity import keyfile
from secfed.identity.fields import from_base64, write_time
from secfed.identity.signed import Signed
from secfed.ids import ClientId, JobId, RoundId
from secfed.rounds.jobs import Ending, Job, JobBook
from secfed.rounds.plan import Deadlines, JobPlan, RoundPlan
from secfed.rounds.proposal import open_job_plan, sign_job_plan, sign_round_plan
from secfed.rounds.rosters import RosterKeeper
from secfed.secagg.record import AggregatorRecord
from secfed.store.decisions import DecisionStore
from secfed.transport.auditlog import AuditLog, log_file

TARGET_S = 5.0

ENTRIES_A_ROUND = 20
"""In the audit log, of three sites in a round of some seconds."""

IMPORTS = "import sys, secfed.cli.main, secfed.cli.build_aggregator; print(flush=True); sys.stdin.read()"
"""It waits to be let go, so that its time can be read."""

JOB = JobId("years")

PATIENCE_S = 300.0


def found(root: Path) -> Path:
    """A federation; its aggregator.toml."""
    with held_port() as calls, held_port() as ops:
        ports = [f"127.0.0.1:{held.getsockname()[1]}" for held in (calls, ops)]
    words = ["init", str(root), "--address", ports[0], "--ops", ports[1]]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = run([*words, "--no-passphrase"])
    if code != 0:
        raise SystemExit("the federation could not be made")
    return root / "aggregator.toml"


def write_history(path: Path, rounds: int, sites: int) -> None:
    """What so many rounds leave behind."""
    config = load(path, AggregatorConfig)
    admin = keyfile.load(config.key.with_name("admin.key"), None)
    aggregator = keyfile.load(config.key, None).signing
    config.state_dir.mkdir(mode=0o700, exist_ok=True)
    names = tuple(ClientId(f"site-{number:02}") for number in range(sites))
    with DecisionStore(config.state_dir / "decisions.sqlite") as decisions:
        decisions._database.execute("PRAGMA synchronous = OFF")  # only the reading is timed
        roster = RosterKeeper(config.roster, from_base64(config.roster_key, 32), decisions).current
        book, now = JobBook(decisions), datetime.now(UTC)
        plan = JobPlan(
            federation=roster.federation, job=JOB, kind="vector", created=write_time(now),
            created_by=admin.site, rounds=2 * rounds, shapes={"x": (1000,)}, bound="1", bits=16,
        )  # fmt: skip
        job = book.start(open_job_plan(sign_job_plan(admin.signing, plan).text, roster, now))
        record = AggregatorRecord(decisions)
        for number in range(1, rounds + 1):
            _write_round(book, record, job, aggregator, number, names)
    audit = AuditLog(log_file(config.state_dir, aggregator), aggregator, lambda: datetime.now(UTC))
    for _ in range(rounds * ENTRIES_A_ROUND // 1000):
        for number in range(1000):  # as many kinds, so as many entries
            audit.add(who=f"site-{number:02}", what="Exchange", outcome="ok", where="ipv4:127.0.0.1")
        audit.flush()
    audit.close()


def _write_round(
    book: JobBook,
    record: AggregatorRecord,
    job: Job,
    key: SigningKey,
    number: int,
    names: tuple[ClientId, ...],
) -> None:
    """One round, in records of the size that real ones have."""
    plan = RoundPlan(
        job=JOB, job_plan=job.proposal.digest.hex(), round=number, base=bytes(32).hex(), deadlines=Deadlines()
    )
    book.open_round(job, sign_round_plan(key, plan))
    h = digest(Label.MANIFEST, number.to_bytes(8))
    record.open_attempt(RoundId(JOB, number), 1, os.urandom(600))
    record.freeze(h, os.urandom(3000 * len(names)))
    record.certify(h, os.urandom(100 * len(names)))
    statement = Signed(os.urandom(300), os.urandom(64))
    ending = Ending(
        round=number, attempt=1, h=h, statement=statement, published=True, included=names, dropped=(),
        lost=(), sum=h, transcript=h, result=h, weight_sum=len(names), saturated=0, asked=len(names),
        seconds=41, reason="",
    )  # fmt: skip
    book.close_round(job, ending)
    book.folder_written(job, number)
    for name in names:
        book.countersigned(ending, name, statement)


def ready(config: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a daemon until it serves; then it is stopped."""
    port = load(config, AggregatorConfig).ops_listen.rpartition(":")[2]
    begun = time.perf_counter()
    command = [sys.executable, "-m", "secfed", "aggregator", "run", "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not _serves(port):
            if process.poll() is not None or time.perf_counter() - begun > PATIENCE_S:
                raise SystemExit(f"the daemon did not come up: {process.returncode}")
            time.sleep(0.01)
        taken, used = time.perf_counter() - begun, _cpu_s(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return taken, used


def _serves(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as page:
            return bool(page.status == 200)
    except OSError:
        return False


def _cpu_s(process: int) -> float:
    """What a running process has used so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def imported() -> tuple[float, float]:
    """Wall and CPU seconds of an interpreter that imports what the daemon imports."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", IMPORTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        taken, used = time.perf_counter() - begun, _cpu_s(process.pid)
    return taken, used


def measure(rounds: int, sites: int, repeats: int) -> dict[str, float]:
    """The best times in seconds, and the ratio of the start with history to importing alone."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        new, old = found(Path(folder) / "new"), found(Path(folder) / "old")
        write_history(old, rounds, sites)
        history = sum(path.stat().st_size for path in old.with_name("state").rglob("*") if path.is_file())
        ready(old)  # once: a history written here has no start behind it
        kinds = {"importing": imported, "new": lambda: ready(new), "with history": lambda: ready(old)}
        best = {name: (float("inf"), float("inf")) for name in kinds}
        for _ in range(repeats):
            for name, timed in kinds.items():
                wall, cpu = timed()
                best[name] = min(best[name][0], wall), min(best[name][1], cpu)
    return {
        **{f"{name} s": round(wall, 2) for name, (wall, _) in best.items()},
        **{f"{name} CPU s": round(cpu, 2) for name, (_, cpu) in best.items()},
        "rounds": rounds,
        "history MB": round(history / 1e6, 1),
        "ratio": round(best["with history"][0] / best["importing"][0], 2),
        "CPU ratio": round(best["with history"][1] / best["importing"][1], 2),
    }


def main() -> int:
    """Print the figures; the exit status says whether the target is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    figures = measure(options.rounds, options.sites, options.repeats)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:24} {value}")
        tell("restart to ready", figures["with history s"], TARGET_S, "s")
    return 0 if figures["with history s"] <= TARGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
