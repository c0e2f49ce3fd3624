"""The kinds of work that a measured side is told apart by, and the functions that do each."""

from __future__ import annotations

import hashlib

from secfed.bench.meter import Target
from secfed.crypto import agreement, shamir
from secfed.encoding import ring
from secfed.encoding.fixedpoint import FixedPoint
from secfed.identity import signed
from secfed.secagg import derive, graph, masking
from secfed.store.decisions import DecisionStore
from secfed.store.spool import Spool, SpoolWriter
from secfed.wire import calls, sums
from secfed.wire.codec import ProtoCodec

__all__ = ["OF_AGGREGATOR", "OF_CLIENT", "LongHash"]

_SHA256 = hashlib.sha256

_LONG_BYTES = 1 << 12
"""What is hashed at once from here on is worth a clock; less belongs to the work around it."""


class LongHash:
    """For `hashlib.sha256`, whose own objects cannot be wrapped: what is long, or follows, is timed."""

    def __init__(self, data: bytes | memoryview = b"") -> None:
        if len(data) < _LONG_BYTES:
            self._hash = _SHA256(data)
        else:
            self._hash = _SHA256()
            self.update(data)

    def update(self, data: bytes | memoryview) -> None:
        """Take in more."""
        self._hash.update(data)

    def digest(self) -> bytes:
        """Of all that was taken in, 32 bytes."""
        return self._hash.digest()


_COMMON: dict[str, tuple[Target, ...]] = {
    "signatures": ((signed, "sign"), (signed, "open_")),
    "statements": ((ProtoCodec, "encode"), (ProtoCodec, "decode")),
    "messages": (
        (sums, "decode_said"),
        (sums, "decode_told"),
        (sums, "encode_said"),
        (sums, "encode_told"),
        (calls, "encode_upload_frame"),
        (calls, "piece_at"),
    ),
    "commitments": (
        (derive, "item_digest"),
        (derive, "self_commitment"),
        (derive, "recovery_commitment"),
        (derive, "edge_commitment"),
    ),
    "AEAD": (
        (derive, "seal_envelope"),
        (derive, "open_envelope"),
        (derive, "seal_blob"),
        (derive, "open_blob"),
    ),
    "decisions on disk": ((DecisionStore, "put"), (DecisionStore, "scan")),
    "graph": ((graph, "ring_order"),),
    "hash": ((LongHash, "update"),),
}

OF_CLIENT = _COMMON | {
    "quantise": ((FixedPoint, "encode_into"),),
    "key agreement": (
        (agreement.KeyPair, "generate"),
        (agreement.KeyPair, "decapsulate"),
        (agreement, "encapsulate"),
        (agreement, "edge_secret"),
        (agreement, "check_public"),
        (derive, "edge_keys"),
    ),
    "Shamir": ((shamir, "split"), (shamir, "random_secret"), (shamir, "check_share")),
    "masks": ((masking, "mask"),),
    "pack": ((ring, "pack"),),
}
"""Until the vector is sent and after."""

OF_AGGREGATOR = _COMMON | {
    "key checks": ((agreement, "check_public"),),
    "Shamir": ((shamir.Weights, "__init__"), (shamir.Weights, "combine")),
    "masks": ((masking, "unmask"),),
    "unpack and add": ((ring, "sum_packed"), (ring, "add_packed")),
    "pack": ((ring, "pack"),),
    "spool": ((SpoolWriter, "write"), (SpoolWriter, "commit"), (Spool, "writer")),
}
"""From the manifest to the opened sum."""
