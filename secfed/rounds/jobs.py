"""The aggregator's book of jobs: everything durable as write-once facts, every state derived from them.

A job's plan, the commands given to it, each round's plan and each round's end are facts; whether
a job runs, is paused or done follows from them, so a crash at any point leaves nothing to
repair. Facts about attempts are `secagg.record`'s, in the same store.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from secfed.errors import ConfigError, LedgerError, StorageError
from secfed.identity import signed
from secfed.identity.signed import Signed
from secfed.ids import NO_DIGEST, ClientId, Digest, JobId
from secfed.rounds.plan import JobPlan, RoundPlan, job_plan_digest, round_plan_digest
from secfed.rounds.proposal import JobProposal, RoundProposal
from secfed.secagg.record import Decisions

__all__ = ["Command", "Ending", "Job", "JobBook"]

_OVER = ("done", "failed", "stopped")

JobState = str
"""`queued` or `running` (the aggregator says which), `paused`, `done`, `stopped`, `failed`."""


@dataclass(frozen=True, slots=True)
class Command:
    """Something an admin, or the aggregator itself, told a job."""

    verb: str
    by: ClientId
    reason: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How a round ended, with the signed statement that all members are shown.

    Attributes:
        attempt: Number of the attempt that ended it.
        h: That attempt's digest.
        statement: The signed `Outcome`.
        included: Sites in the sum, sorted.
        dropped: Every other site that was asked, with the reason, sorted.
        lost: Sites in the sum that went away after the survivor list was frozen, with the reason, sorted.
        sum: Digest of the opened ring sum; zero like the next two where nothing was published.
        transcript: What the next manifest names as its predecessor.
        result: Digest of the new adapter, or of the sum's file.
        weight_sum: The sum of the weights.
        saturated: Coordinates that were clamped to the bound, in all.
        asked: How many sites the round was offered to.
        reason: Why nothing was published; empty where something was.
    """

    round: int
    attempt: int
    h: Digest
    statement: Signed
    published: bool
    included: tuple[ClientId, ...]
    dropped: tuple[tuple[ClientId, str], ...]
    lost: tuple[tuple[ClientId, str], ...]
    sum: Digest
    transcript: Digest
    result: Digest
    weight_sum: int
    saturated: int
    asked: int
    seconds: int
    reason: str


@dataclass(slots=True)
class Job:
    """A job and all that happened to it, oldest first.

    Attributes:
        last_published: The newest round with a result.
        published: How many rounds have one.
    """

    proposal: JobProposal
    commands: list[Command] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    last_published: Ending | None = field(init=False, default=None)
    published: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        earlier, self.endings = self.endings, []
        for ending in earlier:
            self.add(ending)

    def add(self, ending: Ending) -> None:
        """One more round is over."""
        self.endings.append(ending)
        if ending.published:
            self.last_published = ending
            self.published += 1

    @property
    def id(self) -> JobId:
        """The job's name."""
        return self.proposal.job

    @property
    def plan(self) -> JobPlan:
        """What its admin signed."""
        return self.proposal.plan

    @property
    def next_round(self) -> int:
        """Number of the round that is open or comes next; a number is never used twice."""
        return len(self.endings) + 1

    @property
    def state(self) -> JobState:
        """Where the job stands; `running` if nothing keeps it from going on."""
        if self.commands and self.commands[-1].verb == "stop":
            return "stopped"
        if self.published >= self.plan.rounds:
            return "done"
        if self.next_round > self.plan.rounds + self.plan.spare_rounds:
            return "failed"
        if self.commands and self.commands[-1].verb == "pause":
            return "paused"
        return "running"

    @property
    def reason(self) -> str:
        """Why it does not run, in words."""
        match self.state:
            case "paused" | "stopped":
                return self.commands[-1].reason
            case "failed":
                return f"round {len(self.endings)} was aborted, and no spare round is left"
            case _:
                return ""


class JobBook:
    """All jobs of one aggregator, by name, in the order in which they were started.

    Args:
        decisions: Where the facts lie. They are read once, here.

    Raises:
        StorageError: A fact cannot be read.
    """

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self._heads: dict[str, tuple[int, Digest]] = {}
        self._jobs: dict[JobId, Job] = {}
        for _, text in decisions.scan("job/"):
            proposal = _stored_job(text)
            job = proposal.job
            self._jobs[job] = Job(
                proposal,
                [_command_from(value) for _, value in decisions.scan(f"command/{job}/")],
                [_ending_from(value) for _, value in decisions.scan(f"ending/{job}/")],
            )

    @property
    def jobs(self) -> Mapping[JobId, Job]:
        """All jobs, oldest first."""
        return self._jobs

    def find(self, job: JobId) -> Job:
        """One job.

        Raises:
            ConfigError: There is none of that name.
        """
        try:
            return self._jobs[job]
        except KeyError:
            raise ConfigError(f"there is no job {job}", hint="`secfed job list` shows all jobs.") from None

    def start(self, proposal: JobProposal) -> Job:
        """Enter a job; the same plan again finds the job as it stands.

        Raises:
            ConfigError: Another plan has this name.
        """
        known = self._jobs.get(proposal.job)
        if known is not None:
            if known.proposal.digest != proposal.digest:
                raise ConfigError(
                    f"a job named {proposal.job} exists already, with another plan",
                    hint="Give the new job another name: a job's plan never changes.",
                )
            return known
        self._decisions.put(f"job/{len(self._jobs):08}", proposal.text)
        job = self._jobs[proposal.job] = Job(proposal)
        return job

    def going(self) -> list[Job]:
        """The jobs that are not over, in the order of their start."""
        return [job for job in self._jobs.values() if job.state not in _OVER]

    def newest(self, most: int) -> list[Job]:
        """At most so many: those that are not over, and then the last of the others."""
        going = self.going()[:most]
        over = [job for job in self._jobs.values() if job.state in _OVER]
        return going + over[max(0, len(over) + len(going) - most) :]

    def command(self, job: Job, verb: str, *, by: ClientId, reason: str) -> None:
        """Pause, resume or stop; what changes nothing is not written."""
        if (verb, job.state) in {("pause", "paused"), ("resume", "running"), ("stop", "stopped")}:
            return
        if job.state in _OVER:
            raise ConfigError(f"job {job.id} is {job.state}", hint="Start a new job under another name.")
        command = Command(verb, by, reason)
        self._decisions.put(
            f"command/{job.id}/{len(job.commands):08}", _to_json(verb=verb, by=by, reason=reason)
        )
        job.commands.append(command)

    # -- rounds --------------------------------------------------------------------------------

    def round_plan(self, job: Job, number: int) -> RoundProposal | None:
        """The signed plan of a round that was opened before, or None."""
        text = self._decisions.get(_round_key("plan", job.id, number))
        return None if text is None else _stored_round(text)

    def open_round(self, job: Job, proposal: RoundProposal) -> None:
        """Make a round's plan durable before anybody sees it."""
        self._decisions.put(_round_key("plan", job.id, proposal.plan.round), proposal.text)

    def close_round(self, job: Job, ending: Ending) -> None:
        """Make a round's end durable before it is announced."""
        if ending.round != job.next_round:
            raise ValueError(f"round {ending.round} ends, where {job.next_round} was open")
        self._decisions.put(_round_key("ending", job.id, ending.round), _ending_to(ending))
        job.add(ending)

    def folder_written(self, job: Job, number: int) -> None:
        """A published round's folder stands; it is not written again, even if somebody moves it away."""
        self._decisions.put(_round_key("folder", job.id, number), b"")

    def folders(self) -> set[tuple[JobId, int]]:
        """Job and round of every folder that was written."""
        keys = (key.split("/") for key, _ in self._decisions.scan("folder/"))
        return {(JobId(job), int(number)) for _, job, number in keys}

    def countersigned(self, ending: Ending, site: ClientId, statement: Signed) -> None:
        """Keep a member's signature, the first if it sends more, under what it was shown of a round's end.

        One key can sign the same text in many ways, so a second signature is no contradiction.
        """
        key = f"countersign/{ending.h.hex()}/{site}"
        if self._decisions.get(key) is None:
            value = _to_json(statement=_text(statement.statement), signature=_text(statement.signature))
            self._decisions.put(key, value)

    # -- what else outlives a restart ----------------------------------------------------------

    def keep_roster(self, digest: Digest, text: bytes) -> None:
        """Keep the roster under which an attempt is opened, to finish it under the same one."""
        self._decisions.put(f"kept-roster/{digest.hex()}", text)

    def kept_roster(self, digest: Digest) -> bytes:
        """A roster's text.

        Raises:
            StorageError: It was never kept.
        """
        text = self._decisions.get(f"kept-roster/{digest.hex()}")
        if text is None:
            raise StorageError("the roster of an attempt under way is missing")
        return text

    def serves_with(self, site: ClientId, key: bytes, state: Digest) -> bool:
        """Keep the first state that a site's identity key serves with; whether it is this one.

        A key of which no state is kept serves without one too: zero names none, and is not kept.
        """
        where = f"state/{site}/{key.hex()}"
        known = self._decisions.get(where)
        if known is None and state != NO_DIGEST:
            self._decisions.put(where, state)
        return known in (None, state)

    def ledger_head(self, job: Job, site: ClientId, entries: int, head: Digest) -> None:
        """Keep a site's ledger head, and refuse one that is behind or beside what was seen.

        A private job is charged to the site's data set, whose one ledger spans all such jobs. A job without
        a bound may go by that ledger or by a scratch ledger, as the site says, but not by both in turn.
        The first head of each round is durable, later ones are remembered until a restart: what a site
        invents costs this store one row a round.

        Raises:
            LedgerError: The ledger was rolled back or replaced.
        """
        ledger = f"ledger/{site}/job/{job.id}/" if job.plan.dp is None else f"ledger/{site}/data-set/"
        newest = self._heads.get(ledger)
        if newest is None:
            newest = max((_head_from(value) for _, value in self._decisions.scan(ledger)), default=None)
        last = 0 if newest is None else newest[0]
        if entries < last or (newest is not None and entries == last and head != newest[1]):
            raise LedgerError(
                f"the ledger of {site} has {entries} entries and is not the one seen before with {last}",
                hint="A ledger was restored from a copy or replaced: bring back the current one.",
            )
        key = f"{ledger}{job.id}/{job.next_round:08}"
        if (entries, head) != newest and self._decisions.get(key) is None:
            self._decisions.put(key, entries.to_bytes(_COUNT_BYTES) + head)
        self._heads[ledger] = (entries, head)


# -- facts to bytes and back -------------------------------------------------------------------


_COUNT_BYTES = 8
"""Of a ledger's number of entries, before its head."""


def _head_from(value: bytes) -> tuple[int, Digest]:
    if len(value) != _COUNT_BYTES + len(NO_DIGEST):
        raise StorageError("the record of a ledger's head is damaged")
    return int.from_bytes(value[:_COUNT_BYTES]), Digest(value[_COUNT_BYTES:])


def _round_key(kind: str, job: JobId, number: int) -> str:
    return f"{kind}/{job}/{number:08}"


def _stored_job(text: bytes) -> JobProposal:
    """A plan that was verified before it was stored."""
    statement = signed.unverified_text(text, what="a stored job plan", error=StorageError)
    return JobProposal(JobPlan.model_validate_json(statement), text, job_plan_digest(statement))


def _stored_round(text: bytes) -> RoundProposal:
    statement = signed.unverified_text(text, what="a stored round plan", error=StorageError)
    return RoundProposal(RoundPlan.model_validate_json(statement), text, round_plan_digest(statement))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _to_json(**fields: Any) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _command_from(value: bytes) -> Command:
    fields = json.loads(value)
    return Command(fields["verb"], ClientId(fields["by"]), fields["reason"])


def _ending_to(ending: Ending) -> bytes:
    return _to_json(
        round=ending.round,
        attempt=ending.attempt,
        h=ending.h.hex(),
        statement=_text(ending.statement.statement),
        signature=_text(ending.statement.signature),
        published=ending.published,
        included=ending.included,
        dropped=ending.dropped,
        lost=ending.lost,
        sum=ending.sum.hex(),
        transcript=ending.transcript.hex(),
        result=ending.result.hex(),
        weight_sum=ending.weight_sum,
        saturated=ending.saturated,
        asked=ending.asked,
        seconds=ending.seconds,
        reason=ending.reason,
    )


def _ending_from(value: bytes) -> Ending:
    """The inverse of `_ending_to`."""
    try:
        fields = json.loads(value)
        return Ending(
            round=fields["round"],
            attempt=fields["attempt"],
            h=_digest(fields["h"]),
            statement=Signed(base64.b64decode(fields["statement"]), base64.b64decode(fields["signature"])),
            published=fields["published"],
            included=tuple(map(ClientId, fields["included"])),
            dropped=tuple((ClientId(site), reason) for site, reason in fields["dropped"]),
            lost=tuple((ClientId(site), reason) for site, reason in fields["lost"]),
            sum=_digest(fields["sum"]),
            transcript=_digest(fields["transcript"]),
            result=_digest(fields["result"]),
            weight_sum=fields["weight_sum"],
            saturated=fields["saturated"],
            asked=fields["asked"],
            seconds=fields["seconds"],
            reason=fields["reason"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError("the record of an ended round is damaged") from error


def _digest(text: str) -> Digest:
    data = bytes.fromhex(text)
    if len(data) != len(NO_DIGEST):
        raise ValueError("not a digest")
    return Digest(data)
