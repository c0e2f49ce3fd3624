"""How rounds and jobs stand, for people: what `status`, a waiting client and the round line show."""

from __future__ import annotations

import math
from collections.abc import Sequence

from secfed import __version__
from secfed.identity.roster import Roster
from secfed.ids import ClientId
from secfed.rounds.exchange import JobState, MemberState, RoundState, StatusReply
from secfed.rounds.jobs import Ending, Job
from secfed.rounds.publish import epsilon_by_plan
from secfed.rounds.round import OpenRound

__all__ = ["awaited", "job_state", "remaining_s", "round_state", "status"]


def awaited(round_: OpenRound, now: float) -> str:
    """What the round waits for, in words."""
    live = round_.live
    head = f"job {round_.job.id} round {round_.proposal.plan.round}"
    if live is None:
        return f"{head}: {round_.awaited(now) or 'the next attempt'}"
    if live.session.ready:
        return f"{head}: the sum is being opened"
    names = ", ".join(live.session.waiting_for[:8])
    return f"{head}, attempt {live.number}, {live.session.phase.value}: waiting for {names}"


def remaining_s(round_: OpenRound, now: float) -> int:
    """Seconds until the deadline that is running."""
    ends = round_.deadline if round_.live is None else round_.live.deadline
    return max(0, math.ceil(ends - now))


def round_state(job: Job, ending: Ending) -> RoundState:
    """An ended round."""
    return RoundState(
        round=ending.round,
        attempt=ending.attempt,
        state="published" if ending.published else f"aborted: {ending.reason}",
        asked=ending.asked,
        included=ending.included,
        dropped=ending.dropped,
        lost=ending.lost,
        epsilon_by_plan=epsilon_by_plan(job.plan, ending.round),
        seconds=ending.seconds,
        result=ending.result.hex() if ending.published else "",
    )


def job_state(job: Job, round_: OpenRound | None, now: float) -> JobState:
    """A job; `round_` is its open round if it has one."""
    state = job.state
    if round_ is None and state == "running":
        state = "queued"
    live = None if round_ is None else round_.live
    phase = ("train" if live is None else live.session.phase.value) if round_ is not None else ""
    return JobState(
        job=job.id,
        kind=job.plan.kind,
        state=state,
        phase=phase,
        round=0 if round_ is None else round_.proposal.plan.round,
        rounds=job.plan.rounds,
        attempt=0 if round_ is None else round_.attempts,
        waiting_for=job.reason if round_ is None else awaited(round_, now),
        remaining_s=0 if round_ is None else remaining_s(round_, now),
        members=() if round_ is None else _members(round_, now),
        history=tuple(round_state(job, ending) for ending in job.endings[-256:]),
    )


def _members(round_: OpenRound, now: float) -> tuple[MemberState, ...]:
    live = round_.live
    pending = set() if live is None else set(live.session.waiting_for)
    cohort = set() if live is None else set(live.cohort)
    dropped = {} if live is None else {item.site: item.reason for item in live.session.dropped}
    lost = {} if live is None else {item.site: item.reason for item in live.session.lost}
    members = []
    for site, seat in sorted(round_.seats.items()):
        word, since = seat.state.value, seat.since
        if site in dropped:
            word = f"dropped: {dropped[site]}"
        elif site in lost:
            word = f"in the sum, lost after the freeze: {lost[site]}"
        elif live is not None and site in pending:
            word, since = f"{live.session.phase.value}: awaited", live.entered
        elif live is not None and site in cohort:
            word, since = f"{live.session.phase.value}: done", live.entered
        members.append(MemberState(site, word, max(0, int(now - since))))
    return tuple(members)


def status(roster: Roster, connected: Sequence[ClientId], jobs: Sequence[JobState]) -> StatusReply:
    """The federation."""
    return StatusReply(
        version=__version__,
        federation=roster.federation,
        roster_version=roster.version,
        connected=tuple(connected),
        jobs=tuple(sorted(jobs, key=lambda job: job.job)),
    )
