"""Parse protobuf as if it had a canonical form, and check what the schema cannot say.

Protobuf itself accepts many encodings of one message and keeps fields it does not know. Here
a message counts only if serialising what was parsed, without unknown fields, gives the very
bytes that came. So two sides that hold the same message hold the same bytes.

Everything here raises `PeerError` with the name of the thing that was wrong.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from secfed import limits
from secfed.errors import PeerError
from secfed.identity.signed import Signed
from secfed.ids import SITE_PATTERN, ClientId, Digest, FederationId, JobId, MemberIndex
from secfed.wire.pb import statements_pb2 as pb

__all__ = [
    "clip", "count", "decimal", "digest", "digests", "exact", "federation", "increasing", "job", "member",
    "members", "parse", "phase", "ranged", "serialise", "signed_from", "signed_to", "site", "sites",
    "sized", "text", "token",
]  # fmt: skip

M = TypeVar("M", bound=Message)

_FEDERATION = re.compile(r"[0-9a-f]{32}")
_TOKEN = re.compile(r"[!-~]+")
_PHASE = re.compile(r"[a-z]{1,16}")
_CUT = "…".encode()
_DECIMAL = re.compile(r"(?:[0-9]{1,20}(?:\.[0-9]{1,20})?)?")


# -- whole messages ----------------------------------------------------------------------------


def serialise(message: Message, limit: int) -> bytes:
    """The one serialisation of a message.

    Raises:
        ValueError: It is longer than `limit` bytes: the other side would refuse it.
    """
    data: bytes = message.SerializeToString(deterministic=True)
    if len(data) > limit:
        raise ValueError(f"a {_name(message)} of {len(data)} bytes is over the limit of {limit}")
    return data


def parse(kind: type[M], data: bytes, limit: int) -> M:
    """Parse a message of at most `limit` bytes from its one serialisation.

    Raises:
        PeerError: Too long, malformed, an unknown field at any depth, or another encoding.
    """
    message = kind()
    if len(data) > limit:
        raise PeerError(f"a {_name(message)} of {len(data)} bytes is over the limit of {limit}")
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise PeerError(f"bytes that are no {_name(message)}") from None
    # Unknown fields would be written out again, so they go first; then they show as a difference.
    message.DiscardUnknownFields()
    if message.SerializeToString(deterministic=True) != data:
        raise PeerError(f"a {_name(message)} with unknown fields or in another encoding than its one")
    return message


def _name(message: Message) -> str:
    """The schema's name of a message."""
    name: str = message.DESCRIPTOR.name
    return name


# -- bytes and numbers -------------------------------------------------------------------------


def exact(data: bytes, size: int, what: str) -> bytes:
    """Bytes of this size and no other."""
    if len(data) != size:
        raise PeerError(f"{what} of {len(data)} bytes instead of {size}")
    return data


def sized(data: bytes, most: int, what: str) -> bytes:
    """At least one byte and at most `most`."""
    ranged(len(data), 1, most, f"the length of {what}")
    return data


def digest(data: bytes, what: str) -> Digest:
    """A digest's 32 bytes."""
    return Digest(exact(data, limits.DIGEST_BYTES, what))


def digests(values: Sequence[bytes], what: str) -> None:
    """Digests, of 32 bytes each."""
    if set(map(len, values)) - {limits.DIGEST_BYTES}:
        for value in values:
            digest(value, what)


def ranged(value: int, least: int, most: int, what: str) -> int:
    """A number from `least` to `most`."""
    if not least <= value <= most:
        raise PeerError(f"{what} is {value}, not within {least} to {most}")
    return value


def count(value: int, what: str) -> int:
    """A number that starts at 1; the field's type bounds it above."""
    if value < 1:
        raise PeerError(f"{what} is below 1")
    return value


def member(value: int) -> MemberIndex:
    """A place in a cohort of the largest size."""
    return MemberIndex(ranged(value, 0, limits.COHORT_MAX - 1, "a member's index"))


# -- lists -------------------------------------------------------------------------------------


def increasing(values: Sequence[Any], least: int, most: int, what: str) -> None:
    """From `least` to `most` entries, sorted, none twice."""
    ranged(len(values), least, most, f"the number of {what}")
    if not all(map(operator.lt, values, itertools.islice(values, 1, None))):
        raise PeerError(f"{what} are not strictly increasing")


def members(values: Sequence[int], least: int, most: int, what: str) -> tuple[MemberIndex, ...]:
    """Members, sorted, none twice."""
    increasing(values, least, most, what)
    if values:  # sorted: the ends speak for all between
        member(values[0])
        member(values[-1])
    return cast("tuple[MemberIndex, ...]", tuple(values))


def sites(values: Sequence[str], least: int, most: int, what: str) -> tuple[ClientId, ...]:
    """Sites, sorted, none twice."""
    increasing(values, least, most, what)
    return tuple(map(site, values))


# -- words -------------------------------------------------------------------------------------


def _matched(pattern: re.Pattern[str], value: str, most: int, what: str) -> str:
    """A word of a form. What it was is not repeated: it may be anything."""
    if len(value) > most or not pattern.fullmatch(value):
        raise PeerError(f"{what} has a form that it cannot have")
    return value


def site(value: str) -> ClientId:
    """A site's name."""
    return ClientId(_matched(SITE_PATTERN, value, 63, "a site's name"))


def job(value: str) -> JobId:
    """A job's name."""
    return JobId(_matched(SITE_PATTERN, value, 63, "a job's name"))


def federation(value: str) -> FederationId:
    """A federation's id."""
    return FederationId(_matched(_FEDERATION, value, 32, "a federation's id"))


def token(value: str, most: int, what: str) -> str:
    """Visible ASCII without a space, not empty: a version, a suite."""
    return _matched(_TOKEN, value, most, what)


def phase(value: str) -> str:
    """A phase's name."""
    return _matched(_PHASE, value, 16, "a phase's name")


def decimal(value: str, what: str) -> str:
    """A decimal number as text, or nothing."""
    return _matched(_DECIMAL, value, 41, what)


def text(value: str, what: str) -> str:
    """A line for people: printable, so that no log or terminal takes orders from it."""
    if len(value.encode()) > limits.TEXT_BYTES_MAX or not value.isprintable():
        raise PeerError(f"{what} is too long or not printable")
    return value


def clip(value: str) -> str:
    """A line for people as `text` accepts it: cut, and a space for what cannot be printed.

    Done by the sender: a long reason must not cost the message that carries it.
    """
    line = "".join(letter if letter.isprintable() else " " for letter in value).encode()
    if len(line) <= limits.TEXT_BYTES_MAX:
        return line.decode()
    return line[: limits.TEXT_BYTES_MAX - len(_CUT)].decode(errors="ignore") + _CUT.decode()


# -- the signed envelope, part of most messages ------------------------------------------------


def signed_to(value: Signed) -> pb.Signed:
    """As a message."""
    return pb.Signed(statement=value.statement, signature=value.signature)


def signed_from(message: pb.Signed) -> Signed:
    """From a message; the statement stays bytes until somebody has verified it."""
    if len(message.statement) > limits.STATEMENT_BYTES_MAX:
        raise PeerError(f"a statement of {len(message.statement)} bytes is over the limit")
    return Signed(message.statement, exact(message.signature, limits.SIGNATURE_BYTES, "a signature"))
