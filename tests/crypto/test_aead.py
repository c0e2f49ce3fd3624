"""Sealing: what was sealed opens, in its context only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from secfed.crypto.aead import OVERHEAD_BYTES, open_, seal
from secfed.errors import PeerError

KEY = bytes(range(32))


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_open_is_the_inverse_of_seal(plaintext: bytes, aad: bytes) -> None:
    sealed = seal(KEY, plaintext, aad=aad)
    assert len(sealed) == len(plaintext) + OVERHEAD_BYTES
    assert open_(KEY, sealed, aad=aad) == plaintext


def test_a_sealed_text_is_aes_256_gcm_under_the_zero_nonce() -> None:
    """Test case 14 of McGrew and Viega, with its published tag."""
    case = json.loads((Path(__file__).parents[1] / "vectors/keystream_gcm.json").read_text())[0]
    sealed = seal(bytes.fromhex(case["seed"]), bytes.fromhex(case["plaintext"]), aad=b"")
    assert sealed.hex() == case["ciphertext"] + "d0d1c8a799996bf0265b98b5d48ab919"
    assert AESGCM(KEY).decrypt(bytes(12), seal(KEY, b"text", aad=b"aad"), b"aad") == b"text"


def test_any_flipped_bit_is_refused() -> None:
    sealed = seal(KEY, b"forty bytes or so of shares", aad=b"h, i, j")
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PeerError, match="does not open"):
            open_(KEY, bytes(changed), aad=b"h, i, j")


@pytest.mark.parametrize("sealed", [b"", bytes(15), bytes(16), bytes(80)])
def test_what_was_never_sealed_is_refused(sealed: bytes) -> None:
    with pytest.raises(PeerError):
        open_(KEY, sealed, aad=b"")


def test_another_context_or_key_is_refused() -> None:
    sealed = seal(KEY, b"text", aad=b"i to j")
    with pytest.raises(PeerError):
        open_(KEY, sealed, aad=b"j to i")
    with pytest.raises(PeerError):
        open_(bytes(32), sealed, aad=b"i to j")


@pytest.mark.parametrize("length", [0, 16, 24, 33])
def test_only_a_256_bit_key_seals(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        seal(bytes(length), b"", aad=b"")
    with pytest.raises(ValueError, match="32 bytes"):
        open_(bytes(length), bytes(16), aad=b"")
