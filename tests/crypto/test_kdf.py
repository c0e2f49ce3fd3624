"""Digests and derived keys: published HKDF, frozen values, and fields that cannot run together."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from secfed.crypto import kdf
from secfed.crypto.labels import Label

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/kdf_rfc5869.json").read_text())


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_hkdf_matches_rfc5869(case: dict[str, str]) -> None:
    """Extract and expand give the published bytes."""
    prk = kdf.extract(bytes.fromhex(case["key"]), bytes.fromhex(case["salt"]))
    assert prk.hex() == case["prk"]
    assert kdf.expand(prk, bytes.fromhex(case["info"]), int(case["length"])).hex() == case["okm"]


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 65, 255 * 32])
def test_expand_is_the_librarys(length: int) -> None:
    """Around the ends of blocks, and the longest there is."""
    prk, info = bytes(range(32)), b"info"
    library = HKDFExpand(algorithm=hashes.SHA256(), length=length, info=info)
    assert kdf.expand(prk, info, length) == library.derive(prk)


def test_digest_is_sha256_over_lengths_and_fields() -> None:
    """Written out by hand once, so that another program can follow."""
    label = Label.LAYOUT.value
    text = len(label).to_bytes(8, "big") + label + (2).to_bytes(8, "big") + b"ab" + bytes(8)
    assert kdf.digest(Label.LAYOUT, b"ab", b"") == hashlib.sha256(text).digest()


@pytest.mark.parametrize("size", [0, 1, (1 << 16) - 3, (1 << 16) - 2, 1 << 16, 200_001])
def test_a_long_field_is_hashed_as_a_short_one(size: int) -> None:
    """Above 64 KiB the fields are not joined first; the digest is over the same bytes."""
    fields = b"h", bytes(range(256)) * (size // 256) + bytes(size % 256), b"z"
    joined = kdf.lengthed(Label.SUM.value, *fields)
    assert kdf.digest(Label.SUM, *fields) == hashlib.sha256(joined).digest()


def test_derive_is_hkdf_with_label_and_context_as_info() -> None:
    """One block of HKDF written out with HMAC alone."""
    prk = hmac.digest(b"salt", b"key", "sha256")
    info = kdf.lengthed(Label.BLOB.value, b"h", b"\x01")
    expected = hmac.digest(prk, info + b"\x01", "sha256")
    assert kdf.derive(b"key", Label.BLOB, b"h", b"\x01", salt=b"salt") == expected
    assert kdf.derive_from_prk(prk, Label.BLOB, b"h", b"\x01") == expected


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_different_fields_never_join_to_the_same_bytes(left: list[bytes], right: list[bytes]) -> None:
    """("ab", "c") and ("a", "bc") stay apart, empty fields included."""
    assert (kdf.lengthed(*left) == kdf.lengthed(*right)) == (left == right)


def test_labels_differ_and_separate() -> None:
    """No two purposes share a value, and the same input under two labels differs."""
    values = [label.value for label in Label]
    assert len(set(values)) == len(values) == len(Label.__members__)
    assert len({kdf.digest(label, b"x") for label in Label}) == len(values)
    assert len({kdf.derive(b"key", label) for label in Label}) == len(values)


@pytest.mark.parametrize("length", [0, -1, 255 * 32 + 1])
def test_lengths_that_hkdf_cannot_give_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="HKDF"):
        kdf.derive(b"key", Label.BLOB, length=length)
