"""What rounds over the network cost: where a client's wall time went, and what a byte cost the aggregator.

Each client's time, from the request that opens the attempt to the news of its end, is split in
three. *Protocol* is its own computing and its own disk. *Wire* is an upload until its last piece
was taken over by gRPC, which holds back no more than a window, and for every other call as much
as an empty one takes. The rest is *waiting*: for other members, and for the aggregator's work.
All parties share this machine's cores, so protocol and wire hold what they wait for each other.

Both sides are told apart by stage. Of the client that is a process of its own a stage goes from a
request to the next; of the aggregator, which is the operator's own process, from the first client
that hears of a stage to the first that hears of the next. Where members are lost, `mask` holds the
time in which nobody says anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from secfed.bench.bare import Stream
from secfed.bench.cohort import Setting
from secfed.bench.costs import UNTIL_SENT, Floors, Side, leftover_masks, stream_bytes
from secfed.bench.figures import Figure
from secfed.bench.meter import Reading
from secfed.bench.seats import OPEN
from secfed.secagg.messages import Phase
from secfed.secagg.params import Params

__all__ = ["OUTCOME", "ROUND", "UNMASK_AND_SUM", "Journey", "RoundTrip"]

ROUND, OUTCOME, UNMASK_AND_SUM = "round", "outcome", "unmask and sum"
"""The whole; the news of its end and the countersignature; what the aggregator does before it has any."""

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
        params: Of the cohort.
        client: Of the one that is a process of its own, with the primitives there.
        rounds: The aggregator's readings by stage, round by round.
        journeys: Of every client that came to an end, in the quickest round.
        wall_s: Of that round, from the first request to the last member that heard of its end.
        aggregator_cpu_s: Its processor seconds in that round.
        uploaded_bytes: Vectors of all survivors.
        upload_cpu_s: Its processor seconds from the first upload's begin until all were whole; the least
            of all rounds.
        peak_mib: Most memory that it held above its idle process, in all rounds.
        empty_call_s: What a call takes that asks for nothing.
        bare: The bare stream of the same bytes, the cheaper of before and after.
        exact: Whether every published sum is that of the survivors' vectors, to the last step of the grid.
    """

    setting: Setting
    params: Params
    client: Side = field(repr=False)
    rounds: Sequence[dict[str, Reading]] = field(repr=False)
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
        """Every stage of both sides; then the round in its three parts (medians), and the uploads."""
        mask, floor = Phase.MASK.value, (self.params.neighbours + 1) * stream_bytes(self.setting)
        client = floor / self.client.rates.keystream
        yield from self.client.figures(
            "client", Floors({mask: client, UNTIL_SENT: client}, {(mask, "masks"): client})
        )
        aggregator = Side(self.rounds, self.client.rates)
        yield from aggregator.figures("aggregator", Floors(self._aggregator_floors_s()))
        yield Figure(ROUND, "client", wall_s=statistics.median(journey.wall_s for journey in self.journeys))
        for part, taken in self._parts().items():
            yield Figure(ROUND, "client", part, wall_s=statistics.median(taken))
        yield Figure(
            ROUND, "aggregator", cpu_s=self.aggregator_cpu_s, wall_s=self.wall_s, peak_mib=self.peak_mib
        )
        yield Figure(
            "upload", "aggregator", cpu_s=self.upload_cpu_s, bytes_up=self.uploaded_bytes,
            floor_s=self._wire_floor_s, ratio=self.ratio_shown,
        )  # fmt: skip

    @property
    def _wire_floor_s(self) -> float:
        return self.bare.cpu_s_per_gb * self.uploaded_bytes / 1e9

    def _aggregator_floors_s(self) -> dict[str, float]:
        """Two signatures a message, of its hello and what it says; the bare stream; the sum's own floor."""
        setting, rates, clients = self.setting, self.client.rates, self.setting.clients
        verify = self.client.bare.call_s["signed.open_"]
        survivors = clients - setting.dropouts
        masks = leftover_masks(setting, self.params)
        opening = stream_bytes(setting) * (survivors / rates.add + masks / rates.keystream)
        return {
            OPEN: clients * verify,
            **{
                phase.value: 2 * clients * verify
                for phase in (Phase.ADVERTISE, Phase.ENCAPSULATE, Phase.SHARE)
            },
            Phase.MASK.value: 2 * survivors * verify + self._wire_floor_s,
            Phase.CONFIRM.value: 2 * survivors * verify,
            UNMASK_AND_SUM: 2 * survivors * verify + opening,
            OUTCOME: 2 * survivors * verify,
        }

    def _parts(self) -> dict[str, list[float]]:
        """The three parts of every client's time, seconds."""
        return {
            "protocol": [journey.protocol_s for journey in self.journeys],
            "wire": [journey.wire_s for journey in self.journeys],
            "waiting": [journey.waiting_s for journey in self.journeys],
        }
