"""Strictness that holds for every message alike: nothing unknown, nothing twice, nothing too long."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from mutants import Tape, batches, field_mutant, raw_mutant

from secfed import limits
from secfed.errors import PeerError
from secfed.wire import strict
from secfed.wire.pb import statements_pb2 as pb

UNKNOWN_FIELD = b"\x9a\x3f\x01\x00"
"""Field 1011, one byte long."""


def parts(message: Message) -> Iterator[Message]:
    """A message and all messages in it, at any depth."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                yield from parts(item)


def test_an_unknown_field_is_refused_at_every_depth(wire: ModuleType) -> None:
    depths = 0
    for case in wire.CASES.values():
        data = case.encode(case.value)
        for place in range(len(list(parts(case.schema.FromString(data))))):
            message = case.schema.FromString(data)
            list(parts(message))[place].MergeFromString(UNKNOWN_FIELD)
            with pytest.raises(PeerError, match="unknown fields"):
                case.decode(message.SerializeToString(deterministic=True))
            depths += place
    assert depths > 100


def test_size_is_checked_before_anything_is_parsed(wire: ModuleType) -> None:
    for case in wire.CASES.values():
        with pytest.raises(PeerError, match="over the limit"):
            case.decode(bytes(case.limit + 1))


def test_bytes_after_a_message_are_refused(wire: ModuleType) -> None:
    for case in wire.CASES.values():
        data = case.encode(case.value)
        for tail in (b"\x00", b"\x07", data or b"\x01"):
            with pytest.raises(PeerError):
                case.decode(data + tail)


TEXTS = {"body", "job_plan", "round_plan", "statement", "text"}
"""Fields of any length up to a bound; `data` is one too, save for a ciphertext."""


def test_every_bytes_field_has_one_length(wire: ModuleType) -> None:
    """One byte more or less in a digest, key, share or sealed text is refused."""
    tried = set()
    for case in wire.CASES.values():
        data = case.encode(case.value)
        for place, part in enumerate(parts(case.schema.FromString(data))):
            of = part.DESCRIPTOR.name
            for field, value in part.ListFields():
                open_ended = field.name in TEXTS or (of, field.name) in {("Piece", "data"), ("Chunk", "data")}
                if field.type != field.TYPE_BYTES or open_ended:
                    continue
                for wrong in (value + b"\x00", value[:-1]):
                    message = case.schema.FromString(data)
                    setattr(list(parts(message))[place], field.name, wrong)
                    with pytest.raises(PeerError, match="instead of"):
                        case.decode(message.SerializeToString(deterministic=True))
                tried.add((of, field.name))
    assert len(tried) > 35


def test_mutated_bytes_are_refused_or_mean_what_they_say(wire: ModuleType) -> None:
    """2000 changes to every message: PeerError, or something that has exactly these bytes."""
    valid = [case.encode(case.value) for case in wire.CASES.values()]
    refused = []

    @settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
    @given(batches(100))
    def change(batch: list[Tape]) -> None:
        for dice in batch:
            for case, data in zip(wire.CASES.values(), valid, strict=True):
                changed = raw_mutant(dice.rewind(), data, dice.choice(valid))
                refused.append(refuses(case, changed))

    change()
    assert len(refused) == 2000 * len(valid)
    assert sum(refused) > 1000 * len(valid)


def test_spoilt_fields_are_refused_or_mean_what_they_say(wire: ModuleType) -> None:
    """100 variants of every message, each with fields that it should not have, well encoded."""
    messages = [(case, case.schema.FromString(case.encode(case.value))) for case in wire.CASES.values()]
    refused = []

    @settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
    @given(batches(20))
    def spoil(batch: list[Tape]) -> None:
        for dice in batch:
            for case, message in messages:
                refused.append(refuses(case, field_mutant(dice.rewind(), message)))

    spoil()
    assert len(refused) == 100 * len(messages)
    assert sum(refused) > 50 * len(messages)


def refuses(case: Any, data: bytes) -> bool:
    """Whether it does; what is taken has exactly these bytes."""
    try:
        value = case.decode(data)
    except PeerError:
        return True
    assert case.encode(value) == data
    return False


@pytest.mark.parametrize("text", ["a\nb", "\x1b[0m", "é" * 300, "\ud800", "x" * 10_000, "", "plain"])
def test_clipped_text_is_accepted_and_stays(text: str) -> None:
    """What a sender clips the reader takes; clipping twice changes nothing."""
    clipped = strict.clip(text)
    assert strict.text(clipped, "a text") == clipped
    assert strict.clip(clipped) == clipped
    assert clipped == text or not text.isprintable() or len(text.encode()) > limits.TEXT_BYTES_MAX


def test_encoding_more_than_the_limit_is_this_sides_bug() -> None:
    with pytest.raises(ValueError, match="over the limit"):
        strict.serialise(pb.Void(reason="x" * 100), limit=99)
