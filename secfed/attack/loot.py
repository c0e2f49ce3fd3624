"""What the adversary holds after an attempt: which sums over which members it can really open.

It combines shares wherever t of one kind are in its hands, opens recovery blobs, adds what its
accomplices know, and looks for groups of members whose remaining masks cancel among themselves.
Each such group's sum is computed, and held against the true one: a gain is a sum that was opened,
not an error that was missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secfed.attack.course import Course, Heard
from secfed.attack.finding import Evidence
from secfed.attack.hostile import Received
from secfed.crypto.prg import combine_masks
from secfed.crypto.shamir import Weights
from secfed.encoding import ring
from secfed.errors import PeerError
from secfed.ids import ClientId, MemberIndex
from secfed.rounds.exchange import Answer
from secfed.secagg import derive
from secfed.secagg.params import Params

__all__ = [
    "Edge", "Opened", "judge", "judge_accepted", "judge_certificates", "judge_difference", "judge_round",
    "judge_sums", "openable", "secret_of",
]  # fmt: skip

Edge = frozenset[MemberIndex]
"""Two members that mask with each other."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A sum that the adversary opened.

    Attributes:
        honest: The honest sites in it.
        words: Shape (length,), the sum of their encoded vectors.
        true: Whether it is that, to the last bit.
    """

    honest: tuple[ClientId, ...]
    words: NDArray[np.uint32] = field(repr=False)
    true: bool


def secret_of(course: Course, owner: MemberIndex, kind: str, threshold: int) -> bytes | None:
    """An owner's secret of one kind, if t shares of it were given away."""
    shares = course.shares.get(owner, {}).get(kind, {})
    for holder, accomplice in course.played.items():
        if accomplice.masked is not None and owner in accomplice.masked.held:
            held = accomplice.masked.held[owner]
            shares = shares | {holder: held.self_share if kind == "self" else held.recovery_share}
    if len(shares) < threshold:
        return None
    holders = sorted(shares)[:threshold]
    return Weights([holder + 1 for holder in holders]).combine([shares[holder] for holder in holders])


def openable(
    course: Course, *, threshold: int | None = None, known: Mapping[Edge, bytes] | None = None
) -> list[Opened]:
    """Every smallest group with an honest member in it whose sum is open to the adversary.

    Args:
        threshold: Of the shares that were dealt; the course's if not given.
        known: Seeds of edges that came into its hands by other ways.
    """
    t = course.params.threshold if threshold is None else threshold
    selves = dict(_self_seeds(course, t))
    edges = _edge_seeds(course, t) | dict(known or {})
    return [
        _open(course, group, selves, edges)
        for group in _groups(course, edges)
        if all(member in selves for member in group) and not group <= course.played.keys()
    ]


def _self_seeds(course: Course, threshold: int) -> Iterator[tuple[MemberIndex, bytes]]:
    for member in course.vectors:
        own = course.played.get(member)
        if own is not None and own.shared is not None:
            yield member, own.shared.self_seed
        elif (secret := secret_of(course, member, "self", threshold)) is not None:
            yield member, derive.self_mask_seed(secret, course.h, member)


def _edge_seeds(course: Course, threshold: int) -> dict[Edge, bytes]:
    """Seeds of edges, from accomplices and from recovery blobs that can be opened."""
    found: dict[Edge, bytes] = {}
    for member, own in course.played.items():
        if own.shared is not None:
            found |= {Edge({member, other}): keys.mask for other, keys in own.shared.edges.items()}
    for member, bundle in course.bundles.items():
        secret = secret_of(course, member, "recovery", threshold)
        if secret is None:
            continue
        try:
            seeds = derive.open_blob(secret, course.h, member, tuple(sorted(bundle.items)), bundle.blob)
        except PeerError:
            continue  # shares of another polynomial: nothing was opened
        found |= {Edge({member, other}): seed for other, seed in seeds.items()}
    return found


def _groups(course: Course, known: dict[Edge, bytes]) -> Iterator[frozenset[MemberIndex]]:
    """Members with vectors, tied together by masks that only cancel between them."""
    left = set(course.vectors)
    while left:
        group, reach = set(), {left.pop()}
        cancels = True
        while reach:
            member = reach.pop()
            group.add(member)
            for other in course.shown[member]:
                if Edge({member, other}) in known:
                    continue
                if member not in course.shown.get(other, frozenset()):
                    cancels = False  # a mask that nobody else put on
                elif other not in group:
                    reach.add(other)
        left -= group
        if cancels:
            yield frozenset(group)


def _open(
    course: Course, group: frozenset[MemberIndex], selves: dict[MemberIndex, bytes], edges: dict[Edge, bytes]
) -> Opened:
    length, bits = course.manifest.length, course.manifest.word_bits
    total = np.zeros(length, np.uint32)
    add: list[bytes] = []
    subtract = [selves[member] for member in group]
    for member in group:
        ring.add_into(total, ring.unpack(course.vectors[member][-1], bits, length))
        for other in course.shown[member]:
            seed = edges.get(Edge({member, other}))
            if seed is not None:
                (subtract if member < other else add).append(seed)
    combine_masks(total, add=add, subtract=subtract)
    ring.reduce(total, bits)
    honest = tuple(course.site(member) for member in sorted(group) if member not in course.played)
    return Opened(honest, total, _is_sum(course, honest, total))


def _is_sum(course: Course, honest: tuple[ClientId, ...], words: NDArray[np.uint32]) -> bool:
    truth = course.arena.words(honest)
    ring.reduce(truth, course.manifest.word_bits)
    return bool(np.array_equal(truth, words))


# -- the verdict -------------------------------------------------------------------------------


def judge(
    evidence: Evidence, course: Course, *, promised: Params | None = None, threshold: int | None = None
) -> list[Opened]:
    """Enter into the evidence what one attempt's loot is worth, against what is promised.

    Args:
        promised: Thresholds that the promise is about; those of the course if not given.
        threshold: As in `openable`.

    Returns:
        The true sums that were opened.
    """
    params = promised or course.params
    judge_certificates(evidence, course, params)
    return judge_sums(evidence, course, openable(course, threshold=threshold), params)


def judge_accepted(evidence: Evidence, heard: Mapping[ClientId, Heard], what: str) -> None:
    """Clients that do what none of them may do, where what follows from it is no sum yet."""
    for site, said in heard.items():
        if isinstance(said, Answer | Received):
            evidence.gained(f"the word of {site}, which took {what}")


def judge_sums(evidence: Evidence, course: Course, found: Sequence[Opened], params: Params) -> list[Opened]:
    """Sums over fewer honest vectors than are promised; the true sums that were opened."""
    least = course.arena.promised(params)
    opened = [each for each in found if each.true]
    for each in opened:
        sum_ = f"{'the sum of ' * (len(each.honest) > 1)}{_vectors(each.honest)}, true to the last bit"
        if len(each.honest) < least:
            evidence.gained(f"{sum_}, where {least} is the fewest honest vectors of a sum")
        else:
            evidence.saw(f"opened: {sum_}; {least} or more are promised")
    if not opened:
        evidence.saw("opened: nothing")
    return opened


def judge_certificates(evidence: Evidence, course: Course, params: Params) -> None:
    """Two survivor sets of one attempt, each signed by a quorum of its own members."""
    certified = [
        survivors
        for (_, survivors), signatures in course.signatures.items()
        if len(signatures.keys() & set(survivors)) >= params.quorum
    ]
    evidence.saw(f"survivor sets with a quorum of {params.quorum} signatures: {len(certified)}")
    if len(certified) > 1:
        sizes = " and ".join(str(len(survivors)) for survivors in certified[:4])
        evidence.gained(f"{len(certified)} certified survivor sets of one attempt, of {sizes} members")


def judge_round(evidence: Evidence, opened: Sequence[Sequence[Opened]]) -> None:
    """One vector in several opened sums of one round; each item holds one attempt's."""
    times = Counter(site for sums in opened for site in {site for each in sums for site in each.honest})
    twice = sorted(site for site, count in times.items() if count > 1)
    if twice:
        evidence.gained(f"{_vectors(tuple(twice))} in more than one opened sum of one round")
    else:
        evidence.saw("no vector is in more than one opened sum of the round")


def judge_difference(
    evidence: Evidence, course: Course, larger: Sequence[Opened], smaller: Sequence[Opened], least: int
) -> None:
    """The difference of two opened sums, where it is a sum over fewer vectors than are promised."""
    for more in larger:
        for fewer in smaller:
            apart = tuple(site for site in more.honest if site not in fewer.honest)
            if not set(fewer.honest) < set(more.honest) or len(apart) >= least:
                continue
            if np.array_equal(more.words - fewer.words, course.arena.words(apart)):
                evidence.gained(f"as the difference of two sums {_vectors(apart)}, true to the last bit")


def _vectors(sites: tuple[ClientId, ...]) -> str:
    more = f" and {len(sites) - 5} more" if len(sites) > 5 else ""
    names = ", ".join(sites[:5]) + more
    return f"the vector of {names}" if len(sites) == 1 else f"{len(sites)} honest vectors ({names})"
