"""Write crypto_frozen.json: what crypto and encoding give under fixed inputs.

Run as `python tests/vectors/make_crypto.py`; the tests call `frozen()` and compare.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from secfed.crypto import agreement, kdf, prg, shamir
from secfed.crypto.labels import Label
from secfed.encoding import ring
from secfed.encoding.contribution import encode_contribution
from secfed.encoding.fixedpoint import FixedPoint
from secfed.encoding.layout import Layout

HERE = Path(__file__).parent
TARGET = HERE / "crypto_frozen.json"


def counting_entropy(start: int = 0) -> Callable[[int], bytes]:
    """Bytes that look random and never change: SHA-256 of a counter."""
    state = start

    def entropy(count: int) -> bytes:
        nonlocal state
        drawn = b""
        while len(drawn) < count:
            drawn += hashlib.sha256(state.to_bytes(8, "big")).digest()
            state += 1
        return drawn[:count]

    return entropy


def frozen() -> dict[str, str | list[str]]:
    """Every frozen value, as hexadecimal."""
    seed = bytes(range(32))
    stream = prg.KeyStream(seed)
    long = stream.read(2 * prg.SEGMENT_BYTES + 40)
    low, high = (agreement.KeyPair.generate(counting_entropy(i)) for i in (100, 200))
    edge = agreement.edge_secret(low, high.public, bytes(range(32, 64)), salt=b"salt")
    shares = shamir.split(shamir.random_secret(counting_entropy(1)), 3, [1, 2, 5, 128], counting_entropy(2))
    fixed = FixedPoint(bound=2.0, bits=16)
    words = encode_contribution(np.linspace(-2, 2, 97), 7, [3, 1 << 20], fixed, counting_entropy(3))
    layout = Layout.from_shapes({"b.weight": (2, 3), "a.weight": (4,), "scale": ()})
    return {
        "digest": kdf.digest(Label.LAYOUT, b"one", b"", b"three").hex(),
        "derive": kdf.derive(seed, Label.SELF_MASK, b"context", salt=b"salt").hex(),
        "derive_long": kdf.derive(seed, Label.ENVELOPE, length=80).hex(),
        "stream_start": long[:64].hex(),
        "stream_segment_1": long[prg.SEGMENT_BYTES : prg.SEGMENT_BYTES + 64].hex(),
        "stream_sha256": hashlib.sha256(long).hexdigest(),
        "x25519_public": [low.public.x25519.hex(), high.public.x25519.hex()],
        "mlkem_public_sha256": [hashlib.sha256(pair.public.mlkem).hexdigest() for pair in (low, high)],
        "edge_mask": edge.derive(Label.EDGE_MASK, b"h").hex(),
        "shares": [share.hex() for share in shares],
        "contribution": ring.pack(words, 20).hex(),
        "layout_text": layout.to_json(),
        "layout_digest": layout.digest.hex(),
    }


if __name__ == "__main__":
    TARGET.write_text(json.dumps(frozen(), indent=1) + "\n")
