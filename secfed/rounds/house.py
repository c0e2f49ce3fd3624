"""What every part of the aggregator's rounds is given, once: identity, stores, clock, roster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from secfed.crypto.kdf import digest_pieces
from secfed.crypto.labels import Label
from secfed.crypto.signing import SigningKey
from secfed.identity import signed
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest
from secfed.rounds.plan import Deadlines
from secfed.rounds.ports import Clock, Observer
from secfed.secagg.messages import Codec
from secfed.store.adapters import AdapterStore
from secfed.store.decisions import DecisionStore
from secfed.store.spool import Spool

__all__ = ["House", "adapter_digest"]


def adapter_digest(pieces: Iterable[bytes | memoryview], size_bytes: int) -> Digest:
    """By which an adapter's or a sum's file is known: its bytes in pieces, and how many there are."""
    return digest_pieces(Label.ADAPTER, pieces, size_bytes)


@dataclass(frozen=True, slots=True)
class House:
    """The aggregator's identity and stores.

    Attributes:
        site: Its name in the roster. key: Its signing key.
        roster: The verified roster in force, asked anew each time.
        roster_key: The pinned key, to read an attempt's older roster again.
        output: Where results are published.
        most: The operator's upper limits on a plan's deadlines.
        retain_uploads: Keep masked uploads after their sum, for a reviewer.
        threads: Threads for unmasking.
    """

    site: ClientId
    key: SigningKey = field(repr=False)
    roster: Callable[[], Roster]
    roster_key: bytes
    codec: Codec
    decisions: DecisionStore
    spool: Spool
    adapters: AdapterStore
    output: Path
    clock: Clock
    observer: Observer
    most: Deadlines = field(default_factory=Deadlines)
    upload_bytes_max: int = 1 << 30
    retain_uploads: bool = False
    threads: int = 1

    def sign(self, label: Label, statement: bytes, *, context: bytes) -> Signed:
        """Sign a statement for all members."""
        return signed.sign(
            self.key, label, context=context, sender=self.site, recipient=None, statement=statement
        )

    def now(self) -> datetime:
        """Wall-clock time, for validity only."""
        return datetime.fromtimestamp(self.clock.now_ns() / 1e9, UTC)

    def clients(self) -> dict[ClientId, bytes]:
        """Identity keys of the roster's active clients."""
        return {member.site: member.identity_key for member in self.roster().active(Role.CLIENT)}

    def eligible(self) -> set[ClientId]:
        """Active clients whose roster entry has not run out: members refuse a cohort with any other."""
        return {member.site for member in self.roster().active(Role.CLIENT, self.now())}

    def deadlines(self, wanted: Deadlines) -> Deadlines:
        """A plan's deadlines, within the operator's limits."""
        return Deadlines(
            training_s=min(wanted.training_s, self.most.training_s),
            phase_s=min(wanted.phase_s, self.most.phase_s),
            upload_idle_s=min(wanted.upload_idle_s, self.most.upload_idle_s),
        )
