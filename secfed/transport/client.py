"""A member's way to the aggregator: calls over one mTLS channel, each with a signed hello.

What may be tried again is tried again: an aggregator that is away, a call that took too long.
A refusal is final. gRPC calls every failed handshake UNAVAILABLE, the code that retry loops
retry for ever; so this side looks at its own certificate before it dials, and at the text of a
failed connection after, and tells a wrong address, a wrong certificate and a revoked one apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Protocol, Self, TypeVar

import grpc
import stamina.instrumentation

from secfed import limits
from secfed.crypto.kdf import digest as labelled_digest
from secfed.crypto.labels import Label
from secfed.errors import (
    AuthenticationError,
    NetworkError,
    PeerError,
    RevokedError,
    SecfedError,
)
from secfed.identity.certificate import Certificate
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roster import Roster, RosterRolledBackError
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, Digest, JobId
from secfed.limits import SLOWEST_BYTES_PER_S
from secfed.rounds.exchange import JobCommand, JobState, Said, StatusReply, Told
from secfed.store.journal import EMPTY, Head
from secfed.transport import chunks, status, tls
from secfed.transport.hello import GREETING, HelloMaker, RestartedError, RosterChangedError
from secfed.wire import calls, service, sums
from secfed.wire import status as wire_status

__all__ = ["Connection", "Rosters", "Sequence"]

T = TypeVar("T")

CALL_S = 30
"""Longest a short call may take, seconds."""

POLL_S = 45
"""Longest an Exchange may take: the aggregator answers within some 20 s, if only with what is awaited."""

RETRY_FIRST_S, RETRY_MOST_S = 0.25, 2.0
"""Pauses between tries; the longest is well within the 5 seconds in which a link must be taken up again."""

ROSTER_LAG_S = 5.0
"""How long a new roster may take to come into force; the aggregator looks at its file every 2 seconds.
An older roster, or connections that all end between TLS and the first HTTP/2 frame, may mean no more
than that; if they go on for so long, the aggregator does not accept this certificate."""

KEEPALIVE_S, PROBE_S = 15, 5
"""A link on which nothing came for so long is probed, and given up so long after without an answer."""


stamina.instrumentation.set_on_retry_hooks([])  # `on_retry` tells of failures, once


class Rosters(Protocol):
    """The port to `rounds.rosters.RosterKeeper`."""

    @property
    def current(self) -> Roster:
        """The roster in force here."""

    def accept(self, data: bytes) -> Roster:
        """Verify a newer roster and go by it."""


class Sequence:
    """Numbers for hellos: nanoseconds since 1970, each new.

    The aggregator remembers every number within its clock's window and refuses the rest by their
    time, so a number must be new and of about now; nothing needs to be kept across restarts of either.
    """

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns, self._last = now_ns, 0

    def __call__(self) -> int:
        """The next number, larger than the last."""
        self._last = max(self._last + 1, self._now_ns())
        return self._last


class Connection:
    """One member's channel to the aggregator, opened on the first call.

    Args:
        address: `host:port` to dial.
        keys: The member's.
        rosters: What this side goes by; a newer roster is fetched and accepted when a call is
            refused because of it.
        sequence: Numbers for the hellos.
        now: The clock, for validity.
        state: Name of the state that this member takes part with; zero for who takes part in nothing.
        ledger_head: Head of the ledger of the job in hand.
        patience_s: How long an aggregator that is away is tried again; None for ever.
        arrival_s: The same until it has answered once, since the address may be wrong; None for `patience_s`.
        on_retry: Told of each failed try.
    """

    def __init__(
        self,
        address: str,
        keys: MemberKeys,
        rosters: Rosters,
        sequence: Callable[[], int],
        *,
        now: Callable[[], datetime],
        state: Digest = NO_DIGEST,
        ledger_head: Callable[[], Head] = lambda: EMPTY,
        patience_s: float | None = None,
        arrival_s: float | None = None,
        on_retry: Callable[[NetworkError], None] = lambda _: None,
    ) -> None:
        self._address, self._keys, self._rosters, self._sequence = address, keys, rosters, sequence
        self._now, self._state, self._ledger_head = now, state, ledger_head
        self._patience_s, self._on_retry = patience_s, on_retry
        self._arrival_s = patience_s if arrival_s is None else arrival_s
        self._channel: grpc.Channel | None = None
        self._peer: Certificate | None = None
        self._start: Digest | None = None
        self._rejected_since: float | None = None

    # -- rounds: the Link port -----------------------------------------------------------------

    def exchange(self, said: Said) -> Told:
        """Say something, wait for what comes next."""
        return sums.decode_told(self._call("Exchange", sums.encode_said(said), within_s=POLL_S))

    def upload(self, attempt: Digest, statement: Signed, packed: bytes) -> Told:
        """Send a masked vector in frames; begun again from the start if the link is lost."""
        body = calls.encode_upload_header(calls.UploadHeader(attempt, statement))

        def frames(hello: Signed) -> Iterator[bytes]:
            yield calls.encode_upload_frame(calls.Call(hello, body))
            for offset, piece in chunks.split(packed):
                yield calls.encode_upload_frame(calls.Piece(offset, piece))

        def send(channel: grpc.Channel, hello: Signed) -> bytes:
            stub: Callable[..., bytes] = channel.stream_unary(service.path("Upload"))
            return stub(frames(hello), timeout=POLL_S + len(packed) / SLOWEST_BYTES_PER_S)

        return sums.decode_told(self._persist("Upload", body, send))

    def download(self, digest: Digest) -> bytes:
        """Fetch an adapter by its digest.

        Raises:
            PeerError: What came does not have this digest, or is too long.
        """
        data = self.fetch_archive(digest)
        if labelled_digest(Label.ADAPTER, data) != digest:
            raise PeerError("the adapter that came is not the one that was asked for")
        return data

    def fetch_archive(self, digest: Digest) -> bytes:
        """Fetch a round's folder by `rounds.archive.archive_digest`; `archive.unpack` verifies it.

        Raises:
            PeerError: What came is too long, or has a gap.
        """
        body = calls.encode_download(digest)

        def fetch(channel: grpc.Channel, hello: Signed) -> bytes:
            stub: Callable[..., Iterator[bytes]] = channel.unary_stream(service.path("Download"))
            longest_s = POLL_S + limits.VECTOR_BYTES_MAX / SLOWEST_BYTES_PER_S
            return _assemble(stub(calls.encode_call(calls.Call(hello, body)), timeout=longest_s))

        return self._persist("Download", body, fetch)

    # -- people --------------------------------------------------------------------------------

    def status(self, job: JobId | None = None) -> StatusReply:
        """How the federation stands."""
        return wire_status.decode_status(self._call("GetStatus", wire_status.encode_status_request(job)))

    def start_job(self, job_plan: bytes) -> JobState:
        """Start a job from its signed plan; an admin's call."""
        return wire_status.decode_job_reply(self._call("StartJob", calls.encode_start_job(job_plan)))

    def control_job(self, command: JobCommand) -> JobState:
        """Pause, resume or stop a job; an admin's call."""
        return wire_status.decode_job_reply(self._call("ControlJob", calls.encode_job_command(command)))

    # -- life ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Look at this side's own papers, before anything else is dialled.

        Keys that the roster here does not list at all may be newer than it, as after a rotation. Then
        the aggregator is asked once for a newer roster; keys that are listed as revoked are final.

        Raises:
            AuthenticationError: The roster does not know the site, or has other keys for it.
            RevokedError: The site was revoked.
            CertificateExpiredError: Its certificate, its entry or the roster is outside its dates.
        """
        try:
            self._check_papers()
        except (AuthenticationError, RevokedError) as refusal:
            own, members = self._keys.certificate.digest, self._rosters.current.members
            if any(member.certificate.digest == own for member in members):
                raise
            try:
                self._catch_up()
            except NetworkError:
                raise refusal from None
            self._check_papers()  # the answer may have been that there is no newer one

    def _check_papers(self) -> None:
        roster, keys, now = self._rosters.current, self._keys, self._now()
        keys.certificate.check_validity(now)
        member = roster.member(keys.site)
        roster.require(keys.site, member.role, now)
        if (member.identity_key, member.certificate.digest) != (keys.signing.public, keys.certificate.digest):
            raise AuthenticationError(
                f"the key file of {keys.site} ({keys.fingerprint}) is not the one that roster version "
                f"{roster.version} lists ({member.fingerprint})"
            )

    def close(self) -> None:
        """Close the channel; the next call would open another."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- one call ------------------------------------------------------------------------------

    def _call(self, method: str, body: bytes, *, within_s: float = CALL_S) -> bytes:
        def ask(channel: grpc.Channel, hello: Signed) -> bytes:
            return _ask(channel, method, hello, body, within_s)

        return self._persist(method, body, ask)

    def _persist(self, method: str, body: bytes, act: Callable[[grpc.Channel, Signed], bytes]) -> bytes:
        """Try until it works, or is refused, or patience ends; each try has a hello of its own."""
        self.check()
        if self._start is None:
            self._tried(self._catch_up, self._arrival_s)
        return self._tried(lambda: self._greeted(method, body, act), self._patience_s)

    def _tried(self, act: Callable[[], T], patience_s: float | None) -> T:
        tries = stamina.retry_context(
            on=NetworkError,
            attempts=None,
            timeout=patience_s,
            wait_initial=RETRY_FIRST_S,
            wait_max=RETRY_MOST_S,
            wait_jitter=RETRY_FIRST_S,
        )
        for attempt in tries:
            with attempt:
                try:
                    return act()
                except NetworkError as failure:
                    self._on_retry(failure)
                    raise
        raise NetworkError("a call was not tried")  # unreachable: the context returns or raises

    def _greeted(self, method: str, body: bytes, act: Callable[[grpc.Channel, Signed], bytes]) -> bytes:
        """One try; once more for a newer roster or start, where that was all that was missing."""
        try:
            return self._once(method, body, act)
        except (RosterChangedError, RestartedError):
            self._catch_up()
            return self._once(method, body, act)

    def _catch_up(self) -> None:
        """Learn the aggregator's start, and go by its roster.

        If its roster is older than the one here, wait until it was replaced.
        """
        given_up = time.monotonic() + ROSTER_LAG_S
        while True:
            told = calls.decode_in_force(self._once(GREETING, b"", _greet))
            self._start = told.start
            if not told.roster:
                return
            try:
                self._rosters.accept(told.roster)
            except RosterRolledBackError:
                if time.monotonic() >= given_up:
                    raise
                time.sleep(RETRY_FIRST_S)
            else:
                self._check_papers()
                return

    def _once(self, method: str, body: bytes, act: Callable[[grpc.Channel, Signed], bytes]) -> bytes:
        roster = self._rosters.current
        channel, maker = self._dial(roster.aggregator.certificate)
        head = self._ledger_head()
        hello = maker.make(
            method,
            body,
            roster=roster.digest,
            start=NO_DIGEST if self._start is None or method == GREETING else self._start,
            ledger_head=head.digest,
            ledger_entries=head.count,
            state=self._state,
        )
        try:
            reply = act(channel, hello)
        except grpc.RpcError as failure:
            raise self._explain(failure) from None
        self._rejected_since = None
        return reply

    def _dial(self, peer: Certificate) -> tuple[grpc.Channel, HelloMaker]:
        """The channel to the roster's aggregator; a new one if its certificate changed."""
        if self._channel is not None and peer != self._peer:
            self.close()
        if self._channel is None:
            options = [
                *tls.channel_options(),
                ("grpc.max_receive_message_length", limits.REPLY_BYTES_MAX),
                # Without these a link that is cut, not closed, would be noticed only at a call's deadline.
                ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
                ("grpc.keepalive_timeout_ms", PROBE_S * 1000),
                ("grpc.http2.ping_timeout_ms", PROBE_S * 1000),  # else a probe may take a minute
                ("grpc.initial_reconnect_backoff_ms", int(RETRY_FIRST_S * 1000)),
                ("grpc.min_reconnect_backoff_ms", int(RETRY_FIRST_S * 1000)),
                ("grpc.max_reconnect_backoff_ms", int(RETRY_MOST_S * 1000)),
            ]
            credentials = tls.channel_credentials(self._keys, peer.pem)
            self._channel, self._peer = grpc.secure_channel(self._address, credentials, options), peer
        federation = self._rosters.current.federation
        return self._channel, HelloMaker(self._keys, federation, peer, self._sequence)

    def _explain(self, failure: grpc.RpcError) -> SecfedError:
        """What a failed call means: the other side's own words, or what the connection's end shows."""
        code, details = failure.code(), failure.details() or ""
        trailing = [(item.key, item.value) for item in failure.trailing_metadata() or ()]
        error = status.restore(code, details, trailing)
        answered = any(key == status.DETAIL_KEY for key, _ in trailing)
        if answered or code is not grpc.StatusCode.UNAVAILABLE:
            return error
        if "CERTIFICATE_VERIFY_FAILED" in details:
            return AuthenticationError(
                f"{self._address} shows another TLS certificate than the aggregator's in the roster",
                hint="Check the address; if the aggregator's key was rotated, ask for the newest roster.",
            )
        connecting = "failed to connect" in details
        if connecting and ("Socket closed" in details or "Connection reset" in details):
            now = time.monotonic()
            self._rejected_since = self._rejected_since or now
            if now - self._rejected_since >= ROSTER_LAG_S:
                return RevokedError(
                    f"the aggregator at {self._address} no longer accepts the certificate of "
                    f"{self._keys.site}, which this side's roster still lists: it was revoked or replaced"
                )
            return NetworkError(f"{self._address} ended the connection")
        self._rejected_since = None
        return NetworkError(_why(self._address, details) if details else str(error))


def _ask(channel: grpc.Channel, method: str, hello: Signed, body: bytes, within_s: float) -> bytes:
    stub: Callable[..., bytes] = channel.unary_unary(service.path(method))
    return stub(calls.encode_call(calls.Call(hello, body)), timeout=within_s)


def _greet(channel: grpc.Channel, hello: Signed) -> bytes:
    return _ask(channel, GREETING, hello, b"", CALL_S)


def _why(address: str, details: str) -> str:
    """A failed connection in a person's words."""
    if "Connection refused" in details:
        return f"nothing listens at {address}"
    if "resolving" in details or "address lookup" in details:
        return f"the name in {address} cannot be resolved"
    if "handshake failed" in details:
        return f"what listens at {address} does not speak TLS as an aggregator does"
    if "failed to connect" in details:
        return f"{address} cannot be reached"
    return f"the connection to {address} was lost"


def _assemble(pieces: Iterator[bytes]) -> bytes:
    """The chunks of a download, in order and complete."""
    data, assembly = bytearray(), None
    for piece in pieces:
        chunk = calls.decode_chunk(piece)
        if assembly is None:
            assembly = chunks.Assembly(chunk.total_bytes)
        assembly.accept(chunk.offset, len(chunk.data))
        data += chunk.data
    if assembly is None:
        raise PeerError("a download brought nothing")
    assembly.finish()
    return bytes(data)
