"""What a revoked member's calls come to decides, and not how busy the machine is."""

from __future__ import annotations

import grpc
import pytest

from secfed.attack import revoked_member
from secfed.attack.finding import Evidence
from secfed.attack.town import Refusal
from secfed.errors import RevokedError
from secfed.ids import ClientId
from secfed.rounds.exchange import Wait
from secfed.wire import sums

CUT = Refusal(grpc.StatusCode.PERMISSION_DENIED, RevokedError("hosp-a was revoked"))
ANSWER = sums.encode_told(Wait("a round", 0))


@pytest.mark.parametrize(
    ("ends", "gains"),
    [
        pytest.param([(0.1, CUT)], False, id="cut"),
        pytest.param([(40.0, CUT)], False, id="cut, on a busy machine"),
        pytest.param([(1.0, ANSWER), (1.1, CUT)], False, id="just over by itself"),
        pytest.param([(19.0, ANSWER), (19.1, CUT)], True, id="held to its end"),
        pytest.param([(1.0, ANSWER), (21.0, ANSWER)], True, id="goes on"),
    ],
)
def test_a_held_call_is_judged_by_what_it_was_told(
    ends: list[tuple[float, bytes | Refusal]], gains: bool
) -> None:
    evidence = Evidence()
    revoked_member._judge(evidence, ClientId("hosp-a"), ends)
    assert bool(evidence.gains) is gains
