"""Pairs as feedback, and feedback over sites: nothing is lost or made up, and a seed says it all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.errors import ConfigError, DataError
from secfed.training.data import Table
from secfed.training.modes import MODES, Mode
from secfed.training.preferences import Feedback, Spread, feedback, redistribute
from secfed.training.rows import Message, Row, Value

sizes = st.lists(st.integers(1, 12), min_size=2, max_size=5)
seeds = st.integers(0, 2**32)


def pairs(site: int, count: int, owners: Sequence[str] | None = None) -> Table:
    rows: tuple[Row, ...] = tuple(
        {"prompt": f"x{site}-{n}", "chosen": f"y{site}-{n}", "rejected": f"z{site}-{n}"} for n in range(count)
    )
    names = {name: name for name in ("prompt", "chosen", "rejected")}
    return Table(Path(f"site{site}.jsonl"), rows, None if owners is None else tuple(owners), names)


def thumbs(site: int, rows: Sequence[tuple[Value, str, bool]]) -> Table:
    made: tuple[Row, ...] = tuple(
        {"prompt": prompt, "completion": completion, "label": label} for prompt, completion, label in rows
    )
    return Table(Path(f"s{site}"), made, None, {name: name for name in ("prompt", "completion", "label")})


def content(rows: Sequence[Feedback]) -> Counter[Any]:
    return Counter((row.prompt, row.completion, row.label) for row in rows)


def all_of(spread: Spread) -> list[Feedback]:
    return [row for site in spread.sites for row in site]


def spread(counts: Sequence[int], mode: Mode, seed: int, concentration: float = 0.5) -> Spread:
    tables = [pairs(site, count) for site, count in enumerate(counts)]
    return redistribute(tables, mode, seed, concentration=concentration if mode == "label-skew" else None)


def test_a_pair_becomes_two_rows_in_order() -> None:
    rows = feedback(pairs(0, 2, ["ann", "bob"]))
    assert [(row.prompt, row.completion, row.label, row.owner) for row in rows] == [
        ("x0-0", "y0-0", True, "ann"),
        ("x0-0", "z0-0", False, "ann"),
        ("x0-1", "y0-1", True, "bob"),
        ("x0-1", "z0-1", False, "bob"),
    ]
    assert [row.pair for row in rows] == [0, 0, 1, 1]


def test_it_is_what_trl_makes_of_the_same_pairs() -> None:
    """The library's order is all chosen responses, then all others; the rows are the same."""
    import datasets
    from trl import unpair_preference_dataset

    table = pairs(0, 4)
    theirs = unpair_preference_dataset(datasets.Dataset.from_list([dict(row) for row in table.rows]))
    expected = Counter((row["prompt"], row["completion"], row["label"]) for row in theirs)
    assert content(feedback(table)) == expected


def test_halves_of_a_pair_are_found_again_by_their_prompt() -> None:
    chat = (Message("user", "hello"),)
    rows = feedback(
        thumbs(
            0,
            [("x", "a", True), (chat, "b", False), ("x", "c", True), ("x", "d", False), (chat, "e", True)],
        ),
        first_pair=10,
    )
    assert [row.pair for row in rows] == [10, 11, 12, 10, 11]


@given(counts=sizes, seed=seeds)
def test_shuffle_keeps_all_rows_and_sizes(counts: list[int], seed: int) -> None:
    after = spread(counts, "shuffle", seed)
    before = [row for site, count in enumerate(counts) for row in feedback(pairs(site, count))]
    assert [len(rows) for rows in after.sites] == [2 * count for count in counts]
    assert content(all_of(after)) == content(before)


@given(counts=sizes, seed=seeds)
def test_split_parts_every_pair_and_keeps_sizes(counts: list[int], seed: int) -> None:
    if 2 * max(counts) > sum(counts):
        with pytest.raises(DataError, match="parted"):
            spread(counts, "split", seed)
        return
    after = spread(counts, "split", seed)
    assert [len(rows) for rows in after.sites] == [2 * count for count in counts]
    for rows in after.sites:
        assert len({row.pair for row in rows}) == len(rows)
    assert len(content(all_of(after))) == 2 * sum(counts)
    assert after.shared_owners == sum(counts)


@given(counts=sizes, singles=st.integers(0, 8), seed=seeds)
def test_split_with_single_rows(counts: list[int], singles: int, seed: int) -> None:
    tables = [pairs(site, count) for site, count in enumerate(counts)]
    tables[0] = thumbs(
        0,
        [(f"x{n}", f"y{n}", True) for n in range(counts[0] + singles)]
        + [(f"x{n}", f"z{n}", False) for n in range(counts[0])],
    )
    before = [len(feedback(table)) for table in tables]
    if max(before) > sum(counts) + singles:
        with pytest.raises(DataError, match="parted"):
            redistribute(tables, "split", seed)
        return
    after = redistribute(tables, "split", seed)
    assert [len(rows) for rows in after.sites] == before
    assert all(len({row.pair for row in rows}) == len(rows) for rows in after.sites)
    assert len(content(all_of(after))) == sum(before)


@given(counts=sizes, seed=seeds)
def test_drop_leaves_each_owner_one_response_at_its_site(counts: list[int], seed: int) -> None:
    after = spread(counts, "drop", seed)
    assert after.shared_owners == 0
    for site, count in enumerate(counts):
        prompts = [row.prompt for row in after.sites[site]]
        assert prompts == [f"x{site}-{number}" for number in range(count)]
        assert not content(after.sites[site]) - content(feedback(pairs(site, count)))


def test_drop_is_a_fair_coin() -> None:
    """Of 4000 pairs 2000 lose each response; 5 standard deviations are 158, so a fair coin fails 6e-7."""
    (rows, _) = spread([4000, 1], "drop", 1).sites
    assert abs(sum(row.label for row in rows) - 2000) < 158


@given(counts=sizes, seed=seeds, concentration=st.floats(1e-3, 1e3))
def test_label_skew_keeps_all_rows_and_sizes(counts: list[int], seed: int, concentration: float) -> None:
    """With pairs there are enough thumbs for every site to keep one of each."""
    after = spread(counts, "label-skew", seed, concentration)
    before = [row for site, count in enumerate(counts) for row in feedback(pairs(site, count))]
    assert [len(rows) for rows in after.sites] == [2 * count for count in counts]
    assert content(all_of(after)) == content(before)
    assert all({row.label for row in rows} == {True, False} for rows in after.sites)


def test_a_small_concentration_skews_and_a_large_one_does_not() -> None:
    """Means over 20 seeds of the sites' distance from one half: 0.06 of a site's rows and 0.4, roughly."""

    def distance(concentration: float) -> float:
        spreads = [spread([50] * 4, "label-skew", seed, concentration) for seed in range(20)]
        shares = [sum(row.label for row in rows) / 100 for each in spreads for rows in each.sites]
        return sum(abs(share - 0.5) for share in shares) / len(shares)

    assert distance(0.05) > 0.3
    assert distance(500.0) < 0.05


def test_label_skew_goes_on_where_one_thumb_is_rare() -> None:
    up = thumbs(0, [(f"x{n}", "a", True) for n in range(6)])
    after = redistribute([up, thumbs(1, [("x", "b", False)])], "label-skew", 0, concentration=1.0)
    assert [len(rows) for rows in after.sites] == [6, 1]
    assert Counter(row.label for row in all_of(after)) == {True: 6, False: 1}


@pytest.mark.parametrize("mode", MODES)
def test_the_seed_says_it_all(mode: Mode) -> None:
    one, again = (spread([6, 5, 4], mode, 7) for _ in range(2))
    assert one == again
    assert any(spread([6, 5, 4], mode, seed) != one for seed in range(3))


def test_owners_at_two_sites_are_counted() -> None:
    tables = [pairs(0, 3, ["ann", "ann", "bob"]), pairs(1, 2, ["cid", "ann"])]
    assert redistribute(tables, "drop", 0).shared_owners == 1  # ann was at both before
    after = redistribute(tables, "shuffle", 0)
    homes: dict[str | None, set[int]] = {}
    for site, rows in enumerate(after.sites):
        for row in rows:
            homes.setdefault(row.owner, set()).add(site)
    assert after.shared_owners == sum(len(sites) > 1 for sites in homes.values()) >= 1


@pytest.mark.parametrize(
    ("count", "mode", "concentration", "message"),
    [
        (1, "shuffle", None, "two sites"),
        (2, "label-skew", None, "concentration"),
        (2, "drop", 1.0, "concentration"),
        (2, "label-skew", 0.0, "above 0"),
        (2, "label-skew", float("nan"), "above 0"),
    ],
)
def test_what_does_not_go_together_is_refused(
    count: int, mode: Mode, concentration: float | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        redistribute([pairs(n, 2) for n in range(count)], mode, 0, concentration=concentration)


def test_a_site_with_most_rows_cannot_be_parted() -> None:
    with pytest.raises(DataError, match="parted"):
        spread([5, 1, 1], "split", 0)


def test_rows_do_not_print_themselves() -> None:
    assert "y0-0" not in repr(feedback(pairs(0, 1)))
