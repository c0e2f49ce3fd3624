"""Open what t members together hold: survivors' self masks, and dropouts' edge seeds.

Each share is checked against the commitment that its dealer signed, so a bad one is named and
left out. The same t respondents serve every owner, with one substitute for an owner that is
itself among them, so that at most t + 1 sets of Lagrange weights are computed.

Source: Shamir 1979 (doi:10.1145/359168.359176); Bonawitz et al. 2017, round 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from secfed.crypto.shamir import Weights, check_share
from secfed.errors import PeerError, RoundAbortedError
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.secagg import derive
from secfed.secagg.frozen import Frozen
from secfed.secagg.messages import SelfMaskShare, ShareAnswers

__all__ = ["OpenedMasks", "Shares", "open_sum"]


@dataclass(frozen=True, slots=True)
class OpenedMasks:
    """Seeds of the masks that did not cancel.

    Attributes:
        self_seeds: One for each survivor.
        dropped_edges: (survivor, dropout, seed) for each edge between the two.
    """

    self_seeds: tuple[bytes, ...] = field(repr=False)
    dropped_edges: tuple[tuple[MemberIndex, MemberIndex, bytes], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Shares:
    """Verified answers by respondent."""

    answers: Mapping[MemberIndex, ShareAnswers]

    @staticmethod
    def check(
        h: Digest,
        frozen: Frozen,
        holder: MemberIndex,
        answers: ShareAnswers,
        site: Callable[[MemberIndex], ClientId],
    ) -> None:
        """Compare every share with its dealer's commitment and with the survivor list.

        Raises:
            PeerError: A share is of the wrong kind, of nobody, or not the committed one.
        """
        for owner, item in answers.shares.items():
            record = frozen.owners.get(owner)
            if record is None or holder not in record.commitments:
                raise PeerError("a share is of a member outside the share set", culprits=[site(holder)])
            alive = owner in frozen.survivors
            if isinstance(item, SelfMaskShare) != alive:
                raise PeerError("a share is of the kind that nobody asked for", culprits=[site(holder)])
            self_share, recovery_share, _ = record.commitments[holder]
            commit, expected = (
                (derive.self_commitment, self_share)
                if alive
                else (derive.recovery_commitment, recovery_share)
            )
            if not derive.same(commit(h, owner, holder, item.share), expected):
                raise PeerError(
                    "a share is not the one that its dealer committed to", culprits=[site(holder)]
                )
            try:
                check_share(item.share, holder + 1)
            except PeerError:  # committed to by the one, and not complained about by the other
                raise PeerError(
                    "a dealer committed to a share that is none", culprits=[site(owner), site(holder)]
                ) from None

    def holders_of(self, owner: MemberIndex) -> tuple[MemberIndex, ...]:
        """Who gave a good share of this owner, sorted."""
        return tuple(sorted(member for member, answers in self.answers.items() if owner in answers.shares))

    def complete(self, frozen: Frozen, threshold: int) -> bool:
        """Whether every secret that must be opened can be."""
        if len(self.answers) < threshold:
            return False
        return all(len(self.holders_of(owner)) >= threshold for owner in frozen.owners)


def open_sum(
    h: Digest, frozen: Frozen, shares: Shares, threshold: int, site: Callable[[MemberIndex], ClientId]
) -> OpenedMasks:
    """Combine the shares: b_i of survivors, K_i of dropouts in the share set.

    Raises:
        RoundAbortedError: An owner has fewer than t good shares.
        PeerError: A recovery blob does not open, or holds other seeds than were committed to; its
            owner is named.
    """
    weights: dict[tuple[MemberIndex, ...], Weights] = {}

    def combine(owner: MemberIndex) -> bytes:
        holders = shares.holders_of(owner)[:threshold]
        if len(holders) < threshold:
            raise RoundAbortedError(f"{len(holders)} good shares of a member are in, {threshold} are needed")
        if holders not in weights:
            weights[holders] = Weights([holder + 1 for holder in holders])
        return weights[holders].combine([shares.answers[holder].shares[owner].share for holder in holders])

    alive = frozenset(frozen.survivors)
    seeds = tuple(derive.self_mask_seed(combine(owner), h, owner) for owner in frozen.survivors)
    edges: list[tuple[MemberIndex, MemberIndex, bytes]] = []
    for dropout in sorted(frozen.owners.keys() - alive):
        record = frozen.owners[dropout]
        try:
            opened = derive.open_blob(combine(dropout), h, dropout, record.holders, record.blob)
        except PeerError as error:
            raise PeerError(str(error), culprits=[site(dropout)]) from error
        for survivor in record.holders:
            if survivor not in alive:
                continue
            if (
                derive.edge_commitment(h, dropout, survivor, opened[survivor])
                != record.commitments[survivor][2]
            ):
                raise PeerError(
                    "a recovery blob holds other seeds than its bundle committed to", culprits=[site(dropout)]
                )
            edges.append((survivor, dropout, opened[survivor]))
    return OpenedMasks(seeds, tuple(edges))
