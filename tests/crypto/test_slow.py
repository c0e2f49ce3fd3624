"""The slow hash: a known answer, and another one for other data or another purpose."""

from __future__ import annotations

from secfed.crypto.labels import Label
from secfed.crypto.slow import slow_key


def test_the_parameters_are_frozen() -> None:
    """Another answer would be another protocol: passes, lanes, memory and salt are in it."""
    assert slow_key(bytes(32), Label.RING_ORDER).hex() == KNOWN


def test_data_and_purpose_count() -> None:
    keys = {
        slow_key(bytes(32), Label.RING_ORDER),
        slow_key(bytes(31) + b"\x01", Label.RING_ORDER),
        slow_key(bytes(32), Label.SELF_MASK),
    }
    assert len(keys) == 3


KNOWN = "53b3dab24c35f73ce4c0ae207ae7db85f17eac827692e14e7f817e3802e08553"
