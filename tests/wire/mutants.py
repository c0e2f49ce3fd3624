"""Hostile variants of messages: by their fields, through the schema's descriptors, and by their bytes.

All choices of a variant are read off a tape, a few bytes that hypothesis finds and makes smaller; so it
comes back from its tape, and a failure from the mildest one. A batch of tapes is one example: an example
costs far more than a message.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from secfed import limits

__all__ = ["Tape", "batches", "field_mutant", "parts", "raw_mutant"]

_TAPE_BYTES = 24
"""As many choices as three changes need."""


class Tape(random.Random):
    """A generator whose draws are bytes: zeros, the first choice everywhere, where these end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self.data, self._at = data, 0

    def _take(self, size: int) -> bytes:
        self._at += size
        return self.data[self._at - size : self._at].ljust(size, b"\0")

    def rewind(self) -> Tape:
        """This tape from its beginning."""
        self._at = 0
        return self

    def _randbelow(self, n: int) -> int:
        """For `choice`, `randrange` and all that is made of them; one byte of the tape, or a few."""
        if n > 256:
            return int.from_bytes(self._take((n.bit_length() + 7) // 8)) % n
        self._at += 1
        return self.data[self._at - 1] % n if self._at <= len(self.data) else 0

    def getrandbits(self, k: int) -> int:
        """A number of so many bits."""
        return int.from_bytes(self._take((k + 7) // 8)) % (1 << k)

    def randbytes(self, n: int) -> bytes:
        """Bytes that look like nothing, out of two of the tape."""
        piece = hashlib.shake_128(self._take(2)).digest(min(n, 999))
        return (piece * (n // 999 + 1))[:n]


def batches(size: int) -> SearchStrategy[list[Tape]]:
    """So many different tapes."""
    tapes = st.binary(min_size=_TAPE_BYTES, max_size=_TAPE_BYTES)
    return st.lists(tapes, min_size=size, max_size=size, unique=True).map(
        lambda batch: [Tape(tape) for tape in batch]
    )


_MOST = {
    FieldDescriptor.TYPE_UINT32: 2**32 - 1,
    FieldDescriptor.TYPE_UINT64: 2**64 - 1,
}

_LEAST: dict[int, Any] = {
    FieldDescriptor.TYPE_UINT32: 0,
    FieldDescriptor.TYPE_STRING: "",
}
"""Types of which there are lists."""

_WORDS = (
    "", "a", "A", "-", "a-", "ü", "\x00", "\n", "\x1b[2J", "‮", "../../etc/passwd", "%s%n", "a" * 63, "a" * 64,
    "a" * 100_000, "hosp-a", "hosp-b,hosp-c", "0" * 32, "{}", "' OR 1=1 --", "pause", "stop", "Exchange",
)  # fmt: skip

_ODD_BYTES = (
    b"\x9a\x3f\x01\x00",  # field 1011
    b"\x0b" * 200,  # groups, deeply nested
    b"\x0a\xff\xff\xff\xff\x0f",  # a length of 2^32 - 1
    b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a length of 2^63 - 1
    b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",  # a varint of eleven bytes
    b"\x08\x80\x00",  # zero in two bytes
    b"\x0a\x00",  # an empty first field
    b"\x00",  # field 0
)


def parts(message: Message) -> Iterator[Message]:
    """A message and all messages in it, at any depth."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                yield from parts(item)


def field_mutant(dice: random.Random, message: Message) -> bytes:
    """The serialisation of this message with one to three fields, at any depth, that it should not have."""
    changed = type(message)()
    changed.CopyFrom(message)
    for _ in range(dice.randint(1, 3)):
        part = dice.choice(list(parts(changed)))
        fields = part.DESCRIPTOR.fields
        if fields:
            _spoil(dice, part, dice.choice(fields))
    if not dice.randrange(8):
        dice.choice(list(parts(changed))).MergeFromString(_ODD_BYTES[0])
    data: bytes = changed.SerializeToString(deterministic=True)
    return data


def _spoil(dice: random.Random, part: Message, field: FieldDescriptor) -> None:
    """Give one field a value that it may not have, or one of another place."""
    if not dice.randrange(6):
        part.ClearField(field.name)
    elif field.is_repeated:
        _spoil_list(dice, getattr(part, field.name), field)
    elif field.message_type is not None:
        getattr(part, field.name).SetInParent()
    else:
        setattr(part, field.name, _value(dice, field, getattr(part, field.name)))


def _spoil_list(dice: random.Random, values: Any, field: FieldDescriptor) -> None:
    """Repeat, reverse, cut or flood a list."""
    items = list(values)
    match dice.randrange(4):
        case 0:
            items += items[:1]
        case 1:
            items.reverse()
        case 2:
            items = items[1:]
        case _:
            items = items[:1] * dice.choice((2, 129, 5000))
    if field.message_type is None and not dice.randrange(2):
        items.append(_value(dice, field, items[-1] if items else _LEAST[field.type]))
    # A message's own items go with the list, so they are copied first.
    copies = [type(item).FromString(item.SerializeToString()) if hasattr(item, "FromString") else item
              for item in items]  # fmt: skip
    del values[:]
    values.extend(copies)


def _value(dice: random.Random, field: FieldDescriptor, old: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return dice.choice(_WORDS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        longest = dice.choice((1, 33, 1000, limits.STATEMENT_BYTES_MAX + 1))
        wrong = (b"", old[:-1], old + b"\x00", bytes(len(old)), old[::-1], dice.randbytes(longest))
        return dice.choice(wrong)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return not old
    most = _MOST[field.type]
    return min(
        most, max(0, dice.choice((0, 1, old - 1, old + 1, 127, 128, 2**31, most, dice.getrandbits(32))))
    )


def raw_mutant(dice: random.Random, data: bytes, other: bytes) -> bytes:
    """These bytes after one to three small changes, with parts of others among them."""
    out = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        at = dice.randint(0, len(out))
        match dice.randrange(8):
            case 0 if out:
                out[at % len(out)] ^= 1 << dice.randrange(8)
            case 1 if out:
                out[at % len(out)] = dice.randrange(256)
            case 2:
                del out[at : at + dice.randint(1, 8)]
            case 3:
                out[at:at] = dice.randbytes(dice.randint(1, 8))
            case 4:
                out[at:at] = out[at : at + dice.randint(1, 40)]
            case 5:
                out[at:] = other[dice.randint(0, len(other)) :]
            case 6:
                out[at:at] = dice.choice(_ODD_BYTES)
            case _:
                out = bytearray(dice.choice((b"", bytes(out) * 2, dice.randbytes(len(out)))))
    return bytes(out)
