"""A round over loopback with mutual TLS: a real aggregator, real connections, and bare streams beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secfed.bench.bare import Sink
from secfed.bench.cohort import ADMIN, AGGREGATOR, BOUND, Setting
from secfed.bench.daemon import Daemon
from secfed.bench.federation import Federation
from secfed.bench.roundtrip import RoundTrip
from secfed.bench.timed_clients import play
from secfed.encoding import ring
from secfed.encoding.contribution import contribution_words
from secfed.encoding.fixedpoint import FixedPoint, word_bits
from secfed.rounds.proposal import COUNTERS
from secfed.transport.client import Connection

__all__ = ["measure"]

_EMPTY_CALLS = 20
"""Their median is what a call takes that asks for nothing."""


def measure(setting: Setting, folder: Path, tell: Callable[[str], None] = lambda _: None) -> RoundTrip:
    """Run a job's rounds over loopback.

    Args:
        setting: Dropouts, losses and threads do not count: nobody is lost, and the daemon chooses the rest.
        folder: An empty folder for all files.
        tell: Hears where the measurement stands.

    Raises:
        NetworkError: A member or the aggregator came to no end.
    """
    size = _upload_bytes(setting)
    with ExitStack() as stack:
        federation = Federation(setting, folder)
        daemon = stack.enter_context(Daemon(federation.write_config()))
        tell("vectors")
        steps = np.zeros(setting.coordinates, np.int64)
        for site in federation.sites:
            steps += federation.write_vector(site)
        tell("bare streams")
        keys = federation.keys
        sink = stack.enter_context(Sink(keys[AGGREGATOR], keys[federation.sites[0]]))
        bare = [sink.take(size, setting.clients)]
        with federation.connection(ADMIN, daemon.address) as admin:
            empty_s = _empty_call_s(admin)
            tell("rounds")
            rounds = play(federation, daemon, lambda: admin.start_job(federation.job()))
        bare.append(sink.take(size, setting.clients))
        numbers = range(1, setting.repeats + 1)
        exact = all(_is_true(setting, federation.published(number), steps) for number in numbers)
        peak = daemon.peak_mib
    quickest = min(rounds, key=lambda each: each.wall_s)
    return RoundTrip(
        journeys=quickest.journeys(empty_s),
        wall_s=quickest.wall_s,
        aggregator_cpu_s=quickest.cpu_s,
        uploaded_bytes=size * setting.clients,
        upload_cpu_s=min(each.upload_cpu_s for each in rounds),
        peak_mib=peak,
        empty_call_s=empty_s,
        bare=min(bare, key=lambda stream: stream.server_cpu_s),
        exact=exact,
    )


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


def _is_true(setting: Setting, published: NDArray[np.float64], steps: NDArray[np.int64]) -> bool:
    """Whether a published sum is the true one, as integers of the grid."""
    grid = FixedPoint(BOUND, setting.bits)
    found = np.rint((published + setting.clients * grid.bound) / grid.step).astype(np.int64)
    return bool(np.array_equal(found, steps))
