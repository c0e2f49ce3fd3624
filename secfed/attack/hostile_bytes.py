"""Hostile serialisation: a corrupt insider sends malformed bytes to every call while a round is held.

A client is told malformed things as well, by an aggregator that is hostile (`hostile_replies`).

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
from secfed.attack.finding import Evidence, Report
from secfed.attack.hostile_replies import tell_client
from secfed.attack.malformed import ENDLESS, NESTED, UNKNOWN_FIELD, field, pickled
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

_MIB = 1 << 20

_GROWTH_MAX = 50 * _MIB
"""What the aggregator may keep of it all, bytes."""

_NONSENSE, _OTHER, _LENGTHS = "bytes that are no message", "another encoding of a message", "endless lengths"
_GROUPS, _LONG, _PICKLE = "nested groups", "more bytes than allowed", "a pickle"
"""The parts that a message may belong to."""


def run(venue: Venue, report: Report) -> None:
    """Send them all, then let the round end; and be the aggregator of a client."""
    tell_client(venue, report.part("replies to a client"))
    with Town(venue, sites=4) as town:
        *honest, insider = town.people.sites
        vectors = [town.vector(site) for site in honest]
        trap = town.root / "unpickled"
        town.start_job(_JOB)
        for site in honest[:-1]:
            town.client(site)
        town.until(lambda: _ready(town) >= len(honest) - 1, "sites that are ready")
        before, answers = _memory(town), dict[str, Counter[str]]()
        for method in service.METHODS:
            keys = town.people.keys[ADMIN if method in ("StartJob", "ControlJob") else insider]
            _send_all(town, method, keys, trap, report, answers)
        for part, codes in answers.items():
            counted = ", ".join(f"{count} {code}" for code, count in sorted(codes.items()))
            sent = f"{codes.total()} malformed messages in {len(service.METHODS)} kinds of call"
            report.part(part).saw(f"{sent}: {counted}")
        grown, memory = _memory(town) - before, report.part("memory")
        if before:  # else the part was not carried out
            memory.saw(
                f"the aggregator's memory grew by {grown / _MIB:.0f} MiB; {_GROWTH_MAX / _MIB:.0f} may be"
            )
        if before and grown > _GROWTH_MAX:
            memory.gained(f"{grown / _MIB:.0f} MiB of the aggregator's memory")
        if trap.exists():
            report.part("a pickle").gained("code that ran inside the aggregator")
        _end_round(town, honest, insider, vectors, report.part("the honest round"))


# -- what is sent ------------------------------------------------------------------------------


def _bodies(method: str, trap: Path) -> dict[str, tuple[str, bytes]]:
    """Bodies that are not what the method takes, each with its part, under a hello that is right."""
    right = _right_body(method)
    found = {
        "random bytes": (_NONSENSE, os.urandom(200)),
        "a pickle": (_PICKLE, pickled(trap)),
        "an endless field": (_LENGTHS, right + ENDLESS),
        "nested groups": (_GROUPS, right + NESTED),
    }
    if right:
        found |= {
            "a cut one": (_NONSENSE, right[:-1]),
            "an unknown field": (_OTHER, right + UNKNOWN_FIELD),
            "everything twice": (_OTHER, right + right),
            "none": (_NONSENSE, b""),
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


def _frames(method: str, call: bytes) -> dict[str, tuple[str, bytes]]:
    """Outermost messages that are no call, each with its part, from one that is."""
    return {
        "no bytes": (_NONSENSE, b""),
        "random bytes": (_NONSENSE, os.urandom(500)),
        "a cut call": (_NONSENSE, call[:-7]),
        "a call and an unknown field": (_OTHER, call + UNKNOWN_FIELD),
        "a call twice": (_OTHER, call + call),
        "a call and an endless field": (_LENGTHS, call + ENDLESS),
        "a call and nested groups": (_GROUPS, call + NESTED),
        "more bytes than a call may have": (_LONG, _before(method, call, limits.CALL_BYTES_MAX)),
        "more bytes than a frame may have": (_LONG, _before(method, call, 2 * limits.FRAME_BYTES_MAX)),
    }


def _before(method: str, call: bytes, size: int) -> bytes:
    """The call, a little longer than this; it begins with a body in whose place the right one then comes."""
    padding = field(2, bytes(size - len(call) + 16))
    return (field(1, padding) if method == "Upload" else padding) + call


def _messages(
    town: Town, method: str, keys: MemberKeys, trap: Path
) -> Iterator[tuple[str, str, bytes, frozenset[str]]]:
    """Each message: its part, what it is, its bytes, and the codes that may refuse it."""
    encode = calls.encode_upload_frame if method == "Upload" else calls.encode_call
    for name, (part, body) in _bodies(method, trap).items():
        yield part, f"a body of {name}", encode(town.hello(keys, method, body)), _MALFORMED
    for name in _frames(method, b"x"):  # each with a hello of its own: none is refused as seen before
        call = encode(town.hello(keys, method, _right_body(method)))
        part, frame = _frames(method, call)[name]
        yield part, name, frame, _AT_THE_DOOR
    if method == "Upload":
        yield (
            _NONSENSE,
            "a piece before its call",
            calls.encode_upload_frame(calls.Piece(0, b"x")),
            _MALFORMED,
        )


def _send_all(
    town: Town, method: str, keys: MemberKeys, trap: Path, report: Report, answers: dict[str, Counter[str]]
) -> None:
    """Send all malformed messages of one method.

    Args:
        answers: How often each code came, by part; counted on.

    Raises:
        NetworkError: A body did not come as far as what parses it, so nothing follows from its end.
    """
    with town.channel(keys) as channel:
        for part, name, data, right in _messages(town, method, keys, trap):
            told = town.send(channel, method, data)
            code = told.code.name if isinstance(told, Refusal) else "answered"
            answers.setdefault(part, Counter())[code] += 1
            if not isinstance(told, Refusal):
                report.part(part).gained(f"an answer of {len(told)} bytes to {name} in {method}")
            elif code in _AT_THE_DOOR - right:
                raise NetworkError(
                    f"{name} in {method} never came to its parser: {told}: this proves nothing"
                )
            elif code not in right:
                report.part(part).gained(f"an end that is no refusal, by {name} in {method}: {told}")


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
        evidence.saw("then the round ended, and nothing is published")
        evidence.gained(f"the end of a round that it could stop: {state.state}, {state.waiting_for}")
        return
    off = float(np.abs(found.total - np.sum(vectors, axis=0)).max())
    if found.manifest["included"] != honest or off > len(honest) * FixedPoint(BOUND, BITS).step:
        evidence.saw("then the round ended with another sum")
        evidence.gained(f"a wrong sum over {found.manifest['included']}")
    else:
        evidence.saw(f"then the round ended with the exact sum of {len(honest)} honest sites")


def _memory(town: Town) -> int:
    """Resident bytes of the aggregator's process, which is this one where it is a thread; 0 if unknown."""
    running = town.aggregator
    pid = running.program.pid if isinstance(running, AggregatorProcess) else os.getpid()
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        found = re.search(r"^VmRSS:\s+([0-9]+) kB$", text, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    return 0
