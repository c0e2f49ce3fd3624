"""A malicious aggregator with up to A corrupt clients: everything but the honest members' keys is its own.

It runs attempts side by side, shows different sets to different members, chooses who dropped, starts
the next attempt while one is live, tells lies about ends, replays anything to anybody, and bends what it
tells at any place. Of the owner's rosters it shows each site any, in any order, or none. What it learns
is kept as it comes; what can be opened with it, `knowledge` says.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from random import Random

from simfed import scheme as schemes
from simfed.bends import bent
from simfed.invariants import Sites
from simfed.liar import DEALS_BADLY, forged
from simfed.malice import Malice
from simfed.owner import Owner
from simfed.people import BITS
from simfed.puppet import Puppet
from simfed.scheme import Confirmed, Members, Scheme

from secfed.crypto.labels import PROTOCOL_VERSION, SUITE, Label
from secfed.encoding.fixedpoint import word_bits
from secfed.errors import PeerError
from secfed.identity import signed
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, ClientId, Digest, MemberIndex
from secfed.rounds.client import Upload
from secfed.rounds.exchange import Answer, Ask, Declined, Offer, Present, Ready, Refused, Said, Told
from secfed.rounds.plan import Deadlines, RoundPlan
from secfed.rounds.proposal import JobProposal, RoundProposal, sign_round_plan, vector_words
from secfed.secagg.manifest import Manifest, Terms, attempt_digest, manifest_context
from secfed.secagg.messages import (
    Bundle,
    CiphertextList,
    Confirm,
    Outcome,
    OutcomeNotice,
    Phase,
    SignedReply,
    Statement,
    Void,
    VoidNotice,
)
from secfed.secagg.params import Params
from secfed.secagg.transcript import outcome_transcript
from secfed.wire.codec import ProtoCodec

_SCHEMES = 6
"""Attempts that are begun in one round at most."""

_NUMBERS = ("corrupt", "attempt", "round", "word_bits", "length", "previous_round")
"""Fields of a manifest that it may sign with another number."""

_PATIENCE = 6
"""After so many turns of everybody in which nothing was told, nothing more comes of this round."""

_OLD = 120

_SHOWS, _SHOWS_ANY, _STRANGER = 0.3, 0.03, 0.1
"""Probabilities that a site is shown the newest roster at its turn, that it is shown any, and that a cohort
has somebody in it whom its roster does not have."""


@dataclass
class Seat:
    """Where an honest site stands, as far as the adversary knows."""

    ready: bool = False
    out: bool = False
    scheme: Scheme | None = None
    due: Phase = Phase.ADVERTISE
    confirmed: Confirmed | None = None
    tried: frozenset[Digest] = frozenset()
    highest: tuple[int, int] = (0, 0)


class Adversary:
    """What it holds, and what it tells each site next."""

    def __init__(
        self, random: Random, owner: Owner, job: JobProposal, owned: Sites, malice: Malice | None
    ) -> None:
        self.random, self.owner, self.job, self.owned = random, owner, job, owned
        self.people = people = owner.people
        self.malice = malice or Malice.of(random)
        self.codec = ProtoCodec()
        self.seats = {site: Seat() for site in people.clients if site not in owned}
        self.held: dict[ClientId, Roster] = dict.fromkeys(self.seats, owner.newest)
        self.schemes: list[Scheme] = []
        self.puppets: list[Puppet] = []
        self.old: deque[Told] = deque(maxlen=_OLD)
        self.idle, self.over = 0, False
        self.previous: tuple[int, Digest] = (0, NO_DIGEST)
        self.round = self._round_plan(1)

    # -- rosters -------------------------------------------------------------------------------

    def meet(self, site: ClientId) -> None:
        """A site was enrolled, under the newest roster."""
        self.seats[site], self.held[site] = Seat(), self.owner.newest

    def roster_for(self, site: ClientId) -> Roster | None:
        """One to show to this site, if any: the newest, or whatever there is."""
        dice, versions = self.owner.random, self.owner.versions
        if versions[-1] is not self.held[site] and dice.random() < _SHOWS:
            return versions[-1]
        return dice.choice(versions) if dice.random() < _SHOWS_ANY else None

    # -- hearing -------------------------------------------------------------------------------

    def hear(self, site: ClientId, said: Said | Upload) -> None:
        """Note what an honest site says."""
        seat = self.seats[site]
        if isinstance(said, Ready | Present):
            seat.ready = isinstance(said, Ready) and said.round == self.round.plan.round
        seat.out = isinstance(said, Declined)
        scheme = seat.scheme
        if scheme is None:
            return
        if isinstance(said, Upload):
            self._masked(seat, scheme, site, said)
        elif isinstance(said, Answer) and said.attempt == scheme.h:
            self._answer(seat, scheme, scheme.manifest.index_of(site), said)
        elif isinstance(said, Refused) or seat.due is not Phase.DONE:
            seat.scheme = None  # it holds no secrets of that attempt any more

    def _masked(self, seat: Seat, scheme: Scheme, site: ClientId, upload: Upload) -> None:
        if upload.attempt == scheme.h and seat.due is Phase.MASK:
            scheme.left.add(scheme.manifest.index_of(site))
            seat.due = Phase.CONFIRM

    def _answer(self, seat: Seat, scheme: Scheme, member: MemberIndex, answer: Answer) -> None:
        match seat.due, answer.reply:
            case Phase.ADVERTISE, SignedReply(statement):
                scheme.adverts[member, 0] = statement
                seat.due = Phase.ENCAPSULATE
            case Phase.ENCAPSULATE, CiphertextList() as reply:
                scheme.lists[member, 0] = reply
                seat.due = Phase.SHARE
            case Phase.SHARE, Bundle() as reply:
                scheme.bundles[member, 0] = reply
                seat.due = Phase.MASK
            case Phase.CONFIRM, SignedReply(statement):
                self._confirm(seat, scheme, member, statement)
            case Phase.UNMASK, SignedReply():
                seat.due = Phase.DONE
            case _:
                pass

    def _confirm(self, seat: Seat, scheme: Scheme, member: MemberIndex, statement: Signed) -> None:
        """A set that an honest member signed is one that every corrupt member signs as well."""
        try:
            confirm = self.codec.decode(Confirm, statement.statement)
        except PeerError:
            return  # it answers something else that it was told
        what = seat.confirmed = (confirm.transcript, confirm.survivors)
        seat.due = Phase.UNMASK
        signatures = scheme.confirmed[what]
        signatures[member] = statement.signature
        for corrupt in scheme.owned & set(what[1]):
            site = scheme.site(corrupt)
            own = forged(self.people, self.codec, site, Label.SIGN_CONFIRM, scheme.h, confirm)
            signatures[corrupt] = own.signature

    # -- telling -------------------------------------------------------------------------------

    def tell(self, site: ClientId) -> Told | None:
        """What this site is told now; None to let it wait."""
        self._pull_strings()
        told = self._chosen(site)
        self.idle = self.idle + 1 if told is None else 0
        if told is not None:
            self.old.append(told)
            if isinstance(told, Ask) and self._roll(self.malice.bend):
                told = Ask(told.attempt, bent(self.random, told.request, self.old))
        return told

    def _chosen(self, site: ClientId) -> Told | None:
        seat, malice = self.seats[site], self.malice
        if self.old and self._roll(malice.replay):
            return self.random.choice(self.old)
        if self._roll(malice.onward) or self.idle > _PATIENCE * len(self.seats):
            self._next_round()
        if seat.out and self._roll(0.97):
            return None
        if not seat.ready and (seat.scheme is None or seat.scheme.manifest.round != self.round.plan.round):
            seat.scheme = None
            return Offer(self.job.text, self.round.text)
        if seat.scheme is not None and self._roll(malice.lie):
            return self._end(seat.scheme, seat)
        useless = seat.scheme is not None and seat.due is not Phase.UNMASK and self._is_doomed(seat.scheme)
        if useless and self._roll(0.9):
            seat.scheme = None
        if seat.scheme is None or (seat.due is not Phase.DONE and self._roll(malice.restless)):
            self._join(site, seat, anew=seat.scheme is not None, few=False)
        elif seat.due in (Phase.CONFIRM, Phase.UNMASK) and self._roll(malice.second):
            seat.scheme.robbed, few = True, not seat.scheme.robbed
            self._join(site, seat, anew=few, few=few)
        scheme = seat.scheme
        if scheme is None:
            return None
        member = scheme.manifest.index_of(site)
        due = seat.due
        if due is Phase.DONE:
            if self._roll(0.02):
                return self._end(scheme, seat)
            if seat.confirmed is None or not self._roll(0.03):
                return None
            due = Phase.UNMASK  # once more, whatever signatures have come in since
        absent = self._absent(scheme)
        if due is Phase.UNMASK:  # whoever signed another set will not sign this one
            absent |= {m for m in scheme.members - scheme.owned if self.seats[scheme.site(m)].confirmed}
        request = scheme.request(member, scheme.group[member], due, seat.confirmed, absent)
        return None if request is None else Ask(scheme.h, request)

    def _absent(self, scheme: Scheme) -> Members:
        """Whom nobody waits for: who is in another attempt or gave this one up; in a hurry, all."""
        if self._roll(self.malice.hurry):
            return scheme.members
        return self._gave_up(scheme)

    def _roll(self, probability: float) -> bool:
        return self.random.random() < probability

    def _join(self, site: ClientId, seat: Seat, *, anew: bool, few: bool) -> None:
        """Put this site into a newer attempt: one that is there, or one more if none goes on.

        Args:
            anew: Open one though others go on.
            few: With the smallest cohort of those who have not given away shares yet.
        """
        number = self.round.plan.round
        here = [each for each in self.schemes if each.manifest.round == number]
        new = [each for each in here if self._fits(each, site, seat)]
        if not new and (anew or all(map(self._is_doomed, here))) and len(here) < _SCHEMES:
            new = self._open(site, here, few)
        if new:
            scheme = new[-1]
            seat.scheme, seat.due, seat.confirmed = scheme, Phase.ADVERTISE, None
            seat.tried |= {scheme.h}
            seat.highest = (number, scheme.manifest.attempt)

    def _fits(self, scheme: Scheme, site: ClientId, seat: Seat) -> bool:
        place = (scheme.manifest.round, scheme.manifest.attempt)
        fits = scheme.manifest.roster == self.held[site].digest
        return fits and site in scheme.manifest.cohort and place > seat.highest

    def _is_doomed(self, scheme: Scheme) -> bool:
        """Whether so many gave it up that no honest member would go on with it."""
        through = {m for m in scheme.members - scheme.owned if self.seats[scheme.site(m)].due is Phase.DONE}
        gone = self._gave_up(scheme) - through
        return scheme.params.clients - len(gone) < scheme.params.quorum

    def _gave_up(self, scheme: Scheme) -> Members:
        """Who is not in this attempt any more, or is through with it."""
        seats = {m: self.seats[scheme.site(m)] for m in scheme.members - scheme.owned}
        return frozenset(
            member
            for member, seat in seats.items()
            if (seat.scheme is not scheme and (seat.scheme is not None or scheme.h in seat.tried))
            or (seat.scheme is scheme and seat.due is Phase.DONE)
        )

    def _open(self, site: ClientId, here: list[Scheme], few: bool) -> list[Scheme]:
        """One more attempt, of all or of some; mostly everybody is called away from the one before."""
        roster = self.held[site]
        sites = self._listed(roster)
        fewest = 2 + roster.corrupt
        if len(sites) < fewest or site not in sites:
            return []
        if few or (len(sites) > fewest and self._roll(0.3)):
            sites = self._some(site, sites, fewest, few)
        last = max((each.manifest.attempt for each in here), default=0)
        twin = bool(last) and self._roll(self.malice.twin)
        scheme = self._scheme(self._manifest(roster, tuple(sites), last if twin else last + 1))
        if any(each.h == scheme.h for each in self.schemes):
            return []
        self.schemes.append(scheme)
        call_away = self.random.choice((1.0, 1.0, 0.5))
        for name in sites:
            seat = self.seats.get(name) if name not in self.held or self.held[name] is roster else None
            if seat is not None and seat.due is not Phase.DONE and self._roll(call_away):
                seat.scheme = None
        for member in sorted(scheme.owned):
            for face in schemes.GROUPS:
                habit = self.random.choice((*DEALS_BADLY, "", "", "", "", ""))
                terms = self._terms(scheme.manifest)
                self.puppets.append(Puppet(scheme, member, face, self.owner, self.codec, terms, habit))
        return [scheme]

    def _some(self, site: ClientId, sites: list[ClientId], fewest: int, few: bool) -> list[ClientId]:
        """A smaller cohort: as few as may be of those who have not answered yet, or anybody."""
        fresh = [name for name, seat in self.seats.items() if seat.due is not Phase.DONE and name != site]
        size = fewest - 1 - len(self.owned)
        if few and 0 < size <= len(fresh):
            return sorted({site, *self.owned, *self.random.sample(fresh, size)})
        return sorted({site, *self.random.sample(sites, self.random.randint(fewest, len(sites)))})

    def _scheme(self, manifest: Manifest) -> Scheme:
        statement, context = self.codec.encode(manifest), manifest_context(manifest)
        signed_ = self._sign(Label.SIGN_MANIFEST, context, statement)
        corrupt = self._roster_of(manifest).corrupt
        params = Params.complete(len(manifest.cohort), corrupt, min_cohort=3)
        return schemes.draw(self.random, manifest, signed_, attempt_digest(statement), params, self.owned)

    # -- the end of a round, true or not -------------------------------------------------------

    def _next_round(self) -> None:
        number, last = self.round.plan.round + 1, self.job.plan.rounds + self.job.plan.spare_rounds
        self.over = number > last
        if not self.over:
            self.idle, self.round = 0, self._round_plan(number)
            for seat in self.seats.values():
                seat.ready = seat.out = False

    def _end(self, scheme: Scheme, seat: Seat) -> Told:
        """A void, an abort, or a published sum of the set that this site signed."""
        kind = self.random.choice(("void", "aborted", "published", "published"))
        if kind == "void":
            return Ask(scheme.h, VoidNotice(scheme.h, self._said(Label.SIGN_VOID, scheme.h, Void("void"))))
        sum_, transcript, survivors = NO_DIGEST, NO_DIGEST, ()
        if kind == "published" and seat.confirmed is not None:
            t, survivors = seat.confirmed
            sum_ = Digest(scheme.h[::-1])
            transcript = outcome_transcript(scheme.h, t, survivors, sum_)
            self.previous = (scheme.manifest.round, transcript)
        sites = tuple(scheme.site(member) for member in survivors)
        round_id = scheme.manifest.round_id
        outcome = Outcome(round_id, bool(sites), sites, (), sum_, transcript, sum_)
        return Ask(scheme.h, OutcomeNotice(scheme.h, self._said(Label.SIGN_OUTCOME, scheme.h, outcome)))

    # -- the corrupt members -------------------------------------------------------------------

    def _pull_strings(self) -> None:
        """Every face says what it can."""
        for puppet in self.puppets:
            if puppet.due not in (Phase.ADVERTISE, Phase.ENCAPSULATE, Phase.SHARE):
                continue
            reply = puppet.ask(self.random, self._absent(puppet.scheme))
            scheme, key = puppet.scheme, (puppet.member, puppet.face)
            match puppet.due, reply:
                case Phase.ADVERTISE, SignedReply(statement):
                    scheme.adverts[key], puppet.due = statement, Phase.ENCAPSULATE
                case Phase.ENCAPSULATE, CiphertextList():
                    scheme.lists[key], puppet.due = reply, Phase.SHARE
                case Phase.SHARE, Bundle():
                    scheme.bundles[key], puppet.due = reply, Phase.MASK
                case _:
                    pass

    # -- what it signs -------------------------------------------------------------------------

    def _sign(self, label: Label, context: bytes, statement: bytes) -> Signed:
        key, name = self.people.aggregator, self.people.roster.aggregator.site
        return signed.sign(key, label, context=context, sender=name, recipient=None, statement=statement)

    def _said(self, label: Label, h: Digest, statement: Statement) -> Signed:
        return self._sign(label, h, self.codec.encode(statement))

    def _round_plan(self, number: int) -> RoundProposal:
        plan = RoundPlan(
            job=self.job.plan.job,
            job_plan=self.job.digest.hex(),
            round=number,
            base=NO_DIGEST.hex(),
            deadlines=Deadlines(training_s=600, phase_s=60, upload_idle_s=30),
        )
        return sign_round_plan(self.people.aggregator, plan)

    def _terms(self, manifest: Manifest) -> Terms:
        """What a corrupt member goes by: whatever the manifest says."""
        roster, plan = self._roster_of(manifest), self.job.plan
        return Terms(
            federation=roster.federation,
            roster=roster.digest,
            job=manifest.job,
            job_plan=manifest.job_plan,
            round_plan=manifest.round_plan,
            round=manifest.round,
            sum_index=0,
            corrupt=manifest.corrupt,
            layout=plan.layout.digest,
            length=manifest.length,
            bits=BITS,
            base=manifest.base,
            min_cohort=3,
            survivors_min=0,
            difference_key=None,
        )

    def _roster_of(self, manifest: Manifest) -> Roster:
        roster = self.owner.named(manifest.roster)
        assert roster is not None
        return roster

    def _listed(self, roster: Roster) -> list[ClientId]:
        """Whom a cohort under this roster could have; now and then with one who is out, or not yet in."""
        sites = [member.site for member in roster.active(Role.CLIENT)]
        others = sorted(self.owner.keys.keys() - set(sites))
        if others and self.owner.random.random() < _STRANGER:
            sites = sorted([*sites, self.owner.random.choice(others)])
        return sites

    def _manifest(self, roster: Roster, cohort: tuple[ClientId, ...], attempt: int) -> Manifest:
        plan = self.job.plan
        previous = self.previous if self.previous[0] < self.round.plan.round else (0, NO_DIGEST)
        manifest = Manifest(
            protocol=PROTOCOL_VERSION,
            suite=SUITE,
            federation=roster.federation,
            roster=roster.digest,
            job=self.job.job,
            job_plan=self.job.digest,
            round_plan=self.round.digest,
            round=self.round.plan.round,
            sum_index=0,
            attempt=attempt,
            cohort=cohort,
            corrupt=roster.corrupt,
            layout=plan.layout.digest,
            length=vector_words(plan),
            word_bits=word_bits(len(cohort), plan.bits),
            base=NO_DIGEST,
            previous_round=previous[0],
            previous=previous[1],
        )
        if self._roll(self.malice.forge):
            name = self.random.choice(_NUMBERS)
            manifest = replace(
                manifest, **{name: max(0, getattr(manifest, name) + self.random.choice((-1, 1)))}
            )
        return manifest
