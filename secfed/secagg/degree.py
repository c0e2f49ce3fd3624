"""How many neighbours a member of the ring needs: the smallest k for which some threshold t is safe and live.

On the complete graph a member's n - 1 neighbours are everybody, so that at most A of them are
corrupt. On the ring they are k members that chance chose, so what holds of them holds but for a
probability, and t must leave room for bad luck on both sides. With Hyp(N, K, m) the number of
marked members among m that are drawn from N of which K are marked, k and t must meet:

    n P[Hyp(n-1, A, k) >= x] <= 2^-82, t >= floor((k + x - 1)/2) + 1      never both secrets of a member
    (n (n-k-1)/2) P[Hyp(n-1, A, k/2) >= t - k/2]^2 <= 2^-82               no arc of the ring stands alone
    n P[Hyp(n-1, n-D-1, k) < t] <= 2^-20                                  every secret can be opened

2^-82 is 2^-42 an attempt, and 40 bits against an aggregator that tries many sets of adverts. Every
party must come to the same numbers, so all of it is in whole numbers.

Source: Bell et al. 2020, "Secure single-server aggregation with (poly)logarithmic overhead", section 3
(doi:10.1145/3372297.3417885), with the second condition for an aggregator that chooses who drops.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from math import comb

from secfed.errors import InfeasibleCohortError
from secfed.limits import NEIGHBOURS_MAX

__all__ = ["Degree", "corrupt_among", "degree"]

_SECURITY_BITS = 82
_LIVENESS_BITS = 20


@dataclass(frozen=True, slots=True)
class Degree:
    """k and t of a ring.

    Attributes:
        neighbours: k, even.
        threshold: t, shares that open a secret.
    """

    neighbours: int
    threshold: int


@functools.lru_cache(maxsize=256)
def degree(clients: int, corrupt: int, losses: int) -> Degree:
    """The smallest k, and for it the smallest t, that meet all conditions. Some milliseconds at n = 1000.

    Args:
        clients: n, members of the cohort.
        corrupt: A, of them may collude with the aggregator.
        losses: D, of them may be lost.

    Raises:
        InfeasibleCohortError: No k up to `NEIGHBOURS_MAX` will do.
    """
    for neighbours in range(2, min(clients - 1, NEIGHBOURS_MAX) + 1, 2):
        half = neighbours // 2
        least = max(
            (neighbours + corrupt_among(clients, corrupt, neighbours)) // 2 + 1,
            half + _corrupt_beside(clients, corrupt, neighbours),
        )
        if least <= neighbours and _opens(clients, losses, neighbours, least):
            return Degree(neighbours, least)
    raise InfeasibleCohortError(
        f"no ring of {clients} members with up to {min(clients - 1, NEIGHBOURS_MAX)} neighbours each defends "
        f"them against {corrupt} corrupt ones and keeps them going with {losses} lost",
        hint="A roster that counts on fewer corrupt members, or a plan that needs fewer survivors, may do.",
    )


@functools.lru_cache(maxsize=1024)
def corrupt_among(clients: int, corrupt: int, neighbours: int) -> int:
    """x - 1: more corrupt members are, but for 2^-82, among no member's neighbours."""
    marked, bound = min(corrupt, clients - 1), comb(clients - 1, neighbours)
    found = min(marked, neighbours) + 1  # more there are not
    for x, ways in _tails(clients - 1, marked, neighbours):
        if clients * ways << _SECURITY_BITS > bound:
            break
        found = x
    return found - 1


def _corrupt_beside(clients: int, corrupt: int, neighbours: int) -> int:
    """Corrupt members on one side of a member that, but for 2^-82, no two cuts of the ring both have."""
    half, marked = neighbours // 2, min(corrupt, clients - 1)
    pairs = clients * (clients - neighbours - 1)  # twice as many as there are
    if not pairs:
        return 0  # everybody is everybody's neighbour: there is no cut
    found, bound = min(marked, half) + 1, 2 * comb(clients - 1, half) ** 2
    for y, ways in _tails(clients - 1, marked, half):
        if pairs * ways * ways << _SECURITY_BITS > bound:
            break
        found = y
    return found


def _opens(clients: int, losses: int, neighbours: int, threshold: int) -> bool:
    """Whether, but for 2^-20, everybody keeps t neighbours when any D members are lost."""
    # Fewer than t of the k are kept if and only if more than k - t of them are lost.
    ways = 0
    for lost, at_least in _tails(clients - 1, losses, neighbours):
        if lost <= neighbours - threshold:
            break
        ways = at_least
    return clients * ways << _LIVENESS_BITS <= comb(clients - 1, neighbours)


def _tails(members: int, marked: int, drawn: int) -> Iterator[tuple[int, int]]:
    """(x, draws of which at least x are marked), for x from the most that there can be downwards."""
    most, fewest = min(marked, drawn), max(0, drawn - (members - marked))
    ways, total = comb(marked, most) * comb(members - marked, drawn - most), 0
    for x in range(most, fewest - 1, -1):
        total += ways
        yield x, total
        ways = ways * x * (members - marked - drawn + x) // ((marked - x + 1) * (drawn - x + 1))
