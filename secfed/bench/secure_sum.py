"""A secure sum measured stage by stage, on both sides, and held against the truth.

One client and the aggregator are processes of their own, which time themselves (`seats`). All
other clients live in this process: real sessions, whose messages the aggregator verifies like
any, but whose cost counts nowhere. So they may save each other work: what one of them has parsed
or verified, the next takes from it; and each makes its vector when it is asked for it. Memory
stays bounded: uploads lie in the aggregator's spool, and nothing else here grows with n d.

A floor is what this machine's keystream and additions of the same run allow: a client draws k + 1
keystreams of 4 d bytes; the aggregator adds S vectors and draws S + D k' keystreams, for S survivors
and D dropouts with k' surviving neighbours each.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secfed.bench.cohort import Cohort, Setting, gather
from secfed.bench.costs import Bill, Side, leftover_masks
from secfed.bench.limits import Rates
from secfed.bench.meter import Reading
from secfed.bench.processes import Apart
from secfed.bench.seats import AggregatorSeat, ClientSeat, reply_of
from secfed.crypto import agreement, signing
from secfed.encoding import ring
from secfed.encoding.fixedpoint import word_bits
from secfed.errors import InfeasibleCohortError, StorageError
from secfed.identity import membership
from secfed.identity.roles import Role
from secfed.identity.roster import DEFAULT_MIN_COHORT
from secfed.ids import MemberIndex
from secfed.rounds.exchange import Told
from secfed.secagg.client import ClientSession
from secfed.secagg.messages import Phase, S
from secfed.secagg.params import COMPLETE_GRAPH_MAX, Params
from secfed.wire import sums
from secfed.wire.codec import ProtoCodec

__all__ = ["check_feasible", "measure", "params_of", "true_total"]

_SPARE = 1.1
"""What an upload takes on disk besides its bytes, with a margin."""


def measure(setting: Setting, folder: Path, tell: Callable[[str], None] = lambda _: None) -> Bill:
    """Run the rounds of a setting.

    Args:
        folder: An empty folder, for both seats' files: n vectors are written to it.
        tell: Hears where the measurement stands.

    Raises:
        InfeasibleCohortError: So few members cannot be defended, or not with so many lost.
        EncodingError: The words would be wider than 32 bits.
        StorageError: The uploads do not fit on the disk.
    """
    check_feasible(setting)
    _check_disk(setting, folder)
    cohort = gather(setting, os.urandom(32))
    members = tuple(map(MemberIndex, range(setting.clients)))
    measured = members[len(members) // 2]
    for name in ("client", "aggregator"):
        (folder / name).mkdir(mode=0o700)
    with (
        Apart(AggregatorSeat, cohort, folder / "aggregator") as aggregator,
        Apart(ClientSeat, cohort, measured, folder / "client") as client,
        _shared_work(),
    ):
        crowd = _Crowd(cohort, [member for member in members if member != measured])
        rounds: list[_Round] = []
        for number in range(1, setting.repeats + 1):
            if number == setting.repeats:
                for seat in (aggregator, client):
                    seat.call("profile")
            stage = _Round(cohort, aggregator, client, crowd, measured, number)
            stage.play(tell)
            rounds.append(stage)
        tell("primitives by themselves")
        params, length = rounds[0].params, rounds[0].length
        masks = leftover_masks(setting, params)
        return Bill(
            setting,
            params,
            Side(
                [each.client_cost for each in rounds],
                functools.reduce(Rates.best, (each.client_rates for each in rounds)),
                client.call("bare", params),
                client.call("kernel", length, params.neighbours + 1),
            ),
            Side(
                [each.aggregator_cost for each in rounds],
                functools.reduce(Rates.best, (each.aggregator_rates for each in rounds)),
                aggregator.call("bare", params),
                aggregator.call("kernel", length, masks, setting.threads),
            ),
            exact=all(each.exact for each in rounds),
        )


def check_feasible(setting: Setting) -> None:
    """Before anything is made: whether such a cohort exists, and survives what is to be lost."""
    if setting.losses is not None and setting.clients <= COMPLETE_GRAPH_MAX:
        raise InfeasibleCohortError(
            f"how many of {setting.clients} members may be lost follows from their number",
            hint=f"Leave out --losses: it is for more than {COMPLETE_GRAPH_MAX} clients.",
        )
    params = params_of(setting)
    if setting.dropouts > params.losses:
        raise InfeasibleCohortError(
            f"{setting.dropouts} members are to be lost, and an attempt of {params.clients} survives "
            f"{params.losses}",
            hint=_remedy(setting, params),
        )


def params_of(setting: Setting) -> Params:
    """The numbers that follow from a cohort's size."""
    corrupt = membership.default_corrupt(setting.clients) if setting.corrupt is None else setting.corrupt
    return Params.of(setting.clients, corrupt, min_cohort=DEFAULT_MIN_COHORT, losses=setting.losses)


def _remedy(setting: Setting, params: Params) -> str:
    """What to change where more are to be lost than may be."""
    if params.on_ring:
        return f"Size the ring for them with --losses {setting.dropouts}, or measure fewer dropouts."
    return "Measure fewer dropouts, or fewer corrupt members with --corrupt."


def _check_disk(setting: Setting, folder: Path) -> None:
    bits = word_bits(setting.clients, setting.bits)
    vectors = setting.clients - setting.dropouts
    needed = int(_SPARE * vectors * ring.packed_bytes(setting.coordinates, bits))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{vectors} uploads take {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free",
            hint="Name a larger disk with --dir, or measure fewer clients or coordinates.",
        )


# -- everybody else ----------------------------------------------------------------------------


class _SharingCodec(ProtoCodec):
    """What was parsed for one is the same object for the next."""

    def __init__(self) -> None:
        self._parsed: dict[tuple[type, bytes], object] = {}

    def decode(self, kind: type[S], data: bytes) -> S:
        """As the codec itself; an object for each statement."""
        found = self._parsed.get((kind, data))
        if not isinstance(found, kind):
            found = self._parsed[kind, data] = super().decode(kind, data)
        return found

    def forget(self) -> None:
        """Nothing is kept from one round to the next."""
        self._parsed.clear()


@contextmanager
def _shared_work() -> Iterator[None]:
    """In this process, verify each signature and check each key once, whoever asks."""
    where = ((vars(signing), "verify"), (vars(agreement), "check_public"))
    shared = [(names, name, names[name]) for names, name in where]
    for names, name, function in shared:
        names[name] = functools.cache(function)
    try:
        yield
    finally:
        for names, name, function in shared:
            names[name] = function


_parsed_for_all = functools.lru_cache(maxsize=2)(sums.decode_told)
"""Requests that everybody gets alike are parsed once."""


@dataclass(slots=True)
class _Late:
    """A vector that is made when it is asked for, and is then entered in the true sum."""

    cohort: Cohort
    member: MemberIndex
    true_sum: NDArray[np.uint32] = field(repr=False)

    def words(self) -> NDArray[np.uint32]:
        """The encoded vector."""
        made = self.cohort.encoded(self.member, self.cohort.coordinates(self.member))
        ring.add_into(self.true_sum, made)
        return made

    def mark_sent(self, attempt: int) -> None:
        """Nothing: the ledger belongs to training."""


class _Memory:
    """Write-once decisions without a disk: nobody here comes back after a crash."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def put(self, key: str, value: bytes) -> None:
        """Store."""
        self._values[key] = value

    def get(self, key: str) -> bytes | None:
        """The value, or None."""
        return self._values.get(key)

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """All pairs whose key begins with `prefix`, sorted by key."""
        return sorted(pair for pair in self._values.items() if pair[0].startswith(prefix))


class _Crowd:
    """All clients but the one that is measured.

    Attributes:
        true_sum: Of the vectors that were asked for in this round.
    """

    def __init__(self, cohort: Cohort, members: list[MemberIndex]) -> None:
        self._cohort, self.members = cohort, members
        self._codec = _SharingCodec()
        self._roster = cohort.roster()
        self._job = cohort.job(self._roster)
        self._keys = {each.site: each.identity_key for each in self._roster.active(Role.CLIENT)}
        self._sessions: dict[MemberIndex, ClientSession] = {}
        self.true_sum = np.zeros(0, np.uint32)

    def offer(self, number: int) -> None:
        """Everybody is ready for a round."""
        self._codec.forget()
        terms = self._cohort.terms(self._roster, self._job, number)
        self.true_sum = np.zeros(terms.length, np.uint32)
        for member in self.members:
            us = self._cohort.membership(member, self._keys, self._codec, _Memory())
            session = self._sessions[member] = ClientSession()
            session.offer(us, terms, _Late(self._cohort, member, self.true_sum))

    def hear(self, member: MemberIndex, phase: Phase, data: bytes) -> list[bytes]:
        """One member's reply."""
        told: Told = (sums.decode_told if phase in (Phase.SHARE, Phase.MASK) else _parsed_for_all)(data)
        return reply_of(self._sessions[member], told)

    def drop(self, member: MemberIndex) -> None:
        """Nothing more comes from this one."""
        del self._sessions[member]


# -- a round -----------------------------------------------------------------------------------


class _Round:
    """One attempt, from the offer to the opened sum; what it cost, and whether the sum is the true one."""

    def __init__(
        self,
        cohort: Cohort,
        aggregator: Apart,
        client: Apart,
        crowd: _Crowd,
        measured: MemberIndex,
        number: int,
    ) -> None:
        self._cohort, self._aggregator, self._client, self._crowd = cohort, aggregator, client, crowd
        self._measured, self._number = measured, number
        self.client_rates: Rates = client.call("rates")
        self.aggregator_rates: Rates = aggregator.call("rates")
        crowd.offer(number)
        client.call("offer", number)
        self.params: Params = aggregator.call("open", number)
        self.length = crowd.true_sum.size
        self.client_cost: dict[str, Reading] = {}
        self.aggregator_cost: dict[str, Reading] = {}
        self.exact = False

    def play(self, tell: Callable[[str], None]) -> None:
        """All phases in turn."""
        setting = self._cohort.setting
        lost = self._lost()
        present = [self._measured, *self._crowd.members]
        for phase in Phase:
            if phase is Phase.DONE:
                break
            tell(f"round {self._number} of {setting.repeats}: {phase.value}")
            if phase is Phase.MASK:
                present = [member for member in present if member not in lost]
            for member in present:
                self._turn(member, phase)
            if phase is Phase.MASK:
                for member in sorted(lost):
                    self._crowd.drop(member)
                    self._aggregator.call("lose", member)
        tell(f"round {self._number} of {setting.repeats}: sum")
        survivors, total = self._aggregator.call("sum_up")
        expected = true_total(self._cohort, self._crowd.true_sum, self._measured)
        self.exact = survivors == tuple(sorted(present)) and total == expected.tobytes()
        self._aggregator.call("discard")
        self.client_cost = self._client.call("readings")
        self.aggregator_cost = self._aggregator.call("readings")

    def _lost(self) -> frozenset[MemberIndex]:
        """Who sends no vector: spread over the cohort, and never the one that is measured."""
        others, count = self._crowd.members, self._cohort.setting.dropouts
        return frozenset(others[index * len(others) // count] for index in range(count))

    def _turn(self, member: MemberIndex, phase: Phase) -> None:
        """One member is asked, and answers, if the aggregator still needs it."""
        data = self._aggregator.call("ask", member)
        if data is None:
            return
        if member == self._measured:
            replies = self._client.call("hear", phase, data)
        else:
            replies = self._crowd.hear(member, phase, data)
        self._aggregator.call("take", member, replies)


def true_total(cohort: Cohort, others: NDArray[np.uint32], measured: MemberIndex) -> NDArray[np.uint32]:
    """The survivors' sum: the others' encoded vectors and the measured client's, modulo 2^B."""
    total = others.copy()
    ring.add_into(total, cohort.encoded(measured, cohort.coordinates(measured)))
    ring.reduce(total, word_bits(cohort.setting.clients, cohort.setting.bits))
    return total
