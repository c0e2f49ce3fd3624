"""Thousands of malformed messages against a running aggregator that is in the middle of a round.

A real process, real sockets, and members whose hellos are in order: a part of the messages is spoilt
before anybody looks who sent them, the rest after. The daemon must answer each with a status of its own
making, neither late nor never, must not grow, and must still finish the honest round with the exact sum.

A message comes back from its seed and number: a failure names the command. `--seed N` draws all of them
from another one.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import takewhile
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from make_wire import CASES
from mutants import field_mutant, raw_mutant
from safetensors.numpy import load_file
from townhall import SITES, Member, Town

from secfed.crypto.labels import Label
from secfed.errors import SecfedError
from secfed.identity import membership, signed
from secfed.identity.roles import Role
from secfed.identity.signed import Signed
from secfed.ids import Digest, JobId
from secfed.rounds.client import Upload
from secfed.rounds.exchange import Answer, Declined, JobCommand, Ready
from secfed.secagg.messages import SignedReply
from secfed.transport import status
from secfed.wire import calls, service, sums
from secfed.wire import status as wire_status
from secfed.wire.pb import service_pb2, statements_pb2, sum_pb2

EACH = 1_000
"""Messages for each call in the test command."""

SLOW_S = 1.0
"""Later than this an answer is late, on a machine that has nothing else to do."""

SLOW_ANYWHERE_S = 15.0
"""Later than this it is late on a machine that is busy with other things."""

LONGEST_S = 3000
"""So long one round is held at most: a phase may take an hour. Given again, the long run goes on."""

GROWTH_MIB = 50

DEADLINE_S = 60
"""No answer by then: it hangs, however busy the machine."""

HOSTILE = "hosp-d"
"""A client of the roster that stays out of the round."""

SENDERS = {
    "Exchange": HOSTILE,
    "Upload": HOSTILE,
    "Download": HOSTILE,
    "GetRoster": HOSTILE,
    "StartJob": "office",
    "ControlJob": "office",
    "GetStatus": "reviewer",
}

CODES = {
    grpc.StatusCode.OK,  # what was changed means something else, and nothing is wrong with that
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # gRPC's own: over the largest message
}
"""Never INTERNAL or UNKNOWN: those are bugs; nor UNAVAILABLE: that is tried again."""


class Siege:
    """A round that waits for the last vector, and everything that can be thrown at it meanwhile."""

    def __init__(self, town: Town, seed: int) -> None:
        self.town, self.seed, self.codes = town, seed, Counter[grpc.StatusCode]()
        self.slow_s = SLOW_ANYWHERE_S
        self.held, self.over = threading.Event(), threading.Event()
        self.owed: Upload | None = None
        self.channels = {name: town.channel(name) for name in {*SENDERS.values(), SITES[2]}}

    # -- the round -----------------------------------------------------------------------------

    def hold(self, upload: Upload) -> bool:
        """Of the third site: its vector is ready, and waits."""
        self.owed = upload
        self.held.set()
        return self.over.wait(7200)

    @cached_property
    def bodies(self) -> dict[str, list[tuple[type[Message], bytes]]]:
        """Well-formed bodies of each call: the schema's own examples, and what fits the live round."""
        assert self.owed is not None
        h, plan = self.owed.attempt, self.town.plan(job="extra")
        said = [case.encode(case.value) for case in CASES.values() if case.schema is sum_pb2.Said]
        said += [
            sums.encode_said(Answer(h, SignedReply(Signed(bytes(40), bytes(64))))),
            sums.encode_said(Answer(h, SignedReply(self.owed.statement))),
            sums.encode_said(Ready(JobId("sum-1"), 1, Digest(bytes(32)))),
        ]
        header = calls.UploadHeader(h, self.owed.statement)
        command = calls.encode_job_command(JobCommand(JobId("other"), "pause"))
        return {
            "Exchange": [(sum_pb2.Said, each) for each in said],
            "Upload": [(service_pb2.UploadHeader, calls.encode_upload_header(header))],
            "Download": [(service_pb2.DownloadRequest, calls.encode_download(h))],
            "GetRoster": [(service_pb2.StatusRequest, b"")],
            "StartJob": [(service_pb2.StartJobRequest, calls.encode_start_job(plan))],
            "ControlJob": [(service_pb2.JobCommand, command)],
            "GetStatus": [(service_pb2.StatusRequest, wire_status.encode_status_request(JobId("sum-1")))],
        }

    # -- messages ------------------------------------------------------------------------------

    def message(self, method: str, index: int) -> tuple[str, list[bytes]]:
        """Who sends what: the call's one message, or an upload's frames."""
        dice = random.Random(f"{self.seed}/{method}/{index}")
        schema, body = dice.choice(self.bodies[method])
        _, other = dice.choice(self.bodies["Exchange"])
        sender = SENDERS[method]
        kind = index % (5 if method == "Upload" else 4)
        if kind == 0:  # the bytes of a whole call
            first = self.frame(method, self.call(sender, method, body))
            return sender, [raw_mutant(dice, first, other)]
        if kind == 1:  # its hello, signed as it is
            return sender, [self.frame(method, self.call(sender, method, body, spoil=dice))]
        if kind == 2:  # its body, by the schema
            spoilt = field_mutant(dice, schema.FromString(body))
            return sender, [self.frame(method, self.call(sender, method, spoilt))]
        if kind == 3:  # its body, by its bytes
            spoilt = raw_mutant(dice, body, other)
            return sender, [self.frame(method, self.call(sender, method, spoilt))]
        return SITES[2], self.pieces(dice, body)

    def pieces(self, dice: random.Random, body: bytes) -> list[bytes]:
        """The owed upload, rightly begun, and a piece that does not go on with it.

        One of the right size in the right place would be this site's vector, and be judged as that.
        """
        assert self.owed is not None
        piece = service_pb2.UploadFrame(piece=service_pb2.Piece(offset=0, data=self.owed.packed))
        spoilt = field_mutant(dice, piece)
        if spoilt == piece.SerializeToString() or not dice.randrange(2):
            spoilt = raw_mutant(dice, piece.SerializeToString(), body)
        first = self.frame("Upload", self.call(SITES[2], "Upload", body))
        return [first, b"\xff" if self.completes(spoilt) else spoilt]

    def completes(self, frame: bytes) -> bool:
        """Whether a frame is the whole owed vector, or bytes in its place."""
        assert self.owed is not None
        try:
            piece = calls.decode_upload_frame(frame)
        except SecfedError:
            return False
        return isinstance(piece, calls.Piece) and (piece.offset, len(piece.data)) == (
            0,
            len(self.owed.packed),
        )

    def frame(self, method: str, call: bytes) -> bytes:
        if method != "Upload":
            return call
        data: bytes = service_pb2.UploadFrame(call=service_pb2.Call.FromString(call)).SerializeToString()
        return data

    def call(self, sender: str, method: str, body: bytes, *, spoil: random.Random | None = None) -> bytes:
        """A call with a hello that is in order, unless `spoil` changes its statement before it is signed."""
        town = self.town
        hello = town.maker(sender).make(method, body, roster=town.roster.digest, start=town.begun)
        if spoil is not None:
            statement = field_mutant(spoil, statements_pb2.Hello.FromString(hello.statement))
            hello = signed.sign(
                town.keys[sender].signing, Label.SIGN_HELLO, context=town.roster.federation.encode(),
                sender=sender, recipient=None, statement=statement,
            )  # fmt: skip
        message = statements_pb2.Signed(statement=hello.statement, signature=hello.signature)
        data: bytes = service_pb2.Call(hello=message, body=body).SerializeToString()
        return data

    # -- throwing ------------------------------------------------------------------------------

    def throw(self, method: str, index: int) -> None:
        """Send one message. One that is answered late is sent again: the machine may have had other work."""
        took = self.ask(method, index)
        for _ in range(4):
            if took > self.slow_s:
                took = min(took, self.ask(method, index))
        assert took <= self.slow_s, f"{self.name(method, index)}: an answer after {took:.1f} s"

    def ask(self, method: str, index: int) -> float:
        """Seconds until the answer."""
        sender, frames = self.message(method, index)
        channel, path = self.channels[sender], service.path(method)
        begin, code, detailed, details = time.monotonic(), grpc.StatusCode.OK, True, ""
        try:
            if method == "Upload":
                channel.stream_unary(path)(iter(frames), timeout=DEADLINE_S)
            elif method == "Download":
                list(channel.unary_stream(path)(frames[0], timeout=DEADLINE_S))
            else:
                channel.unary_unary(path)(frames[0], timeout=DEADLINE_S)
        except grpc.RpcError as failure:
            code, details = failure.code(), failure.details()
            detailed = any(key == status.DETAIL_KEY for key, _ in failure.trailing_metadata() or ())
        took = time.monotonic() - begin
        assert code in CODES, f"{self.name(method, index)}: {code} {details}"
        assert detailed or code is grpc.StatusCode.RESOURCE_EXHAUSTED, self.name(method, index)
        self.codes[code] += 1
        return took

    def name(self, method: str, index: int) -> str:
        """Which message, and the command that sends it again."""
        again = "python -m pytest tests/transport/test_hostile_input.py -k thousand"
        return f"{method} message {index}; again: {again} --seed {self.seed} --message {method}/{index}"


@pytest.fixture
def siege(quiet_town: Town, request: pytest.FixtureRequest) -> Iterator[Siege]:
    """Three sites in a round, the third one's vector owed; a fourth declined and turns hostile."""
    town = quiet_town
    seed = request.config.getoption("--seed")
    town.keys[HOSTILE] = town.make_keys(HOSTILE, Role.CLIENT)
    town.publish(membership.enroll(town.roster, town.owner, [town.keys[HOSTILE].enrolment], now=town.now))
    town.poll_s = 0.01
    process = town.spawn(training_deadline_s=20_000, phase_timeout_s=3600, upload_idle_s=60)
    siege = Siege(town, 1 if seed is None else seed)
    town.raw(HOSTILE, "Exchange", sums.encode_said(Declined(JobId("sum-1"), 1)))
    with town.connect("office") as admin:
        deadlines = {"training_s": 20_000, "phase_s": 3600, "upload_idle_s": 60}
        admin.start_job(town.plan(shapes={"a": (3, 100)}, deadlines=deadlines))
    members = []
    for index, name in enumerate(SITES):
        vector = np.zeros((3, 100), np.float32)
        vector[index] = index + 1
        members.append(Member(town, name, vector))
    members[2].uploading = siege.hold
    for member in members:
        member.thread.start()
    assert siege.held.wait(DEADLINE_S), process.output
    yield siege
    siege.over.set()
    for member in members:
        member.thread.join(DEADLINE_S)
    outcome = [[(end.included, end.members) for end in member.ends] for member in members]
    assert process.running, process.output
    (job,) = (job for job in town.status().jobs if job.job == "sum-1")
    for channel in siege.channels.values():
        channel.close()
    town.shut()
    for member in members:
        member.close()
    assert outcome == [[(True, 3)]] * 3, process.output
    assert [(ended.included, ended.attempt) for ended in job.history] == [(SITES, 1)], process.output
    total = load_file(town.root / "out" / "sum-1" / "round-0001" / "sum.safetensors")["weighted_sum.a"]
    assert np.allclose(total, np.repeat([[1.0], [2.0], [3.0]], 100, axis=1), atol=3 * 2 * 4 / (2**16 - 1))
    assert "Traceback" not in process.output


def besiege(siege: Siege, each: Callable[[], Iterator[int]]) -> int:
    """Throw messages at every call in turn; how many. Memory is weighed once all kinds were seen."""
    assert set(SENDERS) == set(service.METHODS)
    process: Any = siege.town.process
    thrown = 0
    for method in service.METHODS:
        for index in range(20):
            siege.throw(method, 10**9 + index)
    before = process.rss_mib
    for index in each():
        for method in service.METHODS:
            siege.throw(method, index)
            thrown += 1
    grown = process.rss_mib - before
    assert grown < GROWTH_MIB, f"{thrown} messages left {grown:.0f} MiB"
    assert siege.codes[grpc.StatusCode.INVALID_ARGUMENT] > thrown / 3
    assert siege.codes[grpc.StatusCode.UNAUTHENTICATED] > thrown / 50
    return thrown


def test_a_thousand_malformed_messages_of_each_call_change_nothing(
    siege: Siege, request: pytest.FixtureRequest
) -> None:
    """`--message CALL/NUMBER` sends that one alone."""
    only = request.config.getoption("--message")
    if only is None:
        besiege(siege, lambda: iter(range(EACH)))
    else:
        method, _, number = only.partition("/")
        siege.throw(method, int(number))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_more_malformed_messages_change_nothing(
    siege: Siege, stint: Callable[[str, int], Iterator[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Goes on where the last run ended: the aim is 100 000 of each call. None is late on a quiet machine."""
    siege.slow_s = SLOW_S
    ends = time.monotonic() + LONGEST_S
    numbers = stint(f"messages of each call with seed {siege.seed}", EACH)
    thrown = besiege(siege, lambda: takewhile(lambda _: time.monotonic() < ends, numbers))
    with capsys.disabled():
        print(f"{thrown} messages to {len(SENDERS)} calls: {dict(siege.codes)}")
