"""Hybrid agreement: published vectors, both ends alike, and every bad key refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.integers(0, 767), st.sampled_from([0, 1, 2047, 2048, 3327, 3328, 3329, 3330, 4095]))
def test_our_check_refuses_what_the_library_refuses(at: int, coefficient: int) -> None:
    """One of the 768 coefficients set to a value on either side of q = 3329, the rest as they are."""
    packed = int.from_bytes(GOOD.public.mlkem[:1152], "little")
    packed = packed & ~(0xFFF << 12 * at) | coefficient << 12 * at
    public = AgreementPublic(GOOD.public.x25519, packed.to_bytes(1152, "little") + GOOD.public.mlkem[1152:])
    for check in (check_public, encapsulate):
        if coefficient < 3329:
            check(public)
        else:
            with pytest.raises(PeerError, match="encapsulation-key check"):
                check(public)


@pytest.mark.parametrize("fill", [3328, 4095], ids=["largest", "above"])
def test_neighbouring_coefficients_do_not_hide_each_other(fill: int) -> None:
    """All coefficients alike: the largest there are pass, and a carry from one reaches no other."""
    packed = sum(fill << 12 * at for at in range(768))
    public = AgreementPublic(GOOD.public.x25519, packed.to_bytes(1152, "little") + bytes(32))
    if fill < 3329:
        check_public(public)
    else:
        with pytest.raises(PeerError, match="encapsulation-key check"):
            check_public(public)


def test_no_key_of_low_order_is_missing_from_the_list() -> None:
    """A clamped scalar is a multiple of 8: zero for what doubles to infinity in one, two or three steps.

    To infinity double the roots of u (u^2 + a u + 1), to 0 those of (u^2 - 1)^2, and to v = 1 or -1 those
    of (u^2 - 1)^2 = 4 v u (u^2 + a u + 1), which with w = u + 1/u is w^2 - 4 v w - 4 v a - 4 = 0.
    """
    p, a = 2**255 - 19, 486662

    def is_square(value: int) -> bool:
        return pow(value, (p - 1) // 2, p) in (0, 1)

    assert not is_square(a * a - 4)  # of order 2 is 0 alone
    assert not is_square(2 - a)  # nothing doubles to -1: w = -2 +- 2 sqrt(2 - a)
    long = agreement._LOW_ORDER - {0, 1, p - 1}
    (w,) = {(u + pow(u, -1, p)) % p for u in long}
    assert len(long) == 2  # u and 1/u
    assert (w * w - 4 * w - 4 * a - 4) % p == 0
    other = 4 - w  # the second root; its u is in no field of ours
    assert not is_square(other * other - 4)


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
