"""The cast of a federation in memory: keys, terms, manifests and contributions of n sites."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secfed.crypto.labels import PROTOCOL_VERSION, SUITE, Label
from secfed.crypto.signing import SigningKey
from secfed.encoding.fixedpoint import word_bits
from secfed.errors import DecisionConflictError
from secfed.identity import signed
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, ClientId, Digest, FederationId, JobId
from secfed.secagg.attempt import Membership
from secfed.secagg.manifest import Manifest, Terms, manifest_context
from secfed.secagg.params import COMPLETE_GRAPH_MAX, Params
from secfed.secagg.record import ClientRecord, Decisions
from secfed.wire.codec import ProtoCodec

AGGREGATOR = ClientId("aggregator")
BITS = 16
"""Fixed-point bits b of the job."""

TOP = (1 << BITS) - 1
"""The largest value that a word of one client may carry."""


def digest_of(text: str) -> Digest:
    """Any digest, named by a text."""
    return Digest(hashlib.sha256(text.encode()).digest())


def key_of(name: str) -> SigningKey:
    """A member's identity key, the same in every run."""
    return SigningKey.from_seed(hashlib.sha256(f"key of {name}".encode()).digest())


@dataclass(frozen=True)
class Cast:
    """n sites, an aggregator, and what all of them know."""

    clients: int
    corrupt: int = 1
    length: int = 40
    min_cohort: int = 3
    losses: int | None = None
    codec: ProtoCodec = field(default_factory=ProtoCodec)

    @cached_property
    def sites(self) -> tuple[ClientId, ...]:
        return tuple(ClientId(f"site-{index:03}") for index in range(self.clients))

    @cached_property
    def keys(self) -> Mapping[ClientId, SigningKey]:
        return {site: key_of(site) for site in (*self.sites, AGGREGATOR)}

    @cached_property
    def members(self) -> Mapping[ClientId, bytes]:
        return {site: self.keys[site].public for site in self.sites}

    def terms(self, **changes: Any) -> Terms:
        """What every honest party knows for itself about the first round."""
        terms = Terms(
            federation=FederationId("0123456789abcdef" * 2),
            roster=digest_of("roster"),
            job=JobId("job"),
            job_plan=digest_of("job plan"),
            round_plan=digest_of("round plan"),
            round=1,
            sum_index=0,
            corrupt=self.corrupt,
            layout=digest_of("layout"),
            length=self.length,
            bits=BITS,
            base=digest_of("base"),
            min_cohort=self.min_cohort,
            survivors_min=0,
            difference_key=digest_of("base"),
        )
        return replace(terms, **changes)

    def params(self, clients: int, losses: int | None = None) -> Params:
        """The thresholds of a cohort of this size; D of a ring as its manifest says, or the cast."""
        chosen = self.losses if losses is None and clients > COMPLETE_GRAPH_MAX else losses
        return Params.of(clients, self.corrupt, min_cohort=self.min_cohort, losses=chosen)

    def manifest(self, terms: Terms, **changes: Any) -> Manifest:
        """The honest manifest of a first attempt under these terms, then changed."""
        cohort = changes.get("cohort", self.sites)
        manifest = Manifest(
            protocol=PROTOCOL_VERSION,
            suite=SUITE,
            federation=terms.federation,
            roster=terms.roster,
            job=terms.job,
            job_plan=terms.job_plan,
            round_plan=terms.round_plan,
            round=terms.round,
            sum_index=terms.sum_index,
            attempt=1,
            cohort=cohort,
            corrupt=terms.corrupt,
            layout=terms.layout,
            length=terms.length,
            word_bits=word_bits(len(cohort), terms.bits),
            base=terms.base,
            previous_round=0,
            previous=NO_DIGEST,
            losses=self.params(len(cohort)).losses if len(cohort) > COMPLETE_GRAPH_MAX else 0,
        )
        return replace(manifest, **changes)

    def sign(self, site: ClientId, label: Label, context: bytes, statement: bytes) -> Signed:
        """A statement in a member's name, by that member's key: what a corrupt member can do."""
        return signed.sign(
            self.keys[site], label, context=context, sender=site, recipient=None, statement=statement
        )

    def sign_manifest(self, terms: Terms, manifest: Manifest) -> Signed:
        """The aggregator's signature, under the context that the reader of `terms` expects."""
        return self.sign(
            AGGREGATOR, Label.SIGN_MANIFEST, manifest_context(terms), self.codec.encode(manifest)
        )

    def membership(self, site: ClientId, decisions: Decisions) -> Membership:
        """A site's seat."""
        return Membership(
            site=site,
            key=self.keys[site],
            aggregator=(AGGREGATOR, self.keys[AGGREGATOR].public),
            members=self.members,
            codec=self.codec,
            record=ClientRecord(decisions),
        )


@dataclass(frozen=True)
class OneSlot:
    """The oracle's contribution: `value` at the site's own coordinate, zero elsewhere."""

    place: int
    length: int
    value: int = TOP
    sent: Callable[[int], None] = lambda attempt: None

    def words(self) -> NDArray[np.uint32]:
        words = np.zeros(self.length, dtype=np.uint32)
        words[self.place] = self.value
        return words

    def mark_sent(self, attempt: int) -> None:
        self.sent(attempt)


class MemoryDecisions:
    """Write-once decisions without a disk, for tests that only ask what a session decides."""

    def __init__(self) -> None:
        self.pairs: dict[str, bytes] = {}

    def put(self, key: str, value: bytes) -> None:
        if self.pairs.setdefault(key, value) != value:
            raise DecisionConflictError(f"{key} was already decided differently")

    def get(self, key: str) -> bytes | None:
        return self.pairs.get(key)

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        return sorted(pair for pair in self.pairs.items() if pair[0].startswith(prefix))


def expected_total(
    length: int, survivors: tuple[int, ...], values: Mapping[int, int] | None = None
) -> NDArray[np.uint32]:
    """What the oracle demands: each survivor's value in its own slot, zero in all others."""
    total = np.zeros(length, dtype=np.uint32)
    for member in survivors:
        total[member] = TOP if values is None else values[member]
    return total
