"""A round over loopback with mutual TLS: a real aggregator, real connections, and bare streams beside it."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secfed.bench.bare import Sink, Stream
from secfed.bench.cohort import ADMIN, AGGREGATOR, BOUND, Setting
from secfed.bench.costs import Side
from secfed.bench.daemon import Daemon
from secfed.bench.federation import Federation
from secfed.bench.limits import Rates
from secfed.bench.processes import Apart
from secfed.bench.roundtrip import RoundTrip
from secfed.bench.secure_sum import check_feasible, params_of
from secfed.bench.timed_clients import TimedRound, TimedSeat, lost_of, play
from secfed.encoding import ring
from secfed.encoding.contribution import contribution_words
from secfed.encoding.fixedpoint import FixedPoint, word_bits
from secfed.rounds.proposal import COUNTERS
from secfed.secagg.params import Params
from secfed.transport.client import Connection

__all__ = ["is_true", "measure"]

_EMPTY_CALLS = 20
"""Their median is what a call takes that asks for nothing."""


def measure(setting: Setting, folder: Path, tell: Callable[[str], None] = lambda _: None) -> RoundTrip:
    """Run rounds over loopback.

    Where members are lost, each round has a federation and a daemon of its own: who is lost never comes back.

    Args:
        setting: Losses and threads do not count: the daemon chooses them.
        folder: An empty folder for all files.
        tell: Hears where the measurement stands.

    Raises:
        InfeasibleCohortError: So few members cannot be defended, or not with so many lost.
        NetworkError: A member or the aggregator came to no end.
    """
    check_feasible(replace(setting, losses=None))
    jobs = [replace(setting, repeats=1)] * setting.repeats if setting.dropouts else [setting]
    found = []
    for number, job in enumerate(jobs, 1):
        tell(f"federation {number} of {len(jobs)}")
        with tempfile.TemporaryDirectory(prefix="job-", dir=folder) as name:
            found.append(_measure(job, Path(name), tell))
    return _together(setting, found)


@dataclass(frozen=True, slots=True)
class _Job:
    """What one daemon's rounds came to."""

    params: Params
    client: Side
    rounds: list[TimedRound]
    empty_s: float
    peak_mib: float
    bare: list[Stream]
    exact: bool


def _measure(setting: Setting, root: Path, tell: Callable[[str], None]) -> _Job:
    """One federation, one daemon, one job."""
    size = _upload_bytes(setting)
    with ExitStack() as stack:
        federation = Federation(setting, root)
        daemon = stack.enter_context(Daemon(federation.write_config()))
        lost = lost_of(federation.sites, setting.dropouts)
        tell("vectors")
        steps = np.zeros(setting.coordinates, np.int64)
        for site in federation.sites:
            made = federation.write_vector(site)
            steps += 0 if site in lost else made
        tell("bare streams")
        keys, survivors = federation.keys, setting.clients - setting.dropouts
        sink = stack.enter_context(Sink(keys[AGGREGATOR], keys[federation.sites[0]]))
        bare = [sink.take(size, survivors)]
        seat = stack.enter_context(
            Apart(TimedSeat, setting, root, federation.sites[0], federation.roster_key)
        )
        rates = [seat.call("rates")]
        with federation.member(ADMIN).connection(daemon.address) as admin:
            empty_s = _empty_call_s(admin)
            tell("rounds")
            rounds = play(federation, daemon, seat, lambda: admin.start_job(federation.job()))
        bare.append(sink.take(size, survivors))
        rates.append(seat.call("rates"))
        params = params_of(setting)
        masks = seat.call("kernel", contribution_words(setting.coordinates, COUNTERS), params.neighbours + 1)
        return _Job(
            params,
            Side(seat.call("costs"), rates[0].best(rates[1]), seat.call("bare", params), masks),
            rounds,
            empty_s,
            daemon.peak_mib,
            bare,
            all(is_true(setting, federation.published(number), steps) for number in _numbers(setting)),
        )


def _together(setting: Setting, jobs: list[_Job]) -> RoundTrip:
    """All rounds of all daemons; primitives are the last client's."""
    rounds = [each for job in jobs for each in job.rounds]
    quickest, last = min(rounds, key=lambda each: each.wall_s), jobs[-1]
    rates = functools.reduce(Rates.best, (job.client.rates for job in jobs))
    costs = [cost for job in jobs for cost in job.client.rounds]
    return RoundTrip(
        setting=setting,
        params=last.params,
        client=replace(last.client, rounds=costs, rates=rates),
        rounds=[each.readings() for each in rounds],
        journeys=quickest.journeys(last.empty_s),
        wall_s=quickest.wall_s,
        aggregator_cpu_s=quickest.cpu_s,
        uploaded_bytes=_upload_bytes(setting) * (setting.clients - setting.dropouts),
        upload_cpu_s=min(each.upload_cpu_s for each in rounds),
        peak_mib=max(job.peak_mib for job in jobs),
        empty_call_s=last.empty_s,
        bare=min((stream for job in jobs for stream in job.bare), key=lambda stream: stream.server_cpu_s),
        exact=all(job.exact for job in jobs),
    )


def _numbers(setting: Setting) -> range:
    return range(1, setting.repeats + 1)


def _upload_bytes(setting: Setting) -> int:
    words = contribution_words(setting.coordinates, COUNTERS)
    return ring.packed_bytes(words, word_bits(setting.clients, setting.bits))


def _empty_call_s(admin: Connection) -> float:
    """The median of some calls that ask how a federation without a job stands."""
    taken = []
    admin.status()
    for _ in range(_EMPTY_CALLS):
        begin = time.perf_counter()
        admin.status()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def is_true(setting: Setting, published: NDArray[np.float64], steps: NDArray[np.int64]) -> bool:
    """Whether a published sum is the survivors', as integers of the grid."""
    grid, survivors = FixedPoint(BOUND, setting.bits), setting.clients - setting.dropouts
    found = np.rint((published + survivors * grid.bound) / grid.step).astype(np.int64)
    return bool(np.array_equal(found, steps))
