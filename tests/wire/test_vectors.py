"""The frozen encodings: every message byte for byte, and what must be refused at which step."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from secfed.errors import PeerError

FROZEN = json.loads((Path(__file__).parents[1] / "vectors" / "wire.json").read_text(encoding="utf-8"))
VALID = [vector for vector in FROZEN if "refusal" not in vector]
REFUSED = [vector for vector in FROZEN if "refusal" in vector]


def name(vector: dict[str, str]) -> str:
    return vector["name"]


def test_the_generator_writes_the_frozen_file(wire: ModuleType) -> None:
    """No message is missing from the file, and none was changed by hand."""
    assert wire.build() == FROZEN


@pytest.mark.parametrize("vector", VALID, ids=name)
def test_every_message_has_its_frozen_bytes(wire: ModuleType, vector: dict[str, str]) -> None:
    case = wire.CASES[vector["name"]]
    assert case.encode(case.value).hex() == vector["hex"]
    assert case.decode(bytes.fromhex(vector["hex"])) == case.value


@pytest.mark.parametrize("vector", REFUSED, ids=name)
def test_hostile_encodings_are_refused_for_their_reason(wire: ModuleType, vector: dict[str, str]) -> None:
    with pytest.raises(PeerError, match=re.escape(vector["refusal"])):
        wire.CASES[vector["case"]].decode(bytes.fromhex(vector["hex"]))
