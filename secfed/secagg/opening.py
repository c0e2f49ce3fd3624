"""Open what t members together hold, survivors' self masks and dropouts' edge seeds; and so the sum.

Each share is checked against the commitment that its dealer signed, so a bad one is named and
left out. On the complete graph the same t respondents serve every owner, with one substitute for an
owner that is itself among them, so that at most t + 1 sets of Lagrange weights are computed. On the
ring every owner has holders of its own.

Source: Shamir 1979 (doi:10.1145/359168.359176); Bonawitz et al. 2017, round 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from io import BufferedIOBase
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.crypto.prg import SEGMENT_WORDS
from secfed.crypto.shamir import Weights, check_share
from secfed.encoding import ring
from secfed.errors import LostUploadError, PeerError, RoundAbortedError
from secfed.ids import ClientId, Digest, MemberIndex
from secfed.secagg import derive, masking, transcript
from secfed.secagg.frozen import Frozen, Uploads
from secfed.secagg.manifest import Manifest
from secfed.secagg.messages import SelfMaskShare, ShareAnswers

__all__ = ["OpenedMasks", "RingSum", "Shares", "add_up", "open_sum"]

_TILE_WORDS = 1 << 16
"""Words of an upload worked on at once; as with any multiple of 8, a tile ends at a byte."""

_TOGETHER = 8
"""Uploads read side by side: their tiles are added packed, and only what they sum up to is unpacked.

Fewer, so that every thread has some, would cost a seventh more processor time and spare at most a tenth of
the time.
"""


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
    """Verified answers.

    Attributes:
        answers: By respondent.
        holders: Who gave a good share of each owner.
    """

    answers: Mapping[MemberIndex, ShareAnswers]
    holders: Mapping[MemberIndex, tuple[MemberIndex, ...]]

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
            alive = owner in frozen.vectors
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
        return tuple(sorted(self.holders.get(owner, ())))

    def complete(self, frozen: Frozen, threshold: int) -> bool:
        """Whether every secret that must be opened can be."""
        if len(self.answers) < threshold:
            return False
        return all(len(self.holders.get(owner, ())) >= threshold for owner in frozen.owners)


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


@dataclass(frozen=True, slots=True)
class RingSum:
    """The opened sum of exactly the survivors' encoded vectors.

    Attributes:
        total: Shape (length,), modulo 2^B.
        survivors: Whose vectors are in it.
        digest: Digest of the packed total.
        transcript: What the next manifest names as its predecessor.
    """

    total: NDArray[np.uint32]
    survivors: tuple[MemberIndex, ...]
    digest: Digest
    transcript: Digest


def add_up(
    manifest: Manifest, h: Digest, frozen: Frozen, opened: OpenedMasks, uploads: Uploads, *, threads: int = 1
) -> RingSum:
    """Add the survivors' stored vectors and take off what masks are left.

    Uploads are read, hashed and added in tiles, several side by side, so that memory holds one vector.

    Args:
        threads: How many groups of uploads are added, and segments unmasked, at once; the sum is the same.

    Raises:
        LostUploadError: An upload is not the one that was acknowledged.
    """
    length, bits = manifest.length, manifest.word_bits
    total, adding = np.zeros(length, dtype=np.uint32), [Lock() for _ in range(0, length, _TILE_WORDS)]

    def add(members: Sequence[MemberIndex]) -> None:
        with ExitStack() as files:
            found = [(member, files.enter_context(uploads.open(h, member))) for member in members]
            tiles = [_tiles(file, length, bits, partial(check, member)) for member, file in found]
            for number, packed in enumerate(zip(*tiles, strict=True)):
                part = total[number * _TILE_WORDS : (number + 1) * _TILE_WORDS]
                summed = ring.sum_packed(packed, bits, part.size)
                with adding[number]:  # other uploads' same tile may be at hand
                    ring.add_packed(part, summed, bits)

    def check(member: MemberIndex, sha256: bytes) -> None:
        if not derive.same(derive.vector_digest(h, member, sha256), frozen.vectors[member]):
            site = manifest.cohort[member]
            raise LostUploadError(f"the stored upload of {site} is not the one that was acknowledged")

    starts = range(0, len(frozen.survivors), _TOGETHER)
    groups = [frozen.survivors[first : first + _TOGETHER] for first in starts]
    workers = max(1, min(threads, -(-length // SEGMENT_WORDS)))  # of short vectors one adds faster than two
    with ThreadPoolExecutor(workers, thread_name_prefix="secfed-add") as pool:
        for _ in pool.map(add, groups):
            pass
    masking.unmask(
        total, self_seeds=opened.self_seeds, dropped_edges=opened.dropped_edges, bits=bits, threads=threads
    )
    sum_digest = digest(Label.SUM, h, ring.pack(total, bits))
    closing = transcript.outcome_transcript(h, frozen.transcript, frozen.survivors, sum_digest)
    return RingSum(total, frozen.survivors, sum_digest, closing)


def _tiles(
    file: BufferedIOBase, length: int, bits: int, check: Callable[[bytes], None]
) -> Iterator[memoryview]:
    """The packed words of each tile of an upload, in one buffer that is used again.

    Disks and restarts lie between its acknowledgement and now: `check` is given the SHA-256 of all that
    was read, before the last tile is handed out. Until then nobody knows what the others were.
    """
    hashed, buffer = hashlib.sha256(), memoryview(bytearray(ring.packed_bytes(_TILE_WORDS, bits)))
    for start in range(0, length, _TILE_WORDS):
        left = length - start
        packed = buffer[: ring.packed_bytes(min(left, _TILE_WORDS), bits)]
        read = file.readinto(packed)
        hashed.update(packed[:read])
        if left <= _TILE_WORDS:
            hashed.update(file.read(1))  # what is longer than it was is another one too
            check(hashed.digest())
        yield packed
