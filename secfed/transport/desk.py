"""Between asyncio and the rounds: one thread for their core, others for disk and sums.

Every call of the core runs on its one thread, so it needs no locks and its durable writes never
hold up the network. Clients that have nothing to hear are kept here; whenever the core notes a
change, all of them are looked at in one go. A disk that fails stops the process: what is
durable is enough to go on from, what is not was never acknowledged.

A call that is cut off takes nothing with it: what it began here ends in a task of its own, and
what it would have told its site is kept for that site's next call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from secfed.errors import LedgerError, NetworkError, SecfedError, StorageError
from secfed.ids import ClientId
from secfed.rounds.aggregator import AggregatorRounds, Worked
from secfed.rounds.exchange import Told, Wait

__all__ = ["POLL_S", "Desk"]

POLL_S = 20.0
"""How long a client with nothing to hear is kept before it is told what is awaited, seconds."""

TICK_S = 0.5
"""How often deadlines are looked at, seconds."""

_DISK_THREADS = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Done(Generic[T]):
    """One step of the core: what it gave or raised, work that is due now, and the count of changes."""

    result: T | None
    error: SecfedError | None
    work: Callable[[], Worked] | None
    changes: int


class Desk:
    """Hands calls to the core and answers to those who wait.

    Args:
        rounds: The core; from now on only this object calls it.
        poll_s: How long a client with nothing to hear is kept.
    """

    def __init__(self, rounds: AggregatorRounds, *, poll_s: float = POLL_S) -> None:
        self._rounds, self._poll_s = rounds, poll_s
        self._loop = asyncio.get_running_loop()
        self._core = ThreadPoolExecutor(1, thread_name_prefix="secfed-core")
        self._disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="secfed-disk")
        self._sums = ThreadPoolExecutor(1, thread_name_prefix="secfed-sum")
        self._waiting: dict[ClientId, asyncio.Future[Told | None]] = {}
        self._spreading = asyncio.Lock()
        self._told = -1
        self._closing = False
        self._broken: StorageError | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._steps: set[asyncio.Task[Any]] = set()
        self.failed: asyncio.Future[BaseException] = self._loop.create_future()
        """Set once something failed that only a restart can mend."""
        self._ticker = self.chore(self._tick())

    # -- the core ------------------------------------------------------------------------------

    async def call(self, step: Callable[[AggregatorRounds], T]) -> T:
        """Run one step of the core on its thread, with all that follows from it.

        Both happen even if the caller is cancelled meanwhile: only the result is lost then.

        Raises:
            SecfedError: What the step raised. A failing disk is reported to `failed` too.
        """
        return await asyncio.shield(self._begin(self._call(step)))

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of the desk's own, which no cancelled caller ends."""
        task = self._loop.create_task(work)
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)
        return task

    async def _call(self, step: Callable[[AggregatorRounds], T]) -> T:
        try:
            done = await self._loop.run_in_executor(self._core, self._step, step)
        except StorageError as error:
            self.fail(error)
            raise
        if done.work is not None:
            self.chore(self._carry_out(done.work))
        if done.changes != self._told and self._waiting:
            await self._spread()
        if done.error is not None:
            raise done.error
        return cast(T, done.result)

    def _step(self, step: Callable[[AggregatorRounds], T]) -> _Done[T]:
        """On the core's thread: one step, and what it makes due; none after a write has failed."""
        if self._broken is not None:
            raise self._broken
        try:
            result, error = step(self._rounds), None
        except SecfedError as refusal:
            result, error = None, refusal
            if isinstance(refusal, StorageError) and not isinstance(refusal, LedgerError):
                self._broken = refusal  # what is in memory may be ahead of what is durable
                raise
        return _Done(result, error, self._rounds.work(), self._rounds.changes)

    def soon(self, step: Callable[[AggregatorRounds], None]) -> None:
        """Run one step of the core that nobody waits for, such as a sign of life."""
        self._core.submit(step, self._rounds)

    def chore(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run something in the background; if it fails, the process does."""
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)

    async def disk(self, step: Callable[..., T], *arguments: object) -> T:
        """Run something that waits for the disk, beside the core."""
        return await self._loop.run_in_executor(self._disk, step, *arguments)

    def fail(self, error: BaseException) -> None:
        """Give up: only the first reason counts."""
        if not self.failed.done():
            self.failed.set_result(error)

    # -- whoever waits -------------------------------------------------------------------------

    async def next_for(self, site: ClientId, *, at_once: bool = False) -> Told:
        """What this site must be told; if there is nothing for a while, what is awaited.

        Args:
            at_once: Do not wait, whether there is anything or not.
        """
        asked = self._begin(self._call(lambda rounds: (rounds.next_for(site), rounds.changes)))
        try:
            told, seen = await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(lambda task: self._keep_told(site, task))
            raise
        if told is None and not (at_once or self._closing):
            told = await self._wait(site, seen)
        return told or await self._wait_text(site)

    async def _wait(self, site: ClientId, seen: int) -> Told | None:
        earlier = self._waiting.pop(site, None)
        if earlier is not None and not earlier.done():
            # Were it told that there is nothing new, two clients with one state would call without a pause.
            earlier.set_exception(NetworkError(f"a newer call of {site} took the place of this one"))
        future = self._waiting[site] = self._loop.create_future()
        try:
            if self._rounds.changes != seen:  # noted after the look, before the wait
                await asyncio.shield(self._begin(self._spread()))
            await asyncio.wait([future], timeout=self._poll_s)
            return future.result() if future.done() else None
        except asyncio.CancelledError:
            if future.done() and future.exception() is None:
                self._keep(site, future.result())
            raise
        finally:
            if self._waiting.get(site) is future:
                del self._waiting[site]

    async def _wait_text(self, site: ClientId) -> Wait:
        if self._closing:
            return Wait("the aggregator is stopping; it will be back", 0)
        return await self.call(lambda rounds: rounds.wait_for(site))

    async def _spread(self) -> None:
        """Tell those who wait what is new for them; one at a time, as telling may use something up."""
        async with self._spreading:
            sites = tuple(site for site, future in self._waiting.items() if not future.done())
            self._told, news = await self._loop.run_in_executor(self._core, self._news, sites)
            for site, told in news.items():
                future = self._waiting.get(site)
                if future is not None and not future.done():
                    future.set_result(told)
                else:
                    self._keep(site, told)

    def _keep(self, site: ClientId, told: Told | None) -> None:
        """What a call that ended did not take along is told to the site's next one."""
        if told is not None:
            self.soon(lambda rounds: rounds.untold(site, told))

    def _keep_told(self, site: ClientId, asked: asyncio.Task[tuple[Told | None, int]]) -> None:
        if not asked.cancelled() and asked.exception() is None:
            self._keep(site, asked.result()[0])

    def _news(self, sites: tuple[ClientId, ...]) -> tuple[int, dict[ClientId, Told]]:
        """On the core's thread: what those who wait must be told now."""
        changes = self._rounds.changes
        found = ((site, self._rounds.next_for(site)) for site in sites)
        return changes, {site: told for site, told in found if told is not None}

    @property
    def waiting(self) -> int:
        """How many clients are kept."""
        return len(self._waiting)

    # -- time and heavy work -------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self.call(lambda rounds: rounds.tick())

    async def _carry_out(self, work: Callable[[], Worked]) -> None:
        """Open a sum beside everything else."""
        done = await self._loop.run_in_executor(self._sums, work)
        await self.call(lambda rounds: rounds.worked(done))

    # -- the end -------------------------------------------------------------------------------

    def release(self) -> None:
        """Let everybody who waits go: the process is about to stop."""
        self._closing = True
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)

    async def close(self) -> None:
        """Finish what is being written, then stop all threads."""
        self.release()
        self._ticker.cancel()
        while self._background or self._steps:
            await asyncio.wait(self._background | self._steps)
        for pool in (self._sums, self._disk, self._core):
            await asyncio.to_thread(pool.shutdown)
