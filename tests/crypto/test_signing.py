"""Ed25519: published signatures, and nothing else verifies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secfed.crypto.signing import SigningKey, verify

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/signing_rfc8032.json").read_text())


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_signatures_match_rfc8032(case: dict[str, str]) -> None:
    key = SigningKey.from_seed(bytes.fromhex(case["seed"]))
    message = bytes.fromhex(case["message"])
    assert key.public.hex() == case["public"]
    assert key.sign(message).hex() == case["signature"]
    assert verify(key.public, message, bytes.fromhex(case["signature"]))


def test_any_flipped_bit_fails() -> None:
    """Of the signature, of the message, of the public key."""
    key = SigningKey.generate()
    message = b"exact bytes"
    signature = key.sign(message)
    for name, text in (("message", message), ("signature", signature), ("public", key.public)):
        for bit in range(8 * len(text)):
            changed = bytearray(text)
            changed[bit // 8] ^= 1 << bit % 8
            parts = {"message": message, "signature": signature, "public": key.public, name: bytes(changed)}
            assert not verify(parts["public"], parts["message"], parts["signature"]), (name, bit)


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(33), b"\xff" * 32])
def test_what_is_no_public_key_verifies_nothing(public: bytes) -> None:
    key = SigningKey.generate()
    assert not verify(public, b"m", key.sign(b"m"))


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_of_another_length_is_none(length: int) -> None:
    key = SigningKey.generate()
    assert not verify(key.public, b"m", (key.sign(b"m") + b"\0")[:length])


def test_a_key_comes_from_entropy_and_prints_nothing() -> None:
    key = SigningKey.generate(lambda count: b"\x07" * count)
    assert key.seed == b"\x07" * 32
    assert SigningKey.from_seed(key.seed).public == key.public
    assert "07" not in repr(key)
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey.from_seed(bytes(31))


def test_many_keys_in_turn_are_never_mixed_up() -> None:
    """More keys than are kept in parsed form, each asked twice, beside another's signature."""
    keys = [SigningKey.from_seed(number.to_bytes(32)) for number in range(300)]
    signatures = [key.sign(b"m") for key in keys]
    for _ in range(2):
        for place, key in enumerate(keys):
            assert verify(key.public, b"m", signatures[place])
            assert not verify(key.public, b"m", signatures[place - 1])
