"""The frames around every call, to bytes and back: the call itself, uploads, downloads, commands.

A transport carries bytes and knows no schema: what it receives goes through a decoder here,
so that the outermost message is held to the same limits and strictness as the innermost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from secfed import limits
from secfed.errors import PeerError
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, Digest
from secfed.rounds.exchange import Hello, JobCommand
from secfed.wire import service, strict
from secfed.wire.pb import service_pb2 as pb
from secfed.wire.pb import statements_pb2

__all__ = [
    "VERBS", "Call", "Chunk", "InForce", "Piece", "UploadHeader", "decode_call", "decode_chunk",
    "decode_download", "decode_hello", "decode_in_force", "decode_job_command", "decode_start_job",
    "decode_upload_frame", "decode_upload_header", "encode_call", "encode_chunk", "encode_download",
    "encode_hello", "encode_in_force", "encode_job_command", "encode_start_job", "encode_upload_frame",
    "encode_upload_header", "piece_at",
]  # fmt: skip

VERBS = ("pause", "resume", "stop")
"""What an admin tells a job."""


# -- every call --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """The one argument of every call.

    Attributes:
        hello: A signed `Hello`; its body digest covers `body`.
        body: A serialised message, by the method.
    """

    hello: Signed
    body: bytes = field(repr=False)


def encode_call(call: Call) -> bytes:
    """Argument of a call.

    Raises:
        ValueError: The body is over 1 MiB.
    """
    return strict.serialise(_call_to(call), limits.CALL_BYTES_MAX)


def decode_call(data: bytes) -> Call:
    """The inverse of `encode_call`; neither hello nor body is parsed yet.

    Raises:
        PeerError: As every decoder here: over its limit, malformed, unknown fields, wrong
            lengths, or not the message's one serialisation.
    """
    return _call_from(strict.parse(pb.Call, data, limits.CALL_BYTES_MAX))


def _call_to(call: Call) -> pb.Call:
    return pb.Call(hello=strict.signed_to(call.hello), body=call.body)


def _call_from(message: pb.Call) -> Call:
    if len(message.body) > limits.BODY_BYTES_MAX:
        raise PeerError(f"a body of {len(message.body)} bytes is over the limit")
    return Call(strict.signed_from(message.hello), message.body)


def encode_hello(hello: Hello) -> bytes:
    """The statement at the head of a call."""
    message = statements_pb2.Hello(
        protocol=hello.protocol,
        version=hello.version,
        federation=hello.federation,
        site=hello.site,
        roster=hello.roster,
        method=hello.method,
        sequence=hello.sequence,
        body=hello.body,
        ledger_head=hello.ledger_head,
        ledger_entries=hello.ledger_entries,
        peer=hello.peer,
        start=hello.start,
        state=b"" if hello.state == NO_DIGEST else hello.state,
    )
    return strict.serialise(message, limits.HELLO_BYTES_MAX)


def decode_hello(data: bytes) -> Hello:
    """The inverse of `encode_hello`. Another protocol version parses, so that it can be named."""
    message = strict.parse(statements_pb2.Hello, data, limits.HELLO_BYTES_MAX)
    if message.method not in service.METHODS:
        raise PeerError("a hello for a call that does not exist")
    return Hello(
        protocol=message.protocol,
        version=strict.token(message.version, limits.VERSION_CHARS_MAX, "a version"),
        federation=strict.federation(message.federation),
        site=strict.site(message.site),
        roster=strict.digest(message.roster, "a roster's digest"),
        method=message.method,
        sequence=message.sequence,
        body=strict.digest(message.body, "a body's digest"),
        ledger_head=strict.digest(message.ledger_head, "a ledger head"),
        ledger_entries=message.ledger_entries,
        peer=strict.digest(message.peer, "a certificate's digest"),
        start=strict.digest(message.start, "a start"),
        state=strict.digest(message.state, "a state's name") if message.state else NO_DIGEST,
    )


# -- uploads -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UploadHeader:
    """What is going to be uploaded: a signed `MaskedStatement` in the attempt with digest h."""

    attempt: Digest
    statement: Signed


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a packed vector, with how many bytes come before it."""

    offset: int
    data: bytes = field(repr=False)


def encode_upload_header(header: UploadHeader) -> bytes:
    """Body of the call in an upload's first frame."""
    message = pb.UploadHeader(attempt=header.attempt, statement=strict.signed_to(header.statement))
    return strict.serialise(message, limits.BODY_BYTES_MAX)


def decode_upload_header(data: bytes) -> UploadHeader:
    """The inverse of `encode_upload_header`."""
    message = strict.parse(pb.UploadHeader, data, limits.BODY_BYTES_MAX)
    return UploadHeader(strict.digest(message.attempt, "h"), strict.signed_from(message.statement))


def encode_upload_frame(frame: Call | Piece) -> bytes:
    """One frame of an upload: first the call, then the pieces in order.

    Raises:
        ValueError: The frame is over its limit.
    """
    match frame:
        case Call():
            message = pb.UploadFrame(call=_call_to(frame))
        case Piece(offset, data):
            message = pb.UploadFrame(piece=pb.Piece(offset=offset, data=data))
    return strict.serialise(message, limits.FRAME_BYTES_MAX)


def decode_upload_frame(data: bytes) -> Call | Piece:
    """The inverse of `encode_upload_frame`."""
    message = strict.parse(pb.UploadFrame, data, limits.FRAME_BYTES_MAX)
    match message.WhichOneof("frame"):
        case "call":
            return _call_from(message.call)
        case "piece":
            return Piece(
                strict.ranged(message.piece.offset, 0, limits.VECTOR_BYTES_MAX, "an offset"),
                strict.sized(message.piece.data, limits.CHUNK_BYTES_MAX, "a piece"),
            )
        case _:
            raise PeerError("an empty frame")


def piece_at(data: bytes, offset: int, size: int) -> memoryview | None:
    """What a frame holds if it is the one serialisation of the piece of this place and size; else None.

    Gives what `decode_upload_frame` would, without parsing: a GB of it costs 0.2 s, and this nothing.
    """
    head = _piece_head(offset, size)
    if size < 1 or len(data) != len(head) + size or not data.startswith(head):
        return None
    return memoryview(data)[len(head) :]


def _piece_head(offset: int, size: int) -> bytes:
    """All that stands before a piece's data: tags and lengths, the offset unless it is 0."""
    place = _tag(pb.Piece.OFFSET_FIELD_NUMBER, _VARINT) + _varint(offset) if offset else b""
    inner = place + _tag(pb.Piece.DATA_FIELD_NUMBER, _LENGTHED) + _varint(size)
    return _tag(pb.UploadFrame.PIECE_FIELD_NUMBER, _LENGTHED) + _varint(len(inner) + size) + inner


_VARINT, _LENGTHED = 0, 2
"""Protobuf's wire types of numbers, and of bytes and messages."""


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    octets = bytearray()
    while value >= 128:
        octets.append(value & 127 | 128)
        value >>= 7
    octets.append(value)
    return bytes(octets)


# -- downloads ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chunk:
    """Part of a file of `total_bytes`, with how many bytes come before it."""

    offset: int
    total_bytes: int
    data: bytes = field(repr=False)


def encode_download(digest: Digest) -> bytes:
    """Body of a download: which file."""
    return strict.serialise(pb.DownloadRequest(digest=digest), limits.COMMAND_BYTES_MAX)


def decode_download(data: bytes) -> Digest:
    """The inverse of `encode_download`."""
    message = strict.parse(pb.DownloadRequest, data, limits.COMMAND_BYTES_MAX)
    return strict.digest(message.digest, "a file's digest")


def encode_chunk(chunk: Chunk) -> bytes:
    """One message of a download's reply.

    Raises:
        ValueError: The chunk is over its limit.
    """
    message = pb.Chunk(offset=chunk.offset, total_bytes=chunk.total_bytes, data=chunk.data)
    return strict.serialise(message, limits.FRAME_BYTES_MAX)


def decode_chunk(data: bytes) -> Chunk:
    """The inverse of `encode_chunk`; a chunk that reaches past the file's end is refused."""
    message = strict.parse(pb.Chunk, data, limits.FRAME_BYTES_MAX)
    total = strict.ranged(message.total_bytes, 1, limits.VECTOR_BYTES_MAX, "a file's size")
    piece = strict.sized(message.data, limits.CHUNK_BYTES_MAX, "a chunk")
    return Chunk(strict.ranged(message.offset, 0, total - len(piece), "an offset"), total, piece)


# -- roster and jobs ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InForce:
    """What GetRoster tells.

    Attributes:
        start: What the aggregator drew at its start.
        roster: The roster's signed text, not yet verified; empty if the caller's hello named it.
    """

    start: Digest
    roster: bytes = field(repr=False)


def encode_in_force(value: InForce) -> bytes:
    """Reply of GetRoster.

    Raises:
        ValueError: The roster is over 4 MiB.
    """
    message = pb.RosterReply(start=value.start, text=value.roster)
    return strict.serialise(message, limits.REPLY_BYTES_MAX)


def decode_in_force(data: bytes) -> InForce:
    """The inverse of `encode_in_force`."""
    message = strict.parse(pb.RosterReply, data, limits.REPLY_BYTES_MAX)
    if len(message.text) > limits.ROSTER_BYTES_MAX:
        raise PeerError(f"a roster of {len(message.text)} bytes is over the limit")
    return InForce(strict.digest(message.start, "a start"), message.text)


def encode_start_job(job_plan: bytes) -> bytes:
    """Body of StartJob: the plan's text as an admin signed it.

    Raises:
        ValueError: It is over 1 MiB.
    """
    return strict.serialise(pb.StartJobRequest(job_plan=job_plan), limits.BODY_BYTES_MAX)


def decode_start_job(data: bytes) -> bytes:
    """The inverse of `encode_start_job`; the text is not verified yet."""
    message = strict.parse(pb.StartJobRequest, data, limits.BODY_BYTES_MAX)
    return strict.sized(message.job_plan, limits.JOB_PLAN_BYTES_MAX, "a job plan")


def encode_job_command(command: JobCommand) -> bytes:
    """Body of ControlJob."""
    return strict.serialise(pb.JobCommand(job=command.job, verb=command.verb), limits.COMMAND_BYTES_MAX)


def decode_job_command(data: bytes) -> JobCommand:
    """The inverse of `encode_job_command`; a verb that does not exist is refused."""
    message = strict.parse(pb.JobCommand, data, limits.COMMAND_BYTES_MAX)
    if message.verb not in VERBS:
        raise PeerError("a command for a job is one of " + ", ".join(VERBS))
    return JobCommand(strict.job(message.job), message.verb)
