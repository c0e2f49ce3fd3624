"""Who stands in the audit log for a call, and what the call was, whatever became of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from townhall import PATIENCE_S

from secfed.errors import ConfigError
from secfed.ids import JobId
from secfed.rounds.exchange import JobCommand
from secfed.transport import server
from secfed.wire import calls, service


def test_each_member_answers_for_its_own_refusals(town: Any) -> None:
    """Behind one address, and coalesced: never one member's under another's name, or under nobody's."""
    for name in ("hosp-a", "hosp-b", "hosp-b", "hosp-b", "hosp-c"):
        with pytest.raises(grpc.RpcError):
            town.raw(name, "StartJob", calls.encode_start_job(town.plan(job="evil")))
    town.stop()
    refusals: Counter[tuple[str, str]] = Counter()
    for entry in town.audit():
        if entry["what"] == "StartJob":
            refusals[entry["who"], entry["outcome"]] += entry["count"]
    wrong = "NotPermittedError: {} is enrolled as client; this needs admin".format
    assert refusals == {(name, wrong(name)): n for name, n in (("hosp-a", 1), ("hosp-b", 3), ("hosp-c", 1))}


def test_a_command_stands_in_the_audit_log_with_its_job(town: Any) -> None:
    done = [("sum-1", "pause"), ("sum-1", "resume"), ("sum-2", "pause"), ("sum-2", "stop"), ("sum-1", "stop")]
    with town.connect("office") as office:
        for job in ("sum-1", "sum-2"):
            office.start_job(town.plan(job=job))
        for job, verb in done:
            office.control_job(JobCommand(JobId(job), verb))
        with pytest.raises(ConfigError):
            office.control_job(JobCommand(JobId("sum-1"), "resume"))
    town.stop()
    entries = [entry for entry in town.audit() if "Job" in entry["what"]]
    assert {(entry["who"], entry["count"]) for entry in entries} == {("office", 1)}
    assert [entry["what"] for entry in entries] == [
        "StartJob sum-1",
        "StartJob sum-2",
        *(f"ControlJob {verb} {job}" for job, verb in [*done, ("sum-1", "resume")]),
    ]
    assert [entry["outcome"].split(":")[0] for entry in entries] == ["ok"] * 7 + ["ConfigError"]


def test_calls_that_are_none_stand_in_the_audit_log(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown, too large, or without a message: of each kind one entry, with who and how many."""
    status_path, over = service.path("GetStatus"), threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(PATIENCE_S)
        yield from ()

    def failing(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        return caught.value.code(), caught.value.details()

    with town.channel("hosp-a") as channel:
        for path in (f"/{service.SERVICE}/Nothing", "/other.Service/Call"):
            for _ in range(10):
                code, details = failing(lambda p=path: channel.unary_unary(p)(b"x", timeout=PATIENCE_S))
                assert (code, details) == (
                    grpc.StatusCode.UNIMPLEMENTED, f"{service.SERVICE} has no call {path}"
                )  # fmt: skip
        large = bytes(3 << 20)
        for _ in range(5):
            code, _ = failing(lambda: channel.unary_unary(status_path)(large, timeout=PATIENCE_S))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        monkeypatch.setattr(server, "MESSAGE_S", 0.5)
        code, details = failing(lambda: channel.stream_unary(status_path)(nothing(), timeout=PATIENCE_S))
        over.set()
        assert (code, details) == (
            grpc.StatusCode.UNAVAILABLE,
            "the call's message did not come within 0.5 s",
        )
    town.stop()
    entered: Counter[tuple[str, str, str]] = Counter()
    for entry in town.audit():
        if entry["what"] != "Connect":
            entered[entry["who"], entry["what"], entry["outcome"].split(":")[0]] += entry["count"]
    assert entered == {
        ("hosp-a", "unknown call", "UnknownCallError"): 20,
        ("hosp-a", "GetStatus", "PeerError"): 5,
        ("hosp-a", "GetStatus", "NetworkError"): 1,
    }
