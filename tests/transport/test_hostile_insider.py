"""A member of the round itself says thousands of wrong things, under its own key and in its turn.

Real processes, sockets and clients. In one round the aggregator would drop the member at the first wrong
word, so there it asks again and again (`quick_daemon`); and then the member says what it should, and
nothing of all that was kept: the sum is exact, with its vector. In the other rounds the aggregator is as
shipped: whoever breaks a rule, in whichever phase, is refused, dropped and named, and the sum of the rest
is exact.

hypothesis finds the messages (`insider`); a failure names the tape of its own.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

import grpc
import numpy as np
import pytest
from battery import BATCH, DEADLINE_S, Battery, Shot, fire
from insider import DEEP, KINDS, Insider, Kind
from mutants import Tape
from safetensors.numpy import load_file
from townhall import PATIENCE_S, SITES, Member, Town, refused

from secfed.errors import PeerError, SecfedError
from secfed.identity import membership
from secfed.identity.roles import Role
from secfed.ids import ClientId
from secfed.rounds.client import Upload
from secfed.rounds.exchange import Answer, Ask
from secfed.wire import service

EACH = {"vector": 1000, "countersignature": 100}
OTHERS = 200
"""Messages of each kind: a thousand to each of the two calls that they go with."""

HOSTILE = ClientId("clinic")
"""The first of the cohort, so that it owes something to everybody."""

SIZE = 100
DEADLINES = {"training_s": 20_000, "phase_s": 3600, "upload_idle_s": 60}


def enrol(town: Town, *sites: str) -> None:
    for site in sites:
        town.keys[site] = town.make_keys(site, Role.CLIENT)
    enrolments = [town.keys[site].enrolment for site in sites]
    town.publish(membership.enroll(town.roster, town.owner, enrolments, now=town.now, corrupt=1))


def vector(index: int, sites: int) -> Any:
    """That of one site: a row of its own."""
    rows = np.zeros((sites, SIZE), np.float32)
    rows[index] = index + 1
    return rows


def start_job(town: Town, job: str, sites: int) -> None:
    with town.connect("office") as admin:
        admin.start_job(town.plan(job=job, shapes={"a": (sites, SIZE)}, bound="16", deadlines=DEADLINES))


def check_sum(town: Town, job: str, there: list[bool]) -> None:
    """The published sum holds the rows of these sites, and zeros in the others'."""
    total = load_file(town.root / "out" / job / "round-0001" / "sum.safetensors")["weighted_sum.a"]
    rows = [[float(index + 1)] if present else [0.0] for index, present in enumerate(there)]
    step = 2 * 16 / (2**16 - 1)
    assert np.allclose(total, np.repeat(rows, SIZE, axis=1), atol=len(there) * step)


# -- the round of the member that is asked again -----------------------------------------------


class Assault:
    """The member's real client, and what is said in its place before each of its answers."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.battery = Battery(town)
        self.member = Member(town, HOSTILE, vector(0, 4))
        self.insider = Insider(HOSTILE, town.keys[HOSTILE].signing, place=0, cohort=4)
        self.thrown = Counter[str]()

    def go(self, count: Callable[[Kind], int], seed: int | None = None) -> None:
        """Take part in one round."""
        member, says = self.member, self.member.says
        while True:
            told = member.sending(says) if isinstance(says, Upload) else member.connection.exchange(says)
            says = member.rounds.hear(told)
            kind = KINDS.get(type(told.request)) if isinstance(told, Ask) else None
            if kind is not None:
                assert isinstance(says, Answer | Upload), says
                self.insider.owes(kind, says)
                fire(count(kind), lambda tape, kind=kind: self.throw(kind, tape), seed)
            if member.rounds.ended is not None:
                member.ends.append(member.rounds.ended)
                assert not isinstance(says, Upload)
                member.connection.exchange(says)
                return

    def throw(self, kind: Kind, tape: Tape) -> None:
        """Say one wrong thing."""
        self.thrown[kind.name] += 1
        name = f"{kind.name}: {tape.data.hex()}"
        self.battery.throw(lambda: self.shot(kind, tape.rewind()), name)

    def shot(self, kind: Kind, tape: Tape) -> Shot:
        what, body, pieces = self.insider.spoil(tape)
        method = self.insider.method
        frames = [self.battery.frame(HOSTILE, method, body), *pieces]
        return Shot(HOSTILE, method, frames, f"{kind.name}: {what}")

    def check_codes(self) -> None:
        """Whatever is wrong with a statement is refused; after the end nobody needs it, and it is let be."""
        for kind in KINDS.values():
            expected = "OK" if kind.name == "countersignature" else "INVALID_ARGUMENT"
            answers = Counter[str]()
            for what in (*DEEP, "signature"):
                answers += self.battery.codes[f"{kind.name}: {what}"]
            too_long = answers.pop("RESOURCE_EXHAUSTED", 0)
            assert set(answers) == {expected}, (kind.name, answers)
            assert too_long < answers.total() / 100, "gRPC refuses few before they are opened"
            assert answers.total() > self.thrown[kind.name] / 2, "most go as deep as that"


@pytest.fixture
def assault(quiet_town: Town) -> Iterator[Assault]:
    """Three honest sites, and one that the aggregator asks again whatever it says."""
    town = quiet_town
    enrol(town, HOSTILE)
    town.poll_s = 0.25  # only the others should ever wait; this would be no late answer either
    process = town.spawn(spared=HOSTILE, training_deadline_s=20_000, phase_timeout_s=3600, upload_idle_s=60)
    start_job(town, "sum-1", 4)
    members = [Member(town, name, vector(index + 1, 4)) for index, name in enumerate(SITES)]
    assault = Assault(town)
    for member in members:
        member.thread.start()
    yield assault
    for member in members:
        member.thread.join(DEADLINE_S if assault.member.ends else 1)
    members.append(assault.member)
    assault.member.stopped = True  # it had its turns here, and needs no thread
    assault.member.thread.start()
    ends = [(member.error, [(end.included, end.members) for end in member.ends]) for member in members]
    assert process.running, process.output
    assault.battery.close()
    town.shut()
    for member in members:
        member.close()
    assert ends == [(None, [(True, 4)])] * 4, process.output
    check_sum(town, "sum-1", [True] * 4)
    assert "Traceback" not in process.output
    assault.battery.check_entered()


def test_a_thousand_wrong_answers_of_a_member_leave_no_trace_in_its_round(assault: Assault) -> None:
    """Then its right ones are taken, and everybody has the sum of all four."""
    with assault.battery.weighed():
        assault.go(lambda kind: EACH.get(kind.name, OTHERS))
    assault.check_codes()


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_more_wrong_answers_of_a_member_leave_no_trace(
    assault: Assault, stint: Callable[[str, int], Iterator[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten thousands of each kind in one round; the aim is ten such rounds."""
    with assault.battery.weighed():
        seeds = stint("rounds of ten thousand wrong answers of each kind", 1)
        for seed in takewhile(lambda _: not assault.member.ends, seeds):
            assault.go(lambda kind: BATCH if kind.name == "countersignature" else 10_000, seed)
    assault.check_codes()
    with capsys.disabled():
        print(assault.battery.report())


# -- rounds of members that are dropped --------------------------------------------------------

PHASES = {
    "advert": "advertise", "ciphertexts": "encapsulate", "bundle": "share", "vector": "mask",
    "confirm": "confirm", "shares": "unmask",
}  # fmt: skip
"""What is owed in which phase. Until the fourth whoever breaks a rule takes its vector along."""

REBELS = [f"rebel-{number}" for number in range(len(PHASES))]
LOYAL = [*SITES, *(f"loyal-{number}" for number in range(7))]
CROWD = sorted([*REBELS, *LOYAL])
"""With sixteen members and one corrupt, six may be lost."""


class Rebel(Member):
    """Takes part until it owes `breaks`, and says something else; a loyal one breaks nothing.

    Nobody gives its shares before the rebel that owes some has spoken: enough of them open the sum, and
    the aggregator would hear no more.
    """

    def __init__(self, town: Town, name: str, breaks: str, tape: Tape, spoken: threading.Event) -> None:
        place = CROWD.index(name)
        super().__init__(town, name, vector(place, len(CROWD)), patience_s=PATIENCE_S)
        self.breaks, self.tape, self.spoken = breaks, tape, spoken
        self.insider = Insider(ClientId(name), town.keys[name].signing, place, len(CROWD))
        self.refusal: SecfedError | None = None

    def _run(self) -> None:
        says = self.says
        try:
            while not self.ends:
                told = self.sending(says) if isinstance(says, Upload) else self.connection.exchange(says)
                says = self.rounds.hear(told)
                kind = KINDS.get(type(told.request)) if isinstance(told, Ask) else None
                if kind is not None and isinstance(says, Answer | Upload):
                    self.insider.owes(kind, says)
                    if kind.name == self.breaks:
                        self.say()
                        return
                    if kind.name == "shares":
                        assert self.spoken.wait(PATIENCE_S)
                if self.rounds.ended is not None:
                    self.ends.append(self.rounds.ended)
            if not isinstance(says, Upload):
                self.connection.exchange(says)
        except SecfedError as error:
            self.error = error

    def say(self) -> None:
        """What it does not owe, once; `refusal` is the answer."""
        body, pieces = self.insider.breach(self.tape)
        method = self.insider.method
        first = Battery(self.town).frame(self.name, method, body)
        try:
            with self.town.channel(self.name) as channel:
                call = channel.stream_unary(service.path(method))
                call(iter([first, *pieces]), timeout=DEADLINE_S)
        except grpc.RpcError as failure:
            self.refusal = refused(failure)
        finally:
            if self.breaks == "shares":
                self.spoken.set()


def rebel(town: Any, job: str, tapes: list[Tape]) -> None:
    """A round in which each of six members breaks a rule in a phase of its own, as its tape says."""
    start_job(town, job, len(CROWD))
    spoken, breaking = threading.Event(), dict(zip(REBELS, zip(PHASES, tapes, strict=True), strict=True))
    crowd = {name: Rebel(town, name, *breaking.get(name, ("", Tape(b""))), spoken) for name in CROWD}
    for member in crowd.values():
        member.thread.start()
    for member in crowd.values():
        member.thread.join(PATIENCE_S)
    process = town.process
    said = {name: tape.data.hex() for name, (_, tape) in breaking.items()}
    (state,) = town.status(job).jobs
    for member in crowd.values():
        member.close()
    (end,) = state.history
    included = [name for name in CROWD if name not in REBELS[:4]]
    assert list(end.included) == included, (said, end, process.output)
    gone = dict(end.dropped) | dict(end.lost)
    for name, (breaks, _) in breaking.items():
        refusal = crowd[name].refusal
        assert type(refusal) is PeerError, (name, said, refusal)
        assert gone.pop(name) == f"{PHASES[breaks]}: {refusal}", said
    assert not gone
    for name in LOYAL:
        ends = [(ended.included, ended.members) for ended in crowd[name].ends]
        assert (crowd[name].error, ends) == (None, [(True, len(included))]), (name, said)
    check_sum(town, job, [name in included for name in CROWD])
    assert process.running
    assert "Traceback" not in process.output


@pytest.fixture
def crowd_town(quiet_town: Town) -> Town:
    """Sixteen sites, and the aggregator as it is."""
    enrol(quiet_town, *(name for name in CROWD if name not in SITES))
    quiet_town.spawn()
    return quiet_town


def test_whoever_breaks_a_rule_is_named_and_the_sum_of_the_rest_is_exact(
    crowd_town: Town,
) -> None:
    rebel(crowd_town, "sum-1", [Tape(bytes([2]))] * len(PHASES))
    crowd_town.shut()
    refusals = [entry for entry in crowd_town.audit() if entry["outcome"].startswith("PeerError")]
    assert sorted(entry["who"] for entry in refusals) == REBELS


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_more_rebels_change_no_sum(crowd_town: Town, stint: Callable[[str, int], Iterator[int]]) -> None:
    """For `--minutes`: six more wrong answers a round, to the aggregator as it is."""
    for number in stint("rounds of six rebels", 0):
        dice = random.Random(number)
        rebel(crowd_town, f"sum-{number}", [Tape(dice.randbytes(24)) for _ in PHASES])
