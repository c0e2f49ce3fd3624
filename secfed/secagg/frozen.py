"""What the aggregator keeps of a frozen attempt, so that a restart finishes the same one."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from io import BufferedIOBase
from typing import Any, Protocol

from secfed.errors import StorageError
from secfed.ids import Digest, MemberIndex
from secfed.secagg.messages import Dropped

__all__ = ["Frozen", "Owner", "Signatures", "Uploads"]

_DIGEST_BYTES = 32


class Uploads(Protocol):
    """The port to the spool: complete masked vectors by attempt and member."""

    def open(self, h: Digest, member: MemberIndex) -> BufferedIOBase:
        """The packed bytes, as they were acknowledged; the caller closes it."""
        ...


@dataclass(frozen=True, slots=True)
class Owner:
    """What opening one owner's secrets needs: who holds shares, the commitments, the blob.

    Attributes:
        commitments: For each holder (self share, recovery share, edge).
    """

    holders: tuple[MemberIndex, ...]
    commitments: Mapping[MemberIndex, tuple[Digest, Digest, Digest]]
    blob: bytes = field(repr=False)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(frozen=True, slots=True)
class Frozen:
    """The survivor list and its context; from the moment it is durable nothing of it changes.

    Attributes:
        vectors: Digest of each survivor's masked vector, as it signed it; sorted by member.
        owners: Everybody in the share set U1, survivors and dropouts.
        dropped: Members of the cohort that are not in the sum.
    """

    vectors: Mapping[MemberIndex, Digest]
    transcript: Digest
    owners: Mapping[MemberIndex, Owner]
    dropped: tuple[Dropped, ...]

    @property
    def survivors(self) -> tuple[MemberIndex, ...]:
        """Whose vectors are in the sum, sorted."""
        return tuple(self.vectors)

    def to_bytes(self) -> bytes:
        """JSON text; the commitments of one owner as one run of bytes in holder order."""
        owners = [
            {
                "member": member,
                "holders": list(owner.holders),
                "commitments": _text(b"".join(b"".join(owner.commitments[h]) for h in owner.holders)),
                "blob": _text(owner.blob),
            }
            for member, owner in sorted(self.owners.items())
        ]
        return json.dumps(
            {
                "vectors": [[member, vector.hex()] for member, vector in self.vectors.items()],
                "transcript": self.transcript.hex(),
                "owners": owners,
                "dropped": [asdict(item) for item in self.dropped],
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Frozen:
        """The inverse of `to_bytes`.

        Raises:
            StorageError: The record is damaged.
        """
        try:
            fields = json.loads(data)
            return cls(
                vectors={
                    MemberIndex(member): Digest(bytes.fromhex(vector)) for member, vector in fields["vectors"]
                },
                transcript=Digest(bytes.fromhex(fields["transcript"])),
                owners={MemberIndex(item["member"]): _owner(item) for item in fields["owners"]},
                dropped=tuple(Dropped(**item) for item in fields["dropped"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError("the record of a frozen attempt is damaged") from error


def _owner(item: dict[str, Any]) -> Owner:
    holders = tuple(map(MemberIndex, item["holders"]))
    raw = base64.b64decode(item["commitments"], validate=True)
    if len(raw) != 3 * _DIGEST_BYTES * len(holders):
        raise ValueError("commitments do not fit the holders")
    digests = [Digest(raw[at : at + _DIGEST_BYTES]) for at in range(0, len(raw), _DIGEST_BYTES)]
    triples = zip(digests[0::3], digests[1::3], digests[2::3], strict=True)
    return Owner(
        holders, dict(zip(holders, triples, strict=True)), base64.b64decode(item["blob"], validate=True)
    )


@dataclass(frozen=True, slots=True)
class Signatures:
    """The survivors' signatures that everyone who is asked for shares is shown."""

    signatures: tuple[tuple[MemberIndex, bytes], ...]

    def to_bytes(self) -> bytes:
        """JSON text."""
        return json.dumps([[member, _text(signature)] for member, signature in self.signatures]).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Signatures:
        """The inverse of `to_bytes`.

        Raises:
            StorageError: The record is damaged.
        """
        try:
            pairs = json.loads(data)
            return cls(tuple((MemberIndex(m), base64.b64decode(s, validate=True)) for m, s in pairs))
        except (ValueError, TypeError) as error:
            raise StorageError("the stored signatures of a frozen attempt are damaged") from error
