"""Strict JSON: one writing, and nothing read that two readers could understand differently."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.store import jsontext

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_both_forms_are_read_back(value: jsontext.Json) -> None:
    assert jsontext.parse(jsontext.compact(value)) == value
    assert jsontext.parse(jsontext.pretty(value)) == value


@given(values)
def test_compact_is_one_line(value: jsontext.Json) -> None:
    assert b"\n" not in jsontext.compact(value)


def test_compact_does_not_depend_on_the_order_of_names() -> None:
    assert jsontext.compact({"b": 1, "a": (2,)}) == b'{"a":[2],"b":1}' == jsontext.compact({"a": [2], "b": 1})


def test_other_mappings_are_written_like_dicts() -> None:
    assert jsontext.compact(MappingProxyType({"a": 1})) == b'{"a":1}'


@pytest.mark.parametrize("value", [1.5, float("nan"), b"x", {"a": [0.0]}, {1: "a"}])
def test_what_has_no_exact_text_is_not_written(value: object) -> None:
    with pytest.raises(TypeError):
        jsontext.compact(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b'{"x":{"a":1,"a":2}}',
        b"1.5",
        b"1e3",
        b"NaN",
        b"-Infinity",
        b"{} {}",
        b"{}x",
        b"",
        b'"\xff"',
        b'{"a":1',
        b"[" * 100_000,
        b"1" * 10_000,
        b'"\\ud800"',
        b'[{"a":["\\udc00"]}]',
        b'{"\\ud800":1}',
    ],
    ids=lambda text: text[:12].decode("latin-1"),
)
def test_ambiguous_or_hostile_text_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each reason has its own words
        jsontext.parse(text)


def test_first_value_hands_back_what_follows_exactly() -> None:
    assert jsontext.first_value(b'{"a":1}\xff\x00') == ({"a": 1}, b"\xff\x00")


def test_an_escaped_pair_is_one_character() -> None:
    assert jsontext.parse(b'"\\ud83d\\ude00"') == "\U0001f600"
