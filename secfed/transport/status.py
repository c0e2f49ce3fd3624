"""Errors as gRPC status codes and public text, and back: one table for both directions.

A refusal reaches the other side as the same class with the same message and hint, so that an
operator reads "revoked", and not a code. What is about the aggregator's own disk or about a bug
goes out as a fixed text: paths and internals stay in its log. Classes come only from the
table, so a peer chooses no exit code that speaks of what a site alone decides, such as its budget;
text from a peer is cut to one printable line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import grpc

from secfed import errors
from secfed.errors import NetworkError, SecfedError, VersionMismatchError
from secfed.limits import REFUSAL_BYTES_MAX
from secfed.transport.hello import RestartedError, RosterChangedError
from secfed.wire.strict import clip

__all__ = ["DETAIL_KEY", "Refusal", "UnknownCallError", "refusal", "restore"]

Metadata = Sequence[tuple[str, str | bytes]]

DETAIL_KEY = "secfed-error-bin"
"""Trailing metadata that carries class, message and hint as JSON."""

_Code = grpc.StatusCode


class UnknownCallError(VersionMismatchError):
    """The aggregator does not know this call: it is of another version, or nobody's."""


_CODES: dict[type[SecfedError], grpc.StatusCode] = {
    errors.ConfigError: _Code.INVALID_ARGUMENT,
    errors.EncodingError: _Code.INVALID_ARGUMENT,
    errors.NetworkError: _Code.UNAVAILABLE,
    errors.RosterError: _Code.FAILED_PRECONDITION,
    RosterChangedError: _Code.FAILED_PRECONDITION,
    RestartedError: _Code.FAILED_PRECONDITION,
    errors.AuthenticationError: _Code.UNAUTHENTICATED,
    errors.NotPermittedError: _Code.PERMISSION_DENIED,
    errors.RevokedError: _Code.PERMISSION_DENIED,
    errors.CertificateExpiredError: _Code.PERMISSION_DENIED,
    errors.PeerError: _Code.INVALID_ARGUMENT,
    errors.RoundAbortedError: _Code.ABORTED,
    errors.InfeasibleCohortError: _Code.FAILED_PRECONDITION,
    errors.LedgerError: _Code.FAILED_PRECONDITION,
    errors.VersionMismatchError: _Code.FAILED_PRECONDITION,
    UnknownCallError: _Code.UNIMPLEMENTED,
}
"""Every class that an aggregator may raise at a caller. A subclass that is not listed goes out, and comes
in, as its nearest parent here."""

_REFUSALS = frozenset({_Code.INVALID_ARGUMENT, _Code.FAILED_PRECONDITION, _Code.ABORTED})
"""Codes that gRPC itself never gives: somebody decided, so the same call would end the same way."""

_BY_NAME = {kind.__name__: kind for kind in (*_CODES, SecfedError)}

_STORAGE = NetworkError(
    "the aggregator cannot write its state or its audit log, and accepts nothing until it can",
    hint="Its operator must mend or free the disk; this side may simply try again.",
)
_INTERNAL = SecfedError(
    "the aggregator failed inside", hint="Its log names the error; please report it as a bug in secfed."
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """How an error goes over the wire."""

    code: grpc.StatusCode
    details: str
    metadata: tuple[tuple[str, str | bytes], ...]


def refusal(error: BaseException) -> Refusal:
    """The public form of whatever was raised."""
    public, kind, code = _public(error)
    text = clip(str(public))
    detail = {"class": kind.__name__, "message": text, "hint": clip(public.hint)}
    return Refusal(code, text, ((DETAIL_KEY, json.dumps(detail).encode()),))


def _public(error: BaseException) -> tuple[SecfedError, type[SecfedError], grpc.StatusCode]:
    for kind in type(error).__mro__:
        if isinstance(error, SecfedError) and kind in _CODES:
            return error, kind, _CODES[kind]
        if kind is errors.StorageError:  # before its parent, after LedgerError, which is about the caller's
            return _STORAGE, NetworkError, _CODES[NetworkError]
    return _INTERNAL, SecfedError, _Code.INTERNAL


def restore(
    code: grpc.StatusCode, details: str | None, trailing: Iterable[tuple[str, str | bytes]] | None
) -> SecfedError:
    """The error behind a failed call, as the other side meant it.

    Args:
        code: The call's status.
        details: Its text.
        trailing: Its trailing metadata.

    Returns:
        The class that was raised there; without a readable detail, what the code alone says.
        A `NetworkError`, and nothing else, may be tried again.
    """
    for key, value in trailing or ():
        if key == DETAIL_KEY and isinstance(value, bytes) and len(value) <= REFUSAL_BYTES_MAX:
            found = _parse(value)
            if found is not None:
                return found
    text = clip(details or "")
    if code is _Code.UNIMPLEMENTED:
        return VersionMismatchError(f"the other side does not know this call: {text}")
    if code is _Code.UNAUTHENTICATED:
        return errors.AuthenticationError(f"the other side refused this identity: {text}")
    if code is _Code.PERMISSION_DENIED:
        return errors.NotPermittedError(f"the other side does not allow this call: {text}")
    if code in _REFUSALS:
        return errors.PeerError(f"the other side refused this call: {text}")
    if code is _Code.DEADLINE_EXCEEDED:
        return NetworkError("the other side did not answer in time")
    return NetworkError(f"the call failed: {code.name.lower()}: {text}")


def _parse(value: bytes) -> SecfedError | None:
    """A detail of the form that `refusal` writes, or None."""
    try:
        fields = json.loads(value)
        kind: type[SecfedError] = _BY_NAME[fields["class"]]
        message, hint = fields["message"], fields["hint"]
    except (ValueError, KeyError, TypeError):
        return None
    if not (isinstance(message, str) and isinstance(hint, str)):
        return None
    return kind(clip(message), hint=clip(hint))
