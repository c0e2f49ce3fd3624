"""Write wire.json: one frozen encoding of every wire message, and encodings that must be refused.

`python tests/vectors/make_wire.py`. The bytes may change only together with the protocol version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from secfed import limits
from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest, FederationId, JobId, MemberIndex, RoundId
from secfed.rounds import exchange as ex
from secfed.secagg import messages as ms
from secfed.secagg.manifest import Manifest
from secfed.wire import calls, status, sums
from secfed.wire.codec import ProtoCodec
from secfed.wire.pb import service_pb2, statements_pb2, sum_pb2

FILE = Path(__file__).with_name("wire.json")


@dataclass(frozen=True)
class Case:
    """A message, its codec, its schema, and the limit that is checked before parsing (bytes)."""

    value: Any
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    schema: type[Message]
    limit: int


def filler(name: str, size: int) -> bytes:
    """Bytes that look like nothing, and always the same."""
    return hashlib.shake_256(name.encode()).digest(size)


def digest(name: str) -> Digest:
    return Digest(filler(name, 32))


def signed(name: str) -> Signed:
    return Signed(filler(name, 40), filler(name + " signature", 64))


def _statement(value: ms.Statement) -> Case:
    codec, kind = ProtoCodec(), type(value)
    schema = getattr(statements_pb2, kind.__name__)
    return Case(
        value, codec.encode, lambda data: codec.decode(kind, data), schema, limits.STATEMENT_BYTES_MAX
    )


def _said(value: ex.Said) -> Case:
    return Case(value, sums.encode_said, sums.decode_said, sum_pb2.Said, limits.BODY_BYTES_MAX)


def _told(value: ex.Told) -> Case:
    return Case(value, sums.encode_told, sums.decode_told, sum_pb2.Told, limits.TOLD_BYTES_MAX)


def _ask(request: ms.Request) -> Case:
    return _told(ex.Ask(digest("h"), request))


def _answer(reply: ms.Reply) -> Case:
    return _said(ex.Answer(digest("h"), reply))


FEDERATION = FederationId("0123456789abcdef0123456789abcdef")
A, B, C = ClientId("site-a"), ClientId("site-b"), ClientId("site-c")
M0, M1, M2 = MemberIndex(0), MemberIndex(1), MemberIndex(2)
JOB = JobId("triage")
ITEM = ms.BundleItem(filler("envelope", 80), digest("self"), digest("recovery"), digest("edge"))
CALL = calls.Call(signed("hello"), filler("body", 20))
JOB_STATE = ex.JobState(
    JOB, "train", "running", "mask", 2, 5, 1, "site-b", 41,
    members=(ex.MemberState(A, "uploading", 3), ex.MemberState(B, "awaited", 12)),
    history=(
        ex.RoundState(
            1, 2, "published", 3, (A, B), ((C, "no answer in phase mask"),), ((B, "confirm: gone"),),
            "0.71", 64, "ab" * 32,
        ),
    ),
)  # fmt: skip

LISTED = ((M0, digest("0")), (M2, digest("2")), (MemberIndex(900), digest("900")))
MANIFEST = Manifest(
    protocol=1,
    suite="SUITE-OF-THIS-TEST",
    federation=FEDERATION,
    roster=digest("roster"),
    job=JOB,
    job_plan=digest("job plan"),
    round_plan=digest("round plan"),
    round=3,
    sum_index=0,
    attempt=2,
    cohort=(A, B, C),
    corrupt=1,
    layout=digest("layout"),
    length=70_001,
    word_bits=18,
    base=digest("base"),
    previous_round=2,
    previous=digest("previous"),
)

CASES: dict[str, Case] = {
    "manifest": _statement(MANIFEST),
    "manifest of a ring": _statement(replace(MANIFEST, losses=13)),
    "advert": _statement(ms.Advert(filler("x25519", 32), filler("mlkem", 1184))),
    "ciphertext index": _statement(
        ms.CiphertextIndex((ms.ItemDigest(M1, digest("1")), ms.ItemDigest(M2, digest("2"))))
    ),
    "ciphertext index of the highest": _statement(ms.CiphertextIndex(())),
    "share index": _statement(
        ms.ShareIndex((ms.ItemDigest(M0, digest("0")), ms.ItemDigest(M2, digest("2"))), digest("blob"))
    ),
    "masked statement": _statement(ms.MaskedStatement(digest("vector"), 157_503, (M0, M2))),
    "confirm": _statement(ms.Confirm(digest("T"), (M0, M1, M2))),
    "share answers": _statement(
        ms.ShareAnswers(
            digest("T"),
            {
                M0: ms.SelfMaskShare(filler("self share", 32)),
                M2: ms.RecoveryKeyShare(filler("recovery share", 32)),
            },
        )
    ),
    "void": _statement(ms.Void("2 of 3 members are left, 3 are needed")),
    "outcome": _statement(
        ms.Outcome(
            RoundId(JOB, 3),
            True,
            (A, B),
            (ms.Dropped(C, "mask", "no answer in phase mask before its deadline"),),
            digest("sum"),
            digest("closing"),
            digest("result"),
        )
    ),
    "countersignature": _statement(ms.Countersignature(digest("sum"), digest("closing"))),
    "said present": _said(ex.Present("")),
    "said ready": _said(ex.Ready(JOB, 3, digest("round plan"))),
    "said declined": _said(ex.Declined(JOB, 3)),
    "said refused": _said(ex.Refused(digest("h"), "fewer than t neighbours are in the share set")),
    "answer statement": _answer(ms.SignedReply(signed("advert"))),
    "answer ciphertexts": _answer(
        ms.CiphertextList(signed("index"), {M1: filler("ct 1", 1088), M2: filler("ct 2", 1088)})
    ),
    "answer bundle": _answer(ms.Bundle(signed("index"), {M0: ITEM, M2: ITEM}, filler("blob", 2 * 34 + 16))),
    "told wait": _told(ex.Wait("2 more sites", 41)),
    "told offer": _told(ex.Offer(b'{"job":1}\nsignature: x\n', b'{"round":3}\nsignature: y\n')),
    "ask open": _ask(ms.OpenAttempt(signed("manifest"))),
    "ask adverts": _ask(ms.Adverts(((M0, signed("advert 0")), (M2, signed("advert 2"))))),
    "ask ciphertexts": _ask(
        ms.Ciphertexts(
            (
                ms.DeliveredCiphertexts(M0, signed("list 0"), filler("ct", 1088)),
                ms.DeliveredCiphertexts(M2, signed("list 2"), None),
            )
        )
    ),
    "ask bundles": _ask(
        ms.Bundles((ms.DeliveredBundle(M0, signed("b 0"), ITEM), ms.DeliveredBundle(M2, signed("b 2"), None)))
    ),
    "ask adverts of a ring": _ask(ms.Adverts(((M0, signed("advert 0")),), LISTED)),
    "ask ciphertexts of a ring": _ask(
        ms.Ciphertexts((ms.DeliveredCiphertexts(M2, signed("list 2"), None),), LISTED)
    ),
    "ask bundles of a ring": _ask(ms.Bundles((ms.DeliveredBundle(M0, signed("b 0"), ITEM),), LISTED)),
    "ask confirm": _ask(ms.ConfirmRequest((M0, M1, M2))),
    "ask unmask": _ask(
        ms.UnmaskRequest((M0, M1, M2), tuple((m, filler(f"sig {m}", 64)) for m in (M0, M1, M2)))
    ),
    "ask void": _ask(ms.VoidNotice(digest("h"), signed("void"))),
    "ask outcome": _ask(ms.OutcomeNotice(digest("h"), signed("outcome"))),
    "hello": Case(
        ex.Hello(
            1,
            "0.1.0",
            FEDERATION,
            A,
            digest("roster"),
            "Exchange",
            1_700_000_000_000_000_000,
            digest("body"),
            digest("head"),
            17,
            digest("peer"),
            digest("start"),
        ),
        calls.encode_hello,
        calls.decode_hello,
        statements_pb2.Hello,
        limits.HELLO_BYTES_MAX,
    ),
    "call": Case(CALL, calls.encode_call, calls.decode_call, service_pb2.Call, limits.CALL_BYTES_MAX),
    "upload header": Case(
        calls.UploadHeader(digest("h"), signed("masked")),
        calls.encode_upload_header,
        calls.decode_upload_header,
        service_pb2.UploadHeader,
        limits.BODY_BYTES_MAX,
    ),
    "upload call": Case(
        CALL,
        calls.encode_upload_frame,
        calls.decode_upload_frame,
        service_pb2.UploadFrame,
        limits.FRAME_BYTES_MAX,
    ),
    "upload piece": Case(
        calls.Piece(1 << 20, filler("piece", 99)),
        calls.encode_upload_frame,
        calls.decode_upload_frame,
        service_pb2.UploadFrame,
        limits.FRAME_BYTES_MAX,
    ),
    "download": Case(
        digest("file"),
        calls.encode_download,
        calls.decode_download,
        service_pb2.DownloadRequest,
        limits.COMMAND_BYTES_MAX,
    ),
    "chunk": Case(
        calls.Chunk(1 << 20, (1 << 20) + 99, filler("chunk", 99)),
        calls.encode_chunk,
        calls.decode_chunk,
        service_pb2.Chunk,
        limits.FRAME_BYTES_MAX,
    ),
    "roster": Case(
        calls.InForce(digest("start"), b'{"version":4}\nsignature: z\n'),
        calls.encode_in_force,
        calls.decode_in_force,
        service_pb2.RosterReply,
        limits.REPLY_BYTES_MAX,
    ),
    "start job": Case(
        b'{"job":1}\nsignature: x\n',
        calls.encode_start_job,
        calls.decode_start_job,
        service_pb2.StartJobRequest,
        limits.BODY_BYTES_MAX,
    ),
    "job command": Case(
        ex.JobCommand(JOB, "pause"),
        calls.encode_job_command,
        calls.decode_job_command,
        service_pb2.JobCommand,
        limits.COMMAND_BYTES_MAX,
    ),
    "job reply": Case(
        JOB_STATE,
        status.encode_job_reply,
        status.decode_job_reply,
        service_pb2.JobReply,
        limits.REPLY_BYTES_MAX,
    ),
    "status request": Case(
        JOB,
        status.encode_status_request,
        status.decode_status_request,
        service_pb2.StatusRequest,
        limits.COMMAND_BYTES_MAX,
    ),
    "status request for all": Case(
        None,
        status.encode_status_request,
        status.decode_status_request,
        service_pb2.StatusRequest,
        limits.COMMAND_BYTES_MAX,
    ),
    "status": Case(
        ex.StatusReply("0.1.0", FEDERATION, 4, (A, B), (JOB_STATE,)),
        status.encode_status,
        status.decode_status,
        service_pb2.StatusReply,
        limits.REPLY_BYTES_MAX,
    ),
}


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field below 128 bytes, by hand."""
    return bytes([number << 3 | 2, len(payload)]) + payload


def _ring(h: bytes, listed: bytes) -> bytes:
    """A request with adverts of nobody, and these digests, by hand."""
    return _field(3, h + _field(3, _field(2, listed)))


def _invalid() -> list[tuple[str, str, bytes, str]]:
    """(name, case whose decoder must refuse, bytes, words of the refusal)."""
    t, one = _field(1, digest("T")), digest("1")
    confirm, void = _field(1, digest("T")) + _field(2, b"\x00\x01"), _field(1, b"late")
    share, h = filler("share", 32), _field(1, digest("h"))
    encoding, length = "another encoding", "instead of"
    return [
        ("a share of both kinds", "share answers",
         t + _field(2, _field(2, share) + _field(3, share)), encoding),
        ("an answer without a share", "share answers", t + _field(2, b"\x08\x01"), "without a share"),
        ("one member twice", "share answers",
         t + _field(2, b"\x08\x01" + _field(2, share)) + _field(2, b"\x08\x01" + _field(3, share)),
         "increasing"),
        ("a short share", "share answers", t + _field(2, b"\x08\x01" + _field(2, share[:31])), length),
        ("survivors unsorted", "confirm", t + _field(2, b"\x01\x00"), "increasing"),
        ("a survivor twice", "confirm", t + _field(2, b"\x00\x01\x01"), "increasing"),
        ("a survivor out of any cohort", "confirm", t + _field(2, b"\x00\x80\x08"), "index"),
        ("no survivor", "confirm", t, "number of survivors"),
        ("survivors not packed", "confirm", t + b"\x10\x00\x10\x01", encoding),
        ("survivors in two parts", "confirm", t + _field(2, b"\x00") + _field(2, b"\x01"), encoding),
        ("an overlong varint", "confirm", t + _field(2, b"\x00\x81\x00"), encoding),
        ("fields out of order", "confirm", _field(2, b"\x00\x01") + t, encoding),
        ("a scalar twice", "confirm", t + confirm, encoding),
        ("an unknown field", "confirm", confirm + _field(15, b""), encoding),
        ("an unknown group", "confirm", confirm + b"\x7b\x7c", encoding),
        ("bytes left over", "confirm", confirm + b"\x00", "no Confirm"),
        ("cut short", "confirm", confirm[:-1], "no Confirm"),
        ("a long transcript", "confirm", _field(1, digest("T") + b"\x00") + _field(2, b"\x00\x01"), length),
        ("a default written out", "masked statement", t + b"\x10\x01" + _field(3, b""), encoding),
        ("no size", "masked statement", t, "size"),
        ("an item unknown inside", "ciphertext index",
         _field(1, b"\x08\x01" + _field(2, one) + _field(9, b"")), encoding),
        ("an item without digest", "ciphertext index", _field(1, b"\x08\x01"), length),
        ("a line feed in a reason", "void", _field(1, b"a\nb"), "not printable"),
        ("an escape in a reason", "void", _field(1, b"\x1b[31m"), "not printable"),
        ("a reason that is not UTF-8", "void", _field(1, b"\xff"), "no Void"),
        ("a statement twice", "void", void + void, encoding),
        ("digests of nobody", "ask adverts of a ring", _ring(h, b""), "number of digests"),
        ("a digest short of its list", "ask adverts of a ring",
         _ring(h, _field(1, b"\x00\x01") + _field(2, one)), length),
        ("digests unsorted", "ask adverts of a ring",
         _ring(h, _field(1, b"\x01\x00") + _field(2, one + one)), "increasing"),
        ("a digest of a member of no cohort", "ask adverts of a ring",
         _ring(h, _field(1, b"\x80\x08") + _field(2, one)), "index"),
        ("a body that says nothing", "said present", b"", "says nothing"),
        ("two things said", "said present", _field(1, b"") + _field(3, b"\x0a\x01a\x10\x01"), encoding),
        ("a path as a job", "said declined", _field(3, _field(1, b"../a") + b"\x10\x01"), "job's name"),
        ("round 0", "said declined", _field(3, _field(1, b"a")), "below 1"),
        ("an ask without a request", "ask open", b"\x1a\x22" + _field(1, digest("h")), "without a request"),
        ("an unknown verb", "job command", _field(1, b"a") + _field(2, b"erase"), "one of"),
        ("a chunk past the end", "chunk", b"\x08\x02\x10\x03" + _field(3, b"ab"), "an offset"),
        ("an empty piece", "upload piece", _field(2, b"\x08\x01"), "length"),
        ("an empty frame", "upload piece", b"", "empty frame"),
        ("an empty hello", "hello", b"", "does not exist"),
    ]  # fmt: skip


def build() -> list[dict[str, str]]:
    """The file's content: messages, then refusals, which also name the decoder and its words."""
    valid = [{"name": name, "hex": case.encode(case.value).hex()} for name, case in CASES.items()]
    refused = [
        {"name": name, "hex": data.hex(), "case": case, "refusal": refusal}
        for name, case, data, refusal in _invalid()
    ]
    return valid + refused


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1) + "\n", encoding="utf-8")
