"""One training round on the aggregator's side: offer, collect, freeze a cohort, attempt, end.

A round asks every active client. Once all have answered, or at the training deadline, it freezes
the ready ones that are here, and runs an attempt. A void attempt leaves the contributions with
their clients; the next one waits until something has changed. After the freeze of a survivor
list the round is published, or over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from secfed.crypto.labels import Label
from secfed.errors import InfeasibleCohortError, PeerError, RoundAbortedError
from secfed.identity.signed import Signed
from secfed.ids import ClientId, Digest, MemberIndex, RoundId
from secfed.rounds.attempt import (
    LiveAttempt,
    Upload,
    discard_uploads,
    open_attempt,
    params_for,
    restore_attempt,
    upload_name,
)
from secfed.rounds.exchange import Answer, Declined, Present, Ready, Refused, Said
from secfed.rounds.house import House
from secfed.rounds.jobs import Job, JobBook
from secfed.rounds.presence import Presence
from secfed.rounds.proposal import RoundProposal
from secfed.secagg.aggregator import AggregatorSession, AttemptVoidError
from secfed.secagg.graph import Graph
from secfed.secagg.manifest import Manifest, attempt_digest
from secfed.secagg.messages import Void, VoidNotice
from secfed.secagg.params import COMPLETE_GRAPH_MAX, Params
from secfed.secagg.record import AggregatorRecord, Left

__all__ = ["Aborted", "Notices", "OpenRound", "Seat", "SeatState"]

T = TypeVar("T")

Notices = dict[ClientId, list[VoidNotice]]
"""What a site must still hear of attempts that ended, in order."""

_BACK_OFF_MAX_S = 30.0
"""Longest pause between a void attempt and the next with the same sites, seconds."""

_VOIDS_MAX = 20
"""So many attempts that came to nothing, some ten minutes of pauses, are no passing trouble any more."""


class SeatState(Enum):
    """Where a site stands in a round; the value is what people read."""

    ASKED = "asked"
    OFFERED = "preparing"
    READY = "ready"
    DECLINED = "declined"
    ELSEWHERE = "takes part in another job only"


@dataclass(slots=True)
class Seat:
    """One site in this round."""

    state: SeatState
    since: float


@dataclass(frozen=True, slots=True)
class Aborted:
    """The round is over without a sum: its survivor list was frozen, and the sum cannot be opened."""

    session: AggregatorSession
    reason: str


@dataclass(frozen=True, slots=True)
class _Masked:
    """An attempt of this round in which vectors may have left: what its members remember of it.

    Not its session, which holds all that a thousand members sent.
    """

    manifest: Manifest
    params: Params
    graph: Graph
    members: Mapping[ClientId, bytes]

    def bound(self, chosen: set[ClientId], keys: Mapping[ClientId, bytes], corrupt: int) -> set[ClientId]:
        """Who of these would refuse: too few of the members with which its vector left are back.

        Args:
            keys: Identity keys of today.
            corrupt: A of today.
        """
        cohort = self.manifest.cohort
        gone = [
            MemberIndex(place)
            for place, site in enumerate(cohort)
            if site not in chosen or keys.get(site) != self.members[site]
        ]
        missing = Counter(near for member in gone for near in self.graph.neighbours(member))
        bearable = self.params.neighbours - self._left(MemberIndex(0)).needed_back(corrupt)
        return {site for place, site in enumerate(cohort) if missing[MemberIndex(place)] > bearable} & chosen

    def _left(self, member: MemberIndex) -> Left:
        """What a member holds against the next attempt; how many it needs back is the same for all."""
        holders = [self.manifest.cohort[near] for near in self.graph.neighbours(member)]
        return Left(
            attempt=self.manifest.attempt,
            cohort=self.manifest.cohort,
            corrupt=self.params.corrupt,
            threshold=self.params.threshold,
            neighbours={holder: self.members[holder] for holder in holders},
        )


class OpenRound:
    """A round that has not ended.

    Attributes:
        live: The attempt under way, or None.
        aborted: Set once the round cannot be published any more.
        attempts: How many were opened.
    """

    def __init__(
        self,
        house: House,
        book: JobBook,
        job: Job,
        proposal: RoundProposal,
        *,
        presence: Presence,
        notices: Notices,
    ) -> None:
        self._house, self._book, self._presence, self._notices = house, book, presence, notices
        self._record = AggregatorRecord(house.decisions)
        self.job, self.proposal = job, proposal
        self.opened = house.clock.monotonic()
        self.deadline = self.opened + proposal.plan.deadlines.training_s
        self.seats: dict[ClientId, Seat] = {}
        self.live: LiveAttempt | None = None
        self.aborted: Aborted | None = None
        self._masked: list[_Masked] = []
        self._able: tuple[object, tuple[ClientId, ...]] = (None, ())
        self._voids, self._last_void = 0, ""
        self._not_before = self.opened
        self._tried: frozenset[ClientId] = frozenset()
        self.attempts = self._take_up()
        self.follow_roster()

    @property
    def round_id(self) -> RoundId:
        """The sum that this round is about."""
        return RoundId(self.job.id, self.proposal.plan.round)

    # -- after a restart -----------------------------------------------------------------------

    def _take_up(self) -> int:
        """Go on with a frozen attempt, void one that was not; the number of attempts so far."""
        attempts = self._record.attempts(self.round_id)
        for number, statement in attempts:
            h = attempt_digest(statement)
            if self._record.voided(h) is not None:
                continue
            session = restore_attempt(self._house, self._book, self.job, statement)
            if session.resume():
                self.live = LiveAttempt(self._house, session, self.proposal.plan.deadlines)
                self._house.observer.note("attempt_resumed", job=self.job.id, attempt=number)
            else:
                self._void(session, "the aggregator was restarted before the survivor list was frozen")
        return attempts[-1][0] if attempts else 0

    # -- who takes part ------------------------------------------------------------------------

    def follow_roster(self) -> None:
        """Ask who was enrolled, and let go of who was revoked: of a key that was replaced, too."""
        now, active = self._house.clock.monotonic(), self._house.clients()
        for site in active:
            self.seats.setdefault(site, Seat(SeatState.ASKED, now))
        for site in self.seats.keys() - active.keys():
            del self.seats[site]
            self._notices.pop(site, None)
        if self.live is not None:
            for site, key in self.live.session.members.items():
                if active.get(site) != key:
                    self._lose(site, "its key was replaced" if site in active else "revoked")

    def hear(self, site: ClientId, said: Said) -> None:
        """One site says where it stands, or answers.

        Raises:
            PeerError: Its answer breaks a rule; it is dropped from the attempt.
        """
        match said:
            case Present(job):
                self._present(site, job)
            case Ready(job, number, digest):
                if (job, number, digest) == (self.job.id, self.proposal.plan.round, self.proposal.digest):
                    self._seat(site, SeatState.READY)
                else:
                    self._present(site, "")
            case Declined(job, number):
                if (job, number) == (self.job.id, self.proposal.plan.round):
                    self._seat(site, SeatState.DECLINED)
            case Answer(h, reply):
                if self._is_live(h):
                    self._move(lambda live: live.answer(site, reply))
            case Refused(h, rule):
                if self._is_live(h):
                    self._lose(site, f"refused: {rule}")

    def _present(self, site: ClientId, only: str) -> None:
        """Nothing is on offer there: it never was, or its process was restarted."""
        state = self.seats[site].state
        if only not in ("", self.job.id):
            self._seat(site, SeatState.ELSEWHERE)
        elif state is SeatState.READY:
            self._seat(site, SeatState.ASKED)
            self._lose(site, "its process was restarted")
        elif state is SeatState.ELSEWHERE:
            self._seat(site, SeatState.ASKED)

    def offered(self, site: ClientId) -> None:
        """The offer goes out to this site."""
        if self.seats[site].state is SeatState.ASKED:
            self._seat(site, SeatState.OFFERED)

    def _seat(self, site: ClientId, state: SeatState) -> None:
        if self.seats[site].state is not state:
            self.seats[site] = Seat(state, self._house.clock.monotonic())
            if state in (SeatState.READY, SeatState.DECLINED):
                self._house.observer.note(
                    state.value, job=self.job.id, site=site, round=self.proposal.plan.round
                )

    # -- uploads -------------------------------------------------------------------------------

    def begin_upload(self, site: ClientId, h: Digest, statement: Signed) -> Upload | None:
        """See `LiveAttempt.begin_upload`; None too if the attempt is over."""
        if not self._is_live(h):
            return None
        return self._move(lambda live: live.begin_upload(site, statement) if site in live.cohort else None)

    def finish_upload(self, upload: Upload) -> None:
        """A committed vector; it is dropped if its attempt ended meanwhile.

        Raises:
            PeerError: As `LiveAttempt.finish_upload`.
        """
        if self._is_live(upload.h):
            self._move(lambda live: live.finish_upload(upload))
        else:
            self._house.spool.discard(upload_name(upload.h, upload.member))

    # -- time ----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Let deadlines pass, and open an attempt if one can be."""
        now = self._house.clock.monotonic()
        if self.live is not None:
            self._move(lambda live: live.tick(now))

    def try_attempt(self) -> None:
        """Freeze a cohort and open an attempt, if it is time."""
        now = self._house.clock.monotonic()
        if self.live is not None or self.aborted is not None:
            return
        awaited, cohort = self._look(now)
        if awaited:
            return
        number = self.attempts + 1
        session = open_attempt(self._house, self._book, self.job, self.proposal, cohort, number)
        self.attempts, self._tried = number, frozenset(cohort)
        self.live = LiveAttempt(self._house, session, self.proposal.plan.deadlines)
        self._house.observer.note("attempt_opened", job=self.job.id, attempt=number, cohort=cohort)

    def awaited(self, now: float) -> str:
        """What keeps the next attempt from being opened, in words; empty if nothing does."""
        return self._look(now)[0]

    def _look(self, now: float) -> tuple[str, tuple[ClientId, ...]]:
        """What is awaited; if nothing is, the next attempt's cohort."""
        unanswered = [
            s for s, seat in self.seats.items() if seat.state in (SeatState.ASKED, SeatState.OFFERED)
        ]
        if unanswered and now < self.deadline:
            return _sites("waiting for", unanswered), ()
        ready = [site for site, seat in self.seats.items() if seat.state is SeatState.READY]
        returning = [site for site in ready if self._presence.may_return(site, now)]
        if returning:
            return _sites("waiting for the return of", returning), ()
        here = self._here(now)
        cohort = self._cohort(here)
        missing = sorted(self.seats.keys() - here)
        try:
            params_for(self._house, self.job, len(cohort))
        except InfeasibleCohortError as error:
            if len(here) > len(cohort):
                held = _sites("vectors left from", sorted(here - set(cohort)))
                wanted = _sites("missing", missing) if missing else self._never_back()
                return f"{held}, and go out again only beside the same ones; {wanted}", ()
            return f"{error}; {_sites('missing', missing)}", ()
        if now < self._not_before and frozenset(cohort) == self._tried:
            return "the next attempt follows in a moment", ()
        return "", cohort

    def stuck(self) -> str:
        """Why no cohort can come together: too many sites, too many that declined, or the deadline passed; or
        that one after the other came to nothing.

        Empty if one may.
        """
        now = self._house.clock.monotonic()
        if self.live is not None or self.aborted is not None:
            return ""
        declined = [site for site, seat in self.seats.items() if seat.state is SeatState.DECLINED]
        willing, plan = len(self.seats) - len(declined), self.job.plan
        floor = max(self._house.roster().min_cohort, plan.min_cohort, plan.survivors_min)
        try:
            params_for(self._house, self.job, willing)
        except InfeasibleCohortError as error:
            # More may come where too few are here. What is too many, too fine a grid or too many corrupt
            # ones for them, stays so, and everybody would be charged for nothing.
            if willing > COMPLETE_GRAPH_MAX and willing >= floor:
                return str(error)
            if declined:
                return f"{error}; {_sites('declined by', declined)}"
        if self._voids >= _VOIDS_MAX:
            return f"{self._voids} attempts came to nothing, the last one: {self._last_void}"
        return self.awaited(now) if now >= self.deadline else ""

    def extend(self) -> None:
        """Start the training deadline again."""
        self.deadline = self._house.clock.monotonic() + self.proposal.plan.deadlines.training_s

    def _cohort(self, here: set[ClientId]) -> tuple[ClientId, ...]:
        """Who of these is able to mask: a vector that left binds its owner to its neighbours there."""
        if not self._masked:
            return tuple(sorted(here))
        roster = self._house.roster()
        asked = frozenset(here), roster.digest, len(self._masked)
        if asked != self._able[0]:  # every site that waits asks, and most ask the same
            chosen, keys = set(here), self._house.clients()
            while bound := set[ClientId]().union(
                *(past.bound(chosen, keys, roster.corrupt) for past in self._masked)
            ):
                chosen -= bound
            self._able = asked, tuple(sorted(chosen))
        return self._able[1]

    def _never_back(self) -> str:
        """Whose key of an earlier attempt counts no more, and what is left to do about it."""
        keys = self._house.clients()
        gone = {site for past in self._masked for site, key in past.members.items() if keys.get(site) != key}
        return f"{_sites('gone for good (revoked, or under another key since)', sorted(gone))}; stop the job"

    def _here(self, now: float) -> set[ClientId]:
        """Ready, here, and enrolled for today."""
        here = {
            site
            for site, seat in self.seats.items()
            if seat.state is SeatState.READY and self._presence.here(site, now)
        }
        return here & self._house.eligible()

    def _lose(self, site: ClientId, reason: str) -> None:
        self._move(lambda live: live.lose(site, reason))

    # -- ends ----------------------------------------------------------------------------------

    def _is_live(self, h: Digest) -> bool:
        return self.live is not None and self.live.h == h

    def _move(self, step: Callable[[LiveAttempt], T]) -> T | None:
        """Move the live attempt; an end of it is an event of the round.

        Raises:
            PeerError: The step broke a rule, whether or not that was the end.
        """
        live = self.live
        if live is None:
            return None
        try:
            return step(live)
        except AttemptVoidError as end:
            self._remember(live)
            self._void(live.session, str(end))
            broken = end.__cause__
        except RoundAbortedError as end:
            self._abort(live.session, str(end))
            broken = end.__cause__
        if isinstance(broken, PeerError):
            raise broken
        return None

    def abort(self, reason: str) -> None:
        """The sum of the finished attempt could not be opened."""
        if self.live is not None:
            self._abort(self.live.session, reason)

    def give_up(self, reason: str) -> None:
        """Void the attempt under way unless its survivor list is frozen."""
        if self.live is not None and not self.live.session.frozen:
            self._void(self.live.session, reason)

    def _abort(self, session: AggregatorSession, reason: str) -> None:
        self.aborted, self.live = Aborted(session, reason), None

    def _remember(self, live: LiveAttempt) -> None:
        if live.masked:
            session = live.session
            self._masked.append(_Masked(session.manifest, session.params, session.graph, session.members))

    def _void(self, session: AggregatorSession, reason: str) -> None:
        """End an attempt for good, tell its members, and wait before the next."""
        h, cohort = session.h, session.manifest.cohort
        statement = self._house.codec.encode(Void(reason))
        self._record.void(h, reason)
        notice = VoidNotice(h, self._house.sign(Label.SIGN_VOID, statement, context=h))
        for site in cohort:
            self._notices.setdefault(site, []).append(notice)
        discard_uploads(self._house, h)
        self._voids, self._last_void = self._voids + 1, reason
        now = self._house.clock.monotonic()
        self._not_before = now + min(2.0 ** (self._voids - 1), _BACK_OFF_MAX_S)
        self.live = None
        self.extend()
        self._house.observer.note(
            "attempt_voided", job=self.job.id, attempt=session.manifest.attempt, reason=reason
        )

    def absent(
        self, included: tuple[ClientId, ...], session: AggregatorSession
    ) -> list[tuple[ClientId, str]]:
        """Everybody who was asked and is not in the sum of this attempt, and why, sorted."""
        gone = (*session.dropped, *session.lost)
        lost = {item.site: f"{item.phase}: {item.reason}" for item in gone}
        reasons: dict[ClientId, str] = {}
        for site, seat in self.seats.items():
            match seat.state:
                case SeatState.DECLINED | SeatState.ELSEWHERE:
                    reasons[site] = seat.state.value
                case SeatState.READY:
                    reasons[site] = "ready, but not connected when the cohort was frozen"
                case SeatState.ASKED:
                    reasons[site] = "not connected"
                case SeatState.OFFERED:
                    reasons[site] = "not ready before the cohort was frozen"
        reasons |= dict.fromkeys(session.manifest.cohort, "the sum could not be opened") | lost
        return sorted((site, reason) for site, reason in reasons.items() if site not in included)


def _sites(what: str, sites: list[ClientId]) -> str:
    """`waiting for 2 sites: a, b`."""
    shown = ", ".join(sorted(sites)[:8]) + (", …" if len(sites) > 8 else "")
    return f"{what} {len(sites)} {'site' if len(sites) == 1 else 'sites'}: {shown}"
