"""What rounds over the network cost: where a client's wall time went, and what a byte cost the aggregator.

Each client's time, from the request that opens the attempt to the news of its end, is split in
three. *Protocol* is its own computing and its own disk. *Wire* is an upload until its last piece
was taken over by gRPC, which holds back no more than a window, and for every other call as much
as an empty one takes. The rest is *waiting*: for other members, and for the aggregator's work.
All parties share this machine's cores, so protocol and wire hold what they wait for each other.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from secfed.bench.bare import Stream
from secfed.bench.figures import Figure

__all__ = ["Journey", "RoundTrip"]

_ROUND = "round"

_SHOWN_FROM_S = 0.2
"""Processor seconds of all uploads from which on their ratio says something."""


@dataclass(frozen=True, slots=True)
class Journey:
    """One client's wall time in one round, seconds."""

    wall_s: float
    protocol_s: float
    wire_s: float

    @property
    def waiting_s(self) -> float:
        """What neither it nor its bytes took."""
        return max(0.0, self.wall_s - self.protocol_s - self.wire_s)


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """What rounds over the network cost.

    Attributes:
        journeys: Of every client in the quickest round.
        wall_s: Of that round, from the first request to the last member that heard of its end.
        aggregator_cpu_s: Its processor seconds in that round.
        upload_cpu_s: Its processor seconds from the first upload's begin to the last one's end; the least
            of all rounds.
        peak_mib: Most memory that it held above its idle process, in all rounds.
        empty_call_s: What a call takes that asks for nothing.
        bare: The bare stream of the same bytes, the cheaper of before and after.
        exact: Whether every published sum is the true one, to the last step of the grid.
    """

    journeys: tuple[Journey, ...] = field(repr=False)
    wall_s: float
    aggregator_cpu_s: float
    uploaded_bytes: int
    upload_cpu_s: float
    peak_mib: float
    empty_call_s: float
    bare: Stream
    exact: bool

    @property
    def cpu_s_per_gb(self) -> float:
        """Server processor seconds for each uploaded 1e9 bytes."""
        return self.upload_cpu_s / self.uploaded_bytes * 1e9

    @property
    def ratio(self) -> float:
        """The same as a multiple of the bare stream's."""
        return self.cpu_s_per_gb / self.bare.cpu_s_per_gb

    @property
    def ratio_shown(self) -> float | None:
        """The ratio; None where uploads were so little work that what else the daemon does shows in it."""
        return self.ratio if self.upload_cpu_s >= _SHOWN_FROM_S else None

    def shares(self) -> dict[str, float]:
        """Which part of a client's time was protocol, wire and waiting, over all clients."""
        whole = sum(journey.wall_s for journey in self.journeys)
        return {name: sum(taken) / whole for name, taken in self._parts().items()}

    def figures(self) -> Iterator[Figure]:
        """The round and its three parts for the clients (medians), and two lines of the aggregator."""
        yield Figure(_ROUND, "client", wall_s=statistics.median(journey.wall_s for journey in self.journeys))
        for part, taken in self._parts().items():
            yield Figure(_ROUND, "client", part, wall_s=statistics.median(taken))
        yield Figure(
            _ROUND, "aggregator", cpu_s=self.aggregator_cpu_s, wall_s=self.wall_s, peak_mib=self.peak_mib
        )
        floor = self.bare.cpu_s_per_gb * self.uploaded_bytes / 1e9
        yield Figure(
            "upload", "aggregator", cpu_s=self.upload_cpu_s, bytes_up=self.uploaded_bytes, floor_s=floor,
            ratio=self.ratio_shown,
        )  # fmt: skip

    def _parts(self) -> dict[str, list[float]]:
        """The three parts of every client's time, seconds."""
        return {
            "protocol": [journey.protocol_s for journey in self.journeys],
            "wire": [journey.wire_s for journey in self.journeys],
            "waiting": [journey.waiting_s for journey in self.journeys],
        }
