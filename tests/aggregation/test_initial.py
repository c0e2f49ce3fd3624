"""The first adapter: the same bits everywhere, uniform where drawn, zero elsewhere."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from secfed.aggregation.initial import initial_adapter
from secfed.crypto.kdf import derive
from secfed.crypto.labels import Label
from secfed.crypto.prg import KeyStream

A, B = "m.query.lora_A.weight", "m.query.lora_B.weight"
SEED = bytes(range(32))


def test_values_follow_the_documented_recipe() -> None:
    """Recomputed from the module's text alone, with the cipher instead of the project's stream."""
    value = initial_adapter({A: (2, 3)}, SEED)[A]
    key = derive(SEED, Label.FFA_FROZEN_A, A.encode())
    stream = Cipher(AES(key), CTR(bytes(12) + b"\x00\x00\x00\x02")).encryptor().update(bytes(24))
    words = [int.from_bytes(stream[i : i + 4], "little") >> 8 for i in range(0, 24, 4)]
    expected = [np.float32((2 * word / 2**24 - 1) * (1 / 3) ** 0.5) for word in words]
    assert value.ravel().tolist() == [float(x) for x in expected]


def test_frozen_bits() -> None:
    """A change of these bits would break every running job."""
    value = initial_adapter({A: (8, 384)}, SEED)[A]
    assert hashlib.sha256(value.tobytes()).hexdigest() == FROZEN


FROZEN = "ab2c4cda0c03b2f1cc2f11156890ab7fda401bc15515fc981d7e181ade20e976"


def test_a_long_array_is_drawn_in_tiles_of_one_stream() -> None:
    """Over many tiles and a segment's end, as the recipe has it for the whole."""
    shape = (3, 700_001)
    value = initial_adapter({A: shape}, SEED)[A]
    words = KeyStream(derive(SEED, Label.FFA_FROZEN_A, A.encode())).words(3 * 700_001)
    expected = ((words >> 8).astype(np.float64) / 2**24 * 2 - 1) * (1 / 700_001) ** 0.5
    assert np.array_equal(value.ravel(), expected.astype(np.float32))


def test_other_arrays_change_nothing() -> None:
    alone = initial_adapter({A: (4, 6)}, SEED)
    both = initial_adapter({"head.weight": (2, 6), B: (6, 4), A: (4, 6)}, SEED)
    assert np.array_equal(alone[A], both[A])
    assert not both[B].any()
    assert both["head.weight"].any()


def test_uniform_with_the_stated_bound() -> None:
    """Mean and variance of 64 000 values within 5 standard errors of the uniform law's."""
    value = initial_adapter({A: (1000, 64)}, SEED)[A].astype(np.float64) * 8
    assert np.abs(value).max() <= 1
    assert abs(value.mean()) < 5 * (1 / 3 / value.size) ** 0.5
    assert abs(value.var() - 1 / 3) < 5 * (4 / 45 / value.size) ** 0.5


def test_seed_decides() -> None:
    other = initial_adapter({A: (4, 6)}, bytes(32))
    assert not np.array_equal(other[A], initial_adapter({A: (4, 6)}, SEED)[A])
    with pytest.raises(ValueError, match="32"):
        initial_adapter({A: (4, 6)}, b"short")
