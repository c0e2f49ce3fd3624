"""Reading an update that was made elsewhere: exactly the plan's arrays, or a refusal that names one."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from secfed.errors import EncodingError
from secfed.privacy.events import Gaussian, NonPrivate
from secfed.rounds.plan import JobPlan
from secfed.rounds.vector import VectorContributor

GOOD = {"a": np.full((2, 2), 1.5, np.float32), "b": np.array([-2.0, 0.0, 2.0], np.float32)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "update.safetensors"


def plan(**changes):
    fields = {
        "federation": "0" * 32,
        "job": "sum-1",
        "kind": "vector",
        "created": "2026-03-01T12:00:00Z",
        "created_by": "office",
        "rounds": 1,
        "shapes": {"a": (2, 2), "b": (3,)},
        "bound": "2",
    }
    return JobPlan(**(fields | changes))


def test_a_file_that_fits_comes_back_as_it_is(path):
    save_file(GOOD, path)
    contributor = VectorContributor(path)
    contributor.check(plan())
    update = contributor.contribute(plan(), None, {})
    assert (update.weight, update.saturated) == (1, 0)
    assert isinstance(update.event, NonPrivate)
    for name, array in GOOD.items():
        assert np.array_equal(update.arrays[name], array)


def test_it_is_charged_as_declared_or_without_a_bound(path):
    save_file(GOOD, path)
    said = Gaussian("2", 1, "add-remove", "record", declared=True)
    contributor = VectorContributor(path, event=said)
    assert contributor.planned_event(plan()) == contributor.contribute(plan(), None, {}).event == said
    with pytest.raises(ValueError, match="declared"):
        VectorContributor(path, event=Gaussian("2", 1, "add-remove", "record"))
    with pytest.raises(ValueError, match="declared"):
        VectorContributor(path, event=NonPrivate("a test"))


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_are_taken(path, kind):
    save_file({name: array.astype(kind) for name, array in GOOD.items()}, path)
    VectorContributor(path).check(plan())


@pytest.mark.parametrize(
    ("arrays", "rule"),
    [
        ({"a": GOOD["a"]}, r"'b' of the job is not in the file"),
        ({**GOOD, "c": GOOD["b"]}, r"'c' is in the file, but not in the job"),
        ({**GOOD, "b": np.zeros(4, np.float32)}, r"'b' has shape \(4,\), the job says \(3,\)"),
        ({**GOOD, "b": np.zeros(3, np.int32)}, r"'b' holds int32"),
        ({**GOOD, "b": np.array([0, np.nan, 0], np.float32)}, r"'b' holds a value that is not finite"),
        ({**GOOD, "a": np.full((2, 2), -np.inf, np.float32)}, r"'a' holds a value that is not finite"),
        ({**GOOD, "a": np.full((2, 2), 2.001, np.float32)}, r"'a' goes beyond the job's bound of 2"),
        ({**GOOD, "b": np.array([0, 0, -2.001], np.float32)}, r"'b' goes beyond the job's bound of 2"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(path, arrays, rule):
    save_file(arrays, path)
    with pytest.raises(EncodingError, match=rule):
        VectorContributor(path).check(plan())


def test_the_bound_holds_for_the_weighted_value(path):
    """w x, not x: 2.0 at weight 2 is beyond a bound of 3, and within one of 4."""
    save_file(GOOD, path)
    weighted = VectorContributor(path, weight=2)
    weighted.check(plan(weights="declared", weight_cap=10, bound="4"))
    with pytest.raises(EncodingError, match="at weight 2"):
        weighted.check(plan(weights="declared", weight_cap=10, bound="3"))


@pytest.mark.parametrize(
    ("weight", "changes", "rule"),
    [(2, {}, "no weights"), (11, {"weights": "declared", "weight_cap": 10, "bound": "1000"}, "cap")],
)
def test_a_weight_outside_the_plan_is_refused(path, weight, changes, rule):
    save_file(GOOD, path)
    with pytest.raises(EncodingError, match=rule):
        VectorContributor(path, weight=weight).check(plan(**changes))


def test_no_file_and_no_safetensors_are_told_apart(path):
    with pytest.raises(EncodingError, match="No such file"):
        VectorContributor(path).check(plan())
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(EncodingError, match="no safetensors file"):
        VectorContributor(path).check(plan())


def test_bfloat16_is_refused_as_a_type(path):
    """A type that numpy lacks is an error of the file, not a crash."""
    header = json.dumps(
        {
            "a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]},
            "b": {"dtype": "BF16", "shape": [3], "data_offsets": [8, 14]},
        }
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(14))
    with pytest.raises(EncodingError):
        VectorContributor(path).check(plan())
