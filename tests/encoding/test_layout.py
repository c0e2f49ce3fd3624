"""Named arrays and one vector: inverse, in one order, under one digest, and strict."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed.encoding.layout import Layout
from secfed.errors import EncodingError
from secfed.limits import VECTOR_COORDINATES_MAX

SHAPES = {"model.q.lora_B": (4, 2), "model.q.lora_A": (2, 3), "scale": ()}


def shapes() -> st.SearchStrategy[dict[str, tuple[int, ...]]]:
    name = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=8)
    return st.dictionaries(name, st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=5)


def test_order_worked_by_hand() -> None:
    """Ascending names, row-major values."""
    layout = Layout.from_shapes({"b": (2,), "a": (1, 3)})
    assert layout.names == ("a", "b")
    assert layout.size == 5
    vector = layout.flatten({"b": np.array([4.0, 5.0]), "a": np.array([[1.0, 2.0, 3.0]])})
    assert vector.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert vector.dtype == np.float64


@settings(max_examples=60, deadline=None)
@given(shapes(), st.sampled_from([np.float16, np.float32]), st.integers(0, 2**32))
def test_unflatten_is_the_inverse_of_flatten(
    named: dict[str, tuple[int, ...]], dtype: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    arrays = {name: np.asarray(rng.normal(size=shape)).astype(dtype) for name, shape in named.items()}
    layout = Layout.from_shapes(named)
    back = layout.unflatten(layout.flatten(arrays))
    assert list(back) == sorted(named)
    for name, array in back.items():
        assert array.dtype == np.float32
        assert array.shape == named[name]
        assert np.array_equal(array, arrays[name])


@given(shapes())
def test_text_and_digest_do_not_depend_on_the_mappings_order(named: dict[str, tuple[int, ...]]) -> None:
    layout = Layout.from_shapes(named)
    again = Layout.from_shapes(dict(reversed(named.items())))
    assert layout == again == Layout.from_json(layout.to_json())
    assert layout.digest == again.digest


def test_any_other_name_or_shape_is_another_digest() -> None:
    digests = {
        Layout.from_shapes(named).digest
        for named in (
            SHAPES,
            {**SHAPES, "scale": (1,)},
            {**SHAPES, "model.q.lora_A": (3, 2)},
            {**SHAPES, "model.q.lora_A": (6,)},
            {**SHAPES, "more": (1,)},
            {("Scale" if name == "scale" else name): shape for name, shape in SHAPES.items()},
        )
    }
    assert len(digests) == 6


def good() -> dict[str, Any]:
    return {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model.q.lora_A": np.zeros((3, 2), np.float32)}, "'model.q.lora_A' has shape"),
        ({"model.q.lora_A": np.zeros((2, 3), np.int32)}, "is int32"),
        ({"model.q.lora_A": np.zeros((2, 3), np.complex64)}, "is complex64"),
        ({"model.q.lora_A": np.zeros((2, 3), bool)}, "is bool"),
        ({"extra": np.zeros(1, np.float32)}, "'extra' is not in the layout"),
    ],
)
def test_another_array_is_refused_and_named(change: dict[str, Any], match: str) -> None:
    with pytest.raises(EncodingError, match=match):
        Layout.from_shapes(SHAPES).flatten({**good(), **change})


def test_a_missing_array_is_named() -> None:
    arrays = good()
    del arrays["scale"]
    with pytest.raises(EncodingError, match="'scale' is missing"):
        Layout.from_shapes(SHAPES).flatten(arrays)


def test_strided_arrays_flatten_by_value() -> None:
    array = np.arange(6, dtype=np.float32).reshape(3, 2).T
    layout = Layout.from_shapes({"a": (2, 3)})
    assert layout.flatten({"a": array}).tolist() == [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_what_is_not_finite_as_float32_is_refused(value: float) -> None:
    layout = Layout.from_shapes({"a": (2,), "b": (2,)})
    with pytest.raises(EncodingError, match="'b' is not finite"):
        layout.unflatten(np.array([0.0, 0.0, 0.0, value]))


def test_unflattened_arrays_own_their_values() -> None:
    vector = np.zeros(2)
    array = Layout.from_shapes({"a": (2,)}).unflatten(vector)["a"]
    vector[0] = 1.0
    assert array.tolist() == [0.0, 0.0]


def test_a_vector_of_another_size_is_a_bug() -> None:
    with pytest.raises(ValueError, match="coordinates"):
        Layout.from_shapes(SHAPES).unflatten(np.zeros(3))


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"": (1,)},
        {"a\n": (1,)},
        {"a" * 513: (1,)},
        {"a": (0,)},
        {"a": (-1,)},
        {"a": (1,) * 9},
        {"a": (VECTOR_COORDINATES_MAX, 2)},
    ],
    ids=["no array", "no name", "unprintable", "long name", "no elements", "negative", "rank", "too large"],
)
def test_a_layout_has_limits(named: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(EncodingError):
        Layout.from_shapes(named)


def test_a_layout_is_sorted() -> None:
    with pytest.raises(EncodingError, match="ascending"):
        Layout(("b", "a"), ((1,), (1,)))
    with pytest.raises(EncodingError, match="ascending"):
        Layout(("a", "a"), ((1,), (1,)))
    with pytest.raises(EncodingError, match="a shape for each name"):
        Layout(("a",), ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "null",
        "5",
        "[]",
        '[["a"]]',
        '[["a",[1],2]]',
        '[["a",[1.0]]]',
        '[["a",[true]]]',
        '[["a",["1"]]]',
        "[[1,[1]]]",
        '[["a", [1]]]',
        '[["a",[1]]] ',
        '[["b",[1]],["a",[1]]]',
        '[["a",[01]]]',
        '["ab"]',
        "[" * 100_000,
    ],
)
def test_text_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        Layout.from_json(text)


def test_names_beyond_ascii_have_one_text() -> None:
    """Escaped as JSON does, so the digest's bytes are ASCII; the unescaped spelling is refused."""
    layout = Layout.from_shapes({"é": (1,)})
    assert Layout.from_json(layout.to_json()) == layout
    with pytest.raises(EncodingError, match="one form"):
        Layout.from_json(json.dumps([["é", [1]]], ensure_ascii=False, separators=(",", ":")))
