"""Who may do what: every role, every call, every kind of body, every way to be somebody else.

The rows come from the service's own tables, so a call, verb or kind of message without a row here fails.
What a refusal must be (its class, its status, its words) is written down here a second time.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import permutations
from types import MappingProxyType
from typing import Any

import grpc
import pytest
from townhall import Town, refused

from secfed.crypto.labels import PROTOCOL_VERSION, Label
from secfed.errors import (
    AuthenticationError,
    CertificateExpiredError,
    NetworkError,
    NotPermittedError,
    RevokedError,
    SecfedError,
    VersionMismatchError,
)
from secfed.identity import keyfile, membership, signed
from secfed.identity import roster as rosters
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roles import Role
from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest, FederationId, JobId
from secfed.rounds.exchange import Answer, Declined, Hello, JobCommand, Present, Ready, Refused
from secfed.secagg.messages import SignedReply
from secfed.transport import status, tls
from secfed.transport.hello import (
    GREETING,
    PERMITTED,
    HelloGate,
    RestartedError,
    RosterChangedError,
    body_digest,
)
from secfed.wire import calls, service, sums
from secfed.wire import status as wire_status
from secfed.wire.pb import sum_pb2

NOTHING = Digest(bytes(32))
SIGNED = Signed(b"", bytes(64))

BODIES: dict[tuple[str, str], bytes] = {
    ("Exchange", "present"): sums.encode_said(Present("")),
    ("Exchange", "ready"): sums.encode_said(Ready(JobId("other"), 1, NOTHING)),
    ("Exchange", "declined"): sums.encode_said(Declined(JobId("other"), 1)),
    ("Exchange", "answer"): sums.encode_said(Answer(NOTHING, SignedReply(SIGNED))),
    ("Exchange", "refused"): sums.encode_said(Refused(NOTHING, "a rule")),
    ("Upload", ""): calls.encode_upload_header(calls.UploadHeader(NOTHING, SIGNED)),
    ("Download", ""): calls.encode_download(NOTHING),
    ("GetRoster", ""): b"",
    ("StartJob", ""): calls.encode_start_job(b"a plan that nobody signed"),
    ("ControlJob", "pause"): calls.encode_job_command(JobCommand(JobId("other"), "pause")),
    ("ControlJob", "resume"): calls.encode_job_command(JobCommand(JobId("other"), "resume")),
    ("ControlJob", "stop"): calls.encode_job_command(JobCommand(JobId("other"), "stop")),
    ("GetStatus", ""): wire_status.encode_status_request(None),
}
"""A well-formed body of each call and kind; what it asks for does not exist."""

ALLOWED: dict[str, set[Role]] = {
    "Exchange": {Role.CLIENT},
    "Upload": {Role.CLIENT},
    "Download": {Role.CLIENT, Role.ADMIN},
    "GetRoster": {Role.CLIENT, Role.ADMIN, Role.AUDITOR},
    "StartJob": {Role.ADMIN},
    "ControlJob": {Role.ADMIN},
    "GetStatus": {Role.CLIENT, Role.ADMIN, Role.AUDITOR},
}

NAMES = {Role.CLIENT: "hosp-a", Role.ADMIN: "office", Role.AUDITOR: "reviewer", Role.AGGREGATOR: "center"}
"""A member of each role; the aggregator calls itself."""

CALLERS = {method: min(NAMES[role] for role in roles) for method, roles in ALLOWED.items()}
"""For each call a member who may make it."""

CODES = {
    AuthenticationError: grpc.StatusCode.UNAUTHENTICATED,
    NotPermittedError: grpc.StatusCode.PERMISSION_DENIED,
    RevokedError: grpc.StatusCode.PERMISSION_DENIED,
    CertificateExpiredError: grpc.StatusCode.PERMISSION_DENIED,
    RosterChangedError: grpc.StatusCode.FAILED_PRECONDITION,
    RestartedError: grpc.StatusCode.FAILED_PRECONDITION,
    VersionMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
}
"""Every way not to be let in, and its status."""

OUTCOMES: Counter[tuple[str, str]] = Counter()
"""What the calls of this module came to, by call and the refusal's class: the audit log must agree."""


@dataclass(frozen=True)
class Verdict:
    """How a call ended; `error` is None if it was answered."""

    code: grpc.StatusCode
    error: SecfedError | None

    def is_refusal(self, kind: type[SecfedError], words: str) -> bool:
        return type(self.error) is kind and self.code is CODES[kind] and words in str(self.error)


@pytest.fixture(scope="module")
def town(shared_town: Town) -> Town:
    """A running federation with three members more: one too early, one too late, one to be cut off."""
    town = shared_town
    for name in ("hosp-early", "hosp-late", "hosp-gone", "hosp-new"):
        town.keys[name] = town.make_keys(name, Role.CLIENT)
    names = ("hosp-early", "hosp-late", "hosp-gone")
    roster = membership.enroll(
        town.roster, town.owner, [town.keys[name].enrolment for name in names], now=town.now
    )
    day = timedelta(days=1)
    dates = {"hosp-early": {"valid_from": town.now + day}, "hosp-late": {"valid_until": town.now}}
    members = [replace(member, **dates.get(member.site, {})) for member in roster.members]
    town.publish(
        rosters.publish(town.owner, roster.version + 1, roster.not_after, roster.min_cohort, 1, members)
    )
    town.poll_s = 0.1
    town.start()
    return town


# -- calls -------------------------------------------------------------------------------------


def send(channel: grpc.Channel, method: str, call: calls.Call) -> Verdict:
    """Make a call of whatever shape; its outcome is remembered."""
    try:
        if method == "Upload":
            frames = iter([calls.encode_upload_frame(call)])
            channel.stream_unary(service.path(method))(frames, timeout=60)
        elif method == "Download":
            list(channel.unary_stream(service.path(method))(calls.encode_call(call), timeout=60))
        else:
            channel.unary_unary(service.path(method))(calls.encode_call(call), timeout=60)
    except grpc.RpcError as failure:
        error = refused(failure)
        if any(key == status.DETAIL_KEY for key, _ in failure.trailing_metadata() or ()):
            OUTCOMES[method, type(error).__name__] += 1
        return Verdict(failure.code(), error)
    OUTCOMES[method, "ok"] += 1
    return Verdict(grpc.StatusCode.OK, None)


def hello(
    town: Town,
    name: str,
    method: str,
    body: bytes,
    says: Mapping[str, Any] = MappingProxyType({}),
    *,
    keys: MemberKeys | None = None,
) -> Signed:
    """A hello signed for this member, whatever it says; with its own key unless another one is given."""
    fields: dict[str, Any] = {
        "protocol": PROTOCOL_VERSION,
        "version": "0.1.0",
        "federation": town.roster.federation,
        "site": ClientId(name),
        "roster": town.roster.digest,
        "method": method,
        "sequence": next(town.numbers),
        "body": body_digest(body),
        "ledger_head": NOTHING,
        "ledger_entries": 0,
        "peer": town.keys["center"].certificate.digest,
        "start": town.begun,
    }
    return signed.sign(
        (keys or town.keys[name]).signing,
        Label.SIGN_HELLO,
        context=town.roster.federation.encode(),
        sender=name,
        recipient=None,
        statement=calls.encode_hello(Hello(**(fields | dict(says)))),
    )


def ask(
    town: Town,
    name: str,
    method: str,
    says: Mapping[str, Any] = MappingProxyType({}),
    *,
    body: bytes | None = None,
    keys: MemberKeys | None = None,
) -> Verdict:
    """One call over this member's own certificate."""
    body = body_of(method) if body is None else body
    with town.channel(name) as channel:
        return send(channel, method, calls.Call(hello(town, name, method, body, says, keys=keys), body))


def body_of(method: str) -> bytes:
    """The first body of a call."""
    return next(body for (name, _), body in BODIES.items() if name == method)


# -- roles -------------------------------------------------------------------------------------


def test_every_call_and_kind_has_a_row() -> None:
    """From the schema and the decoders: what is added there has to be decided here."""
    kinds = {
        "Exchange": [field.name for field in sum_pb2.Said.DESCRIPTOR.oneofs_by_name["said"].fields],
        "ControlJob": list(calls.VERBS),
    }
    rows = {(method, kind) for method in service.METHODS for kind in kinds.get(method, [""])}
    assert rows == BODIES.keys()
    assert {method: set(roles) for method, roles in PERMITTED.items()} == ALLOWED
    assert set(NAMES) == set(Role)


@pytest.mark.parametrize(("method", "kind"), list(BODIES), ids="-".join)
def test_each_role_makes_the_calls_of_its_own_and_no_other(town: Town, method: str, kind: str) -> None:
    for role, name in NAMES.items():
        verdict = ask(town, name, method, body=BODIES[method, kind])
        if role in ALLOWED[method]:
            assert type(verdict.error) not in CODES, f"{name}: {verdict.error}"
            assert verdict.code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)
        else:
            assert verdict.is_refusal(NotPermittedError, f"{name} is enrolled as {role.value}; this needs")


# -- who somebody is ---------------------------------------------------------------------------


def strangers(town: Town) -> dict[str, grpc.ChannelCredentials]:
    """Ways to dial without a member's certificate and its key."""
    root = town.keys["center"].certificate.pem.encode()
    member, stranger = town.keys["hosp-a"], town.keys["hosp-new"]
    return {
        "no certificate": grpc.ssl_channel_credentials(root),
        "never enrolled": tls.channel_credentials(stranger, root.decode()),
        "without its key": grpc.ssl_channel_credentials(
            root, stranger.tls_key_pem, member.tls_certificate_pem
        ),
    }


@pytest.mark.parametrize("how", ["no certificate", "never enrolled", "without its key"])
def test_nobody_without_a_members_certificate_and_key_reaches_a_call(town: Town, how: str) -> None:
    """TLS ends it, so no reason can be told: no call is answered, and none is entered."""
    before = OUTCOMES.copy()
    with grpc.secure_channel(town.address, strangers(town)[how], tls.channel_options()) as channel:
        for method in service.METHODS:
            call = calls.Call(hello(town, "hosp-a", method, body_of(method)), body_of(method))
            verdict = send(channel, method, call)
            assert type(verdict.error) is NetworkError
            assert verdict.code is grpc.StatusCode.UNAVAILABLE
    assert before == OUTCOMES


@pytest.mark.parametrize(
    ("name", "words"), [("hosp-early", "is enrolled from"), ("hosp-late", "was enrolled to")]
)
def test_an_entry_outside_its_dates_makes_no_call_of_its_role(town: Town, name: str, words: str) -> None:
    for method in service.METHODS:
        verdict = ask(town, name, method)
        if Role.CLIENT in ALLOWED[method]:
            assert verdict.is_refusal(CertificateExpiredError, f"{name} {words}")
        else:
            assert verdict.is_refusal(NotPermittedError, name)


@pytest.mark.parametrize(
    ("days", "words"),
    [(-1, "is enrolled from"), (29, ""), (31, "ended on"), (10 * 365, "ended on")],
    ids=["before", "within", "after the roster's end", "after the certificate's"],
)
def test_dates_are_looked_at_in_every_call(quiet_town: Town, days: int, words: str) -> None:
    """By a clock that the test holds: no call is let in before or after."""
    gate = HelloGate(quiet_town.keys["center"].certificate)
    now = quiet_town.now + timedelta(days=days)
    for index, (method, name) in enumerate(CALLERS.items()):
        keys, roster = quiet_town.keys[name], quiet_town.roster
        number = int(now.timestamp()) * 10**9 + index
        maker = quiet_town.maker(name, sequence=lambda number=number: number)
        made = maker.make(method, b"", roster=roster.digest, start=gate.start)
        check = (method, made, b"", keys.certificate.pem.encode(), roster, now)
        if words:
            with pytest.raises(CertificateExpiredError, match=words):
                gate.check(*check)
        else:
            assert gate.check(*check).site == name


@pytest.mark.parametrize(("own", "other"), list(permutations(("hosp-a", "office", "reviewer"), 2)))
def test_nobody_speaks_for_another(town: Town, own: str, other: str) -> None:
    """Over one's own certificate: in the other's name, with the other's key, and with both."""
    for method, caller in CALLERS.items():
        if caller != own:
            continue
        assert ask(town, own, method, {"site": ClientId(other)}).is_refusal(
            AuthenticationError, f"the hello of {own} was made for another site"
        )
        stolen = ask(town, own, method, keys=town.keys[other])
        assert stolen.is_refusal(AuthenticationError, f"the hello is not signed by {own}")
        body = body_of(method)
        with town.channel(own) as channel:
            verdict = send(channel, method, calls.Call(hello(town, other, method, body), body))
        assert verdict.is_refusal(AuthenticationError, f"the hello is not signed by {own}")


# -- what a hello is for -----------------------------------------------------------------------


def test_a_hello_for_one_call_serves_no_other(town: Town) -> None:
    """All pairs, each by a member who may make both or either."""
    for made_for, used_in in permutations(service.METHODS, 2):
        verdict = ask(town, CALLERS[used_in], used_in, {"method": made_for})
        assert verdict.is_refusal(AuthenticationError, "was made for another method")


WRONG: dict[str, tuple[dict[str, Any], type[SecfedError], str]] = {
    "body": ({"body": NOTHING}, AuthenticationError, "made for another body"),
    "peer": ({"peer": NOTHING}, AuthenticationError, "made for another peer"),
    "federation": (
        {"federation": FederationId("0" * 32)}, AuthenticationError, "made for another federation",
    ),
    "an older protocol": (
        {"protocol": 0, "version": "0.0.1"}, VersionMismatchError, "speaks protocol 0 (secfed 0.0.1), the",
    ),
    "a newer protocol": (
        {"protocol": 2, "version": "9.0"}, VersionMismatchError, "speaks protocol 2 (secfed 9.0), the",
    ),
    "long ago": ({"sequence": 10**18}, AuthenticationError, "the clock of"),
    "far ahead": ({"sequence": 2**63 - 1}, AuthenticationError, "the clock of"),
    "another start": ({"start": Digest(b"1" * 32)}, RestartedError, "another start"),
    "another roster": ({"roster": Digest(b"1" * 32)}, RosterChangedError, "the roster in force is version"),
}  # fmt: skip

FREE_IN_A_GREETING = {"another start", "another roster"}
"""The greeting is how a member learns of both."""


@pytest.mark.parametrize("what", list(WRONG))
def test_a_hello_for_something_else_opens_no_call(town: Town, what: str) -> None:
    said, kind, words = WRONG[what]
    for method, name in CALLERS.items():
        verdict = ask(town, name, method, said)
        if method == GREETING and what in FREE_IN_A_GREETING:
            assert verdict.error is None
        else:
            assert verdict.is_refusal(kind, words), f"{method}: {verdict}"


def test_no_call_counts_twice(town: Town) -> None:
    for method, name in CALLERS.items():
        body = body_of(method)
        call = calls.Call(hello(town, name, method, body), body)
        with town.channel(name) as channel:
            assert type(send(channel, method, call).error) not in CODES
            assert send(channel, method, call).is_refusal(AuthenticationError, "was seen before")


# -- while it runs -----------------------------------------------------------------------------


@contextlib.contextmanager
def open_connection(town: Town, name: str) -> Iterator[grpc.Channel]:
    """A connection that was opened while the member's certificate counted."""
    with town.channel(name) as channel:
        body = body_of("GetStatus")
        call = calls.Call(hello(town, name, "GetStatus", body), body)
        assert send(channel, "GetStatus", call).error is None
        yield channel


def test_a_revoked_or_replaced_certificate_makes_no_call_over_an_open_connection(
    town: Town, until: Callable[..., None]
) -> None:
    """And nobody else loses theirs."""
    cases: dict[str, tuple[Callable[[], Any], type[SecfedError], str]] = {
        "hosp-gone": (
            lambda: membership.revoke(town.roster, town.owner, ClientId("hosp-gone")),
            RevokedError,
            "hosp-gone was revoked in roster version",
        ),
        "hosp-b": (
            lambda: membership.rotate(town.roster, town.owner, replacement.enrolment, now=town.now),
            AuthenticationError,
            "no member's now",
        ),
    }
    (town.root / "new").mkdir()
    replacement = keyfile.create(
        town.root / "new" / "hosp-b.key", site=ClientId("hosp-b"), role=Role.CLIENT, passphrase=None,
        now=town.now,
    )  # fmt: skip
    for name, (change, kind, words) in cases.items():
        with open_connection(town, name) as gone, open_connection(town, "hosp-a") as stays:
            town.publish(change())
            in_force = f"version {town.roster.version} is in force"
            until(lambda text=in_force: text in town.out.getvalue())
            for method in service.METHODS:
                body = body_of(method)
                verdict = send(gone, method, calls.Call(hello(town, name, method, body), body))
                assert verdict.is_refusal(kind, words)
            call = calls.Call(hello(town, "hosp-a", "GetStatus", b""), b"")
            assert send(stays, "GetStatus", call).error is None
    town.keys["hosp-b"] = replacement
    assert ask(town, "hosp-b", "GetStatus").error is None


# -- the audit log -----------------------------------------------------------------------------


def test_each_answer_and_each_refusal_of_this_module_stands_in_the_audit_log(
    town: Town, request: pytest.FixtureRequest
) -> None:
    """As many as there were, of each call and class: the counts of coalesced entries add up."""
    chosen = {item.function for item in request.session.items if isinstance(item, pytest.Function)}
    tests = {value for name, value in vars(request.module).items() if name.startswith("test_")}
    if not tests <= chosen:
        pytest.skip("it counts the calls of this module's other tests, and not all of them were chosen")
    town.stop()
    greetings = Counter({("GetRoster", "ok"): 1})  # the reviewer's, by which the tests learn the start
    entered: Counter[tuple[str, str]] = Counter()
    for entry in town.audit():
        entered[entry["what"].split()[0], entry["outcome"].split(":")[0]] += entry["count"]
    assert entered.pop(("Connect", "begun")) > 0
    assert entered == OUTCOMES + greetings
    assert {kind for _, kind in OUTCOMES} >= {kind.__name__ for kind in CODES}
