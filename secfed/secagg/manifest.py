"""What one attempt is about, and the digest h that every signature and key of it is bound to.

The aggregator signs a manifest; each client compares every field with what it knows itself
(`Terms`) before it makes a key. Clients that were given different manifests have different h,
so their masks do not cancel and their signatures do not count for each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from secfed.crypto.kdf import digest
from secfed.crypto.labels import PROTOCOL_VERSION, SUITE, Label
from secfed.encoding.fixedpoint import word_bits
from secfed.errors import PeerError, VersionMismatchError
from secfed.ids import ClientId, Digest, FederationId, JobId, MemberIndex, RoundId
from secfed.secagg.params import Params

__all__ = ["Manifest", "Terms", "attempt_digest", "manifest_context"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One attempt at one secure sum, as the aggregator proposes it.

    Attributes:
        protocol: Protocol version of every message of the attempt.
        suite: Identifier of the primitives used.
        federation: The federation's id.
        roster: Digest of the roster under which the attempt lives and ends.
        job: The job's name.
        job_plan: Digest of the job plan that an admin signed.
        round_plan: Digest of the round plan that the aggregator signed.
        round: Number of the training round, from 1.
        sum_index: 0 unless a strategy asks for more sums in one round.
        attempt: Number of the attempt at this sum, from 1, never reused.
        cohort: The members, strictly sorted; a member's place is its index.
        corrupt: A; must be the roster's.
        layout: Digest of the names and shapes that the vector carries.
        length: Words in a vector, the weight and the counters included.
        word_bits: B, bits of a word.
        base: Digest of the adapter that updates are relative to.
        previous_round: The job's last published round; 0 where there is none.
        previous: Its transcript digest; zero where there is none.
        losses: D of a ring, as its aggregator proposes it: how many may be lost, and nothing of who can
            be opened, follows from it. 0 on the complete graph.
    """

    protocol: int
    suite: str
    federation: FederationId
    roster: Digest
    job: JobId
    job_plan: Digest
    round_plan: Digest
    round: int
    sum_index: int
    attempt: int
    cohort: tuple[ClientId, ...]
    corrupt: int
    layout: Digest
    length: int
    word_bits: int
    base: Digest
    previous_round: int
    previous: Digest
    losses: int = 0

    @property
    def round_id(self) -> RoundId:
        """The sum that this is an attempt at."""
        return RoundId(self.job, self.round, self.sum_index)

    def index_of(self, site: ClientId) -> MemberIndex:
        """The site's place in the cohort.

        Raises:
            PeerError: It is not in the cohort.
        """
        try:
            return MemberIndex(self.cohort.index(site))
        except ValueError:
            raise PeerError(f"{site} is not in the cohort of {self.round_id}") from None

    @property
    def packed_bytes(self) -> int:
        """Size of one masked vector on the wire."""
        return (self.length * self.word_bits + 7) // 8


def attempt_digest(statement: bytes) -> Digest:
    """h: digest of protocol version, suite and the manifest's exact bytes."""
    return digest(Label.MANIFEST, PROTOCOL_VERSION.to_bytes(4, "big"), SUITE.encode(), statement)


@dataclass(frozen=True, slots=True)
class Terms:
    """What this party knows for itself about a sum, from signed plans and its own policy.

    Attributes:
        corrupt: A of the roster it holds.
        bits: Fixed-point bits b of the job plan, from which B follows.
        min_cohort: The larger of the roster's, the plan's and its own policy's.
        survivors_min: Fewest survivors for which noise shares were sized; 0 where each
            client noises for itself.
        difference_key: Sums under one key are compared by the difference rule: the base's
            digest, or in a vector job a keyed digest of the own contribution. None where
            every release is charged as differentially private.
    """

    federation: FederationId
    roster: Digest
    job: JobId
    job_plan: Digest
    round_plan: Digest
    round: int
    sum_index: int
    corrupt: int
    layout: Digest
    length: int
    bits: int
    base: Digest
    min_cohort: int
    survivors_min: int
    difference_key: bytes | None

    @property
    def round_id(self) -> RoundId:
        """The sum that these terms are for."""
        return RoundId(self.job, self.round, self.sum_index)

    def params(self, clients: int, losses: int) -> Params:
        """The thresholds of a cohort of this size under these terms; D of a ring as its manifest has it."""
        return Params.of(
            clients,
            self.corrupt,
            min_cohort=self.min_cohort,
            survivors_min=self.survivors_min,
            losses=losses,
        )

    def check(self, manifest: Manifest) -> Params:
        """Compare every field that this party can know.

        Returns:
            The attempt's thresholds, computed here.

        Raises:
            VersionMismatchError: Another protocol version or suite.
            PeerError: A field differs; the message names it.
            InfeasibleCohortError: The cohort is too small or too large, or more losses are named than
                the floors leave.
        """
        if manifest.protocol != PROTOCOL_VERSION or manifest.suite != SUITE:
            raise VersionMismatchError(
                f"the aggregator speaks protocol {manifest.protocol}, this site {PROTOCOL_VERSION}"
            )
        names = (
            "federation", "roster", "job", "job_plan", "round_plan", "round", "sum_index",
            "corrupt", "layout", "length", "base",
        )  # fmt: skip
        for name in names:
            if getattr(manifest, name) != getattr(self, name):
                raise PeerError(f"the manifest's {name} is not the one of the plan and roster held here")
        if manifest.attempt < 1:
            raise PeerError("the manifest's attempt number is below 1")
        if any(a >= b for a, b in zip(manifest.cohort, manifest.cohort[1:], strict=False)):
            raise PeerError("the manifest's cohort is not strictly sorted")
        params = self.params(len(manifest.cohort), manifest.losses)
        if manifest.word_bits != word_bits(len(manifest.cohort), self.bits):
            raise PeerError("the manifest's word width does not follow from the cohort and the plan's bits")
        return params


def manifest_context(subject: Manifest | Terms) -> bytes:
    """What a manifest's signature is bound to before h exists: federation, roster and round."""
    return (
        f"{subject.federation}/{subject.job}/{subject.round}/{subject.sum_index}/".encode() + subject.roster
    )
