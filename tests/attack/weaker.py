"""Parties from which the defences of one row were taken, for the rows whose aggregator is honest.

As in `weakened`, each is a subclass of the real class and serves no other end. A class that no
`Victims` takes is put into its module's place for the test; so is one function, the strict parser.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from google.protobuf.message import DecodeError
from weakened import CountsTheCrowd, SignsEverySet, with_session

from secfed.attack import leaked_secrets
from secfed.attack.clients import Victims
from secfed.cli import build_aggregator
from secfed.errors import PeerError
from secfed.identity import keyfile
from secfed.identity import roster as rosters
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import NO_DIGEST
from secfed.rounds.admission import Admission, Site
from secfed.rounds.aggregator import AggregatorRounds
from secfed.rounds.client import ClientRounds
from secfed.rounds.contribution import ContributionStore
from secfed.rounds.exchange import Declined, Ready, Refused
from secfed.rounds.rosters import RosterKeeper
from secfed.secagg import collected, states
from secfed.secagg.attempt import Attempt
from secfed.secagg.messages import Adverts
from secfed.secagg.opening import Shares
from secfed.store import files
from secfed.transport import daemon
from secfed.transport.client import Connection
from secfed.transport.hello import HelloGate
from secfed.transport.server import FederationService
from secfed.transport.tls import ServerTls
from secfed.wire import strict


@dataclass(frozen=True)
class Weaker:
    """Victims of one row, and what is put into whose place beside them."""

    victims: Victims = field(default_factory=lambda: Victims(aggregator=build_aggregator.build_daemon))
    places: tuple[tuple[Any, str, Any], ...] = ()


def clients(victims: Victims) -> Victims:
    """Weaker clients of an aggregator that is as it should be."""
    return replace(victims, aggregator=build_aggregator.build_daemon)


# -- who may do what ---------------------------------------------------------------------------


def disguised(kind, roster):
    """The same roster in a weaker class."""
    made = object.__new__(kind)
    for each in fields(roster):
        object.__setattr__(made, each.name, getattr(roster, each.name))
    return made


class Roleless(Roster):
    """Whoever is enrolled may do everything."""

    __slots__ = ()

    def require(self, site, roles, now):
        return super().require(site, tuple(Role), now)


class AnyRole(HelloGate):
    """Right key, wrong role: the role is not asked for."""

    def check(self, method, hello, body, peer_pem, roster, now):
        return super().check(method, hello, body, peer_pem, disguised(Roleless, roster), now)


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


class TakesAnyVersion(RosterKeeper):
    """Roster downgrade and fork: what is signed is believed, whatever was accepted before."""

    def accept(self, data):
        self._current = rosters.verify(data, self._key)
        files.replace(self._path, data, mode=files.PUBLIC_MODE)
        return self._current

    def follow(self, data):
        self._current = rosters.verify(data, self._key)
        return self._current


def gullible(address, keys, held, *rest, **options):
    """A connection that goes by whatever roster it is told."""
    return Connection(address, keys, TakesAnyVersion(held._path, held._key), *rest, **options)


# -- rounds ------------------------------------------------------------------------------------


class Unchecked(Shares):
    """Bad shares: none is held against what its dealer signed."""

    @staticmethod
    def check(h, frozen, holder, answers, site):
        del h, frozen, holder, answers, site


class NoCap(AggregatorRounds):
    """Weight over its cap: the sum's weight may be anything."""

    def work(self):
        if self._open is not None:
            job = self._open.job
            plan = job.proposal.plan.model_copy(update={"weight_cap": 1 << 30})
            job.proposal = replace(job.proposal, plan=plan)
        return super().work()


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


class Hoards(ContributionStore):
    """Secrets in state: a contribution stays after its round."""

    def discard(self, job, *, up_to):
        del job, up_to


def hoarding(site: Site) -> Site:
    kept = site.contributions
    return replace(site, contributions=Hoards(kept._directory, kept._key))


class AnyPlan(Admission):
    """Fewer survivors than the noise was sized for: no plan is held against the policy."""

    def _accept(self, job, event):
        del job, event


class AcceptsEveryPlan(ClientRounds):
    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._admission = AnyPlan(site)


class AnyNeighbours(Attempt):
    """Neighbours are whose adverts are shown, and no digest is held against anything."""

    __slots__ = ()

    def neighbours(self, adverts):
        return tuple(member for member in sorted(adverts) if member != self.me)

    def entries(self, own, listed, allowed):
        del listed, allowed
        return own


class TakesAnyGraph(SignsEverySet, CountsTheCrowd):
    """A graph the aggregator chose: neighbours are who is shown, with a threshold and signatures to match."""

    attempt = AnyNeighbours

    def advance(self, state, request):
        if isinstance(state, states.Advertised) and isinstance(request, Adverts):
            shown = sum(member != state.attempt.me for member, _ in request.adverts)
            params = replace(state.attempt.params, threshold=min(shown, state.attempt.params.threshold))
            state = replace(state, attempt=replace(state.attempt, params=params))
        return super().advance(state, request)


# -- bytes and files ---------------------------------------------------------------------------


def lax_parse(kind, data, limit):
    """Hostile serialisation: any encoding, any length, unknown fields."""
    del limit
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise PeerError("bytes that are no message") from None
    return message


def unencrypted(path, *, passphrase, **fields):
    """A stolen key file: its passphrase encrypts nothing."""
    del passphrase
    return keyfile_create(path, passphrase=None, **fields)


keyfile_create = keyfile.create

WEAKER: dict[str, Weaker] = {
    "noise-shortfall": Weaker(Victims(rounds=AcceptsEveryPlan)),
    "weight-over-cap": Weaker(places=((build_aggregator, "AggregatorRounds", NoCap),)),
    "chosen-graph": Weaker(with_session(TakesAnyGraph)),
    "bad-shares": Weaker(places=((collected, "Shares", Unchecked),)),
    "leaked-secrets": Weaker(clients(Victims(site=hoarding)), ((leaked_secrets, "_HEARD_S", 1.0),)),
    "telling-metadata": Weaker(clients(Victims(rounds=Reports))),
    "saturation-leak": Weaker(clients(Victims(rounds=StaysOut))),
    "hostile-bytes": Weaker(Victims(aggregator=impatient), ((strict, "parse", lax_parse),)),
    "stolen-key-file": Weaker(places=((keyfile, "create", unencrypted),)),
    "revoked-member": Weaker(
        Victims(aggregator=impatient),
        (
            (daemon, "HelloGate", AnyTime),
            (daemon, "FederationService", CutsNobody),
            (daemon, "ServerTls", FirstRosterOnly),
        ),
    ),
    "wrong-role": Weaker(Victims(aggregator=impatient), ((daemon, "HelloGate", AnyRole),)),
    "roster-fork": Weaker(
        clients(Victims(connect=gullible)), ((build_aggregator, "RosterKeeper", TakesAnyVersion),)
    ),
}
