"""What a client says and what it is told, around the secure sum.

Clients dial in and hold one long-polled call: the client says where it stands, the aggregator
answers with the next thing for it, or with what is awaited. Saying the same thing twice
changes nothing, so a lost answer is repeated, not repaired.
"""

from __future__ import annotations

from dataclasses import dataclass

from secfed.ids import NO_DIGEST, ClientId, Digest, FederationId, JobId
from secfed.secagg.messages import Reply, Request

__all__ = [
    "Answer",
    "Ask",
    "Declined",
    "Hello",
    "JobCommand",
    "JobState",
    "MemberState",
    "Offer",
    "Present",
    "Ready",
    "Refused",
    "RoundState",
    "Said",
    "StatusReply",
    "Told",
    "Wait",
]


@dataclass(frozen=True, slots=True)
class Hello:
    """Statement at the head of every call: who calls what, now, with this body, to this peer.

    Attributes:
        protocol: Protocol version. version: The package's, for the error text.
        roster: Digest of the roster that the caller holds.
        method: The call's name.
        sequence: Nanoseconds since 1970 when the call was made, new for each call: a replayed
            hello is refused.
        body: Digest of the call's body bytes.
        ledger_head: Digest of the caller's ledger head for the job in hand; zero if none.
        ledger_entries: Number of entries up to that head.
        peer: Digest of the certificate that the caller saw on the other side.
        start: What the aggregator drew at its start: a hello of before is worth nothing after.
        state: Name of the state directory that a client takes part with; zero for who keeps none.
    """

    protocol: int
    version: str
    federation: FederationId
    site: ClientId
    roster: Digest
    method: str
    sequence: int
    body: Digest
    ledger_head: Digest
    ledger_entries: int
    peer: Digest
    start: Digest
    state: Digest = NO_DIGEST


# -- the client says ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Present:
    """Here, with nothing to answer. `job` is the only one it will take part in; empty for any."""

    job: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The contribution to this round is made; its round plan's digest binds it."""

    job: JobId
    round: int
    round_plan: Digest


@dataclass(frozen=True, slots=True)
class Declined:
    """This site stays out of this round. It does not say why."""

    job: JobId
    round: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply of the secure sum, to the request in the attempt with digest h."""

    attempt: Digest
    reply: Reply


@dataclass(frozen=True, slots=True)
class Refused:
    """This client refused a request of the attempt h; `rule` is the refusal's public text."""

    attempt: Digest
    rule: str


Said = Present | Ready | Declined | Answer | Refused


# -- the aggregator tells ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing for this client now: what is awaited, and until when at the latest (seconds left)."""

    what: str
    remaining_s: int


@dataclass(frozen=True, slots=True)
class Offer:
    """A round to take part in: the signed texts of both plans. The base is fetched by digest."""

    job_plan: bytes
    round_plan: bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of the secure sum in the attempt with digest h."""

    attempt: Digest
    request: Request


Told = Wait | Offer | Ask


# -- jobs and status ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobCommand:
    """An admin's `pause`, `resume` or `stop` of a job. (A start carries the signed plan itself.)"""

    job: JobId
    verb: str


@dataclass(frozen=True, slots=True)
class MemberState:
    """One site in the round at hand: `state` is a word for people, `since_s` how long it holds."""

    site: ClientId
    state: str
    since_s: int


@dataclass(frozen=True, slots=True)
class RoundState:
    """How one round of a job stands or ended; the words of the aggregator's round line.

    Attributes:
        dropped: Who was asked and is not in the sum, and why, by site.
        lost: Who is in the sum, but went away after the survivor list was frozen, and why, by site.
    """

    round: int
    attempt: int
    state: str
    asked: int
    included: tuple[ClientId, ...]
    dropped: tuple[tuple[ClientId, str], ...]
    lost: tuple[tuple[ClientId, str], ...]
    epsilon_by_plan: str
    seconds: int
    result: str


@dataclass(frozen=True, slots=True)
class JobState:
    """One job: what it is, where it stands, which members it waits for, and its ended rounds."""

    job: JobId
    kind: str
    state: str
    phase: str
    round: int
    rounds: int
    attempt: int
    waiting_for: str
    remaining_s: int
    members: tuple[MemberState, ...]
    history: tuple[RoundState, ...]


@dataclass(frozen=True, slots=True)
class StatusReply:
    """The federation as the aggregator sees it."""

    version: str
    federation: FederationId
    roster_version: int
    connected: tuple[ClientId, ...]
    jobs: tuple[JobState, ...]
