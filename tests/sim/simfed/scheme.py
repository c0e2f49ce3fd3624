"""One attempt as a hostile aggregator runs it: what it signed, what it collected, whom it shows what.

The cohort's honest members fall into two groups. Every set that an aggregator tells (whose adverts,
ciphertext lists and bundles there are, who survived) may be another one for each group, and corrupt
members may have a face for each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from simfed.invariants import Sites

from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.secagg.manifest import Manifest
from secfed.secagg.messages import (
    Adverts,
    Bundle,
    Bundles,
    CiphertextList,
    Ciphertexts,
    ConfirmRequest,
    DeliveredBundle,
    DeliveredCiphertexts,
    OpenAttempt,
    Phase,
    Request,
    UnmaskRequest,
)
from secfed.secagg.params import Params

Members = frozenset[MemberIndex]
Confirmed = tuple[Digest, tuple[MemberIndex, ...]]
"""What a member signed in confirm: its transcript, and the survivors."""

T = TypeVar("T")

GROUPS = (0, 1)
_SETS = (Phase.ENCAPSULATE, Phase.SHARE, Phase.MASK, Phase.CONFIRM)


@dataclass
class Scheme:
    """The pools and the plan of one attempt.

    Attributes:
        owned: The corrupt members of the cohort.
        group: The group of each honest member.
        shown: For each group and phase, of whom it is told.
        robbed: One of its members was called away when its vector was out.
        left: Whose masked vectors came in.
        confirmed: Signatures on each set that anybody signed.
    """

    manifest: Manifest
    signed: Signed
    h: Digest
    params: Params
    owned: Members
    group: dict[MemberIndex, int]
    shown: dict[tuple[int, Phase], Members]
    robbed: bool = False
    adverts: dict[tuple[MemberIndex, int], Signed] = field(default_factory=dict)
    lists: dict[tuple[MemberIndex, int], CiphertextList] = field(default_factory=dict)
    bundles: dict[tuple[MemberIndex, int], Bundle] = field(default_factory=dict)
    left: set[MemberIndex] = field(default_factory=set)
    confirmed: dict[Confirmed, dict[MemberIndex, bytes]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def members(self) -> Members:
        return frozenset(map(MemberIndex, range(self.params.clients)))

    def site(self, member: MemberIndex) -> ClientId:
        return self.manifest.cohort[member]

    def request(
        self, me: MemberIndex, group: int, due: Phase, signed: Confirmed | None, absent: Members
    ) -> Request | None:
        """What this member is to be asked next; None while something that it shall see is missing.

        Args:
            signed: What it confirmed, once it did.
            absent: Who is not waited for.
        """
        shown = self.shown.get((group, due), self.members) | {me}
        match due:
            case Phase.ADVERTISE:
                return OpenAttempt(self.signed)
            case Phase.ENCAPSULATE:
                adverts = self._of(self.adverts, shown, group, absent)
                return None if adverts is None else Adverts(tuple(adverts.items()))
            case Phase.SHARE:
                lists = self._of(self.lists, shown - {me}, group, absent)
                return None if lists is None else Ciphertexts(_delivered(lists, me))
            case Phase.MASK:
                bundles = self._of(self.bundles, shown - {me}, group, absent)
                if bundles is None:
                    return None
                return Bundles(
                    tuple(DeliveredBundle(o, each.index, each.items.get(me)) for o, each in bundles.items())
                )
            case Phase.CONFIRM:
                here = self.left | self.owned
                ready = shown <= here | absent
                return ConfirmRequest(tuple(sorted(shown & here))) if ready else None
            case Phase.UNMASK if signed is not None:
                signatures = self.confirmed[signed]
                if len(signatures) < self.params.quorum and not absent >= set(signed[1]) - signatures.keys():
                    return None
                return UnmaskRequest(signed[1], tuple(sorted(signatures.items())))
            case _:
                return None

    def _of(
        self, pool: Mapping[tuple[MemberIndex, int], T], shown: Members, group: int, absent: Members
    ) -> dict[MemberIndex, T] | None:
        """What there is of those who shall be seen, a corrupt one by its face for this group."""
        keys = {member: (member, group if member in self.owned else 0) for member in sorted(shown)}
        there = {member: pool[key] for member, key in keys.items() if key in pool}
        return there if shown <= there.keys() | absent else None


def _delivered(
    lists: Mapping[MemberIndex, CiphertextList], me: MemberIndex
) -> tuple[DeliveredCiphertexts, ...]:
    return tuple(DeliveredCiphertexts(o, each.index, each.ciphertexts.get(me)) for o, each in lists.items())


def draw(
    random: Random, manifest: Manifest, signed: Signed, h: Digest, params: Params, corrupt: Sites
) -> Scheme:
    """Who is shown what: mostly the same to all at first, and from some phase on not."""
    members = [MemberIndex(i) for i in range(params.clients)]
    owned = frozenset(member for member in members if manifest.cohort[member] in corrupt)
    honest = [member for member in members if member not in owned]
    ones = frozenset(random.sample(honest, random.choice((len(honest) // 2, random.randint(0, len(honest))))))
    group = {member: int(member in ones) for member in honest}
    shown: dict[tuple[int, Phase], Members] = {}
    split = random.choice((*_SETS, Phase.CONFIRM, Phase.CONFIRM, *[Phase.DONE] * 4))
    fewer = random.choice((*_SETS, *[Phase.DONE] * 6))
    here = frozenset(members)
    for phase in _SETS:
        if phase is fewer:
            most = min(len(honest), params.losses + random.choice((0, 0, 1)))
            here -= set(random.sample(honest, random.randint(min(1, most), most)))
        for number in GROUPS:
            seen = here & shown.get((number, _before(phase)), here)
            if phase is split:
                others = [member for member in seen & set(honest) if group[member] != number]
                floor = params.floor if phase is Phase.CONFIRM else params.threshold + 1
                most = max(0, min(len(others), len(seen) - floor))
                count = random.choice((most, most, random.randint(0, most), random.randint(0, len(others))))
                seen -= set(random.sample(sorted(others), count))
            shown[number, phase] = seen
    return Scheme(manifest, signed, h, params, owned, group, shown)


def _before(phase: Phase) -> Phase:
    order = list(Phase)
    return order[max(0, order.index(phase) - 1)]
