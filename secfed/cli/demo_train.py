"""The training demo: three sites train one adapter on rows that never leave them."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secfed.cli.evidence import Hidden, examine, stored_uploads
from secfed.cli.jobfile import template
from secfed.cli.playground import Playground, Process
from secfed.config import to_toml
from secfed.config.job import JobFile
from secfed.errors import ConfigError
from secfed.ids import ClientId, Digest
from secfed.rounds.house import adapter_digest

__all__ = ["run_training"]

SITES = ("hosp-a", "hosp-b", "hosp-c")
SHARES = (0.4, 0.35, 0.25)
"""How unevenly the rows are split."""

PUBLIC_ROWS = 400
"""Held-out rows that belong to no site; the metric is measured on them."""

CAP = 8.0
"""Each site's budget."""

SPLIT_SEED = 7
"""The split is the same in every run; nothing private hangs on it."""

QUIET_S = 15.0
"""A wait says where it stands at least this often."""

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class _Material:
    """A task's job and rows."""

    job: JobFile
    rows: Sequence[Mapping[str, object]]
    owner: str | None
    limit_s: float
    say: str


def run_training(play: Playground, task: str, models: Path, say: Callable[[str], object]) -> bool:
    """Set up, train, evaluate, and check what the aggregator stored.

    Returns:
        Whether every check passed.
    """
    begun = time.monotonic()
    material = _material(task, models)
    public = _split(play, material)
    play.found()
    play.edit_aggregator(retain_uploads="true")
    play.enroll(SITES)
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
    say(f"data           {material.say}; {PUBLIC_ROWS} public rows are held out")
    path = play.root / "JOB.toml"
    path.write_text(to_toml(material.job, play.root))
    clients = [play.start_client(name, "--job", material.job.name) for name in SITES]
    for line in play.start_job(path, models).splitlines():
        say(line)
    say(f"set-up         {time.monotonic() - begun:.1f} s")
    with _copies(play) as copies:
        _watch(play, clients, material.limit_s, say)
    failed = [client for client in clients if client.wait(1) != 0]
    for client in failed:
        say(f"{client.name} ended with an error:\n{client.output}")
    return not failed and _summary(play, material, models, public, copies, say, begun)


def _watch(
    play: Playground, clients: Sequence[Process], limit_s: float, say: Callable[[str], object]
) -> None:
    """Say each site's round lines as they come, and now and then where the training stands."""
    said = dict.fromkeys((client.name for client in clients), 0)
    spoken = time.monotonic()

    def look() -> bool:
        nonlocal spoken
        for client in clients:
            lines = [line for line in client.output.splitlines() if line.startswith("round ")]
            for line in lines[said[client.name] :]:
                say(f"  {client.name:<12} {line}")
                spoken = time.monotonic()
            said[client.name] = len(lines)
        if time.monotonic() - spoken > QUIET_S:
            spoken = time.monotonic()
            say("  ... " + ", ".join(f"{client.name}: {_last_line(client)}" for client in clients))
        return all(not client.running for client in clients)

    play.until(look, "the sites to finish", limit_s)


def _last_line(client: Process) -> str:
    """Where a client stands, in a word or two; its log lines are JSON and are left out."""
    lines = [line for line in client.output.splitlines() if line and not line.startswith("{")]
    last = lines[-1] if lines else "starting"
    if last.startswith("waiting"):
        return "waiting for the others"
    return last.removeprefix("training: ") if last.startswith(("training: ", "round ")) else "preparing"


def _material(task: str, models: Path) -> _Material:
    job = template(task)
    name = "movies.jsonl" if task == "classify" else "chitchat.jsonl"
    path = models / "data" / name
    if not path.is_file():
        raise ConfigError(f"{path} is not there", hint="`make setup-assets` prepares models and data.")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if task == "classify":
        said = f"{len(rows)} rated movie sentences, split {'/'.join(f'{share:.0%}' for share in SHARES)}"
        return _Material(job, rows, None, 900.0, said)
    said = f"{len(rows)} conversations by person, split {'/'.join(f'{share:.0%}' for share in SHARES)}"
    return _Material(job, rows, "person", 2400.0, said)


def _split(play: Playground, material: _Material) -> Path:
    """Write each site's rows and the public ones; a person's rows stay together."""
    groups: dict[object, list[Mapping[str, object]]] = {}
    for number, row in enumerate(material.rows):
        groups.setdefault(number if material.owner is None else row[material.owner], []).append(row)
    order = list(groups)
    random.Random(SPLIT_SEED).shuffle(order)  # noqa: S311 - a public split
    rows = [group for owner in order for group in [groups[owner]]]
    public: list[Mapping[str, object]] = []
    while len(public) < PUBLIC_ROWS:
        public += rows.pop()
    _write(play.root / "public.jsonl", public[:PUBLIC_ROWS])
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


def _summary(
    play: Playground,
    material: _Material,
    models: Path,
    public: Path,
    copies: Mapping[tuple[str, str], Path],
    say: Callable[[str], object],
    begun: float,
) -> bool:
    rounds = sorted((play.federation / "out" / material.job.name).glob("round-*"))
    found = [hidden for folder in rounds for hidden in _examine_round(play, folder, copies)]
    document = json.loads((rounds[-1] / "secfed_manifest.json").read_bytes())
    whole = len(rounds) == material.job.rounds and len(document["included"]) == len(SITES)
    examined = len(found) == len(rounds) * len(SITES)
    hidden = examined and all(item.passed for item in found)
    agreeing, expected = sum(item.agreeing for item in found), sum(item.expected for item in found)
    say("")
    included = len(document["included"])
    say(f"included       {included} of {len(SITES)} in round {len(rounds)} of {material.job.rounds}")
    say(
        f"the aggregator saw only the sum: {'PASS' if hidden else 'FAIL'}  ({len(found)} stored uploads; of "
        f"{sum(item.words for item in found)} words {agreeing} agree with the plain ones, {expected:.0f} by "
        f"chance; uniform to {max((abs(item.uniformity_sigma) for item in found), default=0):.1f} sigma)"
    )
    shutil.rmtree(play.root / "plain", ignore_errors=True)
    before, after, name = _metrics(play, rounds, models, public, material)
    say(f"{name:<14} {before:.3f} before, {after:.3f} after, on {PUBLIC_ROWS} public rows of no site")
    report = play.root / "report.txt"
    configs = [part for site in SITES for part in ("--config", str(play.config(site)))]
    play.run("report", *configs, "--output", str(report))
    account = json.loads(play.run("report", *configs, "--format", "json"))
    for site in account["sites"]:
        say(
            f"epsilon        {site['site']}: {site['epsilon']:.3f} of {CAP:.3f} at delta {account['delta']:g}"
        )
    say(f"adapter        {rounds[-1]}")
    say(f"report         {report}")
    say(f"time           {time.monotonic() - begun:.0f} s")
    return whole and hidden


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


def _metrics(
    play: Playground, rounds: Sequence[Path], models: Path, public: Path, material: _Material
) -> tuple[float, float, str]:
    """The task's metric with the job's first adapter and with the federated one."""
    from secfed.aggregation import folder as folders
    from secfed.store.adapters import AdapterStore
    from secfed.training.adapter import build, task_columns, task_of
    from secfed.training.data import load
    from secfed.training.evaluate import Evaluator
    from secfed.training.models import model_folder

    spec, arrays = folders.read(rounds[-1])
    section = material.job.training
    assert section is not None  # noqa: S101 - a training demo
    base = model_folder(models, spec.base_model)
    table = load(public, task_columns(spec), scratch=play.root)
    evaluator = Evaluator(build(spec, base, device="auto"), task_of(spec, base, section.max_length), table)
    opening = json.loads((rounds[0] / "secfed_manifest.json").read_bytes())
    store = AdapterStore(play.federation / "state" / "adapters", digest=adapter_digest)
    before = evaluator.measure(store.get(Digest(bytes.fromhex(opening["base"]))))
    after = evaluator.measure(arrays)
    return before.value, after.value, after.name
