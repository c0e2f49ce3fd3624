"""The aggregator in its rounds, told as a story: open, collect, confirm, unmask, decode, apply, record.

Sans-IO and synchronous, for one thread: events go in (`hear`, `tick`, uploads, commands), and
`next_for` says what a site must be told now. Heavy computing is handed out by `work`, to be run
anywhere, and taken back by `worked`. Whatever outlives a crash is durable before it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from secfed.errors import ConfigError, EncodingError, PeerError, RoundAbortedError, SecfedError, StorageError
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, ClientId, Digest, JobId
from secfed.limits import JOBS_MAX
from secfed.rounds import standing
from secfed.rounds.attempt import Upload, upload_name
from secfed.rounds.continuity import Continuity
from secfed.rounds.entry import check_job
from secfed.rounds.exchange import (
    Answer,
    Ask,
    Declined,
    JobCommand,
    JobState,
    Offer,
    Present,
    Ready,
    Refused,
    Said,
    StatusReply,
    Told,
    Wait,
)
from secfed.rounds.house import House
from secfed.rounds.jobs import Job, JobBook
from secfed.rounds.plan import RoundPlan
from secfed.rounds.plan_address import plan_address
from secfed.rounds.ports import Observer
from secfed.rounds.presence import Presence
from secfed.rounds.proposal import open_job_plan, sign_round_plan
from secfed.rounds.publish import Formed, base_of, form
from secfed.rounds.results import Results
from secfed.rounds.round import Notices, OpenRound, SeatState
from secfed.secagg.aggregator import AggregatorSession
from secfed.secagg.messages import SignedReply, VoidNotice
from secfed.store.journal import Head

__all__ = ["AggregatorRounds", "Worked"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Worked:
    """What opening a sum came to: a result in the store, or why there will be none."""

    session: AggregatorSession
    formed: Formed | None
    reason: str


class _Changes:
    """An observer that counts: whatever could give a site something new to hear is noted."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.count = 0

    def note(
        self, event: str, *, job: JobId | None = None, site: ClientId | None = None, **facts: object
    ) -> None:
        self.count += 1
        self._observer.note(event, job=job, site=site, **facts)


class AggregatorRounds:
    """All jobs of one federation, one live at a time.

    Args:
        house: Identity, stores, clock. Nothing else may write to its stores.

    Raises:
        StorageError: What an earlier run left cannot be read.
    """

    def __init__(self, house: House) -> None:
        self._changes = _Changes(house.observer)
        self._house = house = replace(house, observer=self._changes)
        self._book = JobBook(house.decisions)
        self._presence = Presence()
        self._notices: Notices = {}
        self._said: dict[ClientId, Said] = {}
        self._continuity = Continuity(house, self._book)
        self._results = Results(house, self._book)
        self._working = False
        self._open = self._take_up()
        self._clean_spool()
        self._settle()

    @property
    def changes(self) -> int:
        """Grows whenever some site may have something new to hear."""
        return self._changes.count

    # -- what sites say and are told -----------------------------------------------------------

    def enter(self, site: ClientId) -> None:
        """A call of this site begins."""
        self._presence.enter(site, self._house.clock.monotonic())

    def leave(self, site: ClientId, *, broken: bool) -> None:
        """A call of this site ends; `broken` if the other side cut it off."""
        self._presence.leave(site, self._house.clock.monotonic(), broken=broken)

    def hear(
        self, site: ClientId, said: Said, *, ledger: Head | None = None, state: Digest = NO_DIGEST
    ) -> bool:
        """One client says where it stands, answers, or refuses.

        Args:
            ledger: Head of its ledger, as its hello had it.
            state: Name of the state that it takes part with; zero where it says none.

        Returns:
            Whether this was its last word on a round, after which it may want to leave.

        Raises:
            AuthenticationError: Its key has served with another state, or with one where it names none.
                Whoever has that one goes on.
            LedgerError: Its ledger is behind what was seen of it before.
            PeerError: Its answer breaks a rule of the attempt, from which it is dropped.
        """
        self._continuity.check_state(site, state)
        self._presence.seen(site, self._house.clock.monotonic())
        if isinstance(said, Ready) and ledger is not None and ledger.count and said.job in self._book.jobs:
            self._continuity.check_ledger(self._book.jobs[said.job], site, ledger)
        self._settled(lambda: self._take(site, said))
        return isinstance(said, Declined) or (
            isinstance(said, Answer | Refused) and self._results.knows(said.attempt)
        )

    def _take(self, site: ClientId, said: Said) -> None:
        match said:
            case Answer(h, SignedReply(statement)) if self._results.knows(h):
                if self._results.countersigned(site, h, statement):
                    self._said.pop(site, None)
            case Refused(h, rule) if self._results.knows(h):
                self._results.refused(site, h, rule)
            case Present() | Ready() | Declined():
                self._said[site] = said
                self._pass_on(site, said)
            case _:
                self._pass_on(site, said)

    def _pass_on(self, site: ClientId, said: Said) -> None:
        if self._open is not None and site in self._open.seats:
            self._open.hear(site, said)

    def next_for(self, site: ClientId) -> Told | None:
        """What this site must be told now; None if nothing is new for it."""
        notices = self._notices.get(site)
        if notices:
            notice = notices.pop(0)
            return Ask(notice.attempt, notice)
        over = self._results.outcome_for(site, self._said.get(site))
        if over is not None:
            return Ask(over.attempt, over)
        round_ = self._open
        if round_ is None or site not in round_.seats:
            return None
        if round_.live is not None and (request := round_.live.ask(site)) is not None:
            return Ask(round_.live.h, request)
        if round_.job.state == "running" and round_.seats[site].state in (SeatState.ASKED, SeatState.OFFERED):
            round_.offered(site)
            return Offer(round_.job.proposal.text, round_.proposal.text)
        return None

    def untold(self, site: ClientId, told: Told) -> None:
        """The call that was to hear this had ended: what is told once only is due again."""
        if isinstance(told, Ask) and isinstance(told.request, VoidNotice):
            self._notices.setdefault(site, []).insert(0, told.request)
            self._changes.count += 1

    def wait_for(self, site: ClientId) -> Wait:
        """For a site that has nothing to hear: what is awaited, and until when at the latest."""
        if self._open is None:
            return Wait(self._paused(self._said.get(site)) or "no job is running", 0)
        if site not in self._open.seats:
            return Wait("this site is no active client of the roster", 0)
        now = self._house.clock.monotonic()
        return Wait(standing.awaited(self._open, now), standing.remaining_s(self._open, now))

    def _paused(self, said: Said | None) -> str:
        """Which job is paused, and why: the one that a site stands ready for before any other."""
        paused = {job.id: job for job in self._book.jobs.values() if job.state == "paused"}
        own = paused.get(said.job) if isinstance(said, Ready) else None
        job = own or next(iter(paused.values()), None)
        return "" if job is None else f"job {job.id} is paused: {job.reason}"

    @property
    def awaiting(self) -> Wait | None:
        """What the open round waits for, and until when at the latest; None if there is none."""
        if self._open is None:
            return None
        now = self._house.clock.monotonic()
        return Wait(standing.awaited(self._open, now), standing.remaining_s(self._open, now))

    # -- uploads -------------------------------------------------------------------------------

    def begin_upload(self, site: ClientId, h: Digest, statement: Signed) -> Upload | None:
        """The first frame of a masked vector; None if none is owed, such as after a lost reply.

        Raises:
            PeerError: The statement is wrong; its sender is dropped from the attempt.
        """
        self._presence.seen(site, self._house.clock.monotonic())
        return self._settled(
            lambda: None if self._open is None else self._open.begin_upload(site, h, statement)
        )

    def finish_upload(self, upload: Upload) -> None:
        """All pieces are committed.

        Raises:
            PeerError: They are not what their sender signed; it is dropped from the attempt.
        """
        open_ = self._open
        if open_ is not None:
            self._settled(lambda: open_.finish_upload(upload))
        else:
            self._house.spool.discard(upload_name(upload.h, upload.member))

    def _settled(self, step: Callable[[], T]) -> T:
        """A member's step and what follows, also where it broke a rule; nothing follows a failed write."""
        try:
            done = step()
        except PeerError:
            self._settle()
            raise
        self._settle()
        return done

    # -- time, roster, work --------------------------------------------------------------------

    def tick(self) -> None:
        """Let time pass; call it about twice a second."""
        if self._open is not None:
            self._open.tick()
        self._settle()

    def roster_changed(self) -> None:
        """Another roster is in force: ask who is new, let go of who is revoked."""
        if self._open is not None:
            self._open.follow_roster()
        self._changes.note("roster", version=self._house.roster().version)
        self._settle()

    def work(self) -> Callable[[], Worked] | None:
        """The next piece of heavy work, for any thread; its result goes to `worked`.

        The callable raises StorageError where the disk fails: stop then, a restart goes on.
        """
        live = None if self._open is None else self._open.live
        if self._open is None or live is None or not live.session.ready or self._working:
            return None
        self._working = True
        house, session, job, proposal = self._house, live.session, self._open.job, self._open.proposal

        def run() -> Worked:
            try:
                return Worked(session, form(house, session, job, proposal), "")
            except (RoundAbortedError, PeerError, EncodingError) as error:
                return Worked(session, None, str(error))

        return run

    def worked(self, done: Worked) -> None:
        """Make the end of the round durable and publish it; from then on it is told."""
        self._working = False
        round_ = self._open
        if round_ is None or round_.live is None or round_.live.session is not done.session:
            raise ValueError("work came back for a round that is not open")
        if done.formed is None:
            round_.abort(done.reason)
        else:
            self._close(round_, done.session, done.formed, "")
        self._settle()

    def _close(
        self, round_: OpenRound, session: AggregatorSession, formed: Formed | None, reason: str
    ) -> None:
        self._results.close(round_, session, formed, reason)
        self._open = None
        if round_.job.state != "running":
            self._changes.note("job", job=round_.job.id, state=round_.job.state, reason=round_.job.reason)

    # -- jobs ----------------------------------------------------------------------------------

    def start_job(self, text: bytes) -> JobState:
        """Enter a job that an admin signed; started again, a paused one goes on.

        Raises:
            PeerError, RosterError: Not signed by an active admin, or malformed.
            ConfigError, EncodingError, InfeasibleCohortError: It cannot be carried out here, or so many jobs
                are not over that `status` could not tell of one more.
        """
        proposal = open_job_plan(text, self._house.roster(), self._house.now())
        admin = ClientId(proposal.plan.created_by)
        if proposal.job not in self._book.jobs:
            if len(self._book.going()) >= JOBS_MAX:
                raise ConfigError(
                    f"{JOBS_MAX} jobs are not over, and no more can be", hint="Stop some: `secfed job stop`."
                )
            check_job(self._house, Job(proposal))
        job = self._book.start(proposal)
        self._changes.note("job_started", job=job.id, site=admin)
        if job.state == "paused":
            return self.control(JobCommand(job.id, "resume"), admin)
        self._settle()
        return self._told(job)

    def control(self, command: JobCommand, by: ClientId) -> JobState:
        """Pause, resume or stop a job. What is frozen is finished first; an attempt that is not, is void.

        Raises:
            ConfigError: No such job, or it is over.
        """
        job = self._book.find(command.job)
        self._book.command(job, command.verb, by=by, reason=f"{command.verb} by {by}")
        if self._open is not None and self._open.job is job:
            if command.verb == "resume":
                self._open.extend()
            if command.verb == "stop":
                self._open.give_up("the job was stopped")
        self._changes.note("job", job=job.id, state=job.state, reason=job.reason)
        self._settle()
        return self._told(job)

    def announced(self, digest: Digest) -> bool:
        """Whether this is a result that was told to members, or the base of a round that can still be held.

        Whoever was offered a round may ask for its base after the job was paused: its contribution will serve
        when the job goes on.

        Raises:
            RoundAbortedError: It is the base of a round that is over, which nobody needs any more.
        """
        if self._results.announced(digest):
            return True
        for job in self._book.jobs.values():
            first, due = self._book.round_plan(job, 1), self._book.round_plan(job, job.next_round)
            if job.state in ("running", "paused") and due is not None and due.base == digest:
                return True
            if first is not None and first.base == digest:
                why = f"job {job.id} is {job.state}: {job.reason}" if job.reason else f"job {job.id} went on"
                raise RoundAbortedError(f"the round with this base is over meanwhile: {why}")
        return False

    def archived(self, digest: Digest) -> Path | None:
        """The folder of the published round that is asked for by its archive's digest, or None."""
        return self._results.archived(digest)

    def job_plan(self, wanted: Digest) -> bytes | None:
        """The signed text of the job plan that is asked for by `plan_address`, or None."""
        jobs = self._book.jobs.values()
        return next((job.proposal.text for job in jobs if plan_address(job.id) == wanted), None)

    def status(self, job: JobId | None = None) -> StatusReply:
        """How things stand, for people: one job, or all that are not over and the newest of the others."""
        wanted = self._book.newest(JOBS_MAX) if job is None else [self._book.find(job)]
        now, roster = self._house.clock.monotonic(), self._house.roster()
        return standing.status(roster, self._presence.all_here(now), [self._told(each) for each in wanted])

    def _told(self, job: Job) -> JobState:
        open_ = self._open if self._open is not None and self._open.job is job else None
        return standing.job_state(job, open_, self._house.clock.monotonic())

    # -- from one round to the next ------------------------------------------------------------

    def _take_up(self) -> OpenRound | None:
        """After a restart: void what was not frozen, go on with what was."""
        found = None
        for job in self._book.jobs.values():
            if job.state not in ("done", "failed"):
                round_ = self._reopen(job)
                if round_ is not None and round_.live is not None:
                    found = round_
        return found

    def _reopen(self, job: Job) -> OpenRound | None:
        proposal = self._book.round_plan(job, job.next_round)
        if proposal is None:
            return None
        return OpenRound(
            self._house, self._book, job, proposal, presence=self._presence, notices=self._notices
        )

    def _clean_spool(self) -> None:
        """Remove what an earlier run left of attempts that are over."""
        live = None if self._open is None else self._open.live
        prefixes = {h.hex() for h in self._results.kept | ({live.h} if live is not None else set())}
        for name in self._house.spool.names():
            if name.split("-")[0] not in prefixes:
                self._house.spool.discard(name)

    def _settle(self) -> None:
        """Carry on as far as things go without anybody's word."""
        round_ = self._open
        if round_ is not None and round_.aborted is not None:
            self._close(round_, round_.aborted.session, None, round_.aborted.reason)
        if self._open is not None and self._open.live is None and self._open.job.state != "running":
            self._open = None  # paused or stopped between attempts
        if self._open is None:
            self._open_next()
        round_ = self._open
        if round_ is None or round_.live is not None:
            return
        stuck = round_.stuck()
        if stuck:
            self._pause(round_.job, f"round {round_.proposal.plan.round}: {stuck}")
        else:
            round_.try_attempt()

    def _pause(self, job: Job, reason: str) -> None:
        self._book.command(job, "pause", by=self._house.site, reason=reason)
        self._changes.note("job", job=job.id, state="paused", reason=reason)
        self._open = None
        self._open_next()

    def _open_next(self) -> None:
        """Open the next round of the oldest job that can go on; one whose round cannot be opened is paused.

        Raises:
            StorageError: The disk refuses it; a restart goes on from here.
        """
        job = next((job for job in self._book.jobs.values() if job.state == "running"), None)
        if job is None:
            return
        try:
            self._open_round(job)
        except StorageError:
            raise
        except Exception as failure:  # noqa: BLE001 - whatever a plan brings about, other jobs go on
            what = str(failure) if isinstance(failure, SecfedError) else type(failure).__name__
            self._pause(job, f"round {job.next_round} cannot be opened: {what}")

    def _open_round(self, job: Job) -> None:
        round_ = self._reopen(job)
        if round_ is None:
            plan = RoundPlan(
                job=job.id,
                job_plan=job.proposal.digest.hex(),
                round=job.next_round,
                base=base_of(self._house, job).hex(),
                deadlines=self._house.deadlines(job.plan.deadlines),
            )
            self._book.open_round(job, sign_round_plan(self._house.key, plan))
            round_ = self._reopen(job)
        self._open = round_
        self._changes.note("round_opened", job=job.id, round=job.next_round)
        for site, said in self._said.items():
            self._pass_on(site, said)
