"""Agree on a secret with a peer, so that breaking one of two problems is not enough.

X25519 holds today; ML-KEM-768 holds should a quantum computer read what was recorded. The
secret of an edge comes from both, through one HKDF, and stays secret while either holds. Keys
live for one attempt and never touch a disk.

Source: RFC 7748 (X25519), FIPS 203 (ML-KEM), RFC 5869 (HKDF); the order of the two secrets
follows NIST SP 800-56C rev. 2 (the approved one first).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from secfed.crypto.kdf import KEY_BYTES, derive_from_prk, extract
from secfed.crypto.labels import Label
from secfed.errors import PeerError

__all__ = [
    "CIPHERTEXT_BYTES",
    "MLKEM_PUBLIC_BYTES",
    "SHARED_BYTES",
    "X25519_PUBLIC_BYTES",
    "AgreementPublic",
    "EdgeSecret",
    "KeyPair",
    "check_public",
    "edge_secret",
    "encapsulate",
]

X25519_PUBLIC_BYTES = 32
"""Length of an X25519 public key, bytes."""

MLKEM_PUBLIC_BYTES = 1184
"""Length of an ML-KEM-768 encapsulation key, bytes (FIPS 203, table 3)."""

CIPHERTEXT_BYTES = 1088
"""Length of an ML-KEM-768 ciphertext, bytes (FIPS 203, table 3)."""

SHARED_BYTES = 32
"""Length of either shared secret, bytes."""

_MLKEM_SEED_BYTES = 64
_FIELD_PRIME = 2**255 - 19

_LOW_ORDER = frozenset(
    (
        0,
        1,
        _FIELD_PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
)
"""Every u whose multiple by a clamped scalar is zero: on the curve, whose torsion is cyclic of order 8,
0 has order 2, 1 has order 4 and the two long ones 8; on the twist, where it has order 4, 0 and -1."""

_COEFFICIENTS_BYTES = 1152
_ML_KEM_Q = 3329
_LOW_ORDER_REFUSED = "an ephemeral X25519 key is of low order or of the wrong length"
_MLKEM_REFUSED = "an ephemeral ML-KEM-768 key fails the encapsulation-key check"
_PAIRS = int.from_bytes(b"\x01\x00\x00" * (_COEFFICIENTS_BYTES // 3), "little")
"""A one at the place of every second coefficient: three bytes hold two of 12 bits."""


@dataclass(frozen=True, slots=True)
class AgreementPublic:
    """What a member advertises for one attempt.

    Args:
        x25519: u-coordinate, 32 bytes.
        mlkem: ML-KEM-768 encapsulation key, 1184 bytes.
    """

    x25519: bytes
    mlkem: bytes


@dataclass(frozen=True, slots=True, eq=False)
class KeyPair:
    """Both private keys of one attempt, with their public halves. Prints only the latter."""

    public: AgreementPublic
    _x25519: X25519PrivateKey = field(repr=False)
    _mlkem: MLKEM768PrivateKey = field(repr=False)

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes] = os.urandom) -> KeyPair:
        """Fresh keys from 96 bytes of `entropy`: 32 for X25519, then 64 (d, z) for ML-KEM."""
        x25519 = X25519PrivateKey.from_private_bytes(entropy(X25519_PUBLIC_BYTES))
        mlkem = MLKEM768PrivateKey.from_seed_bytes(entropy(_MLKEM_SEED_BYTES))
        public = AgreementPublic(
            x25519.public_key().public_bytes_raw(), mlkem.public_key().public_bytes_raw()
        )
        return cls(public, x25519, mlkem)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The secret that a peer encapsulated for this key; the inverse of `encapsulate`.

        A ciphertext of the right length that was not made for this key gives a secret that nobody
        knows (FIPS 203's implicit rejection): the edge then fails at its commitment.

        Returns:
            32 bytes.

        Raises:
            PeerError: The ciphertext is not 1088 bytes long.
        """
        if len(ciphertext) != CIPHERTEXT_BYTES:
            raise PeerError(f"an ML-KEM-768 ciphertext has {CIPHERTEXT_BYTES} bytes, not {len(ciphertext)}")
        return self._mlkem.decapsulate(ciphertext)

    def exchange(self, peer_x25519: bytes) -> bytes:
        """X25519 with a peer's public key (RFC 7748, section 6.1).

        Returns:
            32 bytes, the same at both ends.

        Raises:
            PeerError: The key is of low order, so the result would be zero whatever our key is.
        """
        return _exchange(self._x25519, peer_x25519)


class EdgeSecret:
    """What two neighbours share in one attempt; keys come out of it under labels. Prints nothing."""

    __slots__ = ("_prk",)

    def __init__(self, prk: bytes) -> None:
        """Take the 32 bytes that HKDF-Extract gave."""
        if len(prk) != KEY_BYTES:
            raise ValueError(f"an edge secret has {KEY_BYTES} bytes, not {len(prk)}")
        self._prk = prk

    def derive(self, label: Label, *context: bytes, length: int = KEY_BYTES) -> bytes:
        """A key for one purpose: HKDF-Expand, the same bytes as `kdf.derive` over the whole input."""
        return derive_from_prk(self._prk, label, *context, length=length)

    def __repr__(self) -> str:
        return "EdgeSecret(hidden)"


def check_public(public: AgreementPublic) -> None:
    """Refuse keys that would make a secret guessable, or that are one key in two spellings.

    Raises:
        PeerError: A wrong length, an X25519 coordinate that is not below 2^255 - 19 or is of low
            order, or an ML-KEM key that fails FIPS 203's encapsulation-key check (section 7.2).
    """
    if len(public.x25519) != X25519_PUBLIC_BYTES or len(public.mlkem) != MLKEM_PUBLIC_BYTES:
        raise PeerError("an ephemeral public key has the wrong length")
    # RFC 7748 would reduce it silently; then a reflected key could pass as another one.
    u = int.from_bytes(public.x25519, "little")
    if u >= _FIELD_PRIME:
        raise PeerError("an ephemeral X25519 key is not in canonical form")
    if u in _LOW_ORDER:
        raise PeerError(_LOW_ORDER_REFUSED)
    if not _below_q(public.mlkem[:_COEFFICIENTS_BYTES]):
        raise PeerError(_MLKEM_REFUSED)


def encapsulate(peer: AgreementPublic) -> tuple[bytes, bytes]:
    """Make a secret that only the holder of the peer's ML-KEM key can recover.

    The library draws its own randomness here, as FIPS 203 asks of an implementation.

    Returns:
        The ciphertext to send (1088 bytes) and the secret (32 bytes).

    Raises:
        PeerError: The key fails FIPS 203's encapsulation-key check.
    """
    shared, ciphertext = _mlkem_public(peer.mlkem).encapsulate()
    return ciphertext, shared


def edge_secret(own: KeyPair, peer: AgreementPublic, mlkem_shared: bytes, *, salt: bytes) -> EdgeSecret:
    """Join both secrets of an edge: HKDF-Extract over ss_mlkem || ss_x25519.

    Args:
        own: This member's keys of the attempt.
        peer: The other end's, already through `check_public`.
        mlkem_shared: 32 bytes from `encapsulate` at the lower index, `decapsulate` at the higher.
        salt: Digest of what both ends said (both adverts, the ciphertext), so that both ends of a
            tampered exchange get different secrets.

    Raises:
        PeerError: The peer's X25519 key is of low order.
    """
    if len(mlkem_shared) != SHARED_BYTES:
        raise ValueError(f"an ML-KEM secret has {SHARED_BYTES} bytes, not {len(mlkem_shared)}")
    return EdgeSecret(extract(mlkem_shared + own.exchange(peer.x25519), salt))


def _exchange(private: X25519PrivateKey, peer: bytes) -> bytes:
    """X25519 with the all-zero result refused (RFC 7748, section 6.1), here and in the library."""
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError:
        raise PeerError(_LOW_ORDER_REFUSED) from None


def _mlkem_public(data: bytes) -> MLKEM768PublicKey:
    """Parse with FIPS 203's modulus check, which the library makes."""
    try:
        return MLKEM768PublicKey.from_public_bytes(data)
    except ValueError:
        raise PeerError(_MLKEM_REFUSED) from None


def _below_q(coefficients: bytes) -> bool:
    """FIPS 203's modulus check: what 767 is added to reaches 2^12 unless it was below q = 3329.

    All at once: every second coefficient has 12 bits of room above it once the others are masked out.
    """
    packed = int.from_bytes(coefficients, "little")
    even, odd = packed & (0xFFF * _PAIRS), packed >> 12 & (0xFFF * _PAIRS)
    lift = (4096 - _ML_KEM_Q) * _PAIRS
    return not ((even + lift) | (odd + lift)) & (0x1000 * _PAIRS)
