"""Who may call what: over real TLS, with hellos that say what no honest member says."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import floods
import grpc
import pytest
from townhall import WITHIN_S, refused

from secfed.errors import (
    AuthenticationError,
    ConfigError,
    NetworkError,
    NotPermittedError,
    PeerError,
    RevokedError,
    SecfedError,
    StorageError,
    VersionMismatchError,
)
from secfed.identity import keyfile, membership
from secfed.identity import roster as rosters
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import NO_DIGEST, ClientId, FederationId, JobId
from secfed.limits import REFUSAL_S, UNPROVEN_MAX
from secfed.rounds.exchange import JobCommand, Present, Wait
from secfed.store.decisions import DecisionStore
from secfed.transport import daemon as daemon_module
from secfed.transport import hello as hello_module
from secfed.transport import server, tls
from secfed.transport.hello import PERMITTED, HelloGate, RestartedError, RosterChangedError
from secfed.wire import calls, service, sums

PRESENT = sums.encode_said(Present(""))


def refusal_of(act: Callable[[], object]) -> SecfedError:
    with pytest.raises(grpc.RpcError) as caught:
        act()
    return refused(caught.value)


def test_every_call_of_the_schema_has_its_roles(town: Any) -> None:
    assert PERMITTED.keys() == set(service.METHODS)


def test_members_read_status_and_roster(town: Any) -> None:
    for name in ("hosp-a", "office", "reviewer"):
        with town.connect(name) as member:
            assert member.status().roster_version == 1
        reply = calls.decode_in_force(town.raw(name, "GetRoster", b"", roster=b"0" * 32))
        assert reply == calls.InForce(town.begun, town.roster.text)
        held = calls.decode_in_force(town.raw(name, "GetRoster", b""))
        assert held == calls.InForce(town.begun, b""), "nobody fetches what they hold"


@pytest.mark.parametrize(
    ("name", "method"),
    [("hosp-a", "StartJob"), ("hosp-a", "ControlJob"), ("reviewer", "StartJob"), ("office", "Exchange"),
     ("reviewer", "Download"), ("reviewer", "Exchange")],
)  # fmt: skip
def test_a_role_that_may_not_is_told_so(town: Any, name: str, method: str) -> None:
    error = refusal_of(lambda: town.raw(name, method, PRESENT))
    assert type(error) is NotPermittedError
    assert name in str(error)


def test_a_certificate_that_is_not_listed_opens_no_connection(town: Any) -> None:
    town.keys["stranger"] = town.make_keys("stranger", Role.CLIENT)
    failure = refusal_of(lambda: town.raw("stranger", "GetStatus", b""))
    assert type(failure) is NetworkError


def test_a_certificate_of_the_same_name_that_is_not_the_listed_one_opens_none(town: Any) -> None:
    (town.root / "again").mkdir()
    genuine, town.root = town.root, town.root / "again"
    town.keys["hosp-a"] = town.make_keys("hosp-a", Role.CLIENT)
    town.root = genuine
    assert type(refusal_of(lambda: town.raw("hosp-a", "GetStatus", b""))) is NetworkError


def test_no_client_certificate_opens_no_connection(town: Any) -> None:
    pem = town.keys["center"].certificate.pem.encode()
    options = [("grpc.ssl_target_name_override", "aggregator.secfed.internal")]
    with grpc.secure_channel(town.address, grpc.ssl_channel_credentials(pem), options) as channel:
        call = calls.Call(town.maker("hosp-a").make("GetRoster", b"", roster=town.roster.digest), b"")
        assert type(refusal_of(lambda: town.send(channel, "GetRoster", call))) is NetworkError


def test_plain_text_is_not_spoken(town: Any) -> None:
    with grpc.insecure_channel(town.address) as channel:
        call = calls.Call(town.maker("hosp-a").make("GetRoster", b"", roster=town.roster.digest), b"")
        assert type(refusal_of(lambda: town.send(channel, "GetRoster", call))) is NetworkError


def test_connections_that_tls_refuses_are_counted_in_the_audit_log(town: Any) -> None:
    """Nothing else is known of them: neither a call nor a hello came."""
    host, port = town.address.split(":")
    for _ in range(10):
        with (
            socket.create_connection((host, int(port)), timeout=60) as link,
            contextlib.suppress(ConnectionResetError),
        ):
            link.sendall(b"no TLS at all")
            assert link.recv(1) in (b"", b"\x15")  # closed, or an alert
    town.stop()
    entries = town.audit()
    assert {(entry["who"], entry["what"], entry["outcome"]) for entry in entries} == {
        ("-", "Connect", "begun")
    }
    assert sum(entry["count"] for entry in entries) >= 10  # any program may dial a port of loopback


def test_a_key_that_was_stolen_speaks_only_over_its_own_certificate(town: Any) -> None:
    """hosp-b holds hosp-a's signing key, but not its TLS key."""
    stolen = replace(town.keys["hosp-a"])
    error = refusal_of(lambda: town.raw("hosp-b", "GetStatus", b"", keys=stolen))
    assert type(error) is AuthenticationError


@pytest.mark.parametrize("name", ["method", "body", "peer", "federation"])
def test_a_hello_made_for_something_else_is_refused(town: Any, name: str) -> None:
    maker = {
        "peer": lambda: town.maker("hosp-a", peer=town.keys["hosp-b"].certificate),
        "federation": lambda: town.maker("hosp-a", federation=FederationId("0" * 32)),
    }.get(name, lambda: town.maker("hosp-a"))()
    method = "GetRoster" if name == "method" else "Exchange"
    signed_body = b"other" if name == "body" else PRESENT
    hello = maker.make(method, signed_body, roster=town.roster.digest, start=town.begun)
    with town.channel("hosp-a") as channel:
        error = refusal_of(lambda: town.send(channel, "Exchange", calls.Call(hello, PRESENT)))
    assert type(error) is AuthenticationError


def test_a_hello_serves_once(town: Any) -> None:
    hello = town.maker("hosp-a").make("GetRoster", b"", roster=town.roster.digest)
    with town.channel("hosp-a") as channel:
        town.send(channel, "GetRoster", calls.Call(hello, b""))
        error = refusal_of(lambda: town.send(channel, "GetRoster", calls.Call(hello, b"")))
    assert type(error) is AuthenticationError
    assert "seen before" in str(error)


def test_a_hello_of_before_a_restart_is_worth_nothing_after(town: Any) -> None:
    """Somebody with the member's own TLS key kept it, and the new process never saw its number."""
    hello = town.maker("hosp-a").make("GetStatus", b"", roster=town.roster.digest, start=town.begun)
    town.stop()
    town.start()
    with town.channel("hosp-a") as channel:
        error = refusal_of(lambda: town.send(channel, "GetStatus", calls.Call(hello, b"")))
    assert type(error) is RestartedError


def test_a_member_greets_a_restarted_aggregator_by_itself(town: Any) -> None:
    with town.connect("hosp-a") as member:
        assert member.status().roster_version == 1
        port = town.at.port
        town.stop()
        town.start(listen=f"127.0.0.1:{port}")
        assert member.status().roster_version == 1
    town.stop()
    refusals = [entry for entry in town.audit() if entry["outcome"].startswith("RestartedError")]
    assert sum(entry["count"] for entry in refusals) == 1


def test_a_hello_that_names_no_start_is_for_a_greeting_alone(town: Any) -> None:
    for method in service.METHODS:
        if method not in ("GetRoster", "Upload", "Download"):
            name = "office" if "Job" in method else "hosp-a"
            error = refusal_of(lambda m=method, n=name: town.raw(n, m, PRESENT, start=NO_DIGEST))
            assert type(error) is RestartedError
    assert calls.decode_in_force(town.raw("hosp-a", "GetRoster", b"", start=NO_DIGEST)).start == town.begun


def test_a_greeting_shows_no_client(town: Any) -> None:
    """It may be a replay, so it makes nobody look connected."""
    town.raw("hosp-a", "GetRoster", b"")
    assert town.status().connected == ()


@pytest.mark.parametrize("minutes", [-11, 11])
def test_a_hello_of_another_time_is_refused(town: Any, minutes: int) -> None:
    moment = time.time_ns() + minutes * 60 * 10**9
    error = refusal_of(lambda: town.raw("hosp-a", "GetRoster", b"", sequence=lambda: moment))
    assert type(error) is AuthenticationError
    assert "clock" in str(error)


def test_another_protocol_version_is_named_on_both_sides(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = town.maker("hosp-a")
    monkeypatch.setattr(hello_module, "PROTOCOL_VERSION", 2)
    hello = made.make("GetRoster", b"", roster=town.roster.digest)
    monkeypatch.undo()
    with town.channel("hosp-a") as channel:
        error = refusal_of(lambda: town.send(channel, "GetRoster", calls.Call(hello, b"")))
    assert type(error) is VersionMismatchError
    assert "hosp-a speaks protocol 2" in str(error)
    assert "the aggregator 1" in str(error)


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\x0a\x00", b"x" * 100, b"\x0a\x02\x0a\x00\x12\x00"], ids=repr
)
def test_bytes_that_are_no_call_are_refused(town: Any, data: bytes) -> None:
    with town.channel("hosp-a") as channel:
        error = refusal_of(lambda: channel.unary_unary(service.path("Exchange"))(data, timeout=60))
    assert isinstance(error, PeerError | AuthenticationError)


def test_a_message_over_the_limit_is_refused(town: Any) -> None:
    with town.channel("hosp-a") as channel:
        error = refusal_of(
            lambda: channel.unary_unary(service.path("Exchange"))(b"\x0a" * (3 << 20), timeout=60)
        )
    assert isinstance(error, NetworkError)


def test_calls_without_their_hello_give_way_to_newer_ones(town: Any, until: Callable[..., None]) -> None:
    """A stolen TLS key opens streams and says nothing: the member itself is served all the same."""
    release = threading.Event()

    def silence() -> Iterator[bytes]:
        release.wait(120)
        yield b""

    with contextlib.ExitStack() as stack:
        stack.callback(release.set)
        channels = [stack.enter_context(own_connection(town, "hosp-a")) for _ in range(3)]
        ends = [
            channel.stream_unary(service.path("Upload")).future(silence(), timeout=120)
            for channel in channels
            for _ in range(8)
        ]
        until(lambda: sum(end.done() for end in ends) == 24 - UNPROVEN_MAX)
        with town.connect("hosp-a") as member:
            assert member.status().roster_version == 1
        failures = [refused(end.exception()) for end in ends if end.done()]
    assert {str(failure) for failure in failures} == {"too many calls were begun without their hello"}


def test_an_upload_that_comes_byte_by_byte_is_ended(
    town: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC shows no part of a message, so whoever sends one a byte at a time is idle, however busy."""
    monkeypatch.setattr(server, "FIRST_FRAME_S", 0.5)
    keys, host, port = town.keys["hosp-a"], *town.address.split(":")
    certificate, key = town.root / "a.pem", town.root / "a.tls"
    certificate.write_bytes(keys.tls_certificate_pem)
    key.write_bytes(keys.tls_key_pem)
    flood = floods.Flood((host, int(port)), certificate, key)

    def dripped(link: ssl.SSLSocket) -> bool:
        with contextlib.suppress(OSError):
            link.sendall(floods.frame(floods.DATA, 0, 1, b"\x00"))
        return flood.ended(link)

    with flood.upload() as link:
        until(lambda: dripped(link))
    town.stop()
    (entry,) = [entry for entry in town.audit() if entry["what"] == "Upload"]
    assert (entry["who"], entry["outcome"]) == ("hosp-a", "NetworkError: an upload stood still for 0.5 s")


def own_connection(town: Any, name: str) -> grpc.Channel:
    """A channel that shares its connection with no other of this process."""
    return grpc.secure_channel(
        town.address,
        tls.channel_credentials(town.keys[name], town.keys["center"].certificate.pem),
        [*tls.channel_options(), ("grpc.use_local_subchannel_pool", 1)],
    )


def test_a_member_makes_so_many_calls_and_no_more_in_the_clocks_window(
    quiet_town: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And afterwards it may again; numbers of long ago are forgotten, those of now are not."""
    monkeypatch.setattr(hello_module, "HELLOS_MAX", 50)
    keys, roster = quiet_town.keys["hosp-a"], quiet_town.roster
    gate = HelloGate(quiet_town.keys["center"].certificate)
    pem = keys.certificate.pem.encode()
    now = quiet_town.now + timedelta(minutes=5)

    def call(at: datetime, number: int) -> None:
        maker = quiet_town.maker("hosp-a", sequence=lambda: int(at.timestamp()) * 10**9 + number)
        gate.check("GetRoster", maker.make("GetRoster", b"", roster=roster.digest), b"", pem, roster, at)

    for number in range(50):
        call(now, number)
    with pytest.raises(AuthenticationError, match="too many calls: 50 in 600 s"):
        call(now, 50)
    later = now + timedelta(seconds=700)
    call(later, 0)
    with pytest.raises(AuthenticationError, match="seen before"):
        call(later, 0)


# -- while it runs -----------------------------------------------------------------------------


def test_a_revoked_members_call_ends_at_the_first_look_at_the_new_roster(
    quiet_town: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five seconds without a clock: a look comes every two, the call is ended before the daemon sleeps again,
    and its other side has two more to take the reason.

    What is compared is the order in which the daemon did these things, however busy the machine.
    """
    assert daemon_module.ROSTER_POLL_S + REFUSAL_S < 5
    monkeypatch.setattr(daemon_module, "ROSTER_POLL_S", 0.2)
    town = quiet_town
    town.poll_s = 240.0  # so the call does not end by itself
    town.start()
    done: list[str] = []
    old, enter = town.file.read_bytes(), town.daemon.audit.add

    class Looked:
        """The roster's file; each look at it is noted."""

        def read_bytes(self) -> bytes:
            text: bytes = town.file.read_bytes()
            done.append("look" if text == old else "look at the new one")
            return text

    def add(**entry: Any) -> None:
        done.append(entry["outcome"])
        enter(**entry)

    monkeypatch.setattr(town.daemon, "roster_file", Looked())
    monkeypatch.setattr(town.daemon.audit, "add", add)
    with town.channel("hosp-a") as channel:
        hello = town.maker("hosp-a").make("Exchange", PRESENT, roster=town.roster.digest, start=town.begun)
        stub = channel.unary_unary(service.path("Exchange"))
        call = stub.future(calls.encode_call(calls.Call(hello, PRESENT)), timeout=120)
        until(lambda: town.status().connected == ("hosp-a",))
        until(lambda: done.count("look") > 1)
        town.publish(membership.revoke(town.roster, town.owner, ClientId("hosp-a")))
        assert type(refused(call.exception(120))) is RevokedError
    at = done.index("look at the new one")
    assert done[at : at + 2] == ["look at the new one", "RevokedError"]
    assert "RevokedError" not in done[:at]


@pytest.mark.parametrize("within_s", WITHIN_S)
def test_a_revoked_member_is_cut_off_within_five_seconds(
    quiet_town: Any, within_s: float, until: Callable[..., None]
) -> None:
    """A waiting call ends with the reason, the open connection hears it again, a new one does not open."""
    town = quiet_town
    town.poll_s = 240.0  # so the call does not end by itself
    town.start()
    ends: list[tuple[float, SecfedError]] = []
    with town.channel("hosp-a") as channel:

        def poll() -> None:
            hello = town.maker("hosp-a").make(
                "Exchange", PRESENT, roster=town.roster.digest, start=town.begun
            )
            stub = channel.unary_unary(service.path("Exchange"))
            try:
                stub(calls.encode_call(calls.Call(hello, PRESENT)), timeout=120)
            except grpc.RpcError as failure:
                ends.append((time.monotonic(), refused(failure)))

        thread = threading.Thread(target=poll)
        thread.start()
        until(lambda: town.status().connected == ("hosp-a",))
        begin = time.monotonic()
        town.publish(membership.revoke(town.roster, town.owner, ClientId("hosp-a")))
        thread.join(120)
        ((at, error),) = ends
        assert at - begin < within_s
        assert type(error) is RevokedError
        hello = town.maker("hosp-a").make("GetRoster", b"", roster=town.roster.digest)
        again = refusal_of(lambda: town.send(channel, "GetRoster", calls.Call(hello, b"")))
        assert type(again) is RevokedError
        assert "revoked in roster version 2" in str(again)
    assert type(refusal_of(lambda: town.raw("hosp-a", "GetRoster", b""))) is NetworkError
    with town.connect("hosp-b") as other:
        assert other.status().roster_version == 2


def test_a_call_over_a_certificate_that_was_replaced_is_cut_off(
    quiet_town: Any, until: Callable[..., None]
) -> None:
    """The site is as active as before; what counts is the key."""
    town = quiet_town
    town.poll_s = 240.0  # so the call does not end by itself
    town.start()
    (town.root / "new").mkdir()
    with town.channel("hosp-b") as channel:
        hello = town.maker("hosp-b").make("Exchange", PRESENT, roster=town.roster.digest, start=town.begun)
        stub = channel.unary_unary(service.path("Exchange"))
        call = stub.future(calls.encode_call(calls.Call(hello, PRESENT)), timeout=120)
        until(lambda: town.status().connected == ("hosp-b",))
        new = keyfile.create(
            town.root / "new" / "key",
            site=ClientId("hosp-b"),
            role=Role.CLIENT,
            passphrase=None,
            now=town.now,
        )
        town.publish(membership.rotate(town.roster, town.owner, new.enrolment, now=town.now))
        error = refused(call.exception(timeout=120))
    assert type(error) is RevokedError
    assert "had its key replaced in roster version 2" in str(error)


def test_a_new_member_connects_without_a_restart(town: Any, until: Callable[..., None]) -> None:
    town.keys["hosp-d"] = town.make_keys("hosp-d", Role.CLIENT)
    with town.connect("hosp-b") as known:
        assert known.status().roster_version == 1
        enrolled = membership.enroll(town.roster, town.owner, [town.keys["hosp-d"].enrolment], now=town.now)
        town.publish(enrolled)
        until(lambda: b"version 2" in town.out.getvalue().encode())
        assert known.status().roster_version == 2, (
            "a member with the old roster fetches the new one by itself"
        )
    with town.connect("hosp-d") as new:
        assert new.status().roster_version == 2


def test_a_renewed_roster_is_taken_up_while_running(town: Any, until: Callable[..., None]) -> None:
    with town.connect("hosp-b") as known:
        assert known.status().roster_version == 1
        later = town.roster.not_after + timedelta(days=30)
        town.publish(membership.renew(town.roster, town.owner, not_after=later))
        until(lambda: "version 2 is in force" in town.out.getvalue())
        assert known.status().roster_version == 2
    assert rosters.verify((town.root / "hosp-b.roster").read_bytes(), town.owner.public).not_after == later


def test_a_roster_that_is_published_while_another_is_taken_up_is_not_lost(
    town: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two revocations in a row: the daemon, busy with the first, does not write it over the second."""
    second = membership.revoke(town.roster, town.owner, ClientId("hosp-b"))
    third = membership.revoke(second, town.owner, ClientId("hosp-c"))
    genuine = rosters.verify

    def busy(data: bytes, key: bytes) -> Roster:
        if data == second.text and town.roster is second:
            town.publish(third)
        return genuine(data, key)

    monkeypatch.setattr(rosters, "verify", busy)
    town.publish(second)
    until(lambda: "version 3 is in force" in town.out.getvalue())
    assert town.file.read_bytes() == third.text


def test_a_roster_that_could_not_be_pinned_at_first_is_tried_again(
    town: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, once: the revocation comes into force without a restart."""
    genuine, tries = DecisionStore.put, iter([True])

    def full_once(decisions: DecisionStore, key: str, value: bytes) -> None:
        if key.startswith("roster/") and next(tries, False):
            raise StorageError("no space left")
        genuine(decisions, key, value)

    monkeypatch.setattr(DecisionStore, "put", full_once)
    town.publish(membership.revoke(town.roster, town.owner, ClientId("hosp-c")))
    until(lambda: "no space left" in town.out.getvalue())
    until(lambda: "version 2 is in force" in town.out.getvalue())
    assert town.status().roster_version == 2


def test_an_older_roster_is_told_so_except_when_it_asks_for_the_new_one(town: Any) -> None:
    old = b"1" * 32
    assert type(refusal_of(lambda: town.raw("hosp-a", "GetStatus", b"", roster=old))) is RosterChangedError
    told = calls.decode_in_force(town.raw("hosp-a", "GetRoster", b"", roster=old))
    assert told.roster == town.roster.text


def test_a_roster_that_goes_back_changes_nothing(town: Any, until: Callable[..., None]) -> None:
    first = town.roster
    town.publish(membership.revoke(first, town.owner, ClientId("hosp-c")))
    until(lambda: "version 2 is in force" in town.out.getvalue())
    town.publish(first)
    until(lambda: "is refused" in town.out.getvalue())
    assert "older than version 2" in town.out.getvalue()
    town.file.write_bytes(b"nonsense")
    until(lambda: town.out.getvalue().count("is refused") == 2)
    town.roster = membership.revoke(first, town.owner, ClientId("hosp-c"))
    assert town.status().roster_version == 2


# -- jobs over the wire ------------------------------------------------------------------------


def test_an_admin_starts_pauses_resumes_and_stops_a_job(town: Any) -> None:
    with town.connect("office") as admin:
        assert admin.start_job(town.plan()).state == "running"
        job = JobId("sum-1")
        assert [admin.control_job(JobCommand(job, verb)).state for verb in ("pause", "resume", "stop")] == [
            "paused", "running", "stopped",
        ]  # fmt: skip
        with pytest.raises(SecfedError, match="there is no job other"):
            admin.control_job(JobCommand(JobId("other"), "pause"))
    assert [job.state for job in town.status("sum-1").jobs] == ["stopped"]


def test_a_job_without_a_base_offers_no_file_for_its_zeros(town: Any) -> None:
    """They stand where a base's digest would: nothing is read for them, and no disk is blamed."""
    with town.connect("office") as admin, town.connect("hosp-a") as member:
        admin.start_job(town.plan())
        with pytest.raises(ConfigError, match="no adapter, sum or plan"):
            member.download(NO_DIGEST)


def test_a_waiting_client_is_told_what_is_awaited_and_until_when(quiet_town: Any) -> None:
    """The text names the sites that are missing."""
    town = quiet_town
    town.poll_s = 0.3
    town.start()
    with town.connect("office") as admin:
        admin.start_job(town.plan())
    state = town.status("sum-1").jobs[0]
    assert state.waiting_for == "job sum-1 round 1: waiting for 3 sites: hosp-a, hosp-b, hosp-c"
    assert 3000 < state.remaining_s <= 3600
    with town.connect("hosp-a") as client:
        told = client.exchange(Present("other"))  # the offer is not for this one
        assert told == Wait("job sum-1 round 1: waiting for 2 sites: hosp-b, hosp-c", told.remaining_s)
        (state,) = town.status("sum-1").jobs
        assert next((member.site, member.state) for member in state.members) == (
            "hosp-a", "takes part in another job only",
        )  # fmt: skip


def test_a_client_that_waits_is_let_go_when_the_daemon_stops(
    quiet_town: Any, until: Callable[..., None]
) -> None:
    """Long before its call would end by itself."""
    town = quiet_town
    town.poll_s = 240.0
    town.start()
    told: list[Any] = []
    with town.connect("hosp-a") as client:
        thread = threading.Thread(target=lambda: told.append(client.exchange(Present(""))))
        thread.start()
        until(lambda: town.status().connected == ("hosp-a",))
        town.stop()
        thread.join(60)
    assert told == [Wait("the aggregator is stopping; it will be back", 0)]
