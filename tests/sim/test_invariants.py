"""Each invariant can break: a part of the program is spoilt, and the check of that name turns red.

A fault is put into the real program under a simulated federation; some seed must find it, and under
the right name. The checks are those of `test_simulation.py`, which has them on the program as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray
from simfed import invariants
from simfed.hostile import HostileFederation
from simfed.malice import Malice
from simfed.simulation import Simulation
from simfed.weather import CALM, Weather

from secfed.crypto.labels import Label
from secfed.identity import membership
from secfed.identity.roster import Roster, RosterPin
from secfed.identity.signed import Signed
from secfed.ids import ClientId
from secfed.privacy import budget
from secfed.privacy.ledger import Ledger
from secfed.rounds import policy
from secfed.rounds.client import ClientRounds
from secfed.rounds.contribution import Contribution
from secfed.rounds.results import Results
from secfed.rounds.round import OpenRound, Seat, SeatState
from secfed.secagg import masking
from secfed.secagg.aggregator import AggregatorSession
from secfed.secagg.attempt import Membership
from secfed.secagg.client import ClientSession
from secfed.secagg.manifest import Terms
from secfed.secagg.messages import (
    Outcome,
    OutcomeNotice,
    RecoveryKeyShare,
    SelfMaskShare,
    ShareAnswers,
    SignedReply,
    UnmaskRequest,
)
from secfed.secagg.opening import RingSum
from secfed.secagg.params import Params
from secfed.secagg.record import ClientRecord
from secfed.secagg.states import Advertised, Finished

SEEDS = 60
"""So many seeds at most until a fault is found."""

ROUGH = Weather(lose=0.1, kill_client=0.01)
QUIET = Malice(
    replay=0.0, bend=0.0, forge=0.0, hurry=0.0, restless=0.0, second=0.0, twin=0.0, lie=0.0, onward=0.0
)
FORGING, CALLING = replace(QUIET, forge=0.7), replace(QUIET, second=0.05)


def _honest_center(seed: int, directory: Path, **options: Any) -> None:
    Simulation(seed, directory, clients=5, weather=ROUGH, constant=False, steps=200, **options).run()


def _unwilling_site(seed: int, directory: Path) -> None:
    Simulation(seed, directory, clients=5, weather=CALM, unwilling=True, steps=100).run()


def _splitting_center(seed: int, directory: Path) -> None:
    HostileFederation(seed, directory, clients=5, weather=CALM, malice=QUIET).run()


def _calling_center(seed: int, directory: Path) -> None:
    HostileFederation(seed, directory, clients=7, weather=CALM, malice=CALLING, steps=500).run()


def _hostile_center(seed: int, directory: Path) -> None:
    HostileFederation(seed, directory, weather=CALM, malice=CALLING).run()


def _revoking_center(seed: int, directory: Path) -> None:
    """Whoever's vector is the first to be safe is revoked, while others are still masking."""
    simulation = Simulation(
        seed, directory, clients=6, rounds=1, weather=CALM, constant=False, changing=True, steps=600
    )
    owner, witness = simulation.owner, simulation.witness

    def act() -> ClientId | None:
        if len(owner.versions) > 1 or not witness.acknowledged:
            return None
        ((_, site),) = witness.acknowledged
        owner.versions.append(membership.revoke(owner.newest, owner.people.roster_key, site))
        simulation.center.roster_path.write_bytes(owner.newest.text)
        return site

    with mock.patch.object(owner, "act", act):
        simulation.run()


def _showing_center(seed: int, directory: Path) -> None:
    HostileFederation(seed, directory, clients=5, weather=CALM, malice=QUIET, changing=True).run()


def _forging_center(seed: int, directory: Path) -> None:
    HostileFederation(seed, directory, weather=CALM, malice=FORGING).run()


# -- the faults --------------------------------------------------------------------------------

_SUM_UP, _OUTCOME_FOR, _RECEIVE = AggregatorSession.sum_up, Results.outcome_for, ClientSession.receive
_MARK_SENT, _WORDS, _AUTHORIZE, _PARAMS = Ledger.mark_sent, Contribution.words, budget.authorize, Terms.params
_CHECK, _MEMBERSHIP = Terms.check, ClientRounds._membership


def _nothing(*_arguments: Any, **_options: Any) -> None:
    """A step that is left out."""


def _no(*_arguments: Any) -> bool:
    """A memory that forgot."""
    return False


def _silent(self: OpenRound, *arguments: Any) -> list[Any]:
    """An aggregator that does not say who is missing."""
    return []


def _shifted(self: AggregatorSession, *, threads: int = 1) -> RingSum:
    """An aggregator that mixes up coordinates."""
    honest = _SUM_UP(self, threads=threads)
    return replace(honest, total=np.concatenate([honest.total[:2], np.roll(honest.total[2:], 1)]))


def _two_faced(self: ClientSession, request: Any) -> Any:
    """A client that answers a repeated request with the other kind of share."""
    again = isinstance(request, UnmaskRequest) and isinstance(self._state, Finished)
    reply = _RECEIVE(self, request)
    if not again or not isinstance(self._state, Finished) or not isinstance(reply, SignedReply):
        return reply
    attempt = self._state.attempt
    answers = attempt.us.codec.decode(ShareAnswers, reply.statement.statement)
    other = {
        target: RecoveryKeyShare(share.share)
        if isinstance(share, SelfMaskShare)
        else SelfMaskShare(share.share)
        for target, share in answers.shares.items()
    }
    statement = attempt.us.codec.encode(replace(answers, shares=other))
    return SignedReply(attempt.sign(Label.SIGN_UNMASK, statement))


def _fickle(self: Results, site: Any, said: Any) -> OutcomeNotice | None:
    """An aggregator that tells each member another result."""
    notice = _OUTCOME_FOR(self, site, said)
    if notice is None:
        return None
    codec = self._house.codec
    outcome = codec.decode(Outcome, notice.statement.statement)
    statement = codec.encode(replace(outcome, result=type(outcome.result)(site.encode().ljust(32))))
    signed: Signed = self._house.sign(Label.SIGN_OUTCOME, statement, context=notice.attempt)
    return OutcomeNotice(notice.attempt, signed)


def _rewriting(self: Ledger, *arguments: Any) -> None:
    """A ledger that changes what it wrote before."""
    _MARK_SENT(self, *arguments)
    path: Path = self._journal._path
    path.write_bytes(path.read_bytes().replace(b"non_private", b"non-private", 1))


def _rerounded(self: Contribution) -> NDArray[np.uint32]:
    """A contribution that is rounded anew each time that it is masked."""
    words = _WORDS(self)
    words[-1] ^= np.uint32(np.random.default_rng().integers(1, 1 << 15))
    return words


def _willing(*arguments: Any, **_options: Any) -> Any:
    """A site that authorizes what its policy does not allow."""
    return _AUTHORIZE(*arguments, allow_non_private=True)


def _unguarded(self: Terms, clients: int, losses: int) -> Params:
    """A client that takes any set, and a few signatures as good enough."""
    honest = _PARAMS(self, clients, losses)
    return replace(honest, floor=2, quorum=1)


def _unsigned(self: Terms, clients: int, losses: int) -> Params:
    """A client that asks for no more signatures than a handful."""
    return replace(_PARAMS(self, clients, losses), quorum=1)


def _credulous(self: Terms, manifest: Any) -> Params:
    """A client that takes A from the manifest."""
    return _CHECK(replace(self, corrupt=manifest.corrupt), manifest)


def _forgiving(self: RosterPin, roster: Roster) -> RosterPin:
    """A pin that holds nothing."""
    return RosterPin.of(roster)


def _faithful(self: ClientRounds, now: Any) -> Membership:
    """A client to which whoever was once a member is one."""
    honest = _MEMBERSHIP(self, now)
    past = {member.site: member.identity_key for member in self._site.rosters.current.members}
    return replace(honest, members=past)


def _clinging(self: OpenRound) -> None:
    """An aggregator that asks who is new, and lets nobody go."""
    for site in self._house.clients():
        self.seats.setdefault(site, Seat(SeatState.ASKED, self._house.clock.monotonic()))


@dataclass(frozen=True)
class Fault:
    """Something spoilt, where it is looked for, and what must be found.

    Attributes:
        first: The seed to begin with: one that finds it, as the simulator stands. Any later one will do.
    """

    invariant: str
    where: Callable[[int, Path], None]
    spoilt: tuple[tuple[Any, str, Any], ...]
    first: int = 0


FAULTS = {
    "a vector that is not marked as sent": Fault("I1", _honest_center, ((Ledger, "mark_sent", _nothing),)),
    "nobody is listed as missing": Fault("I2", _honest_center, ((OpenRound, "absent", _silent),)),
    "coordinates mixed up": Fault("I3", _honest_center, ((AggregatorSession, "sum_up", _shifted),)),
    "both kinds of share": Fault("I4", _hostile_center, ((ClientSession, "receive", _two_faced),), 3),
    "no masks": Fault("I5", _hostile_center, ((masking, "mask", _nothing),)),
    "rounded again": Fault("I5", _hostile_center, ((Contribution, "words", _rerounded),)),
    "another result for each": Fault("I6", _honest_center, ((Results, "outcome_for", _fickle),)),
    "a ledger that is rewritten": Fault("I7", _honest_center, ((Ledger, "mark_sent", _rewriting),)),
    "a policy that is not asked": Fault(
        "I8", _unwilling_site, ((policy, "accept", lambda *_a, **_o: 0.0), (budget, "authorize", _willing))
    ),
    "no floor": Fault("I9", _hostile_center, ((Terms, "params", _unguarded),), 4),
    "an answer forgotten": Fault("I10", _hostile_center, ((ClientRecord, "has_answered", _no),), 13),
    "any manifest": Fault("I11", _forging_center, ((Terms, "check", _credulous),), 3),
    "a vector sent, forgotten, sent again": Fault(
        "at most one", _calling_center, ((Advertised, "_refuse_unsafe_retry", _nothing),), 48
    ),
    "an older roster taken": Fault(
        "downgrade", _showing_center, ((RosterPin, "check_successor", _forgiving),)
    ),
    "a revoked site is a member": Fault(
        "revoked", _showing_center, ((ClientRounds, "_membership", _faithful),), 13
    ),
    "a revoked site is not let go": Fault(
        "revoked", _revoking_center, ((OpenRound, "follow_roster", _clinging),), 2
    ),
    "no quorum": Fault("at least m", _splitting_center, ((Terms, "params", _unsigned),), 13),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_part_breaks_its_invariant(name: str, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator can fail: a fault put into the program is found under its name."""
    fault = FAULTS[name]
    for place, attribute, spoilt in fault.spoilt:
        monkeypatch.setattr(place, attribute, spoilt)
    with pytest.raises(AssertionError, match=f"^{fault.invariant}"):  # noqa: PT012 - one of some seeds
        for seed in range(fault.first, fault.first + SEEDS):
            (disk / str(seed)).mkdir()
            fault.where(seed, disk / str(seed))


def test_every_invariant_has_a_function_and_a_fault() -> None:
    """The table in the module's docstring is complete, and so are the faults."""
    names = {f"I{number}" for number in range(1, 12)}
    others = {"at most one", "at least m", "downgrade", "revoked"}
    assert names | others == {fault.invariant for fault in FAULTS.values()}
    functions = {name for name in vars(invariants) if name[:1] == "i" and name[1:2].isdigit()}
    assert {name.split("_")[0].upper() for name in functions} == names
