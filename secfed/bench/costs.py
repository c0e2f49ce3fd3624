"""What a measured sum cost: each stage and part as a line, beside its floor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from secfed.bench.cohort import Setting
from secfed.bench.figures import MIB, Figure, ratio
from secfed.bench.limits import Rates
from secfed.bench.meter import Reading
from secfed.bench.seats import ENCODE, SUM
from secfed.encoding import ring
from secfed.encoding.contribution import contribution_words
from secfed.encoding.fixedpoint import word_bits
from secfed.rounds.proposal import COUNTERS
from secfed.secagg.messages import Phase
from secfed.secagg.params import Params

__all__ = ["KERNEL_PARTS", "TOTAL", "UNTIL_SENT", "Bill"]

UNTIL_SENT, TOTAL = "until sent", "total"
"""All that a client does until its vector is ready to leave; and all that a side does."""

KERNEL_PARTS = ("quantise", "key agreement", "Shamir", "AEAD", "commitments", "masks")
"""What a client cannot do without until its vector is sent, whatever is sent and signed around it."""

_OF_MASKS = ("masks: keystream, at the limit", "masks: add")
"""What `masks` consist of."""

_UNTIL_SENT = (
    ENCODE,
    *(phase.value for phase in (Phase.ADVERTISE, Phase.ENCAPSULATE, Phase.SHARE, Phase.MASK)),
)

_SLACK_BYTES, _SLACK_A_NEIGHBOUR = 25 << 10, 1331
"""25 KiB and 1.3 KiB a neighbour: what an upload may take beside the packed vector, with 1 % of that."""

_PEAK_VECTORS, _PEAK_BYTES, _PEAK_AN_EDGE = 3, 64 * MIB, 1536
"""What the aggregator may hold: so many vectors of 4 d bytes, 64 MiB, and 1.5 KiB a member and neighbour."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What the rounds of a setting cost.

    Attributes:
        client: Readings by stage, round by round; the last round was profiled.
        aggregator: Likewise.
        client_rates: The best of its process over all rounds; of the aggregator likewise.
        exact: Whether every sum was that of the survivors' vectors, bit for bit.
    """

    setting: Setting
    params: Params
    client: Sequence[dict[str, Reading]] = field(repr=False)
    aggregator: Sequence[dict[str, Reading]] = field(repr=False)
    client_rates: Rates
    aggregator_rates: Rates
    exact: bool

    # -- sizes ---------------------------------------------------------------------------------

    @property
    def stream_bytes(self) -> int:
        """4 d: one keystream, or one vector in memory, with all that travels beside the coordinates."""
        return 4 * contribution_words(self.setting.coordinates, COUNTERS)

    @property
    def survivors(self) -> int:
        """S, whose vectors are in the sum."""
        return self.setting.clients - self.setting.dropouts

    @property
    def leftover_masks(self) -> int:
        """Streams that are left in the sum of the survivors' vectors: S of their own, and D k' of edges."""
        setting = self.setting
        edges = setting.dropouts * self.params.neighbours * self.survivors / (setting.clients - 1)
        return self.survivors + round(edges)

    @property
    def upload_bytes(self) -> int:
        """What one client sends in all."""
        return sum(reading.bytes_up for reading in _cheapest(self.client).values())

    @property
    def upload_limit_bytes(self) -> int:
        """B / 8 d, 1 % of it, 25 KiB, and 1.3 KiB a neighbour."""
        bits = word_bits(self.setting.clients, self.setting.bits)
        vector = ring.packed_bytes(self.setting.coordinates, bits)
        return round(1.01 * vector) + _SLACK_BYTES + _SLACK_A_NEIGHBOUR * self.params.neighbours

    @property
    def peak_mib(self) -> float:
        """Most memory that the aggregator held above its idle process, in any round."""
        return max(reading.peak_mib for cost in self.aggregator for reading in cost.values())

    @property
    def peak_limit_mib(self) -> float:
        """3 vectors, 64 MiB, and 1.5 KiB a member and neighbour."""
        edges = self.setting.clients * self.params.neighbours
        return (_PEAK_VECTORS * self.stream_bytes + _PEAK_BYTES + _PEAK_AN_EDGE * edges) / MIB

    # -- floors --------------------------------------------------------------------------------

    @property
    def client_floor_s(self) -> float:
        """k + 1 keystreams."""
        neighbours = self.params.neighbours
        return (neighbours + 1) * self.stream_bytes / self.client_rates.keystream

    @property
    def aggregator_floor_s(self) -> float:
        """S additions, and the keystreams that are left over."""
        return self._add_floor_s + self._unmask_floor_s

    @property
    def _add_floor_s(self) -> float:
        return self.survivors * self.stream_bytes / self.aggregator_rates.add

    @property
    def _unmask_floor_s(self) -> float:
        return self.leftover_masks * self.stream_bytes / self.aggregator_rates.keystream

    # -- ratios that targets speak of ----------------------------------------------------------

    @property
    def client_ratio(self) -> float:
        """All that a client does until its vector is sent, as a multiple of its floor."""
        cost = _sum(_cheapest(self.client), _UNTIL_SENT)
        return cost.cpu_s / self.client_floor_s

    @property
    def client_kernel_ratio(self) -> float:
        """Rounding, keys, shares and masks alone, without packing, hashing, signatures, messages and disk.

        From the round that was profiled.
        """
        return sum(self.client_kernel_parts().values())

    @property
    def aggregator_ratio(self) -> float:
        """Opening the sum as a multiple of its floor."""
        return min(cost[SUM].cpu_s for cost in self.aggregator) / self.aggregator_floor_s

    # -- what these ratios consist of ----------------------------------------------------------

    def client_parts(self) -> dict[str, float]:
        """Each kind of work until the vector is sent, as a multiple of the client's floor.

        From the round that was profiled, like all that follows: together a little more than the ratio.
        """
        spent = _by_part(self.client[-1][stage] for stage in _UNTIL_SENT)
        return _apart(spent, self.client_floor_s, masks_s=self.client_floor_s)

    def client_kernel_parts(self) -> dict[str, float]:
        """The same of rounding, keys, shares and masks alone."""
        kernel = {*KERNEL_PARTS, *_OF_MASKS}
        return {name: multiple for name, multiple in self.client_parts().items() if name in kernel}

    def aggregator_parts(self) -> dict[str, float]:
        """Each kind of work on opening the sum, as a multiple of the aggregator's floor."""
        spent = _by_part([self.aggregator[-1][SUM]])
        return _apart(spent, self.aggregator_floor_s, masks_s=self._unmask_floor_s)

    def receiving_parts_s(self) -> dict[str, float]:
        """Each kind of the aggregator's work on all uploads, without the network; processor seconds."""
        return _by_part([self.aggregator[-1][Phase.MASK.value]])

    def upload_parts(self) -> dict[str, float]:
        """Each stage's bytes as a share of what an upload may have."""
        cost = _cheapest(self.client)
        return {stage: reading.bytes_up / self.upload_limit_bytes for stage, reading in cost.items()}

    def peak_parts(self) -> dict[str, float]:
        """The most that each stage held in any round as a share of what may be held; no sum of anything."""
        return {
            stage: max(cost[stage].peak_mib for cost in self.aggregator) / self.peak_limit_mib
            for stage in self.aggregator[-1]
        }

    # -- lines ---------------------------------------------------------------------------------

    def figures(self) -> Iterator[Figure]:
        """Every stage with its parts, the client first."""
        yield from self._side("client", self.client)
        yield from self._side("aggregator", self.aggregator)

    def _side(self, side: str, rounds: Sequence[dict[str, Reading]]) -> Iterator[Figure]:
        cost, profiled = _cheapest(rounds), rounds[-1]
        for stage, reading in cost.items():
            yield self._figure(stage, side, reading)
            for part, spent in self._parts(stage, side, profiled[stage]):
                floor = self._part_floor_s(stage, side, part)
                yield Figure(stage, side, part, spent, floor_s=floor, ratio=ratio(spent, floor))
        if side == "client":
            yield self._figure(UNTIL_SENT, side, _sum(cost, _UNTIL_SENT))
        yield self._figure(TOTAL, side, _sum(cost, cost))

    def _figure(self, stage: str, side: str, reading: Reading) -> Figure:
        floor = self._floor_s(stage, side)
        return Figure(
            stage, side, cpu_s=reading.cpu_s, wall_s=reading.wall_s,
            bytes_up=reading.bytes_up, bytes_down=reading.bytes_down, peak_mib=reading.peak_mib,
            floor_s=floor, ratio=ratio(reading.cpu_s, floor),
        )  # fmt: skip

    def _floor_s(self, stage: str, side: str) -> float | None:
        if side == "client" and stage in (Phase.MASK.value, UNTIL_SENT):
            return self.client_floor_s
        if side == "aggregator" and stage == SUM:
            return self.aggregator_floor_s
        return None

    def _part_floor_s(self, stage: str, side: str, part: str) -> float | None:
        if side == "aggregator" and stage == SUM:
            return {"masks": self._unmask_floor_s, "unpack and add": self._add_floor_s}.get(part)
        return self.client_floor_s if side == "client" and part == "masks" else None

    def _parts(self, stage: str, side: str, reading: Reading) -> Iterator[tuple[str, float]]:
        """Kinds of work, the dearest first; the masks once more as keystream and what adding it took."""
        for part, spent in sorted(reading.parts_s().items(), key=lambda item: -item[1]):
            yield part, spent
            floor = self._part_floor_s(stage, side, part) if part == "masks" else None
            if floor is not None:
                yield from zip(_OF_MASKS, _halves(spent, floor), strict=True)


def _cheapest(rounds: Sequence[dict[str, Reading]]) -> dict[str, Reading]:
    """The round that cost least; without the one that was profiled, if there is another."""
    plain = rounds[:-1] or rounds
    return min(plain, key=lambda cost: sum(reading.cpu_s for reading in cost.values()))


def _sum(cost: dict[str, Reading], stages: Sequence[str] | dict[str, Reading]) -> Reading:
    """Several stages as one; memory is the most of any."""
    chosen = [cost[stage] for stage in stages]
    return Reading(
        cpu_s=sum(reading.cpu_s for reading in chosen),
        wall_s=sum(reading.wall_s for reading in chosen),
        bytes_up=sum(reading.bytes_up for reading in chosen),
        bytes_down=sum(reading.bytes_down for reading in chosen),
        peak_mib=max(reading.peak_mib for reading in chosen),
    )


def _by_part(readings: Iterable[Reading]) -> dict[str, float]:
    """Processor seconds of several stages by kind of work."""
    spent: dict[str, float] = defaultdict(float)
    for reading in readings:
        for part, seconds in reading.parts_s().items():
            spent[part] += seconds
    return dict(spent)


def _apart(spent: dict[str, float], floor_s: float, *, masks_s: float) -> dict[str, float]:
    """Multiples of a floor, the masks as keystream and addition; `masks_s` is the keystream's own floor."""
    halves = dict(zip(_OF_MASKS, _halves(spent.get("masks", 0.0), masks_s), strict=True))
    whole = halves | {name: seconds for name, seconds in spent.items() if name != "masks"}
    return {name: seconds / floor_s for name, seconds in whole.items()}


def _halves(masks_s: float, floor_s: float) -> tuple[float, float]:
    """What masking took, as keystream at the machine's limit and the rest."""
    return min(masks_s, floor_s), max(0.0, masks_s - floor_s)
