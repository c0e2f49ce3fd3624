"""The client's story, driven request by request over real sessions and stores."""

from __future__ import annotations

import numpy as np
import pytest

from secfed.rounds.exchange import Answer, Present, Ready, Wait


def ready(federation, plan, number=1, machines=None):
    chosen = list((machines or federation.machines.values()))
    for machine in chosen:
        if not hasattr(machine, "rounds"):
            machine.start()
        said = machine.rounds.hear(federation.offer(plan, number))
        assert isinstance(said, Ready), machine.rounds.refusal
    return chosen


def test_a_vector_round_gives_the_weighted_sum_and_ends_included(federation):
    """Three sites, the whole story: the opened sum is that of their files, to within the grid."""
    plan = federation.plan()
    machines = ready(federation, plan)
    host = federation.begin(plan, 1, machines)
    host.run(machines)
    ends = host.finish(machines)
    assert [(end.included, end.members, end.reason) for end in ends] == [(True, 3, "")] * 3
    arrays = plan.layout.unflatten(host.sum.mean())
    assert np.allclose(arrays["a"], (1 + 2 + 3) / 8 / 3, atol=2e-4)
    assert np.allclose(arrays["b"], np.arange(3) * (1 + 1 / 2 + 1 / 3) / 3, atol=2e-4)
    assert (host.sum.weight_sum, host.sum.counters) == (3, (0,))
    for machine in machines:
        assert machine.site.contributions.rounds() == []
        assert machine.rounds.hear(Wait("nothing", 0)) == Present("")
