"""What the bare primitives take that a part of the work stands on: the floor of that part.

A floor is the calls and bytes of a profiled round, each at the price of the primitive alone, timed in the
same process right after it: `cryptography`, `hashlib`, numpy, Python's integers and system calls, without
the protocol's checks, types and bookkeeping around them.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from secfed.bench.meter import Reading
from secfed.crypto import prg
from secfed.crypto.shamir import PRIME
from secfed.secagg.params import Params

__all__ = ["Bare", "Kernel", "measure_bare", "time_kernel", "without_additions"]

_ROWS = 20

_TURNS = 5
"""How often each primitive is timed; the best counts."""

_KERNEL_S, _KERNEL_TURNS = 0.5, 30
"""The kernel is timed again for as long as that, but no more often."""

_UNREDUCED = 32
"""Steps of Horner's rule between two divisions: an integer grows by a few bits in each."""

_TILE = 1 << 15
_VECTOR = 1 << 20
_PIECE_BYTES = 1 << 20

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Bare:
    """Prices of primitives, by the function of the protocol that stands on them; thread seconds.

    Attributes:
        call_s: Of each call.
        byte_s: Of each byte that goes in, or comes out where none goes in.
    """

    call_s: Mapping[str, float] = field(default_factory=dict)
    byte_s: Mapping[str, float] = field(default_factory=dict)

    def floor_s(self, reading: Reading, part: str) -> float | None:
        """Of a part of a profiled stage; None where it stands on no primitive."""
        floor = 0.0
        for name, (calls, size_bytes) in reading.work.get(part, {}).items():
            floor += calls * self.call_s.get(name, 0.0) + size_bytes * self.byte_s.get(name, 0.0)
        return floor or None


@dataclass(frozen=True, slots=True)
class Kernel:
    """The mask kernel on one vector: processor seconds of its keystreams alone, and of adding them."""

    keystream_s: float
    add_s: float


def measure_bare(params: Params, folder: Path) -> Bare:
    """Time everything that a round of this size stands on; some 0.3 s.

    Args:
        folder: Where the measured side writes.
    """
    threshold, holders = params.threshold, params.neighbours
    calls = _agreement() | _signatures() | _shamir(threshold, holders) | _sealing(holders)
    call_s = {name: _a_call_s(work, times) for name, (times, work) in calls.items()}
    call_s |= _rows_s(folder)
    if params.on_ring:
        call_s["graph.ring_order"] = _slow_hash_s()
    streams = _streams(folder)
    return Bare(call_s, {name: _least_s(work) / size for name, (size, work) in streams.items()})


def time_kernel(length: int, streams: int, threads: int = 1) -> Kernel:
    """The product's kernel with and without its additions, on the same vector, in turns.

    Args:
        length: Words.
        streams: Seeds, half of them added.
    """
    seeds = [os.urandom(32) for _ in range(streams)]
    words = np.zeros(length, np.uint32)

    def kernel() -> float:
        begin = time.process_time()
        prg.combine_masks(words, seeds[::2], seeds[1::2], threads=threads)
        return time.process_time() - begin

    whole = keystream = float("inf")
    spent = 0.0
    for _ in range(_KERNEL_TURNS):
        both = kernel()
        with without_additions():
            alone = kernel()
        whole, keystream, spent = min(whole, both), min(keystream, alone), spent + both + alone
        if spent > _KERNEL_S:
            break
    return Kernel(keystream, max(0.0, whole - keystream))


@contextmanager
def without_additions() -> Iterator[None]:
    """The kernel draws every tile and adds none."""
    names, combine = vars(prg), vars(prg)["_combine_segment"]

    def nothing(*_: object) -> None:
        pass

    def draw(part: Any, operations: Any, contexts: Any, keystream: Any) -> None:
        combine(part, [nothing] * len(operations), contexts, keystream)

    names["_combine_segment"] = draw
    try:
        yield
    finally:
        names["_combine_segment"] = combine


# -- calls -------------------------------------------------------------------------------------

_Calls = dict[str, tuple[int, Work]]
"""By the protocol's function: how often in a turn, and the primitive."""


def _agreement() -> _Calls:
    x25519, peer = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key().public_bytes_raw()
    mlkem = MLKEM768PrivateKey.generate()
    public = mlkem.public_key().public_bytes_raw()
    _, ciphertext = mlkem.public_key().encapsulate()
    secret, salt, info = bytes(64), bytes(32), bytes(90)

    def generate() -> None:
        X25519PrivateKey.generate().public_key()
        MLKEM768PrivateKey.generate().public_key()

    def edge() -> None:
        hmac.digest(salt, secret + x25519.exchange(X25519PublicKey.from_public_bytes(peer)), "sha256")

    def expand() -> None:
        for _ in range(3):
            hmac.digest(salt, info, "sha256")

    return {
        "KeyPair.generate": (10, generate),
        "KeyPair.decapsulate": (20, lambda: mlkem.decapsulate(ciphertext)),
        "agreement.encapsulate": (20, lambda: MLKEM768PublicKey.from_public_bytes(public).encapsulate()),
        "agreement.check_public": (50, lambda: int.from_bytes(public, "little") < PRIME),
        "agreement.edge_secret": (20, edge),
        "derive.edge_keys": (50, expand),
    }


def _signatures() -> _Calls:
    key, text = Ed25519PrivateKey.generate(), bytes(300)
    public, signature = key.public_key(), key.sign(text)
    return {
        "signed.sign": (20, lambda: key.sign(text)),
        "signed.open_": (20, lambda: public.verify(signature, text)),
    }


def _shamir(threshold: int, holders: int) -> _Calls:
    """Python's integers modulo the prime, by Horner's rule and Lagrange's formula."""
    places = range(1, holders + 1)
    coefficients = [int.from_bytes(os.urandom(31), "big") for _ in range(threshold)]
    shares = [os.urandom(31) for _ in range(threshold)]

    def split() -> None:
        for place in places:
            value = 0
            for begin in range(0, threshold, _UNREDUCED):
                for coefficient in coefficients[begin : begin + _UNREDUCED]:
                    value = value * place + coefficient
                value %= PRIME

    def weigh() -> None:
        """A product for each place, and one inverse."""
        for place in places[:threshold]:
            product = math.prod(other - place or 1 for other in places[:threshold]) % PRIME
        pow(product, -1, PRIME)

    def combine() -> int:
        pairs = zip(coefficients, shares, strict=True)
        return sum(weight * int.from_bytes(share, "big") for weight, share in pairs) % PRIME

    return {
        "shamir.split": (1, split),
        "shamir.random_secret": (50, lambda: int.from_bytes(os.urandom(32), "big")),
        "shamir.check_share": (100, lambda: int.from_bytes(shares[0], "big") < PRIME),
        "Weights.__init__": (1, weigh),
        "Weights.combine": (5, combine),
    }


def _sealing(holders: int) -> _Calls:
    key, nonce, shares, context = os.urandom(32), bytes(12), bytes(64), bytes(36)
    seeds, about, fields = bytes(34 * holders), bytes(34 + 2 * holders), bytes(180)
    sealed, blob = AESGCM(key).encrypt(nonce, shares, context), AESGCM(key).encrypt(nonce, seeds, about)

    def derived() -> AESGCM:
        return AESGCM(hmac.digest(hmac.digest(key, key, "sha256"), fields, "sha256"))

    hashed: tuple[int, Work] = (100, lambda: hashlib.sha256(fields).digest())
    commitments = ("item_digest", "self_commitment", "recovery_commitment", "edge_commitment")
    return {f"derive.{name}": hashed for name in commitments} | {
        "derive.seal_envelope": (50, lambda: AESGCM(key).encrypt(nonce, shares, context)),
        "derive.open_envelope": (50, lambda: AESGCM(key).decrypt(nonce, sealed, context)),
        "derive.seal_blob": (10, lambda: derived().encrypt(nonce, seeds, about)),
        "derive.open_blob": (10, lambda: AESGCM(key).decrypt(nonce, blob, about)),
    }


def _rows_s(folder: Path) -> dict[str, float]:
    """A row written to a database that syncs every commit, and one read from it."""
    path = folder / ".bare.sqlite"

    def insert() -> None:
        for _ in range(_ROWS):
            with rows:
                rows.execute("INSERT INTO t (v) VALUES (?)", (bytes(300),))

    def select() -> None:
        for number in range(_ROWS):
            rows.execute("SELECT v FROM t WHERE k = ?", (number,)).fetchall()

    with closing(sqlite3.connect(path)) as rows:
        rows.execute("PRAGMA journal_mode=WAL")
        rows.execute("PRAGMA synchronous=FULL")
        rows.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
        found = {
            "DecisionStore.put": _least_s(insert) / _ROWS,
            "DecisionStore.scan": _least_s(select) / _ROWS,
        }
    for each in folder.glob(path.name + "*"):
        each.unlink()
    return found


def _slow_hash_s() -> float:
    """The one of a ring's order, once: it takes a fifth of a second."""
    slow = Argon2id(salt=bytes(16), length=32, iterations=3, lanes=1, memory_cost=64 * 1024)
    return _seconds(lambda: slow.derive(bytes(32)))


# -- bytes -------------------------------------------------------------------------------------


def _streams(folder: Path) -> dict[str, tuple[int, Work]]:
    """By the protocol's function: how many bytes in a turn, and the primitive."""
    piece = os.urandom(_PIECE_BYTES)
    room = np.zeros(_VECTOR, np.uint32)
    source = np.ones(_VECTOR, np.uint32)

    def write() -> None:
        file = os.open(folder / ".bare", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            for _ in range(8):
                os.write(file, piece)
            os.fsync(file)
        finally:
            os.close(file)
            os.unlink(folder / ".bare")

    copy: tuple[int, Work] = (source.nbytes, lambda: np.copyto(room, source))
    carried = ("ProtoCodec.encode", "ProtoCodec.decode", "calls.encode_upload_frame")
    messages = ("sums.decode_said", "sums.decode_told", "sums.encode_said", "sums.encode_told")
    return dict.fromkeys((*carried, *messages, "ring.pack"), copy) | {
        "LongHash.update": (len(piece), lambda: hashlib.sha256(piece)),
        "SpoolWriter.write": (8 * len(piece), write),
        "FixedPoint.encode_into": _quantise(),
    }


def _quantise() -> tuple[int, Work]:
    """Scale, add dice that are there already, and cut, in tiles; 8 bytes in and 4 out a coordinate."""
    vector, words = np.random.default_rng(1).random(_VECTOR), np.zeros(_VECTOR, np.int32)
    position, dice = np.empty(_TILE), np.random.default_rng(2).random(_TILE)

    def quantise() -> None:
        for start in range(0, _VECTOR, _TILE):
            np.multiply(vector[start : start + _TILE], 65535.0, out=position)
            np.add(position, dice, out=position)
            np.copyto(words[start : start + _TILE], position, casting="unsafe")

    return vector.nbytes + words.nbytes, quantise


# -- how it is timed ---------------------------------------------------------------------------


def _a_call_s(work: Work, times: int) -> float:
    def repeat() -> None:
        for _ in range(times):
            work()

    return _least_s(repeat) / times


def _least_s(work: Work) -> float:
    return min(_seconds(work) for _ in range(_TURNS))


def _seconds(work: Work) -> float:
    begin = time.thread_time()
    work()
    return time.thread_time() - begin
