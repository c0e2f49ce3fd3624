"""Hostile variants of messages: by their fields, through the schema's descriptors, and by their bytes.

Everything is drawn from one generator, so a variant comes back from its seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from secfed import limits

__all__ = ["field_mutant", "raw_mutant"]

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


def _parts(message: Message) -> Iterator[Message]:
    """A message and all messages in it, at any depth."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                yield from _parts(item)


def field_mutant(dice: random.Random, message: Message) -> bytes:
    """The serialisation of this message with one to three fields, at any depth, that it should not have."""
    changed = type(message)()
    changed.CopyFrom(message)
    for _ in range(dice.randint(1, 3)):
        part = dice.choice(list(_parts(changed)))
        fields = part.DESCRIPTOR.fields
        if fields:
            _spoil(dice, part, dice.choice(fields))
    if not dice.randrange(8):
        dice.choice(list(_parts(changed))).MergeFromString(_ODD_BYTES[0])
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
