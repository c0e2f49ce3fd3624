"""The Contributor that trains: a job plan and this site's files in, one round's update out.

`check` does all that can fail for reasons of the site (files, columns, model, shapes) before a
charge is made; `contribute` then only trains.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from secfed.aggregation.registry import by_name
from secfed.errors import ConfigError, PolicyRefusedError
from secfed.privacy.events import Event
from secfed.rounds.plan import JobPlan, RoundPlan, TrainSpec
from secfed.rounds.ports import NamedArrays, Update
from secfed.training.adapter import positions, schema
from secfed.training.data import RECORD, load
from secfed.training.models import weights_sha256
from secfed.training.rows import FORMATS
from secfed.training.spec import adapter_spec, planned_event
from secfed.training.trainer import MICRO_BATCH, LocalTrainer, Precision

if TYPE_CHECKING:
    from secfed.training.ranks import Team

__all__ = ["SiteSettings", "TrainingContributor"]


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """What a site's configuration says about its data and its machine.

    Attributes:
        data: The site's rows.
        columns: Trainer's column name to the file's, where they differ.
        labels: The classes of this site's rows, in any order; empty leaves them to the plan.
        unit: `record`, or the column that names the person.
        model_folder: Where this site keeps a base model, by its public id; ConfigError if nowhere.
        scratch: Folder for what reading needs for a moment.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: Threads of torch; None leaves its choice.
        micro_batch: Records that go through the model at once.
        precision: Of the frozen base.
    """

    data: Path
    model_folder: Callable[[str], Path]
    scratch: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    unit: str = RECORD
    device: str = "auto"
    threads: int | None = None
    micro_batch: int = MICRO_BATCH
    precision: Precision = "float32"


class TrainingContributor:
    """Trains the rounds of one job plan after another on this site's rows.

    Args:
        settings: The site's side.
        key: 32 secret bytes of this site, for the choice of a person's records.
        entropy: Where the keys of secret streams come from.
        on_step: Told the steps done and the steps of the round, for a progress line.
        team: The other ranks of this site, if there are some.
    """

    def __init__(
        self,
        settings: SiteSettings,
        key: bytes,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        on_step: Callable[[int, int], None] = lambda _done, _steps: None,
        team: Team | None = None,
    ) -> None:
        self._settings = settings
        self._key = key
        self._entropy = entropy
        self._on_step = on_step
        self._team = team
        self._ready: tuple[JobPlan, LocalTrainer] | None = None

    def planned_event(self, plan: JobPlan) -> Event:
        """What one round of this plan will be charged as, from the plan alone."""
        return planned_event(_training(plan), plan.dp)

    def check(self, plan: JobPlan) -> None:
        """Load model and rows, and hold them against the plan; nothing is trained.

        Raises:
            ConfigError: The base model is missing, is another one, gives other shapes, takes fewer
                tokens than the plan's rows may have, or couples records (`guard.inspect`).
            SecfedError: Another rank of this site is gone, cannot load the job, or works with another
                model, device or version.
            PolicyRefusedError: The plan's labels are not those that the site declares.
            DataError: A file, column or value does not fit, whatever the plan's labels and lengths are.
        """
        self._trainer(plan)

    def contribute(self, plan: JobPlan, round_plan: RoundPlan, base: NamedArrays) -> Update:
        """Train one round; its reservation must be durable.

        Raises:
            SecfedError: See `LocalTrainer.run`.
        """
        if round_plan.job != plan.job:
            raise ValueError("the round plan is another job's")
        trainer, steps = self._trainer(plan), _training(plan).steps
        self._ready = None  # an error leaves nothing that a later round would be charged for unseen
        if self._team is not None and plan.dp is not None:
            self._team.begin(base)
        update = trainer.run(
            base,
            bound=float(plan.bound),
            entropy=self._entropy,
            on_step=lambda done: self._on_step(done, steps),
        )
        self._ready = plan, trainer
        return update

    def _trainer(self, plan: JobPlan) -> LocalTrainer:
        """The trainer of a plan; the last one is kept, since its model and rows are in memory."""
        if self._team is not None and plan.dp is not None:
            self._team.alive()
        if self._ready is not None and self._ready[0] == plan:
            return self._ready[1]
        self._ready = None  # the former job's model makes room before the next one is loaded
        train, site = _training(plan), self._settings
        folder = site.model_folder(train.base.id)
        if weights_sha256(folder) != train.base.weights_sha256:
            raise ConfigError(
                f"the weights of {train.base.id!r} at this site are not those that the plan names",
                hint="Install the package and version that the consortium agreed on.",
            )
        spec = adapter_spec(train)
        shapes = schema(spec, folder)
        if shapes != train.adapter or by_name(train.strategy).wire_shapes(shapes) != plan.shapes:
            raise ConfigError("the plan's shapes are not those of its adapter on its base model")
        limit = positions(folder)
        if limit is not None and train.max_length > limit:
            raise ConfigError(
                f"the plan's rows have up to {train.max_length} tokens; {train.base.id!r} takes {limit}"
            )
        if train.labels and site.labels and set(train.labels) != set(site.labels):
            raise PolicyRefusedError(
                f"the plan's labels ({', '.join(train.labels)}) are not those that this site declares"
            )
        table = load(
            site.data,
            FORMATS[spec.trainer],
            scratch=site.scratch,
            columns=site.columns,
            unit=site.unit,
        )
        trainer = LocalTrainer(
            train,
            plan.dp,
            folder,
            table,
            self._key,
            device=site.device,
            threads=site.threads,
            micro_batch=site.micro_batch,
            precision=site.precision,
            helpers=self._team,
        )
        if self._team is not None and plan.dp is not None and trainer.ladder is not None:
            self._team.prepare(train, plan.dp, trainer.model.device, trainer.ladder)
        self._ready = plan, trainer
        return trainer


def _training(plan: JobPlan) -> TrainSpec:
    """The training section; a vector job has none and is no business of a trainer."""
    if plan.training is None:
        raise ConfigError(f"job {plan.job!r} trains nothing", hint="Take part with `secfed client push`.")
    return plan.training
