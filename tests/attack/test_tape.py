"""Two kinds of round held against each other: what counts as telling, what as chance, and what as nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest

from secfed.attack.finding import Evidence
from secfed.attack.tape import Tape, compare
from secfed.errors import NetworkError

PLAIN, MORE = ("Exchange", 300), ("Exchange", 999)


def tape(*sizes: tuple[str, int], disturbed: bool = False) -> Tape:
    made = Tape(disturbed=disturbed)
    for call, size in sizes:
        made.note(call, size)
    return made


def kind(rounds: Iterable[Tape]) -> Callable[[], Tape]:
    return iter(rounds).__next__


def like(*sizes: tuple[str, int]) -> Callable[[], Tape]:
    return lambda: tape(*sizes)


def test_alike() -> None:
    evidence = Evidence()
    compare(evidence, like(PLAIN), like(PLAIN))
    assert evidence.gains == []
    assert evidence.facts[-1] == "message by message the same calls and the same sizes"


def test_a_leak_in_every_second_round_counts() -> None:
    """A pair that is alike does not end the comparison."""
    evidence = Evidence()
    leaky = kind(tape(PLAIN, MORE) if n % 2 else tape(PLAIN) for n in itertools.count())
    compare(evidence, like(PLAIN), leaky)
    assert len(evidence.gains) == 1
    assert "message 2: Exchange of 999 bytes, and nothing of 0" in evidence.gains[0]


def test_a_leak_that_is_another_one_each_time_counts() -> None:
    evidence = Evidence()
    compare(evidence, like(PLAIN), kind(tape(("Exchange", 400 + n)) for n in itertools.count()))
    assert len(evidence.gains) == 1


def test_what_both_kinds_have_is_the_pace() -> None:
    evidence = Evidence()
    one = kind(itertools.cycle([tape(PLAIN), tape(PLAIN, MORE), tape(PLAIN)]))
    other = kind(itertools.cycle([tape(PLAIN, MORE), tape(PLAIN), tape(PLAIN, MORE)]))
    compare(evidence, one, other)
    assert evidence.gains == []


def test_what_came_up_once_is_chance_and_is_said() -> None:
    evidence = Evidence()
    compare(evidence, like(PLAIN), kind([tape(PLAIN, MORE), *(tape(PLAIN) for _ in range(5))]))
    assert evidence.gains == []
    assert evidence.facts[-1].startswith("in a single round, which is chance: message 2")


def test_disturbed_rounds_say_nothing() -> None:
    evidence = Evidence()
    one = [tape(PLAIN, MORE, disturbed=True), tape(PLAIN), tape(PLAIN)]
    compare(evidence, kind(one), like(PLAIN))
    assert evidence.gains == []


def test_disturbed_rounds_are_made_up_for() -> None:
    evidence = Evidence()
    late = (tape(PLAIN, disturbed=n < 2) for n in itertools.count())
    compare(evidence, kind(late), like(PLAIN))
    assert "4 and 6 of these rounds were undisturbed" in evidence.facts


def test_too_few_undisturbed_rounds_are_no_verdict() -> None:
    with pytest.raises(NetworkError, match="too few rounds were undisturbed"):
        compare(Evidence(), lambda: tape(PLAIN, disturbed=True), like(PLAIN))


@pytest.mark.parametrize(
    ("manifest", "disturbed"),
    [
        ({"included": ["a", "b"], "lost_after_freeze": [], "attempt": 1}, False),
        ({"included": ["a"], "lost_after_freeze": [], "attempt": 1}, True),
        ({"included": ["a", "b"], "lost_after_freeze": [{"site": "b"}], "attempt": 1}, True),
        ({"included": ["a", "b"], "lost_after_freeze": [], "attempt": 2}, True),
    ],
)
def test_a_round_is_judged_by_its_result(manifest: dict[str, object], disturbed: bool) -> None:
    made = tape(PLAIN)
    made.judge(manifest, 2)
    assert made.disturbed is disturbed
