"""The ring: who stands where is frozen to the bit, and everybody finds the same neighbours."""

from __future__ import annotations

import hashlib
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simfed.cast import digest_of

from secfed.crypto.prg import KeyStream
from secfed.ids import MemberIndex
from secfed.secagg import graph
from secfed.secagg.graph import Graph, ring_order
from secfed.secagg.params import Params

ADVERTS = digest_of("adverts")


def params(clients: int = 130, losses: int = 1) -> Params:
    return Params.of(clients, 1, min_cohort=3, losses=losses)


def test_the_order_is_frozen() -> None:
    """A known answer: another one would be another protocol."""
    order = ring_order(ADVERTS, 130)
    assert order[:8] == ORDER_BEGINS
    assert hashlib.sha256(bytes(order)).hexdigest() == ORDER_SHA256


ORDER_BEGINS = (68, 13, 55, 36, 91, 90, 15, 41)
ORDER_SHA256 = "23c1363b944b9af8819da98c22e3366c926229850a7b73c4c9c8e3662f2153c0"


def test_the_order_is_a_shuffle_of_everybody_and_other_adverts_give_another() -> None:
    order = ring_order(ADVERTS, 130)
    assert sorted(order) == list(range(130))
    assert ring_order(digest_of("other adverts"), 130) != order


def test_numbers_are_drawn_without_favour() -> None:
    """By hand: 2^32 = 3 * 1431655765 + 1, so the last word is passed over; so are 2^32 mod 129 of them."""
    assert graph._below(3, iter([2**32 - 1, 5])) == 2
    assert graph._below(3, iter([2**32 - 2])) == (2**32 - 2) % 3
    assert graph._below(129, iter([2**32 - 2**32 % 129, 130])) == 1
    assert graph._below(128, iter([2**32 - 1])) == 127


def test_the_stream_is_read_word_by_word_however_much_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    key = bytes(range(32))
    whole = KeyStream(key).words(17).tolist()
    for drawn in (2048, 1, 2, 17):
        monkeypatch.setattr(graph, "_FIRST_WORDS", drawn)
        words = graph._words(key)
        assert [next(words) for _ in range(17)] == whole


@settings(max_examples=25)
@given(st.integers(129, 300), st.integers(1, 40), st.randoms(use_true_random=False))
def test_every_ring_is_even_and_whole(clients: int, reach: int, random: Random) -> None:
    """Everybody has k neighbours, is a neighbour of each of them, and reaches all others through them."""
    order = list(map(MemberIndex, range(clients)))
    random.shuffle(order)
    places = [0] * clients
    for place, member in enumerate(order):
        places[member] = place
    ring = Graph(clients, reach, tuple(order), tuple(places))
    rows = [ring.neighbours(member) for member in map(MemberIndex, range(clients))]
    assert all(row == tuple(sorted(set(row))) and len(row) == 2 * reach for row in rows)
    assert all(member not in row for member, row in enumerate(rows))
    assert all(member in rows[other] for member, row in enumerate(rows) for other in row)
    reached, todo = {0}, [0]
    while todo:
        new = set(rows[todo.pop()]) - reached
        reached |= new
        todo.extend(new)
    assert len(reached) == clients


def test_neighbours_stand_next_to_each_other() -> None:
    chosen = params()
    ring = Graph.ring(chosen, ADVERTS)
    order = ring_order(ADVERTS, 130)
    assert chosen.neighbours == 6
    assert ring.neighbours(order[0]) == tuple(sorted((*order[1:4], *order[-3:])))


def test_on_the_complete_graph_everybody_is_a_neighbour() -> None:
    assert Graph.complete(4).neighbours(MemberIndex(2)) == (0, 1, 3)


def test_an_order_is_computed_once_a_process() -> None:
    ring_order(ADVERTS, 130)
    before = ring_order.cache_info().misses
    Graph.ring(params(), ADVERTS)
    assert ring_order.cache_info().misses == before


def test_members_stand_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 2000 keys member 0 stands in each of 10 places about 200 times.

    The counts are of fixed keys, so that this comes out the same in every run; the chance that the right
    code had failed at fixing it is P[chi-square(9) > 35] = 6e-5.
    """
    monkeypatch.setattr(graph, "slow_key", lambda adverts, _label: adverts)
    drawn = graph.ring_order.__wrapped__
    counts = Counter(drawn(digest_of(f"key {n}"), 10).index(0) for n in range(2000))
    assert sum((counts[place] - 200) ** 2 / 200 for place in range(10)) < 35
