"""A federation on loopback whose sites train: a tiny encoder of random weights, a few rows each, real DP-SGD.

Each client is a process of staged_client.py, which shows what it does without doing anything else:
what it contributes is kept, so that a test can hold what was published against it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from loopback import Loopback, Round
from numpy.typing import NDArray

from secfed.aggregation import folder as folders
from secfed.aggregation import registry
from secfed.aggregation.strategy import POINT
from secfed.cli.playground import Process
from secfed.config import to_toml
from secfed.config.job import DeadlineSection, JobFile, PrivacySection, TrainingSection
from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.encoding import ring
from secfed.encoding.contribution import decode_contribution_sum
from secfed.encoding.fixedpoint import FixedPoint, word_bits
from secfed.ids import Digest
from secfed.rounds.house import adapter_digest
from secfed.rounds.plan import JobPlan
from secfed.rounds.proposal import COUNTERS
from secfed.store.adapters import AdapterStore

BASE_MODEL = "tiny/encoder"
LABELS = ("no", "yes")
ROWS = 24
BATCH = 6.0
STEPS = 3
LEARNING_RATE = 1.0
CLIP = 0.5

NEVER_S = 120
"""Deadline of a phase that no test waits for: whoever is lost is lost because it was killed, seconds."""

_WORDS = ["<pad>", "<unk>", "<eos>", *(f"w{number}" for number in range(60))]

SIZE: dict[str, Any] = {
    "vocab_size": len(_WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
"""Of a base model that trains in no time."""


class Trainees(Loopback):
    """A running federation of sites with data of their own; clients are started by `attend`."""

    # -- set-up --------------------------------------------------------------------------------

    @property
    def models(self) -> Path:
        """Where every site finds the base model."""
        return self.root / "models"

    def open(self, names: Sequence[str]) -> None:
        """A running federation of these sites, each with rows and a budget for many jobs."""
        self.make_model(self.models / "models")
        self.found()
        self.edit_aggregator(retain_uploads="true")
        self.enroll(names)
        self.start_aggregator()
        for name in names:
            self.join_with_data(name, epsilon=1000.0)

    def make_model(self, models: Path) -> None:
        """Put the base model of the lessons where every site finds it."""
        import transformers

        config = transformers.BertConfig(**SIZE)
        save_model(transformers.AutoModel, config, models / "encoder")

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Rows that no other site has."""
        return [{"text": words(name, row, 3, 2 + row % 9), "label": LABELS[row % 2]} for row in range(ROWS)]

    def join_with_data(self, name: str, *, epsilon: float) -> None:
        """`secfed client join` of a site with rows, under a budget of this epsilon."""
        self.stage(name).mkdir(parents=True)
        data = self.site(name) / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in self.rows(name)))
        self.join(
            name, "--data", str(data), "--unit", "record", "--public-n", str(ROWS), "--epsilon", str(epsilon),
            "--models", str(self.models),
        )  # fmt: skip

    def lesson(
        self, name: str, *, rounds: int = 1, steps: int = STEPS, noise_multiplier: float = 2.0
    ) -> None:
        """Start a training job."""
        job = JobFile(
            name=name,
            rounds=rounds,
            bits=20,
            training=TrainingSection(
                trainer="classify",
                base_model=BASE_MODEL,
                target_modules=("query", "value"),
                r=16,
                alpha=16,
                optimizer="sgd",
                learning_rate=LEARNING_RATE,
                steps=steps,
                max_length=16,
                labels=LABELS,
            ),
            privacy=PrivacySection(
                unit="record",
                nominal_units=ROWS,
                batch=BATCH,
                clip=CLIP,
                noise_multiplier=noise_multiplier,
                delta=1e-6,
            ),
            deadlines=DeadlineSection(training_s=3600, phase_s=NEVER_S, upload_idle_s=NEVER_S),
        )
        path = self.root / f"{name}.toml"
        path.write_text(to_toml(job, self.root))
        self.done("job", "start", path, "--config", self.federation / "admin.toml", "--models", self.models)

    # -- clients -------------------------------------------------------------------------------

    def attend(self, name: str, *options: str) -> Process:
        """`secfed client run` on the stage."""
        run = ("client", "run", "--config", str(self.config(name)), *options)
        return self.spawn(name, *run, script="staged_client.py", point=str(self.stage(name)))

    def doomed_attend(self, name: str, point: str) -> Process:
        """`secfed client run`, killed at a point of doomed_client.py."""
        run = ("client", "run", "--config", str(self.config(name)))
        return self.spawn(name, *run, script="doomed_client.py", point=point)

    def running(self, name: str) -> Process | None:
        """The process of this name that runs."""
        return next((each for each in self.processes if each.name == name and each.running), None)

    def stage(self, name: str) -> Path:
        """What a site's staged client leaves there, and reads there."""
        return self.root / "stage" / name

    def draws(self, name: str) -> list[int]:
        """Units that a site's staged clients drew, step by step."""
        trace = self.stage(name) / "draws"
        return [int(line) for line in trace.read_text().split()] if trace.exists() else []

    def halted(self, name: str) -> bool:
        """Whether the client of a site stands still."""
        client = self.running(name)
        flags = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
        state = client and os.waitid(os.P_PID, client.popen.pid, flags)
        return bool(state) and state.si_code == os.CLD_STOPPED

    @contextmanager
    def halt_in_training(self, names: Sequence[str]) -> Iterator[None]:
        """Within, the clients of these sites stand still after a step of training; then they go on."""
        flags = [self.stage(name) / "halt" for name in names]
        for flag in flags:
            flag.touch()
        try:
            yield
        finally:
            for flag in flags:
                flag.unlink()
            for name in names:
                if (client := self.running(name)) is not None:
                    client.popen.send_signal(signal.SIGCONT)

    # -- what was made -------------------------------------------------------------------------

    def charges(self, name: str, job: str, kind: str = "reserve") -> list[dict[str, Any]]:
        """The data set's ledger entries of one kind for a job."""
        return self.ledger(name, job, kind, book="dataset.ledger")

    def spool(self) -> dict[str, bytes]:
        """The masked vectors that the aggregator holds: attempt and place in its cohort, then the bytes."""
        folder = self.federation / "state" / "spool"
        return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}

    def account(self, name: str, job: str) -> list[dict[str, Any]]:
        """What `secfed report` says of a job at a site, round by round."""
        said = self.done("report", "--config", self.config(name), "--format", "json")
        (site,) = json.loads(said.out)["sites"]
        assert site["chain"]["sound"]
        return [line for line in site["rounds"] if line["job"] == job]

    def plan(self, job: str) -> JobPlan:
        """A job's plan, as a site was offered it."""
        return JobPlan.model_validate_json(next((self.root / "stage").glob(f"*/{job}.json")).read_bytes())

    def contribution(self, name: str, job: str, number: int = 1) -> bytes:
        """What a site made for a round: a line of digests, then the words."""
        return (self.stage(name) / f"{job}.{number:08}.00.bin").read_bytes()

    def sent(self, name: str, job: str, number: int = 1) -> NDArray[np.float64]:
        """The coordinates of a site's contribution, in model units, to within one step of the grid."""
        plan = self.plan(job)
        words = self._words(name, job, number)[1 + COUNTERS :]
        return FixedPoint(float(plan.bound), plan.bits).decode_sum(words, 1)

    def _words(self, name: str, job: str, number: int) -> NDArray[np.uint32]:
        return np.frombuffer(self.contribution(name, job, number).split(b"\n", 1)[1], "<u4")

    def assert_exact(self, found: Round, job: str) -> None:
        """What was published is what the included sites' contributions come to, bit by bit."""
        plan, number = self.plan(job), int(found.manifest["round"])
        included = found.manifest["included"]
        total = np.zeros(plan.layout.size + 1 + COUNTERS, np.uint32)
        for name in included:
            total += self._words(name, job, number)
        packed = ring.pack(total, word_bits(len(included), plan.bits))
        h = bytes.fromhex(found.manifest["attempt_digest"])
        assert digest(Label.SUM, h, packed).hex() == found.manifest["sum"]
        grid = FixedPoint(float(plan.bound), plan.bits)
        mean = decode_contribution_sum(total, len(included), COUNTERS, grid).mean()
        assert plan.training is not None
        store = AdapterStore(self.federation / "state" / "adapters", digest=adapter_digest)
        base = store.get(Digest(bytes.fromhex(found.manifest["base"])))
        strategy = registry.by_name(plan.training.strategy)
        expected = strategy.apply(base, plan.layout.unflatten(mean))
        kept = self.state(found)
        assert expected.keys() == kept.keys() == found.arrays.keys() | (expected.keys() & {POINT})
        assert all(np.array_equal(expected[name], kept[name]) for name in expected)
        assert all(np.array_equal(expected[name], found.arrays[name]) for name in found.arrays)
        assert any(not np.array_equal(base[name], found.arrays[name]) for name in found.arrays)

    def state(self, found: Round) -> Mapping[str, NDArray[Any]]:
        """What the round after this one starts from: the adapter, and what rides along with it."""
        store = AdapterStore(self.federation / "state" / "adapters", digest=adapter_digest)
        return store.get(Digest(bytes.fromhex(found.manifest["result"])))

    def arrays(self, folder: Path) -> Mapping[str, NDArray[Any]]:
        """The adapter that was published in a round's folder."""
        return folders.read(folder)[1]


def save_model(kind: Any, config: Any, place: Path) -> None:
    """A base model of random weights, and a tokenizer of made-up words."""
    import torch
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    torch.manual_seed(7)
    kind.from_config(config).save_pretrained(place)
    vocabulary = Tokenizer(WordLevel({word: index for index, word in enumerate(_WORDS)}, unk_token="<unk>"))
    vocabulary.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=vocabulary, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>"
    ).save_pretrained(place)


def words(name: str, row: int, stride: int, count: int) -> str:
    """A text of made-up words that a site's row has, and no other site's."""
    return " ".join(f"w{(sum(name.encode()) + 7 * row + stride * word) % 60}" for word in range(count))
