"""What a party must still know after a crash, as write-once decisions.

Each decision is durable before it is acted on: the pair (round, attempt) before an advert
leaves, "my vector left" before its first masked byte, the survivor set before its signature,
"I answered" before a share. A key is never written twice with other bytes, so that after a
crash the same party can only repeat itself or refuse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from secfed.errors import StorageError
from secfed.ids import ClientId, Digest, JobId, RoundId
from secfed.secagg.params import corrupt_near

__all__ = ["AggregatorRecord", "Answered", "ClientRecord", "Decisions", "Left", "frozen_key"]


class Decisions(Protocol):
    """The port to `store.decisions.DecisionStore`: write-once, durable when `put` returns."""

    def put(self, key: str, value: bytes) -> None:
        """Store; the same bytes again are fine, other bytes raise DecisionConflictError."""
        ...

    def get(self, key: str) -> bytes | None:
        """The value, or None."""
        ...

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """All pairs whose key begins with `prefix`, sorted by key."""
        ...


def _pack(**fields: Any) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _unpack(value: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(value)
    except ValueError as error:
        raise StorageError("a stored decision is not readable") from error
    if not isinstance(fields, dict):
        raise StorageError("a stored decision is not readable")
    return fields


def _round_key(round_id: RoundId) -> str:
    return f"{round_id.job}/{round_id.round:08}.{round_id.sum_index:02}"


def _place_of(key: str) -> tuple[int, int, int]:
    """(round, sum, attempt) of an attempt's key."""
    _, _, where, attempt = key.split("/")
    number, sum_index = where.split(".")
    return (int(number), int(sum_index), int(attempt))


def frozen_key(h: Digest) -> str:
    """Where `AggregatorRecord.freeze` puts its megabytes, for whoever drops them once the round has ended."""
    return f"frozen/{h.hex()}"


@dataclass(frozen=True, slots=True)
class Left:
    """An attempt in which this client's masked vector left, acknowledged or not.

    Attributes:
        neighbours: Who holds shares of it, with the identity key of then: under another key the same
            name is another holder.
    """

    attempt: int
    cohort: tuple[ClientId, ...]
    corrupt: int
    threshold: int
    neighbours: Mapping[ClientId, bytes]

    def needed_back(self, corrupt: int) -> int:
        """How many of these neighbours must be back before this client masks again.

        With so many gone from the old attempt, those left in it and the corrupt ones are fewer than t.

        Args:
            corrupt: A of the new attempt.
        """
        near = corrupt_near(len(self.cohort), max(self.corrupt, corrupt), len(self.neighbours))
        return len(self.neighbours) + near - self.threshold + 1


@dataclass(frozen=True, slots=True)
class Answered:
    """A survivor set for which this client gave shares, and the key under which it is compared."""

    attempt: Digest
    survivors: frozenset[ClientId]


class ClientRecord:
    """One client's decisions over all its jobs."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions

    # -- attempts ------------------------------------------------------------------------------

    def open_attempt(self, round_id: RoundId, attempt: int, h: Digest) -> None:
        """Burn the pair (round, attempt): no attempt up to it is ever joined again."""
        self._decisions.put(f"attempt/{_round_key(round_id)}/{attempt:08}", _pack(h=h.hex()))

    def highest_attempt(self, job: JobId) -> tuple[int, int, int]:
        """(round, sum, attempt) last opened for a job; zeros if none."""
        # By number: a number of more digits than the key's padding would sort in a wrong place.
        return max((_place_of(key) for key, _ in self._decisions.scan(f"attempt/{job}/")), default=(0, 0, 0))

    def opened(self, round_id: RoundId, h: Digest) -> int | None:
        """Number of the round's attempt with this digest, if this client opened one."""
        for key, value in self._decisions.scan(f"attempt/{_round_key(round_id)}/"):
            if _unpack(value)["h"] == h.hex():
                return _place_of(key)[2]
        return None

    # -- vectors that left ---------------------------------------------------------------------

    def mark_left(self, round_id: RoundId, left: Left) -> None:
        """From here on the vector counts as gone, whatever happens next."""
        self._decisions.put(
            f"left/{_round_key(round_id)}/{left.attempt:08}",
            _pack(
                attempt=left.attempt,
                cohort=left.cohort,
                corrupt=left.corrupt,
                threshold=left.threshold,
                neighbours={site: key.hex() for site, key in left.neighbours.items()},
            ),
        )

    def left(self, round_id: RoundId) -> tuple[Left, ...]:
        """Attempts of this round in which the vector left."""
        found = []
        for _, value in self._decisions.scan(f"left/{_round_key(round_id)}/"):
            fields = _unpack(value)
            found.append(
                Left(
                    attempt=fields["attempt"],
                    cohort=tuple(map(ClientId, fields["cohort"])),
                    corrupt=fields["corrupt"],
                    threshold=fields["threshold"],
                    neighbours={
                        ClientId(site): bytes.fromhex(key) for site, key in fields["neighbours"].items()
                    },
                )
            )
        return tuple(found)

    # -- signatures and shares -----------------------------------------------------------------

    def confirm(self, h: Digest, statement: bytes) -> None:
        """Bind this attempt to one survivor set."""
        self._decisions.put(f"confirm/{h.hex()}", statement)

    def confirmed(self, h: Digest) -> bytes | None:
        """The `Confirm` statement that this client signed in an attempt, or None."""
        return self._decisions.get(f"confirm/{h.hex()}")

    def answer(
        self, round_id: RoundId, attempt: int, h: Digest, survivors: Sequence[ClientId], key: bytes | None
    ) -> None:
        """Shares are about to leave: this client is out of the round for good."""
        self._decisions.put(
            f"answered/{_round_key(round_id)}/{attempt:08}",
            _pack(h=h.hex(), survivors=list(survivors), key=key.hex() if key is not None else None),
        )

    def has_answered(self, round_id: RoundId) -> bool:
        """Whether shares of any attempt of this round were given away."""
        return bool(self._decisions.scan(f"answered/{_round_key(round_id)}/"))

    def answered_under(self, key: bytes) -> tuple[Answered, ...]:
        """Every survivor set answered for under one difference key, in any job and round."""
        found = []
        for _, value in self._decisions.scan("answered/"):
            fields = _unpack(value)
            if fields["key"] == key.hex():
                survivors = frozenset(map(ClientId, fields["survivors"]))
                found.append(Answered(Digest(bytes.fromhex(fields["h"])), survivors))
        return tuple(found)

    # -- how rounds ended ----------------------------------------------------------------------

    def close(self, round_id: RoundId, *, published: bool) -> None:
        """The round is over for this client."""
        self._decisions.put(f"closed/{_round_key(round_id)}", _pack(published=published))

    def is_closed(self, round_id: RoundId) -> bool:
        """Whether this client saw the round's end."""
        return self._decisions.get(f"closed/{_round_key(round_id)}") is not None

    def store_transcript(self, job: JobId, number: int, transcript: Digest) -> None:
        """Remember the transcript of a published round; another one for it is refused for good."""
        self._decisions.put(f"transcript/{job}/{number:08}", transcript)

    def transcript(self, job: JobId, number: int) -> Digest | None:
        """The transcript stored for a published round."""
        value = self._decisions.get(f"transcript/{job}/{number:08}")
        return None if value is None else Digest(value)

    def last_published(self, job: JobId) -> int:
        """Number of the last round of a job whose transcript is stored; 0 if none."""
        pairs = self._decisions.scan(f"transcript/{job}/")
        return max((int(key.rsplit("/", 1)[1]) for key, _ in pairs), default=0)


class AggregatorRecord:
    """The aggregator's decisions about attempts; what it published is `rounds`' business."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions

    def open_attempt(self, round_id: RoundId, attempt: int, manifest: bytes) -> None:
        """Burn an attempt's number with its manifest."""
        self._decisions.put(f"attempt/{_round_key(round_id)}/{attempt:08}", manifest)

    def attempts(self, round_id: RoundId) -> tuple[tuple[int, bytes], ...]:
        """(attempt, manifest) of every attempt at a sum, oldest first."""
        pairs = self._decisions.scan(f"attempt/{_round_key(round_id)}/")
        return tuple(sorted((_place_of(key)[2], value) for key, value in pairs))

    def void(self, h: Digest, reason: str) -> None:
        """The attempt is over and was never frozen."""
        self._decisions.put(f"void/{h.hex()}", reason.encode())

    def voided(self, h: Digest) -> str | None:
        """Why the attempt was voided, or None."""
        value = self._decisions.get(f"void/{h.hex()}")
        return None if value is None else value.decode()

    def freeze(self, h: Digest, frozen: bytes) -> None:
        """The survivor list, and all that a restart needs to finish this attempt."""
        self._decisions.put(frozen_key(h), frozen)

    def frozen(self, h: Digest) -> bytes | None:
        """What `freeze` stored."""
        return self._decisions.get(frozen_key(h))

    def certify(self, h: Digest, signatures: bytes) -> None:
        """The signatures that will be shown to everyone who is asked for shares."""
        self._decisions.put(f"signatures/{h.hex()}", signatures)

    def certified(self, h: Digest) -> bytes | None:
        """What `certify` stored."""
        return self._decisions.get(f"signatures/{h.hex()}")
