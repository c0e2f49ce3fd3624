"""Check what an aggregator stored: does any masked vector say anything about the plain one?

Two tests on every stored upload, each with a stated error. A masked vector agrees with the
plain one about as often as two random vectors do, and its words are uniform.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secfed.encoding import ring
from secfed.errors import StorageError
from secfed.ids import ClientId
from secfed.secagg.manifest import Manifest
from secfed.wire.codec import ProtoCodec

__all__ = ["Hidden", "examine", "stored_uploads"]

LIMIT_SIGMA = 6.0
"""A sound upload fails one of the tests with a chance below 1e-8."""

_BINS = 256


@dataclass(frozen=True, slots=True)
class Hidden:
    """What the two tests found for one upload.

    Attributes:
        agreeing: Words that are within one grid step of the plain ones.
        expected: How many would be by chance.
        uniformity_sigma: How far the words' distribution is from uniform, in standard deviations.
    """

    site: ClientId
    words: int
    agreeing: int
    expected: float
    uniformity_sigma: float

    @property
    def passed(self) -> bool:
        """Whether both tests passed."""
        spread = math.sqrt(max(self.expected, 1.0))
        return (
            abs(self.uniformity_sigma) < LIMIT_SIGMA and self.agreeing < self.expected + LIMIT_SIGMA * spread
        )


def examine(site: ClientId, stored: NDArray[np.uint32], plain: NDArray[np.uint32], bits: int) -> Hidden:
    """Hold one stored upload against the vector that its site encoded.

    Args:
        stored: Shape (length,), the unpacked upload.
        plain: Shape (length,), the encoded contribution before masking (to within one step).
        bits: B, the width of a word.
    """
    apart = (stored.astype(np.int64) - plain.astype(np.int64)) % (1 << bits)
    agreeing = int(np.count_nonzero((apart <= 1) | (apart == (1 << bits) - 1)))
    top = stored >> max(bits - 8, 0)
    counts = np.bincount(top, minlength=_BINS)
    mean = stored.size / _BINS
    chi_square = float(((counts - mean) ** 2 / mean).sum())
    # A chi-square with k degrees of freedom has mean k and variance 2 k.
    sigma = (chi_square - (_BINS - 1)) / math.sqrt(2 * (_BINS - 1))
    return Hidden(site, stored.size, agreeing, 3 * stored.size / (1 << bits), sigma)


def stored_uploads(round_folder: Path, spool: Path) -> tuple[Manifest, dict[ClientId, NDArray[np.uint32]]]:
    """The masked vectors that an aggregator kept (`retain_uploads`) of a published round.

    Raises:
        StorageError: An included site's upload is not there.
    """
    document = json.loads((round_folder / "secfed_manifest.json").read_bytes())
    manifest = ProtoCodec().decode(Manifest, base64.b64decode(document["manifest"]["statement"]))
    uploads: dict[ClientId, NDArray[np.uint32]] = {}
    for site in document["included"]:
        member = manifest.index_of(ClientId(site))
        found = list(spool.glob(f"{document['attempt_digest']}-{member}"))
        if not found:
            raise StorageError(f"{spool} keeps no upload of {site}", hint="Set retain_uploads = true.")
        uploads[ClientId(site)] = ring.unpack(found[0].read_bytes(), manifest.word_bits, manifest.length)
    return manifest, uploads
