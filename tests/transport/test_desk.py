"""The desk: a call that is cut off loses nothing that the core began or took out for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from secfed.errors import NetworkError
from secfed.ids import ClientId
from secfed.transport.desk import Desk

SITE = ClientId("hosp-a")
PATIENCE_S = 60


class Core:
    """A core with one piece of work and one notice, each given out once; its steps wait for a gate."""

    def __init__(self) -> None:
        self.changes, self.due, self.done = 0, True, threading.Event()
        self.begun, self.gate = threading.Event(), threading.Event()
        self.notices = ["void"]

    def work(self) -> Callable[[], str] | None:
        due, self.due = self.due, False
        return (lambda: "summed") if due else None

    def worked(self, _done: str) -> None:
        self.done.set()

    def step(self) -> None:
        self.begun.set()
        self.gate.wait(PATIENCE_S)

    def next_for(self, _site: ClientId) -> Any:
        self.step()
        return self.notices.pop() if self.notices else None

    def untold(self, _site: ClientId, told: Any) -> None:
        self.notices.append(told)
        self.changes += 1

    def wait_for(self, _site: ClientId) -> str:
        return "wait"

    def tick(self) -> None:
        """Nothing is ever late."""


async def cut_off(core: Core, call: Any) -> None:
    """Cancel a call while its step runs on the core's thread, then let the step end."""
    task = asyncio.ensure_future(call)
    assert await asyncio.to_thread(core.begun.wait, PATIENCE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    core.gate.set()


def test_work_that_a_cancelled_call_made_due_is_carried_out() -> None:
    async def run() -> None:
        core = Core()
        desk = Desk(core)  # type: ignore[arg-type]
        await cut_off(core, desk.call(lambda _: core.step()))
        assert await asyncio.to_thread(core.done.wait, PATIENCE_S)
        await desk.close()

    asyncio.run(run())


def test_what_a_cancelled_call_would_have_heard_the_next_one_hears() -> None:
    async def run() -> None:
        core = Core()
        desk = Desk(core, poll_s=PATIENCE_S)  # type: ignore[arg-type]
        await cut_off(core, desk.next_for(SITE))
        assert await desk.next_for(SITE) == "void"
        await desk.close()

    asyncio.run(run())


def test_of_two_waiting_calls_of_a_site_the_earlier_ends_with_an_error() -> None:
    """Not as if nothing were new: two clients with one state would then call in turns, without a pause."""

    async def run() -> None:
        core = Core()
        core.notices.clear()
        core.gate.set()
        desk = Desk(core, poll_s=PATIENCE_S)  # type: ignore[arg-type]
        earlier = asyncio.ensure_future(desk.next_for(SITE))
        while not desk.waiting:
            await asyncio.sleep(0.01)
        newer = asyncio.ensure_future(desk.next_for(SITE))
        with pytest.raises(NetworkError, match="took the place of this one"):
            await earlier
        assert not newer.done()
        newer.cancel()
        await asyncio.wait([newer])
        await desk.close()

    asyncio.run(run())


def test_what_is_spread_while_its_listener_goes_the_next_one_hears() -> None:
    async def run() -> None:
        core = Core()
        core.notices.clear()
        core.gate.set()
        desk = Desk(core, poll_s=PATIENCE_S)  # type: ignore[arg-type]
        listener = asyncio.ensure_future(desk.next_for(SITE))
        while not desk.waiting:
            await asyncio.sleep(0.01)
        core.gate.clear()
        core.begun.clear()

        def news(_: Any) -> None:
            core.notices.append("void")
            core.changes += 1

        caller = asyncio.ensure_future(desk.call(news))
        assert await asyncio.to_thread(core.begun.wait, PATIENCE_S)
        caller.cancel()
        listener.cancel()
        await asyncio.wait([caller, listener])
        core.gate.set()
        assert await desk.next_for(SITE) == "void"
        await desk.close()

    asyncio.run(run())
