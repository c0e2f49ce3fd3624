"""JSON for texts that are signed or chained: one strict reading, one fixed writing.

Strict means: no duplicate name, no float (numbers are integers or decimal text), no NaN, no text
that UTF-8 cannot carry, nothing after the value. What is signed are the bytes themselves; the
fixed writing only keeps two programs from writing the same facts in two ways.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeAlias

__all__ = ["Json", "compact", "first_value", "parse", "pretty"]

Json: TypeAlias = "bool | int | str | Sequence[Json] | Mapping[str, Json] | None"
"""What may stand in a signed text."""


def compact(value: Json) -> bytes:
    """One line of UTF-8, names sorted, no spaces.

    Raises:
        TypeError: A float, or another type that has no exact text, stands in it.
    """
    return _write(value, indent=None)


def pretty(value: Json) -> bytes:
    """Several lines for people, names in the order given, ended by a newline; errors as `compact`."""
    return _write(value, indent=2) + b"\n"


def parse(data: bytes) -> Json:
    """Read exactly one JSON value.

    Raises:
        ValueError: Not UTF-8, not JSON, a duplicate name, a float, half a surrogate pair, or bytes left over.
    """
    text = data.decode("utf-8")
    value, end = _decode(text)
    if text[end:].strip(_ASCII_SPACE):
        raise ValueError("text after the JSON value")
    return value


def first_value(data: bytes) -> tuple[Json, bytes]:
    """Read the JSON value that `data` begins with, and return it with the bytes that follow.

    Raises:
        ValueError: As `parse`, except for bytes left over.
    """
    text = data.decode("utf-8", errors="surrogateescape")
    value, end = _decode(text)
    text[:end].encode("utf-8")  # bytes that are no UTF-8 are accepted nowhere within the value
    return value, text[end:].encode("utf-8", errors="surrogateescape")


def _decode(text: str) -> tuple[Json, int]:
    """The value that a text begins with, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text)
    except RecursionError as problem:
        raise ValueError("nested too deeply") from problem
    if "\\u" in text:
        _refuse_surrogates(value)
    return value, end


_ASCII_SPACE = " \t\n\r\v\f"


def _refuse_surrogates(value: Json) -> None:
    """An escape may name half a pair, which no file and no peer could be sent again.

    Raises:
        UnicodeEncodeError: A `ValueError`; some text holds one.
    """
    waiting: list[Json] = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                text.encode("utf-8")
            case Mapping() as members:
                waiting.extend(members)
                waiting.extend(members.values())
            case Sequence() as items:
                waiting.extend(items)
            case _:
                pass


def _write(value: Json, indent: int | None) -> bytes:
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(
        _plain(value), ensure_ascii=False, indent=indent, separators=separators, sort_keys=indent is None
    )
    return text.encode("utf-8")


def _plain(value: Json) -> Json:
    """Copy into dicts and lists, and refuse what `json` would write although it has no exact text here."""
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError("every name must be text")
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"{type(value).__name__} has no exact JSON text here")


def _no_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """Refuse a name that stands twice: two readers could see two different values."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice")
    return members


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no integer: other numbers are written as decimal text")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_float=_refuse_number, parse_constant=_refuse_number
)
