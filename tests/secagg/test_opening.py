"""Adding stored uploads up, tile by tile."""

from __future__ import annotations

import hashlib
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from secfed.encoding import ring
from secfed.errors import LostUploadError
from secfed.ids import Digest, MemberIndex
from secfed.secagg import derive
from secfed.secagg.frozen import Frozen
from secfed.secagg.opening import OpenedMasks, add_up

H = Digest(b"h" * 32)
BITS = 23


class Stored(dict[MemberIndex, bytes]):
    """The `Uploads` port over packed vectors."""

    def open(self, h: Digest, member: MemberIndex) -> io.BytesIO:
        assert h == H
        return io.BytesIO(self[member])


def stored(length: int, *, members: int = 3) -> tuple[Any, Stored, Frozen]:
    """Vectors, as they were packed, and as the frozen record has them."""
    draws = np.random.default_rng(length)
    vectors = draws.integers(0, 1 << BITS, (members, length), dtype=np.uint32)
    uploads = Stored({MemberIndex(i): ring.pack(vector, BITS) for i, vector in enumerate(vectors)})
    digests = {
        member: derive.vector_digest(H, member, hashlib.sha256(packed).digest())
        for member, packed in uploads.items()
    }
    return vectors, uploads, Frozen(digests, Digest(bytes(32)), {}, ())


def total(length: int, uploads: Stored, frozen: Frozen, threads: int = 1) -> Any:
    cohort = tuple(f"site-{member}" for member in uploads)
    manifest: Any = SimpleNamespace(length=length, word_bits=BITS, cohort=cohort)
    return add_up(manifest, H, frozen, OpenedMasks((), ()), uploads, threads=threads).total


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("length", [1, 131_071, 131_072, 131_073, 300_001])
def test_uploads_of_any_number_of_tiles_add_up(length: int, threads: int) -> None:
    vectors, uploads, frozen = stored(length, members=17)  # more than are read side by side
    expected = np.add.reduce(vectors, axis=0, dtype=np.uint32) & np.uint32((1 << BITS) - 1)
    np.testing.assert_array_equal(total(length, uploads, frozen, threads), expected)


@pytest.mark.parametrize("length", [9, 262_145])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\x00",
        lambda data: b"",
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[:-1] + bytes([data[-1] ^ 0x80]),
    ],
    ids=["shorter", "longer", "empty", "first bit", "padding"],
)
def test_an_upload_that_is_another_one_is_named(length: int, damage: Any) -> None:
    _, uploads, frozen = stored(length)
    uploads[MemberIndex(1)] = damage(uploads[MemberIndex(1)])
    with pytest.raises(LostUploadError, match="site-1"):
        total(length, uploads, frozen)
