"""What privacy costs in accuracy: one task, several epsilons, several seeds; prints a Markdown table.

Three sites train one MiniLM classifier on rated movie sentences, as `secfed demo` does, with the same
trainer, strategy and fixed-point code, in one process and without masks: masks cancel exactly, so the
sum that a federation would publish is formed here directly. Everything else, DP-SGD with its secret
sampling and noise included, is what a site runs.

    python examples/privacy_utility/run.py --models ~/.cache/secfed --seeds 3 --kept RUNS.jsonl

Every run that is done is kept in `--kept`, one JSON object a line, and not made again: a stopped table
goes on where it stood, and `--only-table` prints what is there. One seed is run at all epsilons before
the next begins, so that the rows of a table that was cut short compare the same splits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secfed.aggregation.initial import initial_adapter
from secfed.aggregation.registry import by_name
from secfed.cli.jobfile import template
from secfed.encoding.fixedpoint import FixedPoint
from secfed.encoding.layout import Layout
from secfed.privacy.accountant import epsilon
from secfed.privacy.calibrate import noise_multiplier
from secfed.privacy.events import PoissonGaussian
from secfed.rounds.plan import BaseModelSpec, DpSpec, LoraSpec, TrainSpec
from secfed.training.adapter import schema
from secfed.training.data import Table, load
from secfed.training.evaluate import Evaluator
from secfed.training.models import model_folder, weights_sha256
from secfed.training.rows import FORMATS
from secfed.training.spec import adapter_spec, planned_event, update_bound
from secfed.training.trainer import LocalTrainer

SHARES = (0.4, 0.35, 0.25)
"""How unevenly the rows are split over the sites, as in the demo."""

PUBLIC_ROWS = 1000
"""Held-out rows that belong to no site; sampling error of an accuracy of .75 on them: .014."""

DELTA = 1e-6

PLAIN_RATE = "0.005"
"""Learning rate of AdamW without privacy: there is no clipping norm that would bound plain SGD."""


@dataclass(frozen=True, slots=True)
class Run:
    """One federation's end.

    Attributes:
        settings: Digest of all public constants, the seed included; equal means the same run.
        spent: Epsilon of all rounds at `DELTA`, null without privacy.
    """

    target: str
    seed: int
    rounds: int
    settings: str
    noise_multiplier: str | None
    spent: float | None
    accuracy: float
    seconds: int


def main() -> None:
    """Run every epsilon with every seed, and print the table."""
    options = _options()
    runs = _kept(options.kept)
    if not options.only_table:
        rows = _rows(options.models)
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(options.seeds):
                for target in options.epsilons:
                    runs.append(_run(options, Path(folder), rows, target, seed, runs))
    print(_table(options, runs))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("~/.cache/secfed").expanduser())
    parser.add_argument("--epsilons", type=float, nargs="+", default=[math.inf, 8.0, 3.0, 1.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--kept", type=Path, help="file of the runs that are done; found there, not made again"
    )
    parser.add_argument("--only-table", action="store_true", help="make no run: the table of those in --kept")
    return parser.parse_args()


def _kept(path: Path | None) -> list[Run]:
    if path is None or not path.exists():
        return []
    return [Run(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def _rows(models: Path) -> list[Mapping[str, object]]:
    path = models / "data" / "movies.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _run(
    options: argparse.Namespace,
    scratch: Path,
    rows: Sequence[Mapping[str, object]],
    target: float,
    seed: int,
    done: Sequence[Run],
) -> Run:
    """One federation: split by the seed, train the rounds, accuracy on the public rows."""
    begun = time.monotonic()
    train, dp = _constants(options, target, seed)
    public_constants = [options.rounds, train.model_dump_json(), dp and dp.model_dump_json()]
    settings = hashlib.sha256(json.dumps(public_constants).encode()).hexdigest()
    for run in done:
        if run.settings == settings:
            return run
    public, *sites = [_write(scratch, part, train) for part in _split(rows, seed)]
    folder = model_folder(options.models, train.base.id)
    trainers = [
        LocalTrainer(train, dp, folder, table, os.urandom(32), threads=options.threads) for table in sites
    ]
    strategy = by_name(train.strategy)
    layout = Layout.from_shapes(strategy.wire_shapes(train.adapter))
    bound = update_bound(train, dp)
    grid = FixedPoint(bound, template("classify").bits)
    base: Mapping[str, NDArray[np.float32]] = initial_adapter(train.adapter, bytes.fromhex(train.seed))
    for _ in range(options.rounds):
        updates = [trainer.run(base, bound=bound) for trainer in trainers]
        words = [grid.encode(layout.flatten(update.arrays)) for update in updates]
        total: NDArray[np.uint32] = np.sum(words, axis=0, dtype=np.uint32)  # fits: three words of 20 bits
        mean = grid.decode_sum(total, len(words)) / len(words)
        base = strategy.apply(base, layout.unflatten(mean))
    run = Run(
        target=f"{target:g}",
        seed=seed,
        rounds=options.rounds,
        settings=settings,
        noise_multiplier=None if dp is None else dp.noise_multiplier,
        spent=None if dp is None else epsilon([planned_event(train, dp)] * options.rounds, DELTA).epsilon,
        accuracy=Evaluator(trainers[0].model, trainers[0].task, public).measure(base).value,
        seconds=round(time.monotonic() - begun),
    )
    line = json.dumps(asdict(run))
    print(line, flush=True)
    if options.kept is not None:
        with options.kept.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    return run


def _constants(options: argparse.Namespace, target: float, seed: int) -> tuple[TrainSpec, DpSpec | None]:
    """The public constants of a job: those of `job init --template classify`, noise by the target."""
    job = template("classify")
    assert job.training is not None
    assert job.privacy is not None
    section, privacy = job.training, job.privacy
    folder = model_folder(options.models, section.base_model)
    private = math.isfinite(target)
    train = TrainSpec(
        trainer=section.trainer,
        strategy=section.strategy,
        base=BaseModelSpec(id=section.base_model, weights_sha256=weights_sha256(folder)),
        lora=LoraSpec(r=section.r, alpha=section.alpha, target_modules=section.target_modules),
        steps=section.steps,
        learning_rate=str(section.learning_rate) if private else PLAIN_RATE,
        optimizer=section.optimizer if private else "adamw",
        max_length=section.max_length,
        plain_batch=round(privacy.batch),
        adapter={"head.weight": (1, 1)},
        labels=section.labels,
        seed=f"{seed:064x}",
    )
    train = train.model_copy(update={"adapter": schema(adapter_spec(train), folder)})
    if not private:
        return train, None
    dp = DpSpec(
        unit=privacy.unit,
        sampling_num=round(privacy.batch / privacy.nominal_units * 2**64),
        noise_multiplier="1",
        clip=str(privacy.clip),
        nominal_units=privacy.nominal_units,
        delta=f"{DELTA:.12f}".rstrip("0"),
    )
    one = planned_event(train, dp)
    assert isinstance(one, PoissonGaussian)
    whole = PoissonGaussian(
        one.q_num,
        one.noise_multiplier,
        one.steps * options.rounds,
        one.relation,
        one.unit,
        one.records_per_unit,
    )
    found = noise_multiplier(target, whole, DELTA)
    dp = dp.model_copy(update={"noise_multiplier": found.event.noise_multiplier})
    return train, dp


def _split(rows: Sequence[Mapping[str, object]], seed: int) -> Iterator[Sequence[Mapping[str, object]]]:
    """The public rows, then each site's."""
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - a public split
    yield shuffled[:PUBLIC_ROWS]
    rest = shuffled[PUBLIC_ROWS:]
    start = 0
    for share in SHARES:
        end = start + round(share * len(rest))
        yield rest[start:end]
        start = end


def _write(scratch: Path, rows: Sequence[Mapping[str, object]], train: TrainSpec) -> Table:
    """Rows as a site holds them: a file, read by secfed's own loader."""
    path = scratch / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load(path, FORMATS[train.trainer], scratch=scratch)


def _table(options: argparse.Namespace, runs: Sequence[Run]) -> str:
    """Markdown; only the seeds that were run at every epsilon."""
    targets = [f"{target:g}" for target in options.epsilons]
    found = {(run.target, run.seed): run for run in runs if run.rounds == options.rounds}
    seeds = [seed for seed in range(options.seeds) if all((target, seed) in found for target in targets)]
    if not seeds:
        return "no seed has been run at every epsilon yet"
    lines = [
        f"| epsilon per site (delta {DELTA:g}) | noise multiplier | accuracy, mean of {len(seeds)} seeds |"
        " lowest | highest |",
        "|---|---|---|---|---|",
    ]
    for target in targets:
        of_target = [found[target, seed] for seed in seeds]
        values = [run.accuracy for run in of_target]
        name = "infinite (no clipping, no noise)" if target == "inf" else target
        noise = of_target[0].noise_multiplier or "none"
        lines.append(
            f"| {name} | {noise} | {statistics.mean(values):.3f} | {min(values):.3f} | {max(values):.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
