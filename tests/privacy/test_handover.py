"""A hand-over: the new key answers for the whole past, and no made-up past can be put before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secfed.crypto.signing import SigningKey
from secfed.errors import LedgerError
from secfed.privacy.ledger import Ledger, verify

NEW, NEWER, THIEF = (SigningKey.from_seed(bytes([number]) * 32) for number in (1, 2, 3))

Make = Callable[..., Ledger]


@pytest.fixture
def path(
    make: Make, event: Callable[..., Any], charge: Callable[..., Any], tmp_path: Path, key: SigningKey
) -> Path:
    """A ledger with a charge under each of three keys."""
    ledger, path = make(), tmp_path / "hosp-a.ledger"
    charge(ledger, event(), 1)
    ledger.hand_over(key, NEW)
    with Ledger.open(path, key=NEW) as second:
        charge(second, event(), 2)
        second.hand_over(NEW, NEWER)
    with Ledger.open(path, key=NEWER) as third:
        charge(third, event(), 3)
    return path


def test_the_last_key_opens_and_verifies_all_of_it(path: Path, key: SigningKey) -> None:
    with Ledger.open(path, key=NEWER) as ledger:
        assert [charge.reserved.round for charge in ledger.state.charges] == [1, 2, 3]
    verdict = verify(path, NEWER.public)
    assert (verdict.fault, verdict.head.count) == (None, 6)
    for former in (key, NEW, THIEF):
        assert verify(path, former.public).fault is not None
        with pytest.raises(LedgerError):
            Ledger.open(path, key=former)


def test_any_flipped_bit_is_found(path: Path) -> None:
    """In every entry, hand-overs included, at several places of its line."""
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for number, line in enumerate(lines):
        for place in range(3, len(line) - 1, 61):
            changed = bytearray(line)
            changed[place] ^= 1
            path.write_bytes(b"".join([*lines[:number], bytes(changed), *lines[number + 1 :]]))
            assert verify(path, NEWER.public).fault is not None, (number, place)


def test_a_past_cannot_be_made_up_before_a_key(make: Make, tmp_path: Path) -> None:
    """Whoever lacks the new key can sign a hand-over to it, but not its word under the head."""
    forged = tmp_path / "forged.ledger"
    with Ledger.create(
        forged, key=THIEF, site=make().state.opening.site, unit="record", records_per_unit=1,
        relation="add-remove", budget=None,
    ) as ledger:  # fmt: skip
        ledger.hand_over(THIEF, _Claimed(NEW.public))  # type: ignore[arg-type]
    verdict = verify(forged, NEW.public)
    assert verdict.fault is not None
    assert "did not sign the head" in verdict.fault
    with pytest.raises(LedgerError, match="did not sign the head"):
        Ledger.open(forged, key=NEW)


class _Claimed:
    """A public key of somebody else, with a signature by the thief."""

    def __init__(self, public: bytes) -> None:
        self.public = public

    def sign(self, message: bytes) -> bytes:
        return THIEF.sign(message)
