"""What an adversary can open: every sum that follows from the shares and masked vectors it was given.

It sees all messages, owns some members, and is handed for nothing what those members hold. A masked
vector is the member's words, its self mask, and one edge mask for each other member of its share
set. Of honest members' vectors a sum can be formed exactly if all their self masks are open and every
edge mask of theirs is known or stands in two of them, where it cancels. Edge masks are told apart by
the commitments that both ends make to them. Nothing here trusts what the program counts or checks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from secfed.ids import ClientId, Digest, MemberIndex
from secfed.secagg.messages import Bundle, RecoveryKeyShare, SelfMaskShare, ShareAnswers
from secfed.secagg.params import Params

Members = frozenset[MemberIndex]
Kind = type[SelfMaskShare] | type[RecoveryKeyShare]


@dataclass
class Knowledge:
    """All that is known of one attempt.

    Attributes:
        keys: The members' identity keys, as the roster that the attempt names has them.
        edges: For each member that dealt, the commitment to the mask of each edge; its keys hold shares.
        masked: For each member whose vector left, the others with which it is masked.
        shares: Who gave away a share of one kind of one target's secrets.
    """

    params: Params
    cohort: tuple[ClientId, ...]
    keys: tuple[bytes, ...]
    edges: dict[MemberIndex, dict[MemberIndex, Digest]] = field(default_factory=dict)
    masked: dict[MemberIndex, Members] = field(default_factory=dict)
    shares: dict[tuple[MemberIndex, Kind], set[MemberIndex]] = field(default_factory=lambda: defaultdict(set))

    def dealt(self, member: MemberIndex, bundle: Bundle) -> None:
        self.edges[member] = {holder: item.edge for holder, item in bundle.items.items()}

    def left(self, member: MemberIndex, share_set: Members) -> None:
        self.masked[member] = share_set

    def answered(self, member: MemberIndex, answers: ShareAnswers) -> None:
        for target, share in answers.shares.items():
            self.shares[target, type(share)].add(member)

    def is_open(self, target: MemberIndex, kind: Kind, corrupt: Members) -> bool:
        """Whether so many holders gave a share away, or are corrupt, that the secret is known."""
        if target in corrupt:
            return True
        giving = (self.shares.get((target, kind), set()) | corrupt) & self.edges.get(target, {}).keys()
        return len(giving) >= self.params.threshold

    def places(self, sites: frozenset[ClientId]) -> Members:
        """Where these sites stand in the cohort."""
        return frozenset(MemberIndex(place) for place, site in enumerate(self.cohort) if site in sites)

    def held(self, keys: frozenset[bytes]) -> Members:
        """Whose places these identity keys hold."""
        return frozenset(MemberIndex(place) for place, key in enumerate(self.keys) if key in keys)

    def sums(self, corrupt: Members) -> list[Members]:
        """The honest members of each sum that these corrupt ones and the aggregator can open together."""
        reached = max(map(len, self.shares.values()), default=0) + len(corrupt)
        if reached < self.params.threshold:
            return []
        honest = [member for member in self.masked if member not in corrupt]
        unknown = {member: self._unknown(member, corrupt) for member in honest}
        ends: dict[Digest, list[MemberIndex]] = defaultdict(list)
        for member, edges in unknown.items():
            for edge in edges:
                ends[edge].append(member)
        found = []
        while honest:
            group = _connected(honest[0], unknown, ends)
            honest = [member for member in honest if member not in group]
            closed = all(len(ends[edge]) == 2 for member in group for edge in unknown[member])
            if closed and all(self.is_open(member, SelfMaskShare, corrupt) for member in group):
                found.append(group)
        return found

    def both_open(self, corrupt: Members) -> MemberIndex | None:
        """An honest member both of whose secrets are known."""
        for member in self.edges:
            if member not in corrupt and all(
                self.is_open(member, kind, corrupt) for kind in (SelfMaskShare, RecoveryKeyShare)
            ):
                return member
        return None

    def _unknown(self, member: MemberIndex, corrupt: Members) -> list[Digest]:
        """The edge masks in a member's vector that nobody gave away."""
        if self.is_open(member, RecoveryKeyShare, corrupt):
            return []
        edges = self.edges[member]
        return [
            edges[other]
            for other in self.masked[member]
            if not (other in corrupt or self.is_open(other, RecoveryKeyShare, corrupt))
        ]

    @property
    def honest_floor(self) -> int:
        """m: the fewest honest vectors that an opened sum may have."""
        params = self.params
        return max(params.threshold + 1, 3) - params.corrupt


def _connected(
    start: MemberIndex, unknown: dict[MemberIndex, list[Digest]], ends: dict[Digest, list[MemberIndex]]
) -> Members:
    """All members that unknown edge masks tie to the first."""
    group, todo = {start}, [start]
    while todo:
        for edge in unknown[todo.pop()]:
            for member in ends[edge]:
                if member not in group:
                    group.add(member)
                    todo.append(member)
    return frozenset(group)
