"""What a measured sum is held against."""

from __future__ import annotations

import multiprocessing

import numpy as np

from secfed.bench.cohort import Setting, gather
from secfed.bench.processes import serve
from secfed.bench.secure_sum import true_total
from secfed.errors import ConfigError
from secfed.ids import MemberIndex


def test_the_true_sum_is_the_encoded_vectors_added_up() -> None:
    """Made twice from the same seed: three vectors of 16 bits in words of 18."""
    cohort = gather(Setting(3, 50), b"seed")
    words = [cohort.encoded(member, cohort.coordinates(member)) for member in map(MemberIndex, range(3))]
    total = true_total(cohort, words[0] + words[2], MemberIndex(1))
    assert (total == sum(word.astype(np.int64) for word in words)).all()
    assert total[0] == 3  # the weights
    assert len({word.tobytes() for word in words}) == 3
    assert not np.array_equal(total, true_total(cohort, words[0] + words[2] + np.uint32(1), MemberIndex(1)))


def test_other_seeds_are_other_federations() -> None:
    one, other = (gather(Setting(3, 5), seed) for seed in (b"one", b"other"))
    assert one.roster_key != other.roster_key
    assert not np.array_equal(one.coordinates(MemberIndex(0)), other.coordinates(MemberIndex(0)))


def refuse(words: str) -> None:
    """In the other process."""
    raise ConfigError(words, hint="mend it")


def test_what_is_refused_apart_comes_back_with_its_remedy() -> None:
    """What the other process does, on this side of the pipe."""
    near, far = multiprocessing.Pipe()
    serve(far, refuse, ("no such thing",))
    failure, _ = near.recv()
    assert isinstance(failure, ConfigError)
    assert (str(failure), failure.hint) == ("no such thing", "mend it")


def test_a_bug_apart_comes_back_as_its_traceback() -> None:
    near, far = multiprocessing.Pipe()
    serve(far, refuse, ())
    failure, _ = near.recv()
    assert "TypeError" in str(failure)
