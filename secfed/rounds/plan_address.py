"""By which digest a member asks the aggregator for a job's signed plan.

A plan's own digest is known only to whoever has it, so the address follows from the job's name. What
comes is believed for the admin's signature under it (`proposal.open_job_plan`), not for its address.
"""

from __future__ import annotations

from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.ids import Digest, JobId

__all__ = ["plan_address"]


def plan_address(job: JobId) -> Digest:
    """The address of the signed plan of the job with this name."""
    return digest(Label.JOB_PLAN, b"by name", job.encode())
