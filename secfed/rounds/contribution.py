"""One round's contribution: made once, rounding included, and the same bytes until the round closes.

A retry masks the same words afresh; an average over two roundings of one vector would show more
than either. So the words are durable before the site says that it is ready, a restart reads them
back, and the end of the round removes them. What stands in a ledger of them is a keyed digest:
without the site's key it tells nothing, not even whether two rounds sent the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secfed.crypto.kdf import KEY_BYTES, derive, digest
from secfed.crypto.labels import Label
from secfed.encoding.contribution import encode_contribution
from secfed.encoding.fixedpoint import FixedPoint
from secfed.errors import EncodingError, StorageError
from secfed.identity.fields import Fields
from secfed.ids import Digest, JobId, RoundId
from secfed.privacy.ledger import Ledger
from secfed.rounds.plan import JobPlan
from secfed.rounds.ports import Update
from secfed.store import files, jsontext
from secfed.store.files import Barrier, no_barrier

__all__ = ["Contribution", "ContributionStore", "Encoded", "Sending", "encode", "site_key"]

_HEADER_MAX_BYTES = 4096
"""Longest first line of a stored contribution."""


# -- from an update to words -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Encoded:
    """An update on the job's grid.

    Attributes:
        words: Shape (length,): weight, counter, coordinates.
        unrounded: SHA-256 over weight and coordinates before rounding; two offers of the same
            vector have the same, whatever the dice of their rounding.
    """

    words: NDArray[np.uint32] = field(repr=False)
    unrounded: bytes = field(repr=False)


def encode(plan: JobPlan, update: Update, entropy: Callable[[int], bytes] = os.urandom) -> Encoded:
    """Put an update on the grid, once.

    A trained update is clamped to the bound here, after its noise, and the clamped coordinates
    are counted under the mask; a vector that was made elsewhere is refused beyond the bound.

    Raises:
        EncodingError: A name, shape or type that is not the plan's, a value that is not finite, a
            weight outside 1 to the plan's cap, or (vector jobs) a coordinate beyond the bound.
    """
    if not 1 <= update.weight <= plan.weight_cap or (plan.weights == "uniform" and update.weight != 1):
        allowed = "1" if plan.weights == "uniform" else f"from 1 to {plan.weight_cap}"
        raise EncodingError(f"the weight is {update.weight}; this job's weights are {allowed}")
    weighted = plan.layout.flatten(update.arrays)
    weighted *= update.weight
    if not np.isfinite(weighted).all():
        raise EncodingError("the update is not finite")
    grid = FixedPoint(float(plan.bound), plan.bits)
    saturated = update.saturated
    if plan.kind == "train":
        saturated += int((np.abs(weighted) > grid.bound).sum())
        np.clip(weighted, -grid.bound, grid.bound, out=weighted)
    unrounded = hashlib.sha256(update.weight.to_bytes(8, "big"))
    unrounded.update(weighted.astype("<f8", copy=False).data)
    words = encode_contribution(weighted, update.weight, (saturated,), grid, entropy)
    return Encoded(words, unrounded.digest())


# -- words on disk -----------------------------------------------------------------------------


def site_key(path: Path, entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """The site's own 32-byte key for digests of contributions; made on first use, 0600, never sent.

    Raises:
        StorageError: The file cannot be used, or has another length.
    """
    if not path.exists():
        files.create_exclusive(path, entropy(KEY_BYTES))
    with files.storage_errors(path):
        key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise StorageError(f"{path} has {len(key)} bytes, not the {KEY_BYTES} of a key")
    return key


@dataclass(frozen=True, slots=True)
class Contribution:
    """A stored contribution to one round.

    Attributes:
        round_id: The sum that it is for.
        round_plan: Digest of the round plan that it was made under.
        digest: Keyed digest of the words; goes into the ledger.
        unrounded: Keyed digest of weight and coordinates before rounding.
    """

    round_id: RoundId
    round_plan: Digest
    digest: Digest
    unrounded: Digest
    length: int
    _path: Path = field(repr=False)
    _offset: int = field(repr=False)
    _key: bytes = field(repr=False)

    def words(self) -> NDArray[np.uint32]:
        """The encoded vector, read back: shape (length,), the same bytes every time.

        Raises:
            StorageError: The file was changed or cannot be read.
        """
        with files.storage_errors(self._path), self._path.open("rb") as file:
            file.seek(self._offset)
            words = np.fromfile(file, dtype="<u4").astype(np.uint32, copy=False)
        if words.size != self.length or _keyed(self._key, _sha256(words)) != self.digest:
            raise StorageError(f"{self._path} was changed: its contribution is not the one that was made")
        return words


@dataclass(frozen=True, slots=True)
class Sending:
    """A contribution on its way out: SENT is durable in the ledger before its first masked byte leaves."""

    contribution: Contribution
    ledger: Ledger

    def words(self) -> NDArray[np.uint32]:
        """A fresh copy of the encoded vector."""
        return self.contribution.words()

    def mark_sent(self, attempt: int) -> None:
        """Note the attempt in the ledger; bound to these very words by their keyed digest."""
        self.ledger.mark_sent(self.contribution.round_id, attempt, self.contribution.digest)


class ContributionStore:
    """A directory of contributions, one file a round.

    Args:
        directory: Created (0700) if missing.
        key: The site's key (`site_key`).
        barrier: See `secfed.store`.
    """

    def __init__(self, directory: Path, key: bytes, *, barrier: Barrier = no_barrier) -> None:
        self._directory, self._key, self._barrier = directory, key, barrier
        files.private_directory(directory)

    def save(self, round_id: RoundId, round_plan: Digest, encoded: Encoded) -> Contribution:
        """Make a contribution durable; there is one for a round.

        Raises:
            StorageError: It cannot be written.
        """
        path = self._path(round_id)
        if path.exists():
            raise ValueError(f"the contribution to {round_id} was made already")
        header = jsontext.compact(
            {
                "round_plan": round_plan.hex(),
                "digest": _keyed(self._key, _sha256(encoded.words)).hex(),
                "unrounded": _keyed(self._key, encoded.unrounded).hex(),
                "length": encoded.words.size,
            }
        )
        words = encoded.words.astype("<u4", copy=False).tobytes()
        files.replace(path, header + b"\n" + words, barrier=self._barrier)
        return self._read(round_id, path)

    def load(self, round_id: RoundId) -> Contribution | None:
        """The contribution that was made for a round, or None.

        Raises:
            StorageError: There is one, and it is damaged.
        """
        path = self._path(round_id)
        return self._read(round_id, path) if path.exists() else None

    def rounds(self) -> list[RoundId]:
        """All rounds of which there is a contribution."""
        found = []
        for path in sorted(self._directory.glob("*.bin")):
            job, number, sum_index, _ = path.name.split(".")
            found.append(RoundId(JobId(job), int(number), int(sum_index)))
        return found

    def discard(self, job: JobId, *, up_to: int) -> None:
        """Remove a job's contributions to all rounds up to this one: they closed, or were overtaken."""
        for path in self._directory.glob(f"{job}.*.bin"):
            if int(path.name.split(".")[1]) <= up_to:
                files.remove(path, barrier=self._barrier)

    def _path(self, round_id: RoundId) -> Path:
        # A job's name holds no dot, so no two rounds share a file.
        return self._directory / f"{round_id.job}.{round_id.round:08}.{round_id.sum_index:02}.bin"

    def _read(self, round_id: RoundId, path: Path) -> Contribution:
        with files.storage_errors(path), path.open("rb") as file:
            line = file.readline(_HEADER_MAX_BYTES)
        fields = Fields.parse(line, str(path), error=StorageError)
        contribution = Contribution(
            round_id,
            fields.read("round_plan", _hex_digest),
            fields.read("digest", _hex_digest),
            fields.read("unrounded", _hex_digest),
            fields.integer("length"),
            path,
            len(line),
            self._key,
        )
        fields.finish()
        return contribution


def _hex_digest(text: str) -> Digest:
    return Digest(bytes.fromhex(text))


def _sha256(words: NDArray[np.uint32]) -> bytes:
    return hashlib.sha256(words.astype("<u4", copy=False).data).digest()


def _keyed(key: bytes, hashed: bytes) -> Digest:
    return Digest(derive(key, Label.CONTRIBUTION_KEY, digest(Label.CONTRIBUTION, hashed)))
