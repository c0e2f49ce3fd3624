"""The signed hello at the head of every call: who calls what, now, with this body, to this peer.

TLS proves who opened the connection, once. The hello proves it for each call, under the roster
in force, so that a revoked, expired or mistaken member hears a reason. It binds the call's
body, the method, the certificate the caller saw, and a number that serves once, so that it is
worth nothing for another call, on another connection, or twice. The numbers are remembered in
memory; so it also binds what the aggregator drew at its start, and none from before counts after.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

from secfed import __version__
from secfed.crypto.kdf import digest
from secfed.crypto.labels import PROTOCOL_VERSION, Label
from secfed.errors import AuthenticationError, NetworkError, PeerError, RosterError, VersionMismatchError
from secfed.identity import signed
from secfed.identity.certificate import Certificate
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roles import Role
from secfed.identity.roster import Member, Roster
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, ClientId, Digest, FederationId
from secfed.limits import HELLOS_MAX, MAX_SKEW_S
from secfed.rounds.exchange import Hello
from secfed.wire import calls

__all__ = [
    "GREETING",
    "PERMITTED",
    "Caller",
    "HelloGate",
    "HelloMaker",
    "RestartedError",
    "RosterChangedError",
    "body_digest",
    "holder",
]

_NS = 1_000_000_000
_MINUTE_NS = 60 * _NS
"""Numbers are remembered by the minute, so that old ones are let go of without looking at each."""

_EVERYBODY = (Role.CLIENT, Role.ADMIN, Role.AUDITOR)

PERMITTED: dict[str, Collection[Role]] = {
    "Exchange": (Role.CLIENT,),
    "Upload": (Role.CLIENT,),
    "Download": (Role.CLIENT, Role.ADMIN),
    "GetRoster": _EVERYBODY,
    "StartJob": (Role.ADMIN,),
    "ControlJob": (Role.ADMIN,),
    "GetStatus": _EVERYBODY,
}
"""Who may make which call; a call that does not stand here is nobody's."""

GREETING = "GetRoster"
"""The call by which a member learns the roster and the start that all other hellos must name. It changes
nothing, so its own hello may name any, and even one that is replayed after a restart does no harm."""


class RosterChangedError(RosterError):
    """The caller holds another version of the roster than the aggregator."""

    hint = "Fetch the current roster, verify it with the pinned roster key, and call again."


class RestartedError(NetworkError):
    """The hello is for another start of the aggregator: it was restarted since, or the caller never asked."""

    hint = "Nothing to do: a client asks for the new start by itself and calls again."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call, once everything about it has been checked."""

    member: Member
    hello: Hello

    @property
    def site(self) -> ClientId:
        """The caller's name."""
        return self.member.site

    @property
    def role(self) -> Role:
        """The caller's role."""
        return self.member.role


def body_digest(body: bytes) -> Digest:
    """What a hello says of its call's body."""
    return digest(Label.BODY, body)


class HelloMaker:
    """Signs one member's hellos.

    Args:
        keys: The member's.
        peer: The aggregator's certificate, which TLS demands on this channel.
        sequence: Nanoseconds since 1970, another number at each call.
    """

    def __init__(
        self, keys: MemberKeys, federation: FederationId, peer: Certificate, sequence: Callable[[], int]
    ) -> None:
        self._keys, self._federation, self._peer, self._sequence = keys, federation, peer.digest, sequence

    def make(
        self,
        method: str,
        body: bytes,
        *,
        roster: Digest,
        start: Digest = NO_DIGEST,
        ledger_head: Digest = NO_DIGEST,
        ledger_entries: int = 0,
        state: Digest = NO_DIGEST,
    ) -> Signed:
        """A hello for one call.

        Args:
            method: The call's name, as `wire.service.METHODS` has it.
            body: The call's body; an upload's is its header.
            roster: Digest of the roster held here.
            start: The aggregator's, as `GREETING` told it.
            ledger_head: Digest of the ledger's head for the job in hand.
            ledger_entries: Entries up to it.
            state: Name of the state that the caller takes part with.
        """
        hello = Hello(
            protocol=PROTOCOL_VERSION,
            version=__version__,
            federation=self._federation,
            site=self._keys.site,
            roster=roster,
            method=method,
            sequence=self._sequence(),
            body=body_digest(body),
            ledger_head=ledger_head,
            ledger_entries=ledger_entries,
            peer=self._peer,
            start=start,
            state=state,
        )
        return signed.sign(
            self._keys.signing,
            Label.SIGN_HELLO,
            context=self._federation.encode(),
            sender=self._keys.site,
            recipient=None,
            statement=calls.encode_hello(hello),
        )


class HelloGate:
    """The aggregator's check of every call; remembers each caller's recent numbers.

    A number serves once. Those outside the clock's window are refused by their time, so only the
    window's are remembered; a member may call from several processes at once.

    Args:
        own: The aggregator's certificate, which the caller must have seen.
        entropy: Draws what stands for this start of the aggregator.

    Attributes:
        start: 32 bytes, other ones at each start.
    """

    def __init__(self, own: Certificate, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._own, self.start = own.digest, Digest(entropy(len(NO_DIGEST)))
        self._seen: dict[ClientId, dict[int, set[int]]] = {}
        self._forgotten: dict[ClientId, int] = {}  # up to which minute numbers were let go of

    def check(
        self, method: str, hello: Signed, body: bytes, peer_pem: bytes, roster: Roster, now: datetime
    ) -> Caller:
        """Decide one call.

        Args:
            method: The call that was made.
            peer_pem: The certificate that TLS saw on the caller's side.
            roster: The one in force.

        Raises:
            AuthenticationError: No member's certificate or signature; or a hello that was made for
                another call, peer or federation, was seen before, or is of another time.
            RevokedError, NotPermittedError, CertificateExpiredError: A member who may not.
            VersionMismatchError: Another protocol version; both are named.
            RosterChangedError: The caller holds another roster.
            RestartedError: The hello names another start than this one.
        """
        member = _owner(roster, peer_pem)
        roster.require(member.site, PERMITTED.get(method, ()), now)
        try:
            statement = signed.open_(
                hello,
                member.identity_key,
                Label.SIGN_HELLO,
                context=roster.federation.encode(),
                sender=member.site,
                recipient=None,
            )
        except PeerError:
            raise AuthenticationError(
                f"the hello is not signed by {member.site} for this federation"
            ) from None
        said = calls.decode_hello(statement)
        if said.protocol != PROTOCOL_VERSION:
            raise VersionMismatchError(
                f"{member.site} speaks protocol {said.protocol} (secfed {said.version}), "
                f"the aggregator {PROTOCOL_VERSION} (secfed {__version__})"
            )
        self._check_binding(said, method, body, member, roster)
        if said.start != self.start and method != GREETING:
            raise RestartedError(f"the hello of {member.site} is for another start of the aggregator")
        self._check_sequence(said, now)
        if said.roster != roster.digest and method != GREETING:
            raise RosterChangedError(
                f"the roster in force is version {roster.version}, {member.site} holds another"
            )
        return Caller(member, said)

    def _check_binding(self, said: Hello, method: str, body: bytes, member: Member, roster: Roster) -> None:
        wrong = {
            "site": said.site != member.site,
            "federation": said.federation != roster.federation,
            "method": said.method != method,
            "body": said.body != body_digest(body),
            "peer": said.peer != self._own,
        }
        for name, differs in wrong.items():
            if differs:
                raise AuthenticationError(f"the hello of {member.site} was made for another {name}")

    def _check_sequence(self, said: Hello, now: datetime) -> None:
        """A number counts once, near this clock; the clock alone never lets anything in.

        A minute's numbers are let go of once the last of them is outside the window. Should this clock be put
        back behind that, the member waits until it comes there again.
        """
        now_ns = int(now.timestamp()) * _NS + now.microsecond * 1000
        off_ns = abs(said.sequence - now_ns)
        if off_ns > MAX_SKEW_S * _NS:
            raise AuthenticationError(
                f"the clock of {said.site} is {-(-off_ns // _NS)} s off the aggregator's, "
                f"{MAX_SKEW_S} s are allowed",
                hint="Set both clocks, by NTP for example.",
            )
        by_minute, minute = self._seen.setdefault(said.site, {}), said.sequence // _MINUTE_NS
        if said.sequence in by_minute.get(minute, ()):
            raise AuthenticationError(
                f"a hello of {said.site} was seen before",
                hint="A repeated call needs a new hello; if nobody repeated one, somebody replays them.",
            )
        if minute <= self._forgotten.get(said.site, 0):
            raise AuthenticationError(
                f"a hello of {said.site} is of a time that was over when the aggregator's clock was put back",
                hint="Set the aggregator's clock, by NTP for example, and start it again.",
            )
        oldest = (now_ns - MAX_SKEW_S * _NS) // _MINUTE_NS
        for gone in [each for each in by_minute if each < oldest]:
            del by_minute[gone]
            self._forgotten[said.site] = max(gone, self._forgotten.get(said.site, 0))
        if sum(map(len, by_minute.values())) >= HELLOS_MAX:
            raise AuthenticationError(f"{said.site} makes too many calls: {HELLOS_MAX} in {MAX_SKEW_S} s")
        by_minute.setdefault(minute, set()).add(said.sequence)


def holder(roster: Roster, peer_pem: bytes) -> Member | None:
    """The entry with the certificate on the other side, active, revoked or replaced; None if there is none.

    Raises:
        AuthenticationError: It cannot be read.
    """
    try:
        der = ssl.PEM_cert_to_DER_cert(peer_pem.decode("ascii").strip())
    except ValueError:
        raise AuthenticationError("the caller's certificate cannot be read") from None
    return next((member for member in roster.members if member.certificate.der == der), None)


def _owner(roster: Roster, peer_pem: bytes) -> Member:
    """Whose certificate is on the other side; a revoked member's is found too, and refused later."""
    member = holder(roster, peer_pem)
    if member is None or roster.member(member.site) is not member:
        raise AuthenticationError(
            "the caller's certificate is no member's now: it was rotated, or never enrolled",
            hint="Use the key file that was enrolled last; `secfed roster show` lists the fingerprints.",
        )
    return member
