"""What a member may do."""

from __future__ import annotations

from enum import Enum

__all__ = ["Role"]


class Role(Enum):
    """A member has one role; the value is how it is written in files."""

    CLIENT = "client"
    """Takes part in rounds with its own data."""

    AGGREGATOR = "aggregator"
    """Signs manifests and round plans, forms the sum."""

    ADMIN = "admin"
    """Signs job plans, starts and stops jobs."""

    AUDITOR = "auditor"
    """Reads status, audit log and reports."""
