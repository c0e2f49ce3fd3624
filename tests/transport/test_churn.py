"""Members come and go, break off and come back, while rounds go on: nothing is left behind.

Marked slow: it goes on for `--minutes`.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable

import grpc
import pytest
from besieged import PATIENCE_S, play_round
from townhall import Town

from secfed.identity import membership
from secfed.identity.roles import Role
from secfed.ids import ClientId
from secfed.wire import calls, service
from secfed.wire import status as wire_status

SIZE = 20_000
GROWTH_MIB = 50
COMERS = 8
"""Members that come and go at one time."""


def come_and_go(town: Town, name: str, dice: random.Random, over: threading.Event) -> int:
    """Connect, ask, break off in one way or another; how often."""
    body, times = wire_status.encode_status_request(None), 0
    while not over.is_set():
        with town.channel(name) as channel, contextlib.suppress(grpc.RpcError):
            hello = town.maker(name).make("GetStatus", body, roster=town.roster.digest, start=town.begun)
            call = channel.unary_unary(service.path("GetStatus")).future(
                calls.encode_call(calls.Call(hello, body)), timeout=PATIENCE_S
            )
            match dice.randrange(3):
                case 0:
                    call.cancel()
                case 1:
                    pass  # the connection goes, and the call with it
                case _:
                    call.result()
        times += 1
        over.wait(dice.random() / 10)
    return times


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_members_that_come_and_go_leave_nothing_behind(
    quiet_town: Town, request: pytest.FixtureRequest, until: Callable[..., None]
) -> None:
    town = quiet_town
    town.poll_s = 0.5
    process = town.spawn()
    ends = time.monotonic() + 60 * request.config.getoption("--minutes")
    rounds = comings = 0
    settled = 0.0
    descriptors = process.descriptors
    while time.monotonic() < ends or rounds < 2:
        names = [f"guest-{rounds}-{number}" for number in range(COMERS)]
        for name in names:
            town.keys[name] = town.make_keys(name, Role.AUDITOR)
        enrolments = [town.keys[name].enrolment for name in names]
        town.publish(membership.enroll(town.roster, town.owner, enrolments, now=town.now))
        in_force = f"roster version {town.roster.version} is in force"
        deadline = time.monotonic() + PATIENCE_S
        while in_force not in process.output:
            assert time.monotonic() < deadline, f"{in_force}?\n{process.output[-3000:]}"
            time.sleep(0.1)
        over, times = threading.Event(), [0] * COMERS

        def guest(number: int, name: str, over: threading.Event, times: list[int]) -> None:
            times[number] = come_and_go(town, name, random.Random(f"{name}"), over)

        threads = [
            threading.Thread(target=guest, args=(number, name, over, times))
            for number, name in enumerate(names)
        ]
        for thread in threads:
            thread.start()
        play_round(town, f"round-{rounds}", SIZE)
        gone = town.roster
        for name in names[::2]:
            gone = membership.revoke(gone, town.owner, ClientId(name))
        town.publish(gone)
        over.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        rounds, comings = rounds + 1, comings + sum(times)
        if rounds == 2:
            settled = process.rss_mib
    print(
        f"{rounds} exact rounds, {comings} comings and goings, roster of {len(town.roster.members)} entries"
    )
    until(lambda: process.descriptors <= descriptors + 10, PATIENCE_S)
    assert process.rss_mib - settled < GROWTH_MIB
    assert process.running
    assert "Traceback" not in process.output
