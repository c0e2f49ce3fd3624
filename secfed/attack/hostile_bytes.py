"""Hostile serialisation: a corrupt insider sends malformed bytes to every call while a round is held.

Each malformed message goes to the live aggregator from somebody who may make that call, so that
it reaches the parser and not only the door. Whatever is taken, makes the aggregator fail inside,
runs (a pickle that would make a folder) or keeps the honest round from its exact sum is a gain.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secfed import limits
from secfed.attack.daemons import AggregatorProcess
from secfed.attack.finding import Evidence, Finding
from secfed.attack.people import ADMIN
from secfed.attack.town import BITS, BOUND, Refusal, Town
from secfed.attack.venue import Venue
from secfed.encoding.fixedpoint import FixedPoint
from secfed.errors import NetworkError
from secfed.identity.keyfile import MemberKeys
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, ClientId, JobId
from secfed.rounds.exchange import Declined, JobCommand
from secfed.rounds.plan_address import plan_address
from secfed.wire import calls, service, sums
from secfed.wire import status as wire_status

__all__ = ["run"]

_JOB = JobId("sum")

_MALFORMED = frozenset({"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"})
"""What a message that cannot be parsed is answered with: malformed, or too long to be taken in at all."""

_AT_THE_DOOR = _MALFORMED | {"UNAUTHENTICATED"}
"""One that may parse as a call, but not as the one that its hello covers, may also end there. A body under
a hello that is right must not: its end would say nothing about the parser of bodies."""

_UNKNOWN_FIELD = bytes([15 << 3 | 0, 1])
_ENDLESS = bytes([2 << 3 | 2]) + b"\xff" * 8 + b"\x7f"
"""A field whose declared length is 2^63 - 1 bytes."""

_NESTED = bytes([2 << 3 | 3]) * 5000
"""Groups in groups in groups: what a recursive parser would follow."""

_MIB = 1 << 20


def run(venue: Venue) -> Finding:
    """Send them all, then let the round end."""
    evidence = Evidence()
    with Town(venue, sites=4) as town:
        *honest, insider = town.people.sites
        vectors = [town.vector(site) for site in honest]
        trap = town.root / "unpickled"
        town.start_job(_JOB)
        for site in honest[:-1]:
            town.client(site)
        town.until(lambda: _ready(town) >= len(honest) - 1, "sites that are ready")
        before = _memory(town)
        for method in service.METHODS:
            keys = town.people.keys[ADMIN if method in ("StartJob", "ControlJob") else insider]
            _send_all(town, method, keys, trap, evidence)
        grown = _memory(town) - before
        if before:
            evidence.saw(f"the aggregator's memory grew by {grown / _MIB:.0f} MiB meanwhile")
        if trap.exists():
            evidence.gained("code that ran inside the aggregator")
        _end_round(town, honest, insider, vectors, evidence)
    return evidence.finding


# -- what is sent ------------------------------------------------------------------------------


def _bodies(method: str, trap: Path) -> dict[str, bytes]:
    """Bodies that are not what the method takes, each under a hello that is right."""
    right = _right_body(method)
    pickle = b"cos\nmkdir\n(V" + os.fsencode(trap) + b"\ntR."
    found = {
        "random bytes": os.urandom(200),
        "a pickle": pickle,
        "an endless field": right + _ENDLESS,
        "nested groups": right + _NESTED,
    }
    if right:
        found |= {
            "a cut one": right[:-1],
            "an unknown field": right + _UNKNOWN_FIELD,
            "everything twice": right + right,
            "none": b"",
        }
    if method == "GetStatus":
        found = {name: body for name, body in found.items() if name != "none"}  # status of all jobs
    return found


def _right_body(method: str) -> bytes:
    match method:
        case "Exchange":
            return sums.encode_said(Declined(_JOB, 1))
        case "Upload":
            return calls.encode_upload_header(calls.UploadHeader(NO_DIGEST, Signed(b"x", bytes(64))))
        case "Download":
            return calls.encode_download(plan_address(_JOB))
        case "StartJob":
            return calls.encode_start_job(b"{}")
        case "ControlJob":
            return calls.encode_job_command(JobCommand(_JOB, "stop"))
        case "GetStatus":
            return wire_status.encode_status_request(_JOB)
        case _:
            return b""


def _frames(call: bytes) -> dict[str, bytes]:
    """Outermost messages that are no call, from one that is."""
    return {
        "no bytes": b"",
        "random bytes": os.urandom(500),
        "a cut call": call[:-7],
        "a call and an unknown field": call + _UNKNOWN_FIELD,
        "a call twice": call + call,
        "an endless field": _ENDLESS,
        "nested groups": _NESTED,
        "more bytes than a call may have": call + bytes([2 << 3 | 2]) + _varint(_MIB) + bytes(_MIB),
        "more bytes than a frame may have": bytes(limits.FRAME_BYTES_MAX + 1),
    }


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def _messages(
    town: Town, method: str, keys: MemberKeys, trap: Path
) -> Iterator[tuple[str, bytes, frozenset[str]]]:
    """Each message: what it is, its bytes, and the codes that may refuse it."""
    encode = calls.encode_upload_frame if method == "Upload" else calls.encode_call
    for name, body in _bodies(method, trap).items():
        yield f"a body of {name}", encode(town.hello(keys, method, body)), _MALFORMED
    for name, frame in _frames(encode(town.hello(keys, method, _right_body(method)))).items():
        yield name, frame, _AT_THE_DOOR
    if method == "Upload":
        yield "a piece before its call", calls.encode_upload_frame(calls.Piece(0, b"x")), _MALFORMED


def _send_all(town: Town, method: str, keys: MemberKeys, trap: Path, evidence: Evidence) -> None:
    """Send all malformed messages of one method.

    Raises:
        NetworkError: A body did not come as far as what parses it, so nothing follows from its end.
    """
    answers: Counter[str] = Counter()
    with town.channel(keys) as channel:
        for name, data, right in _messages(town, method, keys, trap):
            told = town.send(channel, method, data)
            if not isinstance(told, Refusal):
                evidence.gained(f"an answer of {len(told)} bytes to {name} in {method}")
                continue
            answers[told.code.name] += 1
            if told.code.name in _AT_THE_DOOR - right:
                raise NetworkError(
                    f"{name} in {method} never came to its parser: {told}: this proves nothing"
                )
            if told.code.name not in right:
                evidence.gained(f"an end that is no refusal, by {name} in {method}: {told}")
    counted = ", ".join(f"{count} {code}" for code, count in sorted(answers.items()))
    evidence.saw(f"{method}: {sum(answers.values())} malformed messages: {counted}")


# -- what became of the round ------------------------------------------------------------------


def _ready(town: Town) -> int:
    states = [member.state for member in town.job_state(_JOB).members]
    return sum(state == "ready" for state in states)


def _end_round(
    town: Town,
    honest: list[ClientId],
    insider: ClientId,
    vectors: list[NDArray[np.float64]],
    evidence: Evidence,
) -> None:
    """The last honest site comes, the insider stays away: the sum of the honest is due."""
    town.call(town.people.keys[insider], "Exchange", sums.encode_said(Declined(_JOB, 1)))
    town.client(honest[-1])
    state = town.ended(_JOB)
    found = town.published(_JOB)
    if found is None:
        evidence.gained(f"the end of a round that it could stop: {state.state}, {state.waiting_for}")
        return
    off = float(np.abs(found.total - np.sum(vectors, axis=0)).max())
    if found.manifest["included"] != honest or off > len(honest) * FixedPoint(BOUND, BITS).step:
        evidence.gained(f"a wrong sum over {found.manifest['included']}")
    else:
        evidence.saw(f"then the round ended with the exact sum of {len(honest)} honest sites")


def _memory(town: Town) -> int:
    """Resident bytes of the aggregator's process; 0 where it is a thread."""
    if not isinstance(town.aggregator, AggregatorProcess):
        return 0
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{town.aggregator.program.pid}/status").read_text(encoding="ascii")
        found = re.search(r"^VmRSS:\s+([0-9]+) kB$", text, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    return 0
