"""Events: exact, strict, and the same after a journey through JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.errors import LedgerError
from secfed.privacy.events import (
    Q_DENOMINATOR,
    DiscreteGaussianSum,
    Event,
    Gaussian,
    NonPrivate,
    PoissonGaussian,
    declared,
    from_json,
    to_json,
)

decimals = st.decimals("0.001", "1000", places=3).map(lambda value: format(value, "f"))
relations = st.sampled_from(["add-remove", "replace-one"])
units = st.sampled_from(["record", "person"])
rates = st.integers(1, Q_DENOMINATOR)
counts = st.integers(1, 10**9)
few = st.integers(1, 100)
samplings = st.sampled_from(["unit", "record"])
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(PoissonGaussian, rates, decimals, counts, relations, units),
    st.builds(
        PoissonGaussian,
        rates,
        decimals,
        counts,
        relations,
        st.just("person"),
        st.integers(1, 1024),
        samplings,
    ),
    st.builds(Gaussian, decimals, counts, relations, units),
    st.builds(DiscreteGaussianSum, rates, decimals, decimals, few, few, relations, units),
    st.builds(NonPrivate, st.text("abc ", min_size=1, max_size=200)),
)


@given(events)
def test_an_event_comes_back_from_its_json(event: Event) -> None:
    """Nothing is lost and nothing rounded, 64-bit rates included."""
    assert from_json(json.loads(json.dumps(to_json(event)))) == event


@given(events, st.data())
def test_a_missing_or_added_field_is_refused(event: Event, data: st.DataObject) -> None:
    text = to_json(event)
    name = data.draw(st.sampled_from(sorted(text)))
    with pytest.raises(LedgerError):
        from_json({key: value for key, value in text.items() if key != name})
    with pytest.raises(LedgerError, match="extra"):
        from_json(text | {"extra": 1})


SAID = (
    PoissonGaussian(2**60, "1.1", 50, "add-remove", "record", declared=True),
    Gaussian("2", 3, "replace-one", "person", declared=True),
)


@pytest.mark.parametrize("event", SAID)
def test_what_is_declared_says_so_and_nothing_else_does(event: PoissonGaussian | Gaussian) -> None:
    """The mark is written where it is true alone, so an older ledger keeps its exact text."""
    text, done = to_json(event), replace(event, declared=False)
    assert (text["declared"], from_json(text), declared(event)) == (True, event, True)
    assert "declared" not in to_json(done)
    assert (from_json({name: text[name] for name in text if name != "declared"}), declared(done)) == (
        done,
        False,
    )


@pytest.mark.parametrize("value", [False, 1, "true", None])
def test_a_mark_is_true_or_left_out(value: object) -> None:
    with pytest.raises(LedgerError):
        from_json(to_json(SAID[0]) | {"declared": value})


def test_only_a_bounded_event_is_declared() -> None:
    for event in (NonPrivate("a test"), DiscreteGaussianSum(1, "1", "1", 1, 1, "add-remove", "record")):
        assert not declared(event)
        with pytest.raises(LedgerError, match="declared"):
            from_json(to_json(event) | {"declared": True})
    with pytest.raises(LedgerError, match="declared"):
        replace(SAID[0], declared="yes")  # type: ignore[arg-type]


GOOD: dict[str, Any] = to_json(PoissonGaussian(2**60, "1.1", 50, "add-remove", "person", 4))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "shuffled_gaussian"),
        ("kind", None),
        ("q_num", 0),
        ("q_num", Q_DENOMINATOR + 1),
        ("q_num", True),
        ("q_num", "1"),
        ("noise_multiplier", 1.1),
        ("noise_multiplier", "0"),
        ("noise_multiplier", "0.000"),
        ("noise_multiplier", "-1"),
        ("noise_multiplier", "1e3"),
        ("noise_multiplier", "nan"),
        ("noise_multiplier", "inf"),
        ("noise_multiplier", "1."),
        ("noise_multiplier", "١"),
        ("noise_multiplier", "1\n"),
        ("steps", 0),
        ("steps", -1),
        ("steps", 1.0),
        ("steps", 10**9 + 1),
        ("relation", "zero-out"),
        ("unit", "column"),
        ("unit", "record"),  # a record has no 4 records
        ("records_per_unit", 0),
        ("sampling", "shuffle"),
    ],
)
def test_a_value_out_of_range_or_of_a_wrong_type_is_refused(field: str, value: object) -> None:
    with pytest.raises(LedgerError):
        from_json(GOOD | {field: value})


@pytest.mark.parametrize("text", [None, [], "poisson_gaussian", 3])
def test_what_is_no_object_is_refused(text: object) -> None:
    with pytest.raises(LedgerError):
        from_json(text)


@pytest.mark.parametrize("reason", ["", "x" * 201, "two\nlines", "\x1b[2J"])
def test_a_reason_is_one_printable_line(reason: str) -> None:
    with pytest.raises(LedgerError):
        NonPrivate(reason)
