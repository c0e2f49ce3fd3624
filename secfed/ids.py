"""Names that must not be mixed up, as distinct types; and words of others made safe to print.

A `ClientId` is a site's name in the roster; a `MemberIndex` is its place in one frozen
cohort. Mixing them up would route a share to the wrong holder, so mypy keeps them apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

__all__ = [
    "NO_DIGEST",
    "SITE_PATTERN",
    "ClientId",
    "Digest",
    "FederationId",
    "JobId",
    "MemberIndex",
    "RoundId",
    "one_line",
]

ClientId = NewType("ClientId", str)
"""A member's name in the roster: 1 to 63 characters, see `SITE_PATTERN`."""

MemberIndex = NewType("MemberIndex", int)
"""A member's place in the sorted cohort of one attempt, from 0."""

FederationId = NewType("FederationId", str)
"""32 lower-case hexadecimal digits, the start of the roster key's digest."""

JobId = NewType("JobId", str)
"""A job's name: the same characters as a site's."""

Digest = NewType("Digest", bytes)
"""32 bytes of SHA-256 over length-prefixed fields under a label (`crypto.kdf.digest`)."""

NO_DIGEST = Digest(bytes(32))
"""Stands where a predecessor is named and there is none (the first round of a job)."""

SITE_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""What a site or job may be called: a DNS label, so that it is safe in paths, logs and certificates."""


def one_line(text: str) -> str:
    """Text that steers no terminal: a space for each control character, line end and mark of direction."""
    return "".join(char if char.isprintable() else " " for char in text)


@dataclass(frozen=True, slots=True, order=True)
class RoundId:
    """One secure sum of one job: (job, round, sum). In every rule "a round" is this triple."""

    job: JobId
    round: int
    sum_index: int = 0

    def __str__(self) -> str:
        return f"{self.job}/{self.round}" + (f".{self.sum_index}" if self.sum_index else "")
