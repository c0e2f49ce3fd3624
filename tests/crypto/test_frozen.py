"""What derivations, streams, shares and encodings give under fixed inputs never changes in a version."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

VECTORS = Path(__file__).parents[1] / "vectors"


def test_frozen_values_come_out_again() -> None:
    """A difference here is a new protocol version, or a bug."""
    frozen = runpy.run_path(str(VECTORS / "make_crypto.py"))["frozen"]
    assert frozen() == json.loads((VECTORS / "crypto_frozen.json").read_text())
