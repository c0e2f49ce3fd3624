"""Between asyncio and the rounds: one thread for their core, others for disk and sums.

Every call of the core runs on its one thread, so it needs no locks and its durable writes never
hold up the network. Clients that have nothing to hear are kept here; whenever the core notes a
change, all of them are looked at in one go. A disk that fails stops the process: what is
durable is enough to go on from, what is not was never acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from secfed.errors import AuditLogError, LedgerError, RevokedError, SecfedError, StorageError
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


class Desk:
    """Hands calls to the core and answers to those who wait.

    Args:
        rounds: The core; from now on only this object calls it.
    """

    def __init__(self, rounds: AggregatorRounds) -> None:
        self._rounds = rounds
        self._loop = asyncio.get_running_loop()
        self._core = ThreadPoolExecutor(1, thread_name_prefix="secfed-core")
        self._disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="secfed-disk")
        self._sums = ThreadPoolExecutor(1, thread_name_prefix="secfed-sum")
        self._waiting: dict[ClientId, asyncio.Future[Told | None]] = {}
        self._told = -1
        self._closing = False
        self._background: set[asyncio.Task[None]] = set()
        self.failed: asyncio.Future[SecfedError] = self._loop.create_future()
        """Set once something failed that only a restart can mend."""
        self._ticker = self._loop.create_task(self._tick())

    # -- the core ------------------------------------------------------------------------------

    async def call(self, step: Callable[[AggregatorRounds], T]) -> T:
        """Run one step of the core on its thread.

        Raises:
            SecfedError: What the step raised. A failing disk is reported to `failed` too.
        """
        try:
            result = await self._loop.run_in_executor(self._core, lambda: step(self._rounds))
        except StorageError as error:
            if not isinstance(error, LedgerError):
                self.fail(error)
            raise
        await self._after()
        return result

    def soon(self, step: Callable[[AggregatorRounds], None]) -> None:
        """Run one step of the core that nobody waits for, such as a sign of life."""
        self._core.submit(step, self._rounds)

    async def disk(self, step: Callable[..., T], *arguments: object) -> T:
        """Run something that waits for the disk, beside the core."""
        return await self._loop.run_in_executor(self._disk, step, *arguments)

    def fail(self, error: SecfedError) -> None:
        """Give up: only the first reason counts."""
        if not self.failed.done():
            self.failed.set_result(error)

    # -- whoever waits -------------------------------------------------------------------------

    async def next_for(self, site: ClientId, *, wait_s: float = POLL_S) -> Told:
        """What this site must be told; after `wait_s` without anything, what is awaited."""
        told = await self.call(lambda rounds: rounds.next_for(site))
        if told is None and not self._closing:
            told = await self._wait(site, wait_s)
        return told or await self._wait_text(site)

    async def _wait(self, site: ClientId, wait_s: float) -> Told | None:
        earlier = self._waiting.pop(site, None)
        if earlier is not None and not earlier.done():
            earlier.set_result(None)  # a newer call of the same site takes its place
        future = self._waiting[site] = self._loop.create_future()
        self._told = -1  # something may have been noted between the look before and this line
        await self._after()
        try:
            return await asyncio.wait_for(future, wait_s)
        except TimeoutError:
            return None
        finally:
            if self._waiting.get(site) is future:
                del self._waiting[site]

    async def _wait_text(self, site: ClientId) -> Wait:
        if self._closing:
            return Wait("the aggregator is stopping; it will be back", 0)
        return await self.call(lambda rounds: rounds.wait_for(site))

    async def _after(self) -> None:
        """Tell those who wait, if anything was noted, and start work that is due."""
        if self._rounds.changes == self._told or not self._waiting:
            self._start_work()
            return
        sites = tuple(self._waiting)
        self._told, news = await self._loop.run_in_executor(self._core, self._news, sites)
        for site, told in news.items():
            future = self._waiting.get(site)
            if future is not None and not future.done():
                future.set_result(told)
        self._start_work()

    def _news(self, sites: tuple[ClientId, ...]) -> tuple[int, dict[ClientId, Told]]:
        """On the core's thread: what those who wait must be told now."""
        changes = self._rounds.changes
        found = ((site, self._rounds.next_for(site)) for site in sites)
        return changes, {site: told for site, told in found if told is not None}

    def refuse(self, site: ClientId, error: RevokedError) -> None:
        """End a site's wait with a refusal."""
        future = self._waiting.get(site)
        if future is not None and not future.done():
            future.set_exception(error)

    @property
    def waiting(self) -> int:
        """How many clients are kept."""
        return len(self._waiting)

    # -- time and heavy work -------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self.call(lambda rounds: rounds.tick())
            except SecfedError as error:
                self.fail(error)

    def _start_work(self) -> None:
        task = self._loop.create_task(self._work())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _work(self) -> None:
        """Open a sum, if one is due, beside everything else."""
        try:
            work = await self._loop.run_in_executor(self._core, self._rounds.work)
            if work is None:
                return
            done: Worked = await self._loop.run_in_executor(self._sums, work)
            await self.call(lambda rounds: rounds.worked(done))
        except SecfedError as error:
            self.fail(error)

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
        while self._background:
            await asyncio.wait(self._background)
        for pool in (self._sums, self._disk, self._core):
            await asyncio.to_thread(pool.shutdown)


def blocked(error: StorageError) -> AuditLogError:
    """The audit log's own failure, as the reason to stop."""
    return AuditLogError(str(error))
