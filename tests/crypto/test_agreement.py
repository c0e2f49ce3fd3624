"""Hybrid agreement: published vectors, both ends alike, and every bad key refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secfed.crypto import agreement, kdf
from secfed.crypto.agreement import AgreementPublic, KeyPair, check_public, edge_secret, encapsulate
from secfed.crypto.labels import Label
from secfed.errors import PeerError

VECTORS = Path(__file__).parents[1] / "vectors"
GOOD = KeyPair.generate(lambda count: b"\x11" * count)


def load(name: str) -> list[dict[str, Any]]:
    return json.loads((VECTORS / name).read_text())  # type: ignore[no-any-return]


def pair(x25519: bytes = bytes(32), mlkem: bytes = bytes(64)) -> KeyPair:
    """A key pair from given private keys."""
    return KeyPair.generate({32: x25519, 64: mlkem}.__getitem__)


@pytest.mark.parametrize("case", load("agreement_rfc7748.json"), ids=lambda case: case["name"])
def test_x25519_matches_rfc7748(case: dict[str, str]) -> None:
    """The published secrets come out; the one key with its top bit set is refused by our check."""
    peer = bytes.fromhex(case["public"])
    assert pair(x25519=bytes.fromhex(case["private"])).exchange(peer).hex() == case["shared"]
    if case.get("check") == "canonical":
        with pytest.raises(PeerError, match="canonical"):
            check_public(replace(GOOD.public, x25519=peer))
    else:
        check_public(replace(GOOD.public, x25519=peer))


@pytest.mark.parametrize("case", load("agreement_refused.json"), ids=lambda case: case["name"])
def test_low_order_and_non_canonical_x25519_keys_are_refused(case: dict[str, str]) -> None:
    public = replace(GOOD.public, x25519=bytes.fromhex(case["public"]))
    with pytest.raises(PeerError, match=case["refused"].split()[-1]):
        check_public(public)
    if case["refused"] == "low order":
        with pytest.raises(PeerError, match="low order"):
            edge_secret(GOOD, public, bytes(32), salt=b"")


@pytest.mark.parametrize("case", load("agreement_mlkem768.json"), ids=lambda case: case["name"])
def test_mlkem768_matches_fips203(case: dict[str, str]) -> None:
    """Key generation from (d, z) and decapsulation give the published bytes."""
    keys = pair(mlkem=bytes.fromhex(case["d"] + case["z"]))
    assert hashlib.sha3_256(keys.public.mlkem).hexdigest() == case["public_sha3_256"]
    assert keys.decapsulate(bytes.fromhex(case["ciphertext"])).hex() == case["shared"]


def test_both_ends_of_an_edge_get_the_same_secret() -> None:
    low, high = KeyPair.generate(), KeyPair.generate()
    check_public(low.public)
    check_public(high.public)
    ciphertext, shared = encapsulate(high.public)
    assert len(ciphertext) == agreement.CIPHERTEXT_BYTES
    assert high.decapsulate(ciphertext) == shared
    ours = edge_secret(low, high.public, shared, salt=b"s")
    theirs = edge_secret(high, low.public, high.decapsulate(ciphertext), salt=b"s")
    assert ours.derive(Label.EDGE_MASK, b"h") == theirs.derive(Label.EDGE_MASK, b"h")


def test_an_edge_secret_is_hkdf_over_mlkem_then_x25519() -> None:
    """The order of the two secrets, the salt, and one extract for all labels."""
    low, high = KeyPair.generate(), KeyPair.generate()
    shared = bytes(range(32))
    secret = edge_secret(low, high.public, shared, salt=b"salt")
    material = shared + low.exchange(high.public.x25519)
    assert secret.derive(Label.ENVELOPE, b"h", b"\0\1") == kdf.derive(
        material, Label.ENVELOPE, b"h", b"\0\1", salt=b"salt"
    )


def test_every_input_changes_the_edge_secret() -> None:
    low, high, other = KeyPair.generate(), KeyPair.generate(), KeyPair.generate()
    secrets = [
        edge_secret(low, high.public, bytes(32), salt=b""),
        edge_secret(low, other.public, bytes(32), salt=b""),
        edge_secret(low, high.public, b"\1" + bytes(31), salt=b""),
        edge_secret(low, high.public, bytes(32), salt=b"s"),
    ]
    keys = {secret.derive(label, b"h") for secret in secrets for label in (Label.EDGE_MASK, Label.ENVELOPE)}
    assert len(keys) == 2 * len(secrets)


def test_a_changed_ciphertext_gives_another_secret_and_no_error() -> None:
    """FIPS 203's implicit rejection; the edge fails later, at its commitment."""
    ciphertext, shared = encapsulate(GOOD.public)
    changed = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert GOOD.decapsulate(ciphertext) == shared != GOOD.decapsulate(changed)


@pytest.mark.parametrize("length", [0, 1087, 1089])
def test_a_ciphertext_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(PeerError, match="1088"):
        GOOD.decapsulate(bytes(length))


def _overflowing(at: int) -> bytes:
    """A valid ML-KEM key with one 12-bit coefficient set to q = 3329."""
    key = bytearray(GOOD.public.mlkem)
    word = int.from_bytes(key[3 * at : 3 * at + 3], "little") & 0xFFF000 | 3329
    key[3 * at : 3 * at + 3] = word.to_bytes(3, "little")
    return bytes(key)


@pytest.mark.parametrize(
    "mlkem",
    [
        b"\xff" * 1184,
        _overflowing(0),
        _overflowing(383),
        GOOD.public.mlkem[:-1],
        GOOD.public.mlkem + b"\0",
        b"",
    ],
    ids=["all ones", "first coefficient is q", "last coefficient is q", "short", "long", "empty"],
)
def test_keys_that_fail_the_encapsulation_key_check_are_refused(mlkem: bytes) -> None:
    public = AgreementPublic(GOOD.public.x25519, mlkem)
    with pytest.raises(PeerError):
        check_public(public)
    with pytest.raises(PeerError, match="encapsulation-key check"):
        encapsulate(public)


def test_a_coefficient_below_the_modulus_passes() -> None:
    """The refusals above are of the modulus, not of any change."""
    key = bytearray(GOOD.public.mlkem)
    word = int.from_bytes(key[:3], "little") & 0xFFF000 | 3328
    key[:3] = word.to_bytes(3, "little")
    check_public(AgreementPublic(GOOD.public.x25519, bytes(key)))


@pytest.mark.parametrize("x25519", [b"", bytes(31), b"\x09" + bytes(32)])
def test_an_x25519_key_of_another_length_is_refused(x25519: bytes) -> None:
    with pytest.raises(PeerError, match="length"):
        check_public(AgreementPublic(x25519, GOOD.public.mlkem))


def test_secrets_print_nothing() -> None:
    secret = edge_secret(GOOD, KeyPair.generate().public, bytes(32), salt=b"")
    assert repr(secret) == "EdgeSecret(hidden)"
    assert "_x25519" not in repr(GOOD)
    assert "PrivateKey" not in repr(GOOD)


def test_a_secret_of_another_length_is_a_bug() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        edge_secret(GOOD, GOOD.public, bytes(31), salt=b"")
    with pytest.raises(ValueError, match="32 bytes"):
        agreement.EdgeSecret(bytes(31))
