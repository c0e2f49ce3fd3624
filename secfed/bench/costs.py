"""What a measured sum cost: each stage and part as a line, beside its floor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from secfed.bench.cohort import Setting
from secfed.bench.figures import MIB, Figure, ratio
from secfed.bench.floors import Bare, Kernel
from secfed.bench.limits import Rates
from secfed.bench.meter import Reading
from secfed.bench.seats import ENCODE, SUM
from secfed.encoding import ring
from secfed.encoding.contribution import contribution_words
from secfed.encoding.fixedpoint import word_bits
from secfed.rounds.proposal import COUNTERS
from secfed.secagg.messages import Phase
from secfed.secagg.params import Params

__all__ = ["KERNEL_PARTS", "TOTAL", "UNTIL_SENT", "Bill", "Floors", "Side", "leftover_masks", "stream_bytes"]

UNTIL_SENT, TOTAL = "until sent", "total"
"""All that a client does until its vector is ready to leave; and all that a side does."""

KERNEL_PARTS = ("quantise", "key agreement", "Shamir", "AEAD", "commitments", "masks")
"""What a client cannot do without until its vector is sent, whatever is sent and signed around it."""

_KEYSTREAM, _ADD, _REST = "masks: keystream", "masks: add", "masks: rest"
"""What `masks` consist of: the kernel's two halves, timed by themselves, and what the round took beside."""

_UNTIL_SENT = (
    ENCODE,
    *(phase.value for phase in (Phase.ADVERTISE, Phase.ENCAPSULATE, Phase.SHARE, Phase.MASK)),
)

_SLACK_BYTES, _SLACK_A_NEIGHBOUR = 25 << 10, 1331
"""25 KiB and 1.3 KiB a neighbour: what an upload may take beside the packed vector, with 1 % of that."""

_PEAK_VECTORS, _PEAK_BYTES, _PEAK_AN_EDGE = 3, 64 * MIB, 1536
"""What the aggregator may hold: so many vectors of 4 d bytes, 64 MiB, and 1.5 KiB a member and neighbour."""


@dataclass(frozen=True, slots=True)
class Floors:
    """What whole stages, and parts in them, must take by the protocol alone; processor seconds.

    Where nothing is said, the bare primitives of a part are its floor, and those of all parts the stage's.
    """

    stages: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Side:
    """What a client, or the aggregator, took.

    Attributes:
        rounds: Readings by stage, round by round; the last round was profiled.
        rates: The best of its process over all rounds.
        bare: What the primitives took there by themselves.
        kernel: What the mask kernel took there by itself, on as many masks.
    """

    rounds: Sequence[dict[str, Reading]] = field(repr=False)
    rates: Rates
    bare: Bare = field(default_factory=Bare)
    kernel: Kernel = field(default_factory=lambda: Kernel(0.0, 0.0))

    @property
    def cheapest(self) -> dict[str, Reading]:
        """The round that cost least; without the one that was profiled, if there is another."""
        plain = self.rounds[:-1] or self.rounds
        return min(plain, key=lambda cost: sum(reading.cpu_s for reading in cost.values()))

    @property
    def profiled(self) -> dict[str, Reading]:
        """The last round."""
        return self.rounds[-1]

    def parts_s(self, stages: Iterable[str]) -> dict[str, float]:
        """Processor seconds of several stages by kind of work, from the round that was profiled."""
        spent: dict[str, float] = defaultdict(float)
        for stage in stages:
            for part, seconds in self.profiled[stage].parts_s().items():
                spent[part] += seconds
        return dict(spent)

    def multiples(self, stages: Iterable[str], floor_s: float) -> dict[str, float]:
        """The same as multiples of a floor, the masks by what they consist of."""
        spent = self.parts_s(stages)
        masks_s = spent.pop("masks", 0.0)
        if masks_s:
            spent = self.masks_s(masks_s) | spent
        return {name: seconds / floor_s for name, seconds in spent.items()}

    def masks_s(self, spent_s: float) -> dict[str, float]:
        """What masking took in a round, by what it consists of.

        Where a busy machine made the kernel by itself dearer than the round, it is cut off there.
        """
        keystream = min(spent_s, self.kernel.keystream_s)
        add = min(spent_s - keystream, self.kernel.add_s)
        return {_KEYSTREAM: keystream, _ADD: add, _REST: spent_s - keystream - add}

    # -- lines ---------------------------------------------------------------------------------

    def figures(self, side: str, floors: Floors) -> Iterator[Figure]:
        """Every stage with its parts, the dearest part first, and all stages together."""
        cheapest, whole = self.cheapest, 0.0
        for stage, reading in cheapest.items():
            floor = self._stage_floor_s(stage, floors)
            whole += floor or 0.0
            yield _line(stage, side, reading, floor)
            parts = self.profiled[stage].parts_s() if self.profiled[stage].parts else {}
            for part, spent in sorted(parts.items(), key=lambda item: -item[1]):
                yield from self._part(stage, side, part, spent, floors)
        if side == "client":
            yield _line(UNTIL_SENT, side, total_of(cheapest, _UNTIL_SENT), floors.stages.get(UNTIL_SENT))
        yield _line(TOTAL, side, total_of(cheapest, cheapest), whole)

    def _part(self, stage: str, side: str, part: str, spent: float, floors: Floors) -> Iterator[Figure]:
        floor = self._part_floor_s(stage, part, floors)
        yield Figure(stage, side, part, spent, floor_s=floor, ratio=ratio(spent, floor))
        if part == "masks":
            size = (floor or 0.0) * self.rates.keystream
            beneath = {_KEYSTREAM: floor, _ADD: size / self.rates.add_in_cache}
            for name, seconds in self.masks_s(spent).items():
                limit = beneath.get(name)
                yield Figure(stage, side, name, seconds, floor_s=limit, ratio=ratio(seconds, limit))

    def _stage_floor_s(self, stage: str, floors: Floors) -> float | None:
        known = floors.stages.get(stage)
        if known is not None:
            return known
        reading = self.profiled[stage]
        return sum(self._part_floor_s(stage, part, floors) or 0.0 for part in reading.parts) or None

    def _part_floor_s(self, stage: str, part: str, floors: Floors) -> float | None:
        known = floors.parts.get((stage, part))
        return self.bare.floor_s(self.profiled[stage], part) if known is None else known


@dataclass(frozen=True, slots=True)
class Bill:
    """What the rounds of a setting cost.

    Attributes:
        exact: Whether every sum was that of the survivors' vectors, bit for bit.
    """

    setting: Setting
    params: Params
    client: Side
    aggregator: Side
    exact: bool

    # -- sizes ---------------------------------------------------------------------------------

    @property
    def stream_bytes(self) -> int:
        """4 d: one keystream, or one vector in memory, with all that travels beside the coordinates."""
        return stream_bytes(self.setting)

    @property
    def survivors(self) -> int:
        """S, whose vectors are in the sum."""
        return self.setting.clients - self.setting.dropouts

    @property
    def leftover_masks(self) -> int:
        """Streams that are left in the sum of the survivors' vectors: S of their own, and D k' of edges."""
        return leftover_masks(self.setting, self.params)

    @property
    def upload_bytes(self) -> int:
        """What one client sends in all."""
        return sum(reading.bytes_up for reading in self.client.cheapest.values())

    @property
    def upload_limit_bytes(self) -> int:
        """B / 8 d, 1 % of it, 25 KiB, and 1.3 KiB a neighbour."""
        bits = word_bits(self.setting.clients, self.setting.bits)
        vector = ring.packed_bytes(self.setting.coordinates, bits)
        return round(1.01 * vector) + _SLACK_BYTES + _SLACK_A_NEIGHBOUR * self.params.neighbours

    @property
    def peak_mib(self) -> float:
        """Most memory that the aggregator held above its idle process, in any round."""
        return max(reading.peak_mib for cost in self.aggregator.rounds for reading in cost.values())

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
        return (neighbours + 1) * self.stream_bytes / self.client.rates.keystream

    @property
    def aggregator_floor_s(self) -> float:
        """S additions, and the keystreams that are left over."""
        return self._add_floor_s + self._unmask_floor_s

    @property
    def _add_floor_s(self) -> float:
        return self.survivors * self.stream_bytes / self.aggregator.rates.add

    @property
    def _unmask_floor_s(self) -> float:
        return self.leftover_masks * self.stream_bytes / self.aggregator.rates.keystream

    # -- ratios that targets speak of ----------------------------------------------------------

    @property
    def client_ratio(self) -> float:
        """All that a client does until its vector is sent, as a multiple of its floor."""
        cost = total_of(self.client.cheapest, _UNTIL_SENT)
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
        return min(cost[SUM].cpu_s for cost in self.aggregator.rounds) / self.aggregator_floor_s

    # -- what these ratios consist of ----------------------------------------------------------

    def client_parts(self) -> dict[str, float]:
        """Each kind of work until the vector is sent, as a multiple of the client's floor.

        From the round that was profiled, like all that follows: together a little more than the ratio.
        """
        return self.client.multiples(_UNTIL_SENT, self.client_floor_s)

    def client_kernel_parts(self) -> dict[str, float]:
        """The same of rounding, keys, shares and masks alone."""
        kernel = {*KERNEL_PARTS, _KEYSTREAM, _ADD, _REST}
        return {name: multiple for name, multiple in self.client_parts().items() if name in kernel}

    def aggregator_parts(self) -> dict[str, float]:
        """Each kind of work on opening the sum, as a multiple of the aggregator's floor."""
        return self.aggregator.multiples([SUM], self.aggregator_floor_s)

    def receiving_parts_s(self) -> dict[str, float]:
        """Each kind of the aggregator's work on all uploads, without the network; processor seconds."""
        return self.aggregator.parts_s([Phase.MASK.value])

    def upload_parts(self) -> dict[str, float]:
        """Each stage's bytes as a share of what an upload may have."""
        cost = self.client.cheapest
        return {stage: reading.bytes_up / self.upload_limit_bytes for stage, reading in cost.items()}

    def peak_parts(self) -> dict[str, float]:
        """The most that each stage held in any round as a share of what may be held; no sum of anything."""
        return {
            stage: max(cost[stage].peak_mib for cost in self.aggregator.rounds) / self.peak_limit_mib
            for stage in self.aggregator.profiled
        }

    # -- lines ---------------------------------------------------------------------------------

    def figures(self) -> Iterator[Figure]:
        """Every stage with its parts, the client first."""
        mask, client = Phase.MASK.value, self.client_floor_s
        yield from self.client.figures(
            "client", Floors({mask: client, UNTIL_SENT: client}, {(mask, "masks"): client})
        )
        parts = {(SUM, "masks"): self._unmask_floor_s, (SUM, "unpack and add"): self._add_floor_s}
        yield from self.aggregator.figures("aggregator", Floors({SUM: self.aggregator_floor_s}, parts))


def stream_bytes(setting: Setting) -> int:
    """4 d: one keystream, or one vector in memory, with all that travels beside the coordinates."""
    return 4 * contribution_words(setting.coordinates, COUNTERS)


def leftover_masks(setting: Setting, params: Params) -> int:
    """Streams that are left in the sum of the survivors' vectors: S of their own, and D k' of edges."""
    survivors = setting.clients - setting.dropouts
    return survivors + round(setting.dropouts * params.neighbours * survivors / (setting.clients - 1))


def total_of(cost: Mapping[str, Reading], stages: Iterable[str]) -> Reading:
    """Several stages as one; memory is the most of any."""
    chosen = [cost[stage] for stage in stages]
    return Reading(
        cpu_s=sum(reading.cpu_s for reading in chosen),
        wall_s=sum(reading.wall_s for reading in chosen),
        bytes_up=sum(reading.bytes_up for reading in chosen),
        bytes_down=sum(reading.bytes_down for reading in chosen),
        peak_mib=max(reading.peak_mib for reading in chosen),
    )


def _line(stage: str, side: str, reading: Reading, floor: float | None) -> Figure:
    return Figure(
        stage, side, cpu_s=reading.cpu_s, wall_s=reading.wall_s,
        bytes_up=reading.bytes_up, bytes_down=reading.bytes_down, peak_mib=reading.peak_mib,
        floor_s=floor or None, ratio=ratio(reading.cpu_s, floor),
    )  # fmt: skip
