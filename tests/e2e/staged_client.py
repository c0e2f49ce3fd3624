"""A client on a stage: `staged_client.py FOLDER COMMAND...` runs a `secfed` command and shows what it does.

In FOLDER it leaves a copy of each plan that it trained by and of each contribution that it made, before
anybody hears of them, and in `draws` how many units it drew for each step of training, a line each. While
FOLDER holds a file `halt`, it stands still (SIGSTOP) after a step, until somebody wakes it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secfed.cli.main import main
from secfed.cli.site_lines import Lines
from secfed.ids import Digest, RoundId
from secfed.rounds import admission
from secfed.rounds.contribution import Contribution, ContributionStore, Encoded
from secfed.rounds.plan import JobPlan
from secfed.rounds.ports import Update
from secfed.training.random import PoissonSampler


def draw(self: PoissonSampler) -> NDArray[np.int64]:
    batch = plain_draw(self)
    with (stage / "draws").open("a") as trace:
        trace.write(f"{batch.size}\n")
    return batch


def step(self: Lines, done: int, steps: int) -> None:
    plain_step(self, done, steps)
    if (stage / "halt").exists():
        os.kill(os.getpid(), signal.SIGSTOP)


def encode(plan: JobPlan, update: Update, entropy: Callable[[int], bytes] = os.urandom) -> Encoded:
    (stage / f"{plan.job}.json").write_text(plan.model_dump_json())
    return plain_encode(plan, update, entropy)


def save(self: ContributionStore, round_id: RoundId, round_plan: Digest, encoded: Encoded) -> Contribution:
    made = plain_save(self, round_id, round_plan, encoded)
    shutil.copy(self._path(round_id), stage)
    return made


if __name__ == "__main__":
    stage = Path(sys.argv.pop(1))
    plain_draw, plain_step = PoissonSampler.draw, Lines.step
    plain_encode, plain_save = admission.encode, ContributionStore.save
    PoissonSampler.draw = draw  # type: ignore[method-assign]
    Lines.step = step  # type: ignore[method-assign]
    admission.encode = encode
    ContributionStore.save = save  # type: ignore[method-assign]
    main()
