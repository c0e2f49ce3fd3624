"""A contribution: encoded once, durable, the same words for ever, known by keyed digests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed.encoding.contribution import decode_contribution_sum
from secfed.encoding.fixedpoint import FixedPoint
from secfed.errors import EncodingError, StorageError
from secfed.ids import Digest, JobId, RoundId
from secfed.privacy.events import NonPrivate
from secfed.rounds.contribution import ContributionStore, encode, site_key
from secfed.rounds.plan import JobPlan
from secfed.rounds.ports import Update

ROUND = RoundId(JobId("sum-1"), 1)
PLAN = Digest(bytes(range(32)))


def plan(**changes):
    fields = {
        "federation": "0" * 32,
        "job": "sum-1",
        "kind": "vector",
        "created": "2026-03-01T12:00:00Z",
        "created_by": "office",
        "rounds": 1,
        "shapes": {"a": (2, 2), "b": (3,)},
        "bound": "4",
    }
    return JobPlan(**(fields | changes))


def update(value=1.25, weight=1):
    arrays = {"a": np.full((2, 2), value, np.float32), "b": np.full(3, -value, np.float32)}
    return Update(arrays, weight, 0, NonPrivate("a test"))


@pytest.fixture
def store(disk):
    return ContributionStore(disk / "contributions", bytes(32))


@settings(deadline=None, max_examples=50)
@given(value=st.floats(-1, 1, width=32), weight=st.integers(1, 4))
def test_encoded_words_decode_to_the_weighted_update(value, weight):
    """w x to within one step of the grid, and w itself in slot 0."""
    job = plan(weights="declared", weight_cap=4)
    encoded = encode(job, update(value, weight))
    grid = FixedPoint(4.0, job.bits)
    decoded = decode_contribution_sum(encoded.words, 1, 1, grid)
    assert (decoded.weight_sum, decoded.counters) == (weight, (0,))
    expected = job.layout.flatten(update(value, weight).arrays) * weight
    assert np.all(np.abs(decoded.weighted_sum - expected) < grid.step)


@pytest.mark.parametrize(
    ("job", "given", "rule"),
    [
        (plan(), update(weight=2), "weight"),
        (plan(weights="declared", weight_cap=3), update(weight=4), "weight"),
        (plan(weights="declared", weight_cap=3), update(weight=0), "weight"),
        (plan(), update(np.nan), "finite"),
        (plan(), update(np.inf), "finite"),
        (plan(), update(4.5), "bound"),
        (plan(shapes={"a": (2, 2)}), update(), "'b'"),
    ],
)
def test_what_the_grid_cannot_carry_is_refused(job, given, rule):
    with pytest.raises(EncodingError, match=rule):
        encode(job, given)


def test_rounding_is_made_once_and_read_back(store):
    """Two encodings differ by their dice; the stored one never changes again."""
    job = plan(bits=4)
    first, second = encode(job, update(0.3)), encode(job, update(0.3))
    assert first.unrounded == second.unrounded
    assert encode(job, update(0.31)).unrounded != first.unrounded
    saved = store.save(ROUND, PLAN, first)
    assert np.array_equal(saved.words(), first.words)
    loaded = store.load(ROUND)
    assert loaded == saved
    words = loaded.words()
    words[:] = 0  # a fresh copy: masking it in place changes nothing
    assert np.array_equal(loaded.words(), first.words)
    with pytest.raises(ValueError, match="already"):
        store.save(ROUND, PLAN, second)


def test_stored_contributions_are_private_files(store, disk):
    store.save(ROUND, PLAN, encode(plan(), update()))
    (path,) = (disk / "contributions").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_discard_removes_a_jobs_rounds_up_to_one(store):
    for job, number in (("sum-1", 1), ("sum-1", 2), ("sum-1", 10), ("sum-12", 1)):
        store.save(RoundId(JobId(job), number), PLAN, encode(plan(), update()))
    store.discard(JobId("sum-1"), up_to=2)
    assert [(each.job, each.round) for each in store.rounds()] == [("sum-1", 10), ("sum-12", 1)]
    assert store.load(ROUND) is None


@pytest.mark.parametrize("place", [0, 20, -1])
def test_a_changed_file_is_noticed(store, disk, place):
    """A flipped byte in header or words: refused, and the file is named."""
    store.save(ROUND, PLAN, encode(plan(), update()))
    (path,) = (disk / "contributions").iterdir()
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"sum-1\.0+1"):
        store.load(ROUND).words()


def test_digests_depend_on_the_sites_key(disk):
    """The same contribution at two sites: nothing in common that a reader of both ledgers could see."""
    encoded = encode(plan(), update())
    one = ContributionStore(disk / "one", bytes(32)).save(ROUND, PLAN, encoded)
    other = ContributionStore(disk / "other", bytes(31) + b"\x01").save(ROUND, PLAN, encoded)
    assert one.digest != other.digest
    assert one.unrounded != other.unrounded


def test_the_site_key_is_made_once(disk):
    path = disk / "site.key"
    key = site_key(path)
    assert site_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(key[:-1])
    with pytest.raises(StorageError, match="31 bytes"):
        site_key(path)
