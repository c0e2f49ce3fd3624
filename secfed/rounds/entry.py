"""What a job must fit before this aggregator takes it on: looked at once, before anything is durable.

Later nothing asks again, so whatever could only fail after the sites had trained is refused here.
"""

from __future__ import annotations

from secfed.errors import ConfigError
from secfed.rounds.attempt import params_for
from secfed.rounds.house import House
from secfed.rounds.jobs import Job
from secfed.rounds.proposal import vector_words
from secfed.rounds.publish import check_plan, round_folder

__all__ = ["check_job"]


def check_job(house: House, job: Job) -> None:
    """Refuse a job that cannot be carried out here.

    Raises:
        ConfigError, EncodingError: Its result could not be formed, its vectors are larger than this
            aggregator takes in, or its name's results are there already.
        InfeasibleCohortError: The roster's clients are too few for it.
    """
    check_plan(job.plan)
    params_for(house, job, len(house.clients()))
    largest = vector_words(job.plan) * 4
    if largest > house.upload_bytes_max:
        raise ConfigError(
            f"a vector of job {job.id} takes up to {largest} bytes, "
            f"the aggregator takes {house.upload_bytes_max}",
            hint="Raise max_upload_mib in aggregator.toml, or train fewer parameters.",
        )
    if round_folder(house.output, job.id, 1).parent.exists():
        raise ConfigError(
            f"the output folder already holds results of a job named {job.id}",
            hint="Give the job another name, or move its old results away.",
        )
