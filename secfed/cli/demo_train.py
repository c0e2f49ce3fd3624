"""The training demo: three sites train one adapter on rows that never leave them."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secfed.aggregation import folder as folders
from secfed.cli.demo_metric import Gauge
from secfed.cli.evidence import Hidden, examine, stored_uploads
from secfed.cli.jobfile import template
from secfed.cli.playground import Playground, Process, failure
from secfed.cli.site_lines import UNTIL_TOLD
from secfed.config import to_toml
from secfed.config.job import JobFile
from secfed.errors import ConfigError, RoundAbortedError
from secfed.ids import ClientId, Digest
from secfed.rounds.house import adapter_digest
from secfed.store.adapters import AdapterStore

if TYPE_CHECKING:
    from secfed.training.evaluate import Metric

__all__ = ["run_training"]

SITES = ("hosp-a", "hosp-b", "hosp-c")
SHARES = (0.4, 0.35, 0.25)
"""How unevenly the rows are split."""

CAP = 8.0
"""Each site's budget."""

SPLIT_SEED = 7
"""The split is the same in every run; nothing private hangs on it."""

QUIET_S = 15.0
"""A wait says where it stands at least this often."""

REPORT = "report.txt"
"""The sites' privacy report, in the demo's folder."""

_POLL_S, _LOOK_S = 0.05, 0.25
"""How often contributions are looked for, which are soon gone, and the sites' output; seconds."""


@dataclass(frozen=True, slots=True)
class _Material:
    """A task's job and rows.

    Attributes:
        owner: Column of the person, where persons are the units.
        public_rows: How many are held out: they belong to no site, and the metric is measured on them.
        limit_s: How long the rounds may take.
        say: The rows, in words.
    """

    job: JobFile
    rows: Sequence[Mapping[str, object]]
    owner: str | None
    public_rows: int
    limit_s: float
    say: str


@dataclass(frozen=True, slots=True)
class _Measured:
    """The metric with the job's first adapter and with the federated one."""

    before: Metric
    after: Metric


def run_training(play: Playground, task: str, models: Path, say: Callable[[str], object]) -> bool:
    """Set up, train, evaluate, and check what the aggregator stored.

    Returns:
        Whether every check passed.

    Raises:
        SecfedError: A process failed, or a site is not in the last round.
    """
    begun = time.monotonic()
    material = _material(task, models)
    public = _split(play, material)
    play.found()
    play.edit_aggregator(retain_uploads="true")
    play.enroll(SITES)
    with Gauge(material.job, models, public) as gauge:
        clients = _set_up(play, material, models, gauge, say)
        say(f"set-up         {time.monotonic() - begun:.1f} s")
        with _copies(play) as copies:
            before = _watch(play, material, clients, gauge, say)
        rounds = sorted((play.federation / "out" / material.job.name).glob("round-*"))
        after = gauge.measure(folders.read(rounds[-1])[1])
        hidden = _checked(play, material, rounds, copies, say)
        account = _account(play)
        _summary(material, _Measured(before.result(), after.result()), account, say)
    say(f"adapter        {rounds[-1]}")
    say(f"report         {play.root / REPORT}")
    say(f"time           {time.monotonic() - begun:.0f} s")
    return hidden


def _set_up(
    play: Playground, material: _Material, models: Path, gauge: Gauge, say: Callable[[str], object]
) -> list[Process]:
    """From enrolled sites to a started job; returns the sites' running clients."""
    play.start_aggregator()
    say(f"federation     {len(SITES)} sites, aggregator on 127.0.0.1:{play.port}, mutual TLS, fresh keys")
    privacy = material.job.privacy
    assert privacy is not None  # noqa: S101 - both templates are private
    unit = "record" if material.owner is None else material.owner
    bounded = () if material.owner is None else ("--max-records-per-unit", str(privacy.records_per_unit))
    play.join_all(
        {
            name: (
                "--data", str(play.site(name) / "data.jsonl"), "--unit", unit, *bounded,
                "--public-n", str(privacy.nominal_units), "--epsilon", str(CAP), "--models", str(models),
            )
            for name in SITES
        }
    )  # fmt: skip
    say(f"data           {material.say}; {material.public_rows} public rows are held out")
    path = play.root / "JOB.toml"
    path.write_text(to_toml(material.job, play.root))
    clients = [play.start_client(name, "--job", material.job.name) for name in SITES]  # they load meanwhile
    gauge.await_libraries()
    for line in play.start_job(path, models).splitlines():
        say(line)
    return clients


def _watch(
    play: Playground,
    material: _Material,
    clients: Sequence[Process],
    gauge: Gauge,
    say: Callable[[str], object],
) -> Future[Metric]:
    """Say each site's round lines as they come, and now and then what is waited for.

    Returns:
        The metric of the job's first adapter, which the manifest of the first round names.

    Raises:
        SecfedError: A process failed, or time is up.
    """
    said = dict.fromkeys((client.name for client in clients), 0)
    spoken = time.monotonic()
    before: list[Future[Metric]] = []
    first = play.federation / "out" / material.job.name / "round-0001" / "secfed_manifest.json"

    def look() -> bool:
        nonlocal spoken
        if not before and first.exists():
            before.append(gauge.measure(_base_adapter(play, first)))
        for client in clients:
            lines = [line for line in client.output.splitlines() if line.startswith("round ")]
            for line in lines[said[client.name] :]:
                say(f"  {client.name:<12} {line}")
                spoken = time.monotonic()
            said[client.name] = len(lines)
        if time.monotonic() - spoken > QUIET_S:
            spoken = time.monotonic()
            number = min(min(said.values()) + 1, material.job.rounds)
            standing = "; ".join(f"{client.name} {_standing(client)}" for client in clients)
            say(f"  ... waiting for round {number}/{material.job.rounds}: {standing}")
        for process in play.processes:  # the others would wait for it
            code = process.popen.poll()
            if code:
                raise failure(process.name, code, process.output, process.log)
        return all(not client.running for client in clients)

    play.until(look, "the sites to finish", material.limit_s, every_s=_LOOK_S)
    if not before:
        raise RoundAbortedError("the job ended without a round", hint=f"The logs are in {play.root}.")
    return before[0]


def _base_adapter(play: Playground, manifest: Path) -> dict[str, NDArray[np.float32]]:
    """The adapter that a round was trained on."""
    store = AdapterStore(play.federation / "state" / "adapters", digest=adapter_digest)
    return store.get(Digest(bytes.fromhex(json.loads(manifest.read_bytes())["base"])))


def _standing(client: Process) -> str:
    """Where a client stands, in some words; its log lines are JSON and are left out."""
    if not client.running:
        return "has ended"
    lines = [line for line in client.output.splitlines() if line and not line.startswith("{")]
    last = lines[-1] if lines else ""
    if last.startswith("training: "):
        return f"trains, {last.removeprefix('training: ')}"
    if ": waiting for " in last:  # `waiting: job J round 1: waiting for 2 sites: a, b, for 30 s at most`
        what = last.removesuffix(UNTIL_TOLD).rpartition(": waiting for ")[2].rpartition(": ")[2]
        return f"waits for {what.partition(', for ')[0]}"
    if last.startswith("waiting: ") and "not started yet" not in last:  # it loads libraries meanwhile
        return f"waits ({last.removeprefix('waiting: ').removesuffix(UNTIL_TOLD)})"
    return "loads its model and rows" if " accepted " in last else "gets ready"


def _material(task: str, models: Path) -> _Material:
    job = template(task)
    name = "movies.jsonl" if task == "classify" else "chitchat.jsonl"
    path = models / "data" / name
    if not path.is_file():
        raise ConfigError(f"{path} is not there", hint="`make setup-assets` prepares models and data.")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if task == "classify":
        said = f"{len(rows)} rated movie sentences, split {'/'.join(f'{share:.0%}' for share in SHARES)}"
        return _Material(job, rows, None, 400, 900.0, said)
    said = f"{len(rows)} conversations by person, split {'/'.join(f'{share:.0%}' for share in SHARES)}"
    return _Material(job, rows, "person", 96, 2400.0, said)


def _split(play: Playground, material: _Material) -> Path:
    """Write each site's rows and the public ones; a person's rows stay together."""
    groups: dict[object, list[Mapping[str, object]]] = {}
    for number, row in enumerate(material.rows):
        groups.setdefault(number if material.owner is None else row[material.owner], []).append(row)
    order = list(groups)
    random.Random(SPLIT_SEED).shuffle(order)  # noqa: S311 - a public split
    rows = [group for owner in order for group in [groups[owner]]]
    public: list[Mapping[str, object]] = []
    while len(public) < material.public_rows:
        public += rows.pop()
    _write(play.root / "public.jsonl", public[: material.public_rows])
    start = 0
    for name, share in zip(SITES, SHARES, strict=True):
        end = start + round(share * len(rows))
        play.site(name).mkdir(parents=True, exist_ok=True)
        _write(play.site(name) / "data.jsonl", [row for group in rows[start:end] for row in group])
        start = end
    return play.root / "public.jsonl"


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@contextlib.contextmanager
def _copies(play: Playground) -> Iterator[dict[tuple[str, str], Path]]:
    """Keep a copy of every contribution, as only the demo may: it owns all sites.

    A site removes its contribution when the round closes; the check needs it afterwards.
    """
    kept: dict[tuple[str, str], Path] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_POLL_S):
            for name in SITES:
                for path in (play.site(name) / "state" / "contributions").glob("*.bin"):
                    if (name, path.name) not in kept:
                        copy = play.root / "plain" / f"{name}-{path.name}"
                        copy.parent.mkdir(exist_ok=True)
                        with contextlib.suppress(FileNotFoundError):  # the round closed meanwhile
                            shutil.copyfile(path, copy)
                            kept[name, path.name] = copy

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        stop.set()
        thread.join()


def _checked(
    play: Playground,
    material: _Material,
    rounds: Sequence[Path],
    copies: Mapping[tuple[str, str], Path],
    say: Callable[[str], object],
) -> bool:
    """Whether no stored upload tells anything of its site's contribution.

    Raises:
        RoundAbortedError: A round is missing, or a site in the last one.
    """
    included = json.loads((rounds[-1] / "secfed_manifest.json").read_bytes())["included"]
    say("")
    say(f"included       {len(included)} of {len(SITES)} in round {len(rounds)} of {material.job.rounds}")
    if len(rounds) != material.job.rounds or len(included) != len(SITES):
        raise RoundAbortedError(
            "the job ended without a round, or without a site in its last one",
            hint=f"The logs of all processes are in {play.root}.",
        )
    found = [hidden for folder in rounds for hidden in _examine_round(play, folder, copies)]
    hidden = len(found) == len(rounds) * len(SITES) and all(item.passed for item in found)
    agreeing, expected = sum(item.agreeing for item in found), sum(item.expected for item in found)
    say(
        f"the aggregator saw only the sum: {'PASS' if hidden else 'FAIL'}  ({len(found)} stored uploads; of "
        f"{sum(item.words for item in found)} words {agreeing} agree with the plain ones, {expected:.0f} by "
        f"chance; uniform to {max((abs(item.uniformity_sigma) for item in found), default=0):.1f} sigma)"
    )
    shutil.rmtree(play.root / "plain", ignore_errors=True)
    return hidden


def _account(play: Playground) -> Mapping[str, Any]:
    """Write the sites' report, and return it."""
    configs = [play.config(site) for site in SITES]
    play.report(configs, "text", play.root / REPORT)
    account: Mapping[str, Any] = json.loads(play.report(configs, "json"))
    return account


def _summary(
    material: _Material, measured: _Measured, account: Mapping[str, Any], say: Callable[[str], object]
) -> None:
    """What the training gave, and what it cost."""
    before, after = measured.before, measured.after
    rows = f"on {material.public_rows} public rows of no site"
    say(f"{after.name:<14} {before.value:.3f} before, {after.value:.3f} after, {rows}")
    for site in account["sites"]:
        say(
            f"epsilon        {site['site']}: {site['epsilon']:.3f} of {CAP:.3f} at delta {account['delta']:g}"
        )


def _examine_round(play: Playground, folder: Path, copies: Mapping[tuple[str, str], Path]) -> list[Hidden]:
    """Hold every stored upload of one round against its site's contribution."""
    manifest, uploads = stored_uploads(folder, play.federation / "state" / "spool")
    found = []
    for site, stored in uploads.items():
        plain = _plain(site, manifest.round, copies)
        if plain is not None:
            found.append(examine(site, stored, plain, manifest.word_bits))
    return found


def _plain(site: ClientId, number: int, copies: Mapping[tuple[str, str], Path]) -> NDArray[np.uint32] | None:
    """A site's encoded contribution to one round, from the copy: a header line, then the words."""
    for (name, file), path in copies.items():
        if name == site and int(file.split(".")[1]) == number:
            return np.frombuffer(path.read_bytes().split(b"\n", 1)[1], dtype="<u4")
    return None
