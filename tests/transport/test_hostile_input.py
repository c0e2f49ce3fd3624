"""Thousands of malformed messages against a running aggregator that is in the middle of a round.

A real process, real sockets, and members whose hellos are in order: a part of the messages is spoilt
before anybody looks who sent them, the rest after. The daemon must answer each with a status of its own
making, neither late nor never, must not grow, and must still finish the honest round with the exact sum.
What a member of the round itself may say wrongly is in `test_hostile_insider`.

hypothesis finds the messages; one comes back from its tape: a failure names the command. `--seed N` has
all of them found from another number.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import takewhile

import numpy as np
import pytest
from battery import BATCH, DEADLINE_S, Battery, Shot, fire
from google.protobuf.message import Message
from make_wire import CASES
from mutants import Tape, field_mutant, raw_mutant
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
from secfed.store import jsontext
from secfed.wire import calls, service, sums
from secfed.wire import status as wire_status
from secfed.wire.pb import service_pb2, statements_pb2, sum_pb2

EACH = 1_000
"""Messages for each call in the test command."""

LONGEST_S = 3000
"""So long one round is held at most: a phase may take an hour. Given again, the long run goes on."""

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

ODD_VALUES = (
    "",
    "a",
    "-1",
    "é\n",
    "0" * 64,
    "x" * 1000,
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    10**30,
    [],
    [0],
    {},
    {"a": []},
)
"""In the place of anything in a plan."""


class Siege:
    """A round that waits for the last vector, and everything that can be thrown at it meanwhile."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.battery = Battery(town)
        self.held, self.over = threading.Event(), threading.Event()
        self.owed: Upload | None = None

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

    def message(self, method: str, dice: Tape) -> Shot:
        """The message of a tape."""
        schema, body = dice.choice(self.bodies[method])
        _, other = dice.choice(self.bodies["Exchange"])
        sender, frame = SENDERS[method], self.battery.frame
        match dice.randrange(5 if method in ("Upload", "StartJob") else 4):
            case 0:
                what, frames = "call by its bytes", [raw_mutant(dice, frame(sender, method, body), other)]
            case 1:
                what, frames = "hello, signed", [frame(sender, method, body, self.spoiler(sender, dice))]
            case 2:
                spoilt = field_mutant(dice, schema.FromString(body))
                what, frames = "body by its fields", [frame(sender, method, spoilt)]
            case 3:
                what, frames = "body by its bytes", [frame(sender, method, raw_mutant(dice, body, other))]
            case _ if method == "Upload":
                sender, what, frames = SITES[2], "piece of another's vector", self.pieces(dice, body)
            case _:
                what, frames = (
                    "plan, signed",
                    [frame(sender, method, calls.encode_start_job(self.plan(dice)))],
                )
        return Shot(sender, method, frames, f"{method}: {what}")

    def spoiler(self, sender: str, dice: Tape) -> Callable[[Signed], Signed]:
        """Changes a hello and signs it as it is then."""
        town = self.town

        def spoil(hello: Signed) -> Signed:
            return signed.sign(
                town.keys[sender].signing, Label.SIGN_HELLO, context=town.roster.federation.encode(),
                sender=sender, recipient=None,
                statement=field_mutant(dice, statements_pb2.Hello.FromString(hello.statement)),
            )  # fmt: skip

        return spoil

    def plan(self, dice: Tape) -> bytes:
        """A job plan with one to three values that it should not have, signed by the admin all the same."""
        plan = jsontext.parse(signed.unverified_text(self.town.plan(job="extra"), what="a plan"))
        assert isinstance(plan, dict)
        for _ in range(dice.randint(1, 3)):
            name = dice.choice([*plan, "another"])
            if not dice.randrange(4):
                plan.pop(name, None)
            else:
                plan[name] = dice.choice(ODD_VALUES)
        plan["job"] = "extra" if plan.get("job") == "a" else plan.get("job")  # one that is taken is enough
        return signed.sign_text(self.town.keys["office"].signing, Label.SIGN_JOB_PLAN, jsontext.pretty(plan))

    def pieces(self, dice: Tape, body: bytes) -> list[bytes]:
        """The owed upload, rightly begun, and a piece that does not go on with it.

        One of the right size in the right place would be this site's vector, and be judged as that.
        """
        assert self.owed is not None
        piece = service_pb2.UploadFrame(piece=service_pb2.Piece(offset=0, data=self.owed.packed))
        spoilt = field_mutant(dice, piece)
        if spoilt == piece.SerializeToString() or not dice.randrange(2):
            spoilt = raw_mutant(dice, piece.SerializeToString(), body)
        first = self.battery.frame(SITES[2], "Upload", body)
        return [first, b"\xff" if self.completes(spoilt) else spoilt]

    def completes(self, frame: bytes) -> bool:
        """Whether a frame is the whole owed vector, or bytes in its place."""
        assert self.owed is not None
        try:
            piece = calls.decode_upload_frame(frame)
        except SecfedError:
            return False
        whole = (0, len(self.owed.packed))
        return isinstance(piece, calls.Piece) and (piece.offset, len(piece.data)) == whole

    def throw(self, method: str, tape: Tape) -> None:
        """Send the message of a tape."""
        again = "python -m pytest tests/transport/test_hostile_input.py -k thousand --message"
        name = f"a message to {method}; again: {again} {method}/{tape.data.hex()}"
        self.battery.throw(lambda: self.message(method, tape.rewind()), name)


@pytest.fixture
def siege(quiet_town: Town) -> Iterator[Siege]:
    """Three sites in a round, the third one's vector owed; a fourth declined and turns hostile."""
    town = quiet_town
    town.keys[HOSTILE] = town.make_keys(HOSTILE, Role.CLIENT)
    town.publish(membership.enroll(town.roster, town.owner, [town.keys[HOSTILE].enrolment], now=town.now))
    town.poll_s = 0.1
    process = town.spawn(training_deadline_s=20_000, phase_timeout_s=3600, upload_idle_s=60)
    siege = Siege(town)
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
    (job,) = town.status("sum-1").jobs
    siege.battery.close()
    town.shut()
    for member in members:
        member.close()
    assert outcome == [[(True, 3)]] * 3, process.output
    assert [(ended.included, ended.attempt) for ended in job.history] == [(SITES, 1)], process.output
    total = load_file(town.root / "out" / "sum-1" / "round-0001" / "sum.safetensors")["weighted_sum.a"]
    assert np.allclose(total, np.repeat([[1.0], [2.0], [3.0]], 100, axis=1), atol=3 * 2 * 4 / (2**16 - 1))
    assert "Traceback" not in process.output
    siege.battery.check_entered()


def besiege(siege: Siege, seeds: Iterator[int | None]) -> None:
    """For each seed a thousand messages to every call. Memory is weighed once all kinds were seen."""
    assert set(SENDERS) == set(service.METHODS)
    for method in service.METHODS:
        for number in range(BATCH):
            siege.throw(method, Tape(bytes([number * 5, number, number]) * 8))
    with siege.battery.weighed():
        for seed in seeds:
            for method in service.METHODS:
                fire(EACH, lambda tape, method=method: siege.throw(method, tape), seed)
    answers = sum(siege.battery.codes.values(), start=Counter[str]())
    assert answers["INVALID_ARGUMENT"] > answers.total() / 3
    assert answers["UNAUTHENTICATED"] > answers.total() / 50


def test_a_thousand_malformed_messages_of_each_call_change_nothing(
    siege: Siege, request: pytest.FixtureRequest
) -> None:
    """`--message CALL/TAPE` sends that one alone."""
    only = request.config.getoption("--message")
    if only is None:
        besiege(siege, iter([request.config.getoption("--seed")]))
    else:
        method, _, tape = only.partition("/")
        siege.throw(method, Tape(bytes.fromhex(tape)))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_more_malformed_messages_change_nothing(
    siege: Siege, stint: Callable[[str, int], Iterator[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Goes on where the last run ended: the aim is a hundred thousands for each call."""
    ends = time.monotonic() + LONGEST_S
    besiege(
        siege, takewhile(lambda _: time.monotonic() < ends, stint("thousands of messages to each call", 1))
    )
    with capsys.disabled():
        print(siege.battery.report())
