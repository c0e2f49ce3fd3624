"""Who a vector that left binds: the whole cohort's answer at once is each client's own rule."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from secfed.ids import ClientId, MemberIndex
from secfed.rounds.round import _Masked
from secfed.secagg.graph import Graph
from secfed.secagg.params import Params


def graph(params: Params, random: Random) -> Graph:
    """As `Graph.ring`, in an order that costs no slow hash."""
    if not params.on_ring:
        return Graph.complete(params.clients)
    order = random.sample(range(params.clients), params.clients)
    places = tuple(order.index(member) for member in range(params.clients))
    return Graph(params.clients, params.neighbours // 2, tuple(map(MemberIndex, order)), places)


@pytest.mark.parametrize(("clients", "corrupt"), [(3, 1), (9, 2), (129, 1), (140, 14)])
def test_who_is_bound_is_who_would_refuse(clients: int, corrupt: int) -> None:
    random = Random(clients)
    params = Params.of(clients, corrupt, min_cohort=3)
    cohort = tuple(ClientId(f"site-{place:03}") for place in range(clients))
    members = {site: bytes([1]) * 32 for site in cohort}
    manifest: Any = SimpleNamespace(cohort=cohort, attempt=1)
    past = _Masked(manifest, params, graph(params, random), members)
    seen = set()
    for lost in range(0, clients, max(1, clients // 12)):
        away = random.sample(cohort, lost)
        renamed = dict.fromkeys(away[: lost // 3], bytes(32))
        keys = members | renamed | {ClientId("new"): bytes(32)}
        chosen = (keys.keys() - away) | renamed.keys()
        for now in (corrupt, 2 * corrupt):
            refusing = set()
            for place, site in enumerate(cohort):
                left = past._left(MemberIndex(place))
                back = sum(left.neighbours[near] == keys[near] for near in left.neighbours.keys() & chosen)
                if site in chosen and back < left.needed_back(now):
                    refusing.add(site)
            assert past.bound(set(chosen), keys, now) == refusing
            seen.add(bool(refusing))
    assert seen == {False, True}
