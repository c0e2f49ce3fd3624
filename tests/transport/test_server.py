"""The daemon over real sockets: whole rounds, uploads that misbehave, files, ports, logs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from safetensors.numpy import load, load_file
from townhall import PATIENCE_S, SITES, WITHIN_S, Member, refused

from secfed.cli import build_aggregator
from secfed.config import to_toml
from secfed.crypto import signing
from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.errors import (
    AuditLogError,
    ConfigError,
    LockedError,
    NetworkError,
    PeerError,
    PortBusyError,
    RosterError,
    SecfedError,
    StorageError,
)
from secfed.ids import ClientId, Digest, JobId
from secfed.limits import AUDIT_KINDS_MAX
from secfed.rounds import attempt
from secfed.rounds.aggregator import AggregatorRounds
from secfed.rounds.client import Upload
from secfed.store import journal
from secfed.store.adapters import AdapterStore
from secfed.store.decisions import DecisionStore
from secfed.store.spool import Spool
from secfed.transport import daemon
from secfed.transport.auditlog import AuditLog, log_file
from secfed.wire import calls, service

PATIENT = pytest.mark.parametrize("town", [PATIENCE_S], indirect=True, ids=["patient"])
"""A daemon that gives no upload up, for what has to be done while one stands still."""


@pytest.fixture
def town(quiet_town: Any, request: pytest.FixtureRequest) -> Any:
    """A daemon that answers polls, and gives uploads up, after 2 seconds."""
    quiet_town.poll_s = 2.0
    quiet_town.start(upload_idle_s=getattr(request, "param", 2))
    return quiet_town


@pytest.fixture
def members(town: Any) -> Iterator[dict[str, Member]]:
    """Three sites, site i with the value i + 1 in its own row alone; none has called yet."""
    made = {}
    for index, name in enumerate(SITES):
        vector = np.zeros((3, 1000), np.float32)
        vector[index] = index + 1
        made[name] = Member(town, name, vector, patience_s=5.0)  # who waits yet as the daemon stops, gives up
    yield made
    town.stop()
    for member in made.values():
        member.close()


def start_job(town: Any, **changes: Any) -> None:
    with town.connect("office") as admin:
        admin.start_job(town.plan(**({"shapes": {"a": (3, 1000)}} | changes)))


# -- rounds ------------------------------------------------------------------------------------


def test_a_round_over_sockets_gives_the_exact_sum_to_every_member(town: Any, members: Any) -> None:
    """Three clients on three connections: the published file, fetched by a member, holds each one's row."""
    start_job(town)
    for member in members.values():
        member.thread.start()
    for member in members.values():
        member.thread.join(PATIENCE_S)
        assert member.error is None
        assert [(end.included, end.members) for end in member.ends] == [(True, 3)]
    (job,) = town.status().jobs
    (ended,) = job.history
    assert (job.state, ended.state, ended.included, ended.dropped) == ("done", "published", SITES, ())
    result = Digest(bytes.fromhex(ended.result))
    with town.connect("hosp-b") as member, town.connect("reviewer") as reviewer:
        data = member.download(result)
        with pytest.raises(SecfedError, match="this needs"):
            reviewer.download(result)
        with pytest.raises(ConfigError, match="no adapter, sum or plan"):
            member.download(Digest(bytes(32)))
    assert digest(Label.ADAPTER, data) == result
    total = load(data)["weighted_sum.a"]
    step = 2 * 4 / (2**16 - 1)
    assert np.allclose(total, np.repeat([[1.0], [2.0], [3.0]], 1000, axis=1), atol=3 * step)
    folder = town.root / "out" / "sum-1" / "round-0001"
    assert np.array_equal(load_file(folder / "sum.safetensors")["weighted_sum.a"], total)
    assert "round 1/1  asked 3  in 3" in town.out.getvalue()
    assert b"secfed_rounds_published_total 1.0" in page(town, "/metrics")


def test_a_site_that_stalls_in_its_upload_is_dropped_and_named(
    town: Any, members: Any, until: Callable[..., None]
) -> None:
    """It sends its first frame and no more: void with n = 3, and the reason says what happened."""
    start_job(town, deadlines={"training_s": 60, "phase_s": 6, "upload_idle_s": 2})
    stalled = threading.Event()

    def stall(upload: Upload) -> bool:
        def frames() -> Iterator[bytes]:
            body = calls.encode_upload_header(calls.UploadHeader(upload.attempt, upload.statement))
            hello = town.maker("hosp-c").make("Upload", body, roster=town.roster.digest, start=town.begun)
            yield calls.encode_upload_frame(calls.Call(hello, body))
            stalled.wait(PATIENCE_S)

        with town.channel("hosp-c") as channel:
            with pytest.raises(grpc.RpcError) as caught:
                channel.stream_unary(service.path("Upload"))(frames(), timeout=PATIENCE_S)
            stalled.set()
        members["hosp-c"].failure = refused(caught.value)
        return False

    members["hosp-c"].uploading = stall
    for member in members.values():
        member.thread.start()
    members["hosp-c"].thread.join(PATIENCE_S)
    until(lambda: "hosp-c (mask: upload timeout 2 s)" in town.out.getvalue())
    assert "stood still for 2 s" in str(members["hosp-c"].failure)
    assert not (town.root / "out" / "sum-1").exists()


@PATIENT
def test_an_upload_that_crawls_is_ended(town: Any, members: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never stands still for as long as it may; that its site is dropped for it: tests/rounds."""
    start_job(town)
    ended = threading.Event()

    def crawl(upload: Upload) -> bool:
        def frames() -> Iterator[bytes]:
            body = calls.encode_upload_header(calls.UploadHeader(upload.attempt, upload.statement))
            hello = town.maker("hosp-c").make("Upload", body, roster=town.roster.digest, start=town.begun)
            yield calls.encode_upload_frame(calls.Call(hello, body))
            ended.wait(PATIENCE_S)

        with monkeypatch.context() as hurry, town.channel("hosp-c") as channel:
            hurry.setattr(attempt.LiveAttempt, "_longest_s", lambda *_: 0.5)
            with pytest.raises(grpc.RpcError) as caught:
                channel.stream_unary(service.path("Upload"))(frames(), timeout=PATIENCE_S)
            ended.set()
        members["hosp-c"].failure = refused(caught.value)
        return True  # and then sends it properly

    members["hosp-c"].uploading = crawl
    for member in members.values():
        member.thread.start()
    for member in members.values():
        member.thread.join(PATIENCE_S)
        assert member.ends[0].included
    failure = members["hosp-c"].failure
    assert type(failure) is NetworkError
    assert re.fullmatch(r"an upload of \d+ bytes was not whole after 0.5 s", str(failure))


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([b"x" * 100], "a piece of 100 bytes at 0"),
        ([b"x" * 4000], "a piece of 4000 bytes at 0"),
        ([], "ended before its announced size"),
    ],
)
def test_pieces_of_another_size_end_the_upload_and_leave_nothing(
    town: Any, members: Any, until: Callable[..., None], pieces: list[bytes], reason: str
) -> None:
    start_job(town)

    def misbehave(upload: Upload) -> bool:
        body = calls.encode_upload_header(calls.UploadHeader(upload.attempt, upload.statement))
        hello = town.maker("hosp-c").make("Upload", body, roster=town.roster.digest, start=town.begun)
        frames = [calls.Call(hello, body), *(calls.Piece(0, piece) for piece in pieces)]
        messages = map(calls.encode_upload_frame, frames)
        with town.channel("hosp-c") as channel, pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(service.path("Upload"))(messages, timeout=PATIENCE_S)
        members["hosp-c"].failure = refused(caught.value)
        return True  # and then sends it properly

    members["hosp-c"].uploading = misbehave
    for member in members.values():
        member.thread.start()
    for member in members.values():
        member.thread.join(PATIENCE_S)
    failure = members["hosp-c"].failure
    assert type(failure) is PeerError
    assert reason in str(failure)
    assert [member.ends[0].included for member in members.values()] == [True] * 3
    until(lambda: not any((town.root / "state" / "spool").iterdir()))


@PATIENT
def test_a_second_upload_of_a_site_takes_the_first_ones_place(
    town: Any, members: Any, until: Callable[..., None]
) -> None:
    """A link that died in silence does not keep its site out until a timeout."""
    start_job(town)
    release = threading.Event()
    first: list[SecfedError] = []

    def twice(upload: Upload) -> bool:
        def frames() -> Iterator[bytes]:
            body = calls.encode_upload_header(calls.UploadHeader(upload.attempt, upload.statement))
            hello = town.maker("hosp-c").make("Upload", body, roster=town.roster.digest, start=town.begun)
            yield calls.encode_upload_frame(calls.Call(hello, body))
            release.wait(PATIENCE_S)

        def hang() -> None:
            with town.channel("hosp-c") as channel:
                try:
                    channel.stream_unary(service.path("Upload"))(frames(), timeout=PATIENCE_S)
                except grpc.RpcError as failure:
                    first.append(refused(failure))
                    release.set()

        thread = threading.Thread(target=hang)
        thread.start()
        until(lambda: list((town.root / "state" / "spool").glob(".draft-*-2")))
        members["hosp-c"].hanging = thread
        return True

    members["hosp-c"].uploading = twice
    for member in members.values():
        member.thread.start()
    for member in members.values():
        member.thread.join(PATIENCE_S)
        assert member.error is None
        assert member.ends[0].included
    members["hosp-c"].hanging.join(PATIENCE_S)
    assert "took the place of this one" in str(first[0])


@PATIENT
def test_uploads_that_push_each_other_out_leave_no_file_open(
    town: Any, members: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several at once, each ended while it begins: the daemon lives, and the proper one still counts."""
    start_job(town)
    genuine = Spool.writer

    def slowly(spool: Spool, name: str, **options: Any) -> Any:
        writer = genuine(spool, name, **options)
        time.sleep(0.2)
        return writer

    def jostle(upload: Upload) -> bool:
        monkeypatch.setattr(Spool, "writer", slowly)
        body = calls.encode_upload_header(calls.UploadHeader(upload.attempt, upload.statement))

        def frames() -> Iterator[bytes]:
            hello = town.maker("hosp-c").make("Upload", body, roster=town.roster.digest, start=town.begun)
            yield calls.encode_upload_frame(calls.Call(hello, body))
            time.sleep(1)

        with town.channel("hosp-c") as channel:
            stub = channel.stream_unary(service.path("Upload"))
            under_way = []
            for _ in range(6):
                under_way.append(stub.future(frames(), timeout=5))
                time.sleep(0.05)
            for call in under_way:
                call.exception()
        monkeypatch.setattr(Spool, "writer", genuine)
        return True

    members["hosp-c"].uploading = jostle
    for member in members.values():
        member.thread.start()
    for member in members.values():
        member.thread.join(PATIENCE_S)
        assert member.error is None
    assert town.error is None
    assert [member.ends[0].included for member in members.values()] == [True] * 3
    until(lambda: not any((town.root / "state" / "spool").iterdir()))


def test_a_download_that_nobody_reads_is_given_up(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file leaves memory, and the site's next download has its turn."""
    file = bytes(48 << 20)
    monkeypatch.setattr(AggregatorRounds, "announced", lambda *_: True)
    monkeypatch.setattr(AdapterStore, "read_bytes", lambda *_: file)
    body = calls.encode_download(Digest(b"1" * 32))

    def fetch(channel: grpc.Channel) -> Any:
        hello = town.maker("hosp-a").make("Download", body, roster=town.roster.digest, start=town.begun)
        return channel.unary_stream(service.path("Download"))(
            calls.encode_call(calls.Call(hello, body)), timeout=PATIENCE_S
        )

    with town.channel("hosp-a") as channel, town.channel("hosp-a") as other:
        stalled = fetch(channel)
        next(stalled)
        size = sum(len(calls.decode_chunk(chunk).data) for chunk in fetch(other))
        assert size == len(file)
        stalled.cancel()
    town.stop()
    outcomes = [entry["outcome"] for entry in town.audit() if entry["what"] == "Download"]
    assert any("a download stood still for 2 s" in outcome for outcome in outcomes)
    assert "ok" in outcomes


# -- ports, files, logs ------------------------------------------------------------------------


def page(town: Any, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{town.at.ops_port}{path}", timeout=PATIENCE_S) as reply:
        body: bytes = reply.read()
        return body


def test_health_and_metrics_are_on_loopback_and_nothing_else(town: Any) -> None:
    assert (page(town, "/healthz"), page(town, "/readyz")) == (b"ok\n", b"ready\n")
    assert b"secfed_phase" in page(town, "/metrics")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        page(town, "/etc/passwd")
    with town.channel("reviewer") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=PATIENCE_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED, "every call on the main port has a hello"


def test_the_grpc_health_service_follows_readiness(town: Any) -> None:
    """Asked and watched with the protocol's own stub; the members' service is told by its name."""
    serving = health_pb2.HealthCheckResponse
    with grpc.insecure_channel(f"127.0.0.1:{town.at.health_port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", service.SERVICE):
            told = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_S)
            assert told.status == serving.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=service.SERVICE), timeout=PATIENCE_S)
        assert next(watch).status == serving.SERVING
        town.loop.call_soon_threadsafe(town.ending.set)
        assert next(watch).status == serving.NOT_SERVING
        town.stop()
        with pytest.raises(grpc.RpcError):
            stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)


def test_without_an_address_there_is_no_grpc_health_service(quiet_town: Any) -> None:
    quiet_town.start(health_listen=None)
    assert quiet_town.at.health_port is None


def test_peers_that_only_connect_leave_descriptors_to_the_files(
    quiet_town: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is raised as far as it goes, and connections beyond their share are closed at once."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(daemon, "CONNECTIONS_MAX", 4)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1] // 2, limits[1]))
    try:
        quiet_town.start()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1], limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", quiet_town.at.port)))
            for _ in range(20)
        ]
        for peer in peers:
            peer.setblocking(False)
        until(lambda: sum(map(_is_closed, peers)) >= 15)


def _is_closed(peer: socket.socket) -> bool:
    """Whether the other side has ended the connection."""
    with contextlib.suppress(ConnectionResetError):
        try:
            while peer.recv(100):
                pass
        except BlockingIOError:
            return False
    return True


def test_a_busy_port_is_named(quiet_town: Any) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(PortBusyError, match=f"port {port}"):
            quiet_town.start(listen=f"127.0.0.1:{port}")
        with pytest.raises(PortBusyError, match=f"port {port}"):
            quiet_town.start(ops_listen=f"127.0.0.1:{port}")
        with pytest.raises(PortBusyError, match=f"port {port}"):
            quiet_town.start(health_listen=f"127.0.0.1:{port}")
    quiet_town.start()


def test_a_second_daemon_on_the_same_state_is_turned_away(town: Any) -> None:
    with pytest.raises(LockedError, match="in use by another process"):
        build_aggregator.build_daemon(town.config(), town.keys["center"], town.out)


def test_a_state_directory_that_others_can_look_into_is_refused(quiet_town: Any) -> None:
    state = quiet_town.root / "state"
    state.mkdir()
    state.chmod(0o755)
    with pytest.raises(StorageError, match="mode 0755") as refused:
        quiet_town.start()
    assert refused.value.hint == f"chmod 700 {state}"


def test_another_members_key_does_not_serve(quiet_town: Any) -> None:
    quiet_town.keys["center"] = quiet_town.keys["hosp-a"]
    with pytest.raises(RosterError, match="enrolled as client"):
        quiet_town.start()


def test_every_request_and_refusal_is_in_the_audit_log(town: Any) -> None:
    """Chained, signed, floods as one entry with a count."""
    with town.connect("hosp-a") as member:
        for _ in range(5):
            member.status()
    with town.channel("hosp-b") as channel:
        for _ in range(50):  # over one connection: in less than the seconds after which the log is written
            hello = town.maker("hosp-b").make("StartJob", b"", roster=town.roster.digest, start=town.begun)
            with pytest.raises(grpc.RpcError):
                town.send(channel, "StartJob", calls.Call(hello, b""))
    town.stop()
    entries = town.audit()
    by_kind: dict[tuple[str, str, str], int] = {}
    for entry in entries:
        key = (entry["who"], entry["what"], entry["outcome"].split(":")[0])
        by_kind[key] = by_kind.get(key, 0) + entry["count"]
    assert by_kind.pop(("-", "Connect", "begun")) >= 3  # a connection that broke is made again
    assert by_kind == {
        ("hosp-a", "GetRoster", "ok"): 1,
        ("hosp-a", "GetStatus", "ok"): 5,
        ("reviewer", "GetRoster", "ok"): 1,
        ("hosp-b", "StartJob", "NotPermittedError"): 50,
    }
    assert len(entries) < 20
    key = town.keys["center"].signing
    report = journal.verify(
        log_file(town.root / "state", key),
        digest=lambda line: digest(Label.JOURNAL_ENTRY, line),
        verifier=lambda line, given: signing.verify(key.public, digest(Label.SIGN_AUDIT, line), given),
    )
    assert report.fault is None
    assert report.head.count == len(entries)


def test_entries_of_many_kinds_cannot_fill_the_memory(disk: Path, town: Any) -> None:
    from datetime import UTC, datetime

    log = AuditLog(disk / "audit-2.jsonl", town.keys["center"].signing, lambda: datetime.now(UTC))
    for number in range(AUDIT_KINDS_MAX + 500):
        log.add(who=f"site-{number // 50}", what="Exchange", outcome=f"E{number}", where="x")
    log.close()
    assert len((disk / "audit-2.jsonl").read_text().splitlines()) == AUDIT_KINDS_MAX + 10


@pytest.mark.parametrize("within_s", WITHIN_S)
def test_a_log_that_cannot_be_written_stops_the_daemon_within_five_seconds(
    town: Any, within_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "write_all", full)
    with town.connect("hosp-a") as member:
        member.status()
    town.thread.join(within_s)
    assert not town.thread.is_alive()
    assert type(town.error) is AuditLogError
    assert "No space left" in str(town.error)


def test_a_decision_that_cannot_be_written_stops_the_daemon(
    town: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody was told of the job; the next process starts from what is durable."""
    from secfed.errors import StorageError

    def full(*_: object) -> None:
        raise StorageError("decisions.sqlite: database or disk is full")

    monkeypatch.setattr(DecisionStore, "put", full)
    with pytest.raises(grpc.RpcError) as caught:
        town.raw("office", "StartJob", calls.encode_start_job(town.plan()))
    assert type(refused(caught.value)) is NetworkError
    assert "cannot write" in str(refused(caught.value))
    town.thread.join(PATIENCE_S)
    assert type(town.error) is StorageError
    monkeypatch.undo()
    town.start()
    assert town.status().jobs == ()
    start_job(town)
    assert [job.job for job in town.status().jobs] == [JobId("sum-1")]


# -- the process -------------------------------------------------------------------------------


def test_the_process_says_ready_and_stops_cleanly(quiet_town: Any, until: Callable[..., None]) -> None:
    """SIGTERM: exit code 0, systemd told of both; a second process finds nothing in its way."""
    town = quiet_town
    config = town.root / "aggregator.toml"
    config.write_text(to_toml(town.config(), town.root))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(town.root / "notify"))
        systemd.settimeout(PATIENCE_S)
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-m", "secfed", "aggregator", "run", "--config", str(config)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=dict(os.environ, NOTIFY_SOCKET=str(town.root / "notify")),
            )  # fmt: skip
            assert systemd.recv(100) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=PATIENCE_S)
            assert systemd.recv(100) == b"STOPPING=1"
            assert process.returncode == 0, err
            assert "port" in out
            assert "Traceback" not in err


def test_the_aggregators_process_loads_neither_torch_nor_an_accountant(quiet_town: Any) -> None:
    """It wires the whole daemon, then looks at what is loaded."""
    config = quiet_town.root / "aggregator.toml"
    config.write_text(to_toml(quiet_town.config(), quiet_town.root))
    program = f"""
import io, sys
from pathlib import Path
from secfed.cli import build_aggregator
from secfed.config import AggregatorConfig, load
settings = load(Path({str(config)!r}), AggregatorConfig)
daemon = build_aggregator.build_daemon(settings, build_aggregator.load_keys(settings, None), io.StringIO())
daemon.rounds()
heavy = ("torch", "opacus", "peft", "transformers", "dp_accounting", "scipy", "datasets", "matplotlib")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_digest_of_an_upload_is_over_what_was_stored() -> None:
    """By hand: the hash that the session compares is the plain SHA-256 of the frames put together."""
    from secfed.identity.signed import Signed
    from secfed.ids import MemberIndex

    class Written:
        data = b""

        def write(self, chunk: bytes) -> None:
            self.data += chunk

    writer: Any = Written()
    upload = attempt.Upload(
        writer, ClientId("a"), Digest(bytes(32)), MemberIndex(0), Signed(b"", b""), 6, 60.0
    )
    upload.write(b"abc")
    upload.write(b"def")
    assert upload.sha256 == hashlib.sha256(b"abcdef").digest() == hashlib.sha256(writer.data).digest()
