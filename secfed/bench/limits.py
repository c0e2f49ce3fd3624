"""What this machine can do at best, in the units that costs are held against.

Every limit is the best of several short turns, in processor seconds of one thread, so that a busy
machine changes it little. Limits are taken in the same run as what is compared with them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM

from secfed.crypto import aead, agreement, kdf, prg, shamir, signing
from secfed.crypto.labels import Label
from secfed.encoding import ring
from secfed.encoding.fixedpoint import FixedPoint

__all__ = ["TURNS", "Rates", "Work", "every_limit", "kernel_ratio", "measure_rates"]

_TILE_BYTES = 1 << 17
_TURN_BYTES = 1 << 24
"""Keystream of one turn: some 2 ms."""

TURNS = 7
"""How often each limit is taken; the best counts."""

_VECTOR = 1_000_000
"""Coordinates of what is timed on whole vectors."""

_GB = 1e9

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates that floors of vectors are made of, bytes a second of one thread.

    Attributes:
        keystream: The best AES-256 keystream that `cryptography` gives into a buffer that stays in cache.
        add: uint32 words added to a vector that does not fit a cache.
        add_in_cache: The same to a tile that does.
    """

    keystream: float
    add: float
    add_in_cache: float

    def best(self, other: Rates) -> Rates:
        """The faster of two measurements, each rate for itself."""
        return Rates(
            max(self.keystream, other.keystream),
            max(self.add, other.add),
            max(self.add_in_cache, other.add_in_cache),
        )


def measure_rates(turns: int = TURNS) -> Rates:
    """All of them, in about 0.1 s."""
    key = os.urandom(32)
    modes: tuple[Callable[[], Cipher[CTR | GCM]], ...] = (
        lambda: Cipher(AES(key), CTR(bytes(16))),
        lambda: Cipher(AES(key), GCM(bytes(12))),
    )
    draws = [_draw(mode) for mode in modes]
    total, words = np.zeros(4 * _VECTOR, np.uint32), np.ones(4 * _VECTOR, np.uint32)
    best = min(min(_seconds(draw) for draw in draws) for _ in range(turns))
    added = min(_seconds(lambda: ring.add_into(total, words)) for _ in range(turns))
    return Rates(_TURN_BYTES / best, words.nbytes / added, _TURN_BYTES / _least(_add_in_cache(), turns))


def kernel_ratio(neighbours: int, coordinates: int, turns: int = 9) -> tuple[float, float, float]:
    """The mask kernel beside the best keystream, turn by turn.

    Returns:
        Bytes a second of the kernel and of the best keystream, and how many times the latter's time the
        former takes.
    """
    half = neighbours // 2
    add = [os.urandom(32) for _ in range(half + 1)]
    subtract = [os.urandom(32) for _ in range(neighbours - half)]
    words = np.zeros(coordinates, np.uint32)
    size = 4 * coordinates * (neighbours + 1)
    kernel, keystream = 0.0, 0.0
    for _ in range(turns):
        keystream = max(keystream, measure_rates(1).keystream)
        kernel = max(kernel, size / _seconds(lambda: prg.combine_masks(words, add, subtract)))
    return kernel, keystream, keystream / kernel


def every_limit(turns: int) -> dict[str, tuple[float, str]]:
    """Each limit by name, with its unit: GB/s (1e9 bytes), us or ms of one thread's processor time."""
    found: dict[str, tuple[float, str]] = {}
    for name, cipher in _ciphers().items():
        found[name] = (_TURN_BYTES / _least(_draw(cipher), turns) / _GB, "GB/s")
    kernel, _, _ = kernel_ratio(9, _VECTOR, turns)
    found[f"mask kernel (9 neighbours, {prg.fastest_mode().value})"] = (kernel / _GB, "GB/s")
    found |= {name: (size / _least(work, turns) / _GB, "GB/s") for name, (size, work) in _streams().items()}
    for name, (calls, work) in _calls().items():
        found[name] = (1e6 * _least(_times(work, calls), turns) / calls, "us")
    found |= {name: (1e3 * _least(work, turns), "ms") for name, work in _whole().items()}
    return found


# -- what is timed -----------------------------------------------------------------------------


def _ciphers() -> dict[str, Callable[[], Cipher[CTR | GCM | None]]]:
    key = os.urandom(32)
    return {
        "AES-128-CTR": lambda: Cipher(AES(key[:16]), CTR(bytes(16))),
        "AES-128-GCM": lambda: Cipher(AES(key[:16]), GCM(bytes(12))),
        "AES-256-CTR": lambda: Cipher(AES(key), CTR(bytes(16))),
        "AES-256-GCM": lambda: Cipher(AES(key), GCM(bytes(12))),
        "ChaCha20": lambda: Cipher(ChaCha20(key, bytes(16)), None),
    }


def _streams() -> dict[str, tuple[int, Work]]:
    """Work on bytes: how many, and the work."""
    large, other = np.zeros(4 * _VECTOR, np.uint32), np.ones(4 * _VECTOR, np.uint32)
    return {
        "uint32 add from memory": (large.nbytes, lambda: ring.add_into(large, other)),
        "uint32 add in cache": (_TURN_BYTES, _add_in_cache()),
        "copy": (large.nbytes, lambda: np.copyto(large, other)),
    }


def _calls() -> dict[str, tuple[int, Work]]:
    """Small work: how often in a turn, and the work."""
    own, peer = agreement.KeyPair.generate(), agreement.KeyPair.generate()
    ciphertext, shared = agreement.encapsulate(own.public)
    signer = signing.SigningKey.generate()
    signature = signer.sign(bytes(200))
    share, key = bytes(64), os.urandom(32)
    sealed = aead.seal(key, share, aad=bytes(36))
    return {
        "X25519": (50, lambda: own.exchange(peer.public.x25519)),
        "X25519 and HKDF": (50, lambda: agreement.edge_secret(own, peer.public, shared, salt=bytes(32))),
        "ephemeral key pair": (20, agreement.KeyPair.generate),
        "ML-KEM-768 encapsulate": (50, lambda: agreement.encapsulate(peer.public)),
        "ML-KEM-768 decapsulate": (50, lambda: own.decapsulate(ciphertext)),
        "Ed25519 sign": (50, lambda: signer.sign(bytes(200))),
        "Ed25519 verify": (50, lambda: signing.verify(signer.public, bytes(200), signature)),
        "AES-GCM seal of two shares": (200, lambda: aead.seal(key, share, aad=bytes(36))),
        "AES-GCM open of two shares": (200, lambda: aead.open_(key, sealed, aad=bytes(36))),
        "HKDF-Expand": (200, lambda: kdf.derive(key, Label.EDGE_MASK, bytes(32), b"\0\0", b"\0\1")),
    }


def _whole() -> dict[str, Work]:
    """Work on a secret of 100 holders, or on a vector of a million."""
    places, secret = list(range(1, 101)), shamir.random_secret()
    shares = shamir.split(secret, 50, places)[:50]
    weights = shamir.Weights(places[:50])
    grid, vector = FixedPoint(1.0, 16), np.random.default_rng(1).random(_VECTOR)
    words = grid.encode(vector)
    packed = ring.pack(words, 20)
    return {
        "Shamir split, n = 100, t = 50": lambda: shamir.split(secret, 50, places),
        "Shamir weights, t = 50": lambda: shamir.Weights(places[:50]),
        "Shamir combine, t = 50": lambda: weights.combine(shares),
        "quantise 1e6": lambda: grid.encode(vector),
        "pack 1e6 words of 20 bits": lambda: ring.pack(words, 20),
        "unpack 1e6 words of 20 bits": lambda: ring.unpack(packed, 20, _VECTOR),
    }


# -- how it is timed ---------------------------------------------------------------------------


def _draw(cipher: Callable[[], Cipher[CTR | GCM | None]]) -> Work:
    """Keystream alone: one cipher over and over into one tile."""
    zeros, out = bytes(_TILE_BYTES), bytearray(_TILE_BYTES)

    def draw() -> None:
        context = cipher().encryptor()
        for _ in range(_TURN_BYTES // _TILE_BYTES):
            context.update_into(zeros, out)

    return draw


def _add_in_cache() -> Work:
    """One tile to another, over and over."""
    tile, tiles = np.zeros(_TILE_BYTES // 4, np.uint32), np.ones(_TILE_BYTES // 4, np.uint32)

    def add() -> None:
        for _ in range(_TURN_BYTES // _TILE_BYTES):
            np.add(tile, tiles, tile)

    return add


def _times(work: Work, calls: int) -> Work:
    def repeat() -> None:
        for _ in range(calls):
            work()

    return repeat


def _least(work: Work, turns: int) -> float:
    return min(_seconds(work) for _ in range(turns))


def _seconds(work: Work) -> float:
    """Processor time of one call in this thread."""
    begin = time.thread_time()
    work()
    return time.thread_time() - begin
