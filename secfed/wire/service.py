"""Names of the calls, from the schema, so that they stand nowhere else."""

from __future__ import annotations

from secfed.wire.pb import service_pb2

__all__ = ["METHODS", "SERVICE", "path"]

_DESCRIPTOR = service_pb2.DESCRIPTOR.services_by_name["Federation"]

SERVICE: str = _DESCRIPTOR.full_name
"""The service's name; it contains the schema's version, so another version is another service."""

METHODS: tuple[str, ...] = tuple(method.name for method in _DESCRIPTOR.methods)
"""The calls' names, as a hello carries them."""


def path(method: str) -> str:
    """A call's path in HTTP/2.

    Raises:
        ValueError: There is no such call.
    """
    if method not in METHODS:
        raise ValueError(f"no call {method!r}")
    return f"/{SERVICE}/{method}"
