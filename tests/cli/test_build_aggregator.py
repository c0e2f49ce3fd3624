"""What the aggregator's terminal says of a wait: for what, until when, and once."""

from __future__ import annotations

import io

from secfed.cli.build_aggregator import Teller
from secfed.rounds.exchange import Wait
from secfed.telemetry import Metrics


def test_a_wait_is_said_once_with_its_end() -> None:
    out = io.StringIO()
    teller = Teller(Metrics(), out)
    two = "job sum-1 round 1: waiting for 2 sites: hosp-b, hosp-c"
    for wait in (
        None,
        Wait(two, 600),
        Wait(two, 595),
        None,
        Wait(two, 30),
        Wait("the sum is being opened", 0),
    ):
        teller.awaiting(wait)
    assert out.getvalue().splitlines() == [
        f"{two}, for 600 s at most",
        f"{two}, for 30 s at most",
        "the sum is being opened",
    ]
