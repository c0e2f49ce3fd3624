"""The training demo's metric on public rows, worked out in a thread beside the rest of the demo.

The libraries take seconds to load, and so do a model and its measurements: they go on while sites
join and train, and on the processor that nobody else uses just then.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from secfed.cli.loading import large_libraries
from secfed.config.job import JobFile, TrainingSection

if TYPE_CHECKING:
    from secfed.aggregation.strategy import NamedArrays
    from secfed.training.evaluate import Evaluator, Metric

__all__ = ["Gauge"]


class Gauge:
    """Measures adapters of one training job, one after another.

    Between its making and `await_libraries` the rest of the process imports nothing: two threads
    that import the same packages can meet each other's half-made modules.

    Args:
        job: A job that trains.
        models: Folder with base models.
        public: The public rows, a file.
    """

    def __init__(self, job: JobFile, models: Path, public: Path) -> None:
        if job.training is None:
            raise ValueError("only a training job has a metric")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="gauge")
        self._libraries = self._pool.submit(_load_libraries)
        self._evaluator = self._pool.submit(_evaluator, job.training, models, public)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def await_libraries(self) -> None:
        """Return once the libraries are loaded; `job start` in this process needs the same ones."""
        self._libraries.result()

    def measure(self, arrays: NamedArrays) -> Future[Metric]:
        """The metric of an adapter, as soon as it is its turn."""
        return self._pool.submit(lambda: self._evaluator.result().measure(arrays))


def _load_libraries() -> None:
    with large_libraries():
        import secfed.cli.job
        import secfed.cli.jobfile
        import secfed.privacy.accountant
        import secfed.training.evaluate
        import secfed.training.spec  # noqa: F401


def _evaluator(section: TrainingSection, models: Path, public: Path) -> Evaluator:
    """The model with the job's adapter on it, and the public rows, tokenised."""
    from secfed.aggregation.spec import AdapterSpec
    from secfed.training.adapter import build, task_of
    from secfed.training.data import load
    from secfed.training.evaluate import Evaluator
    from secfed.training.models import model_folder
    from secfed.training.rows import FORMATS

    spec = AdapterSpec(
        base_model=section.base_model,
        revision="main",
        trainer=section.trainer,
        target_modules=section.target_modules,
        r=section.r,
        alpha=section.alpha,
        labels=section.labels,
    )
    folder = model_folder(models, section.base_model)
    table = load(public, FORMATS[section.trainer], scratch=public.parent)
    return Evaluator(build(spec, folder, device="auto"), task_of(spec, folder, section.max_length), table)
