"""Everything that members said in a round, said again: in that round, in the next, and by others.

The calls of two whole rounds are recorded as they leave. None of them counts a second time, whoever
sends it over whatever certificate, and the sums stay exact.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from safetensors.numpy import load_file
from townhall import SITES, Member, Town, refused

from secfed.errors import AuthenticationError, PeerError, RevokedError, SecfedError
from secfed.identity import membership
from secfed.ids import ClientId
from secfed.rounds.client import Upload
from secfed.rounds.exchange import Answer
from secfed.wire import calls, service, sums

PATIENCE_S = 90


@dataclass(frozen=True)
class Recorded:
    """One call as it left a member."""

    site: str
    method: str
    call: calls.Call


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """Fills with the calls of clients while rounds run."""
    found: list[Recorded] = []
    short, first_frame = calls.encode_call, calls.encode_upload_frame

    def note(call: calls.Call) -> None:
        said = calls.decode_hello(call.hello.statement)
        if said.site in SITES:
            found.append(Recorded(said.site, said.method, call))

    def encode_call(call: calls.Call) -> bytes:
        note(call)
        return short(call)

    def encode_upload_frame(frame: calls.Call | calls.Piece) -> bytes:
        if isinstance(frame, calls.Call):
            note(frame)
        return first_frame(frame)

    monkeypatch.setattr(calls, "encode_call", encode_call)
    monkeypatch.setattr(calls, "encode_upload_frame", encode_upload_frame)
    return found


@pytest.fixture
def town(quiet_town: Town) -> Town:
    quiet_town.poll_s = 0.1
    quiet_town.start()
    return quiet_town


@pytest.fixture
def cohort(town: Town) -> Iterator[Callable[..., dict[str, Member]]]:
    """Starts a job, and the clients that take part in it; site i has i + 1 in its own place."""
    made: list[Member] = []

    def start(job: str, hook: Callable[[Upload], bool] = lambda _: True) -> dict[str, Member]:
        while made:
            made.pop().close()
        with town.connect("office") as admin:
            admin.start_job(town.plan(job=job, shapes={"a": (3, 100)}))
        for index, name in enumerate(SITES):
            vector = np.zeros((3, 100), np.float32)
            vector[index] = index + 1
            made.append(Member(town, name, vector, patience_s=5.0))
        made[-1].uploading = hook
        for member in made:
            member.thread.start()
        return dict(zip(SITES, made, strict=True))

    yield start
    town.stop()
    for member in made:
        member.close()


def send(town: Town, name: str, method: str, call: calls.Call) -> SecfedError | None:
    """A call's bytes over this member's own certificate; the refusal, or None if it was answered."""
    with town.channel(name) as channel:
        try:
            if method == "Upload":
                frames = iter([calls.encode_upload_frame(call)])
                channel.stream_unary(service.path(method))(frames, timeout=PATIENCE_S)
            elif method == "Download":
                list(channel.unary_stream(service.path(method))(calls.encode_call(call), timeout=PATIENCE_S))
            else:
                town.send(channel, method, call)
        except grpc.RpcError as failure:
            return refused(failure)
    return None


def replay(town: Town, found: list[Recorded]) -> None:
    """Each call twice more: by its own author, and by somebody else who saw it."""
    for one in found:
        again = send(town, one.site, one.method, one.call)
        assert type(again) is AuthenticationError
        assert "was seen before" in str(again)
        stranger = SITES[SITES.index(one.site) - 1]
        stolen = send(town, stranger, one.method, one.call)
        assert type(stolen) is AuthenticationError
        assert f"not signed by {stranger}" in str(stolen)


def say_again(town: Town, name: str, found: list[Recorded]) -> list[SecfedError]:
    """The recorded bodies in fresh calls of this member, each once; the refusals."""
    refusals = []
    for one in {(one.method, one.call.body): one for one in found}.values():
        made = town.maker(name).make(one.method, one.call.body, roster=town.roster.digest, start=town.begun)
        error = send(town, name, one.method, calls.Call(made, one.call.body))
        refusals += [] if error is None else [error]
    return refusals


def answers(one: Recorded) -> bool:
    """Whether it is part of an attempt. The rest says where a site stands now, which is its own to say."""
    if one.method == "Exchange":
        return isinstance(sums.decode_said(one.call.body), Answer)
    return one.method == "Upload"


def assert_exact(town: Town, job: str, members: dict[str, Member]) -> None:
    for member in members.values():
        member.thread.join(PATIENCE_S)
        assert member.error is None
        assert [(end.included, end.members) for end in member.ends] == [(True, 3)]
    total = load_file(town.root / "out" / job / "round-0001" / "sum.safetensors")["weighted_sum.a"]
    step = 2 * 4 / (2**16 - 1)
    assert np.allclose(total, np.repeat([[1.0], [2.0], [3.0]], 100, axis=1), atol=3 * step)


def test_nothing_that_was_said_counts_again(
    town: Town, cohort: Callable[..., dict[str, Member]], recorded: list[Recorded]
) -> None:
    def during(upload: Upload) -> bool:
        """The masks are out and the third vector is owed: what was said so far comes again."""
        replay(town, recorded[:])
        return True

    members = cohort("first", during)
    assert_exact(town, "first", members)
    first = recorded[:]
    methods = {one.method for one in first}
    assert methods == {"GetRoster", "Exchange", "Upload"}
    assert {one.site for one in first if one.method == "Upload"} == set(SITES)

    replay(town, first)  # after its round
    for name in SITES:  # and what it said, in fresh calls: of the author, and of the others
        for author in SITES:
            own = [one for one in first if one.site == author]
            refusals = say_again(town, name, own)
            assert all(isinstance(error, PeerError) for error in refusals), refusals
    recorded.clear()

    def during_another(upload: Upload) -> bool:
        replay(town, first)
        own = [one for one in first if one.site == SITES[2] and answers(one)]
        assert all(isinstance(error, PeerError) for error in say_again(town, SITES[2], own))
        return True

    members = cohort("second", during_another)
    assert_exact(town, "second", members)
    assert [job.state for job in town.status().jobs] == ["done", "done"]


def test_a_revoked_members_upload_ends_with_the_reason(
    town: Town, cohort: Callable[..., dict[str, Member]], until: Callable[..., None]
) -> None:
    """In the middle of its vector, before any idle limit: that would be another error."""
    ends: list[SecfedError] = []

    def revoked_meanwhile(upload: Upload) -> bool:
        over = threading.Event()

        def frames() -> Iterator[bytes]:
            body = calls.encode_upload_header(calls.UploadHeader(upload.attempt, upload.statement))
            made = town.maker("hosp-c").make("Upload", body, roster=town.roster.digest, start=town.begun)
            yield calls.encode_upload_frame(calls.Call(made, body))
            over.wait(PATIENCE_S)

        with town.channel("hosp-c") as channel:
            call = channel.stream_unary(service.path("Upload")).future(frames(), timeout=PATIENCE_S)
            until(lambda: list((town.root / "state" / "spool").glob(".draft-*-2")))
            town.publish(membership.revoke(town.roster, town.owner, ClientId("hosp-c")))
            ends.append(refused(call.exception()))
            over.set()
        return False

    members = cohort("cut", revoked_meanwhile)
    members["hosp-c"].thread.join(PATIENCE_S)
    (error,) = ends
    assert type(error) is RevokedError
    assert "hosp-c was revoked in roster version 2" in str(error)
