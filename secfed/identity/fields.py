"""Read the fields of a signed JSON text strictly, and write them in the one form that is read.

A text is a JSON object, pretty-printed, then a last line `signature: <base64>`. What is
signed are the exact bytes before that line. Times are UTC to the second, as
`2026-01-31T12:00:00Z`; bytes are canonical base64.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from secfed.errors import RosterError, SecfedError
from secfed.ids import SITE_PATTERN, ClientId
from secfed.store import jsontext
from secfed.store.jsontext import Json

__all__ = ["Fields", "from_base64", "read_time", "site_name", "to_base64", "write_time"]

_Value = TypeVar("_Value")

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def write_time(moment: datetime) -> str:
    """A time with its zone, as text in UTC to the second."""
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_time(text: str) -> datetime:
    """The inverse of `write_time`.

    Raises:
        ValueError: Another form, or no such day.
    """
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no time")
    return datetime.fromisoformat(text)


def to_base64(data: bytes) -> str:
    """Bytes as canonical base64 (RFC 4648, section 4)."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str, length: int) -> bytes:
    """The inverse of `to_base64`, for exactly `length` bytes.

    Raises:
        ValueError: Another length, or not the one canonical form.
    """
    data = base64.b64decode(text, validate=True)
    if len(data) != length or to_base64(data) != text:
        raise ValueError(f"not {length} bytes in base64")
    return data


def site_name(text: str) -> ClientId:
    """Check a site's name.

    Raises:
        ValueError: It is not lower-case letters, digits and inner hyphens, 1 to 63 in all.
    """
    if not SITE_PATTERN.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is no site name: use 1 to 63 lower-case letters, digits and inner hyphens"
        )
    return ClientId(text)


class Fields:
    """The members of one JSON object, each taken once, none left over.

    Args:
        value: The parsed object.
        what: The text's name in errors.
        error: The class to raise.
    """

    def __init__(self, value: Json, what: str, *, error: type[SecfedError] = RosterError) -> None:
        if not isinstance(value, Mapping):
            raise error(f"{what} is not a JSON object")
        self._rest = dict(value)
        self._what = what
        self._error = error

    @classmethod
    def parse(cls, data: bytes, what: str, *, error: type[SecfedError] = RosterError) -> Fields:
        """Read an object from its text; raises `error` if it is not strict JSON."""
        try:
            return cls(jsontext.parse(data), what, error=error)
        except ValueError as problem:
            raise error(f"{what} cannot be read: {problem}") from problem

    def text(self, name: str) -> str:
        """Take a text."""
        value = self._take(name)
        if not isinstance(value, str):
            raise self._wrong(name, "text")
        return value

    def integer(self, name: str) -> int:
        """Take an integer."""
        value = self._take(name)
        if type(value) is not int:
            raise self._wrong(name, "an integer")
        return value

    def optional_integer(self, name: str) -> int | None:
        """Take an integer or null."""
        if self._rest.get(name, 0) is None:
            self._take(name)
            return None
        return self.integer(name)

    def array(self, name: str) -> list[Json]:
        """Take a list."""
        value = self._take(name)
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return value

    def bytes(self, name: str, length: int) -> bytes:
        """Take base64 of exactly `length` bytes."""
        return self.read(name, lambda text: from_base64(text, length))

    def read(self, name: str, reader: Callable[[str], _Value]) -> _Value:
        """Take a text through `reader`, whose ValueError becomes this object's error."""
        text = self.text(name)
        try:
            return reader(text)
        except ValueError as problem:
            raise self._error(f"{self._what}: {name}: {problem}") from problem

    def constant(self, name: str, value: str | int) -> None:
        """Take a member that has only one allowed value, such as the text's kind and version."""
        found = self._take(name)
        if type(found) is not type(value) or found != value:
            raise self._error(f"{self._what}: {name} is {str(found)[:40]!r}, this program reads {value!r}")

    def finish(self) -> None:
        """Refuse what was not taken."""
        if self._rest:
            raise self._error(f"{self._what}: unknown member {sorted(self._rest)[0][:40]!r}")

    def _take(self, name: str) -> Json:
        if name not in self._rest:
            raise self._error(f"{self._what}: {name} is missing")
        return self._rest.pop(name)

    def _wrong(self, name: str, expected: str) -> SecfedError:
        return self._error(f"{self._what}: {name} is not {expected}")
