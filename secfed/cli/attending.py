"""The loop behind `client run` and `client push`: what happens is said, and when it is over is decided here.

Without a job's name a client stays as long as some job may still want it. It ends with a refusal
by its budget or its policy only once no other job is left: nobody should look for a site's
training in a process that has nothing more to do. With a name it may be started before the job is.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secfed.cli.site_lines import Lines, epsilon_words, round_words
from secfed.cli.typed_event import DECLARED
from secfed.errors import (
    BudgetExceededError,
    ConfigError,
    PeerError,
    PolicyRefusedError,
    RoundAbortedError,
    SecfedError,
)
from secfed.ids import NO_DIGEST, JobId, RoundId
from secfed.privacy.events import declared
from secfed.rounds.client import RoundEnd
from secfed.rounds.conversation import Awaited, DeclinedRound, Setback, take_part
from secfed.rounds.exchange import Ask, JobState, Ready
from secfed.secagg.messages import OutcomeNotice

if TYPE_CHECKING:
    from secfed.cli.build_client import Client

__all__ = ["attend"]

_OVER = ("done", "stopped", "failed")

_KEPT_S, _LOOK_S = 30.0, 1.0
"""An aggregator keeps a call that has nothing to tell for less than the first, seconds; in the last stretch
of a wait the jobs are looked at every second instead."""


def attend(client: Client, lines: Lines, *, only: JobId | None, one_round: bool, job_wait_s: float) -> None:
    """Take part until what was asked for is done; else until no job is left, or for ever.

    Args:
        only: The one job to take part in, to its end.
        one_round: Take part in one round alone, of that job or of any.
        job_wait_s: How long that job, or with `one_round` some job, may take to be started.

    Raises:
        BudgetExceededError, PolicyRefusedError: This site stays out, and there is nothing else for it to do.
        ConfigError: The one job, or any, was not started in time; or it was over before its one round.
        RoundAbortedError: The one job failed, or the one round ended without this site.
        SecfedError: See `take_part`.
    """
    included = {leftover.job for leftover in client.rounds.leftovers if _bury(client, lines, leftover)}
    wanted = None
    if only is not None or one_round:
        wanted = _Wanted(client, lines, only, time.monotonic() + job_wait_s)
    if wanted is not None:
        wanted.look_ahead()
    refusals: dict[JobId, SecfedError] = {}
    for fact in take_part(client.rounds, client.link, time.sleep):
        match fact:
            case DeclinedRound(reason, job):
                if one_round or only is not None:
                    raise reason
                lines.say(f"declined: {reason}")
                if isinstance(reason, BudgetExceededError | PolicyRefusedError):
                    refusals[job] = reason
            case RoundEnd():
                lines.say(_round_line(client, fact))
                if one_round and not fact.included:
                    raise RoundAbortedError(f"round {fact.round} of {fact.job}: {fact.reason}")
                if one_round:
                    return
            case Setback(reason):
                lines.say(f"setback: {reason}")
            case Awaited() if wanted is None or wanted.there:
                lines.awaited(fact)
        if isinstance(fact, Setback):
            continue
        if wanted is not None and wanted.is_over():
            if one_round and only not in included:
                raise ConfigError(
                    f"job {only} came to its end without this vector",
                    hint="`secfed job list` shows which jobs can still take one.",
                )
            return
        if refusals and not _anything_left(client, refusals):
            raise list(refusals.values())[-1]


def _bury(client: Client, lines: Lines, leftover: RoundId) -> bool:
    """Hear the end of a round that closed while this client was away; its contribution is deleted then.

    Returns:
        Whether its vector is known to be in the round's sum.
    """
    try:
        jobs = client.link.status(leftover.job).jobs
        job = next((each for each in jobs if each.job == leftover.job), None)
        if job is None or leftover.round not in {each.round for each in job.history}:
            return False
        told = client.link.exchange(Ready(leftover.job, leftover.round, NO_DIGEST))
        if not (isinstance(told, Ask) and isinstance(told.request, OutcomeNotice)):
            return False
        included = client.rounds.bury(leftover, told.request)
    except (PeerError, ConfigError) as problem:  # such as a job that this aggregator does not know
        lines.say(f"setback: the end of round {leftover} cannot be heard: {problem}")
        return False
    how = "included" if included else "not included"
    lines.say(
        f"round {leftover.round}/{job.rounds}  of job {leftover.job} ended in this client's absence: {how}"
    )
    return included


def _anything_left(client: Client, refusals: dict[JobId, SecfedError]) -> bool:
    """Whether some job that this site did not refuse is not over."""
    jobs = client.link.status().jobs
    return any(job.state not in _OVER and job.job not in refusals for job in jobs)


@dataclass(slots=True)
class _Wanted:
    """The one job that a client is for.

    Attributes:
        job: Its name; None for any that is not over.
        there: It was started.
    """

    client: Client
    lines: Lines
    job: JobId | None
    until: float
    there: bool = False

    def look_ahead(self) -> None:
        """If it was not started yet, use the time to load what it may need."""
        if self._find() is None:
            self._wait()
        if not self.there:
            self.client.prepare()

    def is_over(self) -> bool:
        """Whether it came to its end."""
        state = self._find()
        if state is None:
            self._wait()
            return False
        if self.job is None:
            return False
        if state.state == "failed":
            raise RoundAbortedError(f"job {self.job} failed: {state.waiting_for}")
        if state.state in _OVER:
            self.lines.say(f"job {self.job} is {state.state}")
            return True
        return False

    def _find(self) -> JobState | None:
        known = self.client.link.status(self.job if self.there else None).jobs
        if self.job is None:
            found = next((state for state in known if state.state not in _OVER), None)
        else:
            found = next((state for state in known if state.job == self.job), None)
        self.there = found is not None
        return found

    def _wait(self) -> None:
        """Say what is awaited; near the end look often, since a call may be kept beyond it."""
        left = self.until - time.monotonic()
        what = "no job is started yet" if self.job is None else f"job {self.job}, which is not started yet"
        self.lines.awaited(Awaited(what, max(1, math.ceil(left))))
        while left < _KEPT_S and self._find() is None:
            if left <= 0:
                named = "no job that is not over" if self.job is None else f"no job {self.job}"
                raise ConfigError(
                    f"there is {named}, and none was started in time",
                    hint="`secfed job list` shows all jobs; `--wait SECONDS` gives its admin more time.",
                )
            time.sleep(min(_LOOK_S, left))
            left = self.until - time.monotonic()


def _round_line(client: Client, end: RoundEnd) -> str:
    state = client.ledgers.last_used.state
    said = sum(map(declared, state.spent))
    note = f", {said} of {len(state.spent)} charges {DECLARED}" if said else ""
    return round_words(end, epsilon_words(state) + note)
