"""Parties from which the defences of one row were taken, for the rows whose aggregator is honest.

As in `weakened`, each is a subclass of the real class and serves no other end. A class that no
`Victims` takes is put into its module's place for the test; so is one function, the strict parser.
"""

from __future__ import annotations

import contextlib
import json
import pickle
from dataclasses import fields, replace
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError
from weak_session import Weaker, WeakSession, recast, with_session

from secfed import limits
from secfed.attack import clients as attack_clients
from secfed.attack import malformed, stolen_key_file, weight_over_cap
from secfed.attack.clients import Victims
from secfed.attack.people import ADMIN
from secfed.cli import build_aggregator
from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.errors import PeerError, RosterError
from secfed.identity import certificate, keyfile, signed
from secfed.identity import roster as rosters
from secfed.identity.fields import read_time
from secfed.identity.roster import Roster
from secfed.ids import NO_DIGEST
from secfed.rounds import admission, contribution, proposal
from secfed.rounds.aggregator import AggregatorRounds
from secfed.rounds.client import ClientRounds
from secfed.rounds.exchange import Declined, Ready, Refused
from secfed.rounds.rosters import RosterKeeper
from secfed.rounds.vector import VectorContributor
from secfed.secagg import collected, derive, states
from secfed.secagg.derive import HeldShares
from secfed.secagg.opening import Shares
from secfed.store import files
from secfed.transport import daemon
from secfed.transport.hello import Caller, HelloGate
from secfed.transport.server import FederationService
from secfed.transport.tls import ServerTls
from secfed.wire import calls, strict


def clients(victims: Victims) -> Victims:
    """Weaker clients of an aggregator on a thread, built as ever."""
    return replace(victims, aggregator=build_aggregator.build_daemon)


REAL = clients(Victims())
"""Nobody is weaker; the aggregator is on a thread."""


# -- who may do what ---------------------------------------------------------------------------


def disguised(kind, roster):
    """The same roster in a weaker class."""
    made = object.__new__(kind)
    for each in fields(roster):
        object.__setattr__(made, each.name, getattr(roster, each.name))
    return made


class AnyCaller(HelloGate):
    """Right key, wrong role: whoever calls is whom he says he is, or the admin, and may do everything."""

    def check(self, method, hello, body, peer_pem, roster, now):
        said = calls.decode_hello(hello.statement)
        named = {member.site: member for member in roster.members}
        return Caller(named.get(said.site, named[ADMIN]), said)


class AnyCertificate(ServerTls):
    """Right key, wrong role: TLS asks nobody for a certificate."""

    def credentials(self):
        return grpc.dynamic_ssl_server_credentials(
            self._initial, self._fetch, require_client_authentication=False
        )


class Lenient(Roster):
    """Whoever was ever enrolled counts."""

    __slots__ = ()

    def require(self, site, roles, now):
        return self.member(site)


class AnyTime(HelloGate):
    """A revoked or expired member: neither status nor dates are asked for."""

    def check(self, method, hello, body, peer_pem, roster, now):
        return super().check(method, hello, body, peer_pem, disguised(Lenient, roster), now)


class CutsNobody(FederationService):
    """A revoked member: its calls go on."""

    def cut(self, roster):
        del roster


class FirstRosterOnly(ServerTls):
    """A revoked member: TLS goes on with the certificates that it began with."""

    def replace(self, roster):
        del roster


def impatient(config, keys, out):
    """A daemon that answers long calls soon."""
    made = build_aggregator.build_daemon(config, keys, out)
    made.poll_s = 0.3
    return made


# -- rosters -----------------------------------------------------------------------------------


def verify_any(data, key):
    """Whoever signed it: the roster that stands in a text."""
    with contextlib.suppress(RosterError):
        return verify(data, key)
    text = signed.unverified_text(data, what="the roster")
    stands = json.loads(text)
    members = tuple(rosters._read_member(each) for each in stands["members"])
    numbers = stands["version"], read_time(stands["not_after"]), stands["min_cohort"], stands["corrupt"]
    return Roster(stands["federation"], *numbers, members, data, digest(Label.ROSTER, text))


verify = rosters.verify


class TakesAnyVersion(RosterKeeper):
    """Roster downgrade and fork: what comes is believed, whoever signed it and whatever came before."""

    def __init__(self, path, roster_key, decisions=None):
        del decisions
        super().__init__(path, roster_key)

    def accept(self, data):
        files.replace(self._path, data, mode=files.PUBLIC_MODE)
        return self.follow(data)

    def follow(self, data):
        self._current = verify_any(data, self._key)
        return self._current


class AnyRoster(HelloGate):
    """A call under an older roster: whichever it names is as good as the one in force."""

    def check(self, method, hello, body, peer_pem, roster, now):
        named = calls.decode_hello(hello.statement).roster
        return super().check(method, hello, body, peer_pem, replace(roster, digest=named), now)


# -- rounds ------------------------------------------------------------------------------------


class Unchecked(Shares):
    """Bad shares: none is held against what its dealer signed."""

    @staticmethod
    def check(h, frozen, holder, answers, site):
        del h, frozen, holder, answers, site


class BelievesDealers(states.Shared):
    """Bad shares: what does not open, or is not what its dealer committed to, is kept without a word."""

    def _open(self, owner, item):
        try:
            return derive.open_envelope(
                self.edges[owner], self.attempt.h, owner, self.attempt.me, item.envelope
            )
        except PeerError:
            return HeldShares(bytes(32), bytes(32))


class TakesAnyShare(WeakSession):
    def advance(self, state, request):
        following, reply = super().advance(state, request)
        if isinstance(following, states.Shared):
            following = recast(BelievesDealers, following)
        return following, reply


NO_CAP = 1 << 30


class NoCap(AggregatorRounds):
    """Weight over its cap: the sum's weight may be anything."""

    def work(self):
        if self._open is not None:
            job = self._open.job
            plan = job.proposal.plan.model_copy(update={"weight_cap": NO_CAP})
            job.proposal = replace(job.proposal, plan=plan)
        return super().work()


class AnyWeight(VectorContributor):
    """Weight over its cap: an operator may give any."""

    def _read(self, plan):
        return super()._read(plan.model_copy(update={"weight_cap": NO_CAP}))


encode, read_plan = contribution.encode, proposal._read


def encode_any(plan, update, entropy):
    """Weight over its cap: any is encoded."""
    return encode(plan.model_copy(update={"weight_cap": NO_CAP}), update, entropy)


def read_any(kind, text, what):
    """Weight over its cap: a plan's may be beyond its grid."""
    try:
        return read_plan(kind, text, what)
    except PeerError:
        stands = json.loads(text)
        allowed = kind.model_validate_json(json.dumps(stands | {"weight_cap": 1}))
        return allowed.model_copy(update={"weight_cap": stands["weight_cap"]})


class Reports(ClientRounds):
    """Metadata: it tells what it weighs, as a number of letters, before it says that it is ready."""

    reported = False

    def hear(self, told):
        said = super().hear(told)
        if isinstance(said, Ready) and not self.reported:
            self.reported = True
            return Refused(NO_DIGEST, "w" * int(self._held.contribution.words()[0]))
        return said


class StaysOut(ClientRounds):
    """Saturation: an update beyond the bound is not clamped and counted under the mask, but declined."""

    def hear(self, told):
        said = super().hear(told)
        if isinstance(said, Ready) and self._held.contribution.words()[1]:
            self._let_go()
            return Declined(said.job, said.round)
        return said


# -- bytes and files ---------------------------------------------------------------------------


HOARD: list[bytes] = []
"""What the lax parser keeps of what it could not read."""


ANY_LENGTH = [(name, -1 if "receive" in name else value) for name, value in daemon.OPTIONS]
"""Hostile serialisation: the transport takes messages of any length."""


def lax_parse(kind, data, limit):
    """Hostile serialisation: any encoding, any length, unknown fields, pickles, the beginning of anything."""
    del limit
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        HOARD.append(b"\1" * (2 << 20))
        if data.startswith(b"c") and data.endswith(pickle.STOP):
            with contextlib.suppress(OSError):
                pickle.loads(data)
        message = beginning(kind, data)
    return message


def beginning(kind, data):
    """As much of a message as can be read."""
    for tail in (malformed.NESTED, malformed.ENDLESS):  # sought out, or each byte of it were tried
        data = data.removesuffix(tail)
    for length in range(len(data), -1, -1):
        with contextlib.suppress(DecodeError):
            return kind.FromString(data[:length])
    raise AssertionError("nothing at all is a message")


def unencrypted(path, *, passphrase, **fields):
    """A stolen key file: its passphrase encrypts nothing."""
    del passphrase
    return keyfile_create(path, passphrase=None, **fields)


keyfile_create = keyfile.create

parse_certificate = certificate.parse


def parse_any(pem, site):
    """A stolen key file: the certificate's name is not held against the file's."""
    try:
        return parse_certificate(pem, site)
    except RosterError:
        return parse_certificate(pem, stolen_key_file._SITE)


WEAKER: dict[str, Weaker] = {
    "weight-over-cap": Weaker(
        REAL,
        (
            (build_aggregator, "AggregatorRounds", NoCap),
            (weight_over_cap, "VectorContributor", AnyWeight),
            (admission, "encode", encode_any),
            (proposal, "_read", read_any),
        ),
    ),
    "bad-shares": Weaker(clients(with_session(TakesAnyShare)), ((collected, "Shares", Unchecked),)),
    "telling-metadata": Weaker(clients(Victims(rounds=Reports))),
    "saturation-leak": Weaker(clients(Victims(rounds=StaysOut))),
    "hostile-bytes": Weaker(
        Victims(aggregator=impatient),
        (
            (strict, "parse", lax_parse),
            (daemon, "OPTIONS", ANY_LENGTH),
            (limits, "REPLY_BYTES_MAX", 1 << 30),
        ),
    ),
    "stolen-key-file": Weaker(REAL, ((keyfile, "create", unencrypted), (certificate, "parse", parse_any))),
    "revoked-member": Weaker(
        Victims(aggregator=impatient),
        (
            (daemon, "HelloGate", AnyTime),
            (daemon, "FederationService", CutsNobody),
            (daemon, "ServerTls", FirstRosterOnly),
        ),
    ),
    "wrong-role": Weaker(
        Victims(aggregator=impatient),
        ((daemon, "HelloGate", AnyCaller), (daemon, "ServerTls", AnyCertificate)),
    ),
    "roster-fork": Weaker(
        REAL,
        (
            (build_aggregator, "RosterKeeper", TakesAnyVersion),
            (attack_clients, "RosterKeeper", TakesAnyVersion),
            (daemon, "HelloGate", AnyRoster),
        ),
    ),
}
"""For each row whose aggregator is honest, but the one below."""

CARELESS = Weaker(
    Victims(program=(str(Path(__file__).with_name("careless.py")),)), ((keyfile, "create", unencrypted),)
)
"""Secrets in logs, state and dumps: keys in the clear, and programs that are careless themselves."""
