"""How a federation and its jobs stand, to bytes and back. For people: nothing here is decided upon."""

from __future__ import annotations

from collections.abc import Sequence

from secfed import limits
from secfed.ids import ClientId, JobId
from secfed.rounds.exchange import JobState, MemberState, RoundState, StatusReply
from secfed.wire import strict
from secfed.wire.pb import service_pb2 as pb

__all__ = [
    "decode_job_reply", "decode_status", "decode_status_request", "encode_job_reply", "encode_status",
    "encode_status_request",
]  # fmt: skip


def encode_status_request(job: JobId | None) -> bytes:
    """Body of GetStatus: one job, or None for all."""
    return strict.serialise(pb.StatusRequest(job=job or ""), limits.COMMAND_BYTES_MAX)


def decode_status_request(data: bytes) -> JobId | None:
    """The inverse of `encode_status_request`.

    Raises:
        PeerError: As every decoder: over its limit, malformed, unknown fields, wrong forms,
            unsorted lists, or not the message's one serialisation.
    """
    job = strict.parse(pb.StatusRequest, data, limits.COMMAND_BYTES_MAX).job
    return strict.job(job) if job else None


def encode_status(status: StatusReply) -> bytes:
    """Reply of GetStatus; a job's history is cut to its newest rounds that fit.

    Raises:
        ValueError: It is over 4 MiB even so.
    """
    message = pb.StatusReply(
        version=status.version,
        federation=status.federation,
        roster_version=status.roster_version,
        connected=status.connected,
        jobs=[_job_to(job, limits.HISTORY_BYTES_MAX // len(status.jobs)) for job in status.jobs],
    )
    return strict.serialise(message, limits.REPLY_BYTES_MAX)


def decode_status(data: bytes) -> StatusReply:
    """The inverse of `encode_status`."""
    message = strict.parse(pb.StatusReply, data, limits.REPLY_BYTES_MAX)
    strict.increasing([item.job for item in message.jobs], 0, limits.JOBS_MAX, "jobs")
    return StatusReply(
        version=strict.token(message.version, limits.VERSION_CHARS_MAX, "a version"),
        federation=strict.federation(message.federation),
        roster_version=message.roster_version,
        connected=strict.sites(message.connected, 0, limits.SITES_MAX, "connected sites"),
        jobs=tuple(map(_job_from, message.jobs)),
    )


def encode_job_reply(job: JobState) -> bytes:
    """Reply of StartJob and ControlJob: how the job stands after it."""
    message = pb.JobReply(job=_job_to(job, limits.HISTORY_BYTES_MAX))
    return strict.serialise(message, limits.REPLY_BYTES_MAX)


def decode_job_reply(data: bytes) -> JobState:
    """The inverse of `encode_job_reply`."""
    return _job_from(strict.parse(pb.JobReply, data, limits.REPLY_BYTES_MAX).job)


def _job_to(value: JobState, history_bytes: int) -> pb.JobState:
    return pb.JobState(
        job=value.job,
        kind=strict.clip(value.kind),
        state=strict.clip(value.state),
        phase=strict.clip(value.phase),
        round=value.round,
        rounds=value.rounds,
        attempt=value.attempt,
        waiting_for=strict.clip(value.waiting_for),
        remaining_s=value.remaining_s,
        members=map(_member_to, value.members),
        history=_newest(value.history[-limits.HISTORY_ROUNDS_MAX :], history_bytes),
    )


def _newest(rounds: Sequence[RoundState], most_bytes: int) -> list[pb.RoundState]:
    """The newest rounds that fit, oldest first: each names every site that was in it."""
    kept: list[pb.RoundState] = []
    for each in map(_round_to, reversed(rounds)):
        most_bytes -= each.ByteSize()
        if most_bytes < 0:
            break
        kept.append(each)
    return kept[::-1]


def _job_from(message: pb.JobState) -> JobState:
    strict.increasing([item.site for item in message.members], 0, limits.SITES_MAX, "members")
    strict.increasing([item.round for item in message.history], 0, limits.HISTORY_ROUNDS_MAX, "rounds")
    return JobState(
        job=strict.job(message.job),
        kind=strict.text(message.kind, "a job's kind"),
        state=strict.text(message.state, "a job's state"),
        phase=strict.text(message.phase, "a job's phase"),
        round=message.round,
        rounds=message.rounds,
        attempt=message.attempt,
        waiting_for=strict.text(message.waiting_for, "what is awaited"),
        remaining_s=message.remaining_s,
        members=tuple(map(_member_from, message.members)),
        history=tuple(map(_round_from, message.history)),
    )


def _member_to(value: MemberState) -> pb.MemberState:
    return pb.MemberState(site=value.site, state=strict.clip(value.state), since_s=value.since_s)


def _member_from(message: pb.MemberState) -> MemberState:
    return MemberState(
        strict.site(message.site), strict.text(message.state, "a member's state"), message.since_s
    )


def _round_to(value: RoundState) -> pb.RoundState:
    return pb.RoundState(
        round=value.round,
        attempt=value.attempt,
        state=strict.clip(value.state),
        asked=value.asked,
        included=value.included,
        dropped=_left_to(value.dropped),
        lost=_left_to(value.lost),
        epsilon_by_plan=value.epsilon_by_plan,
        seconds=value.seconds,
        result=strict.clip(value.result),
    )


def _round_from(message: pb.RoundState) -> RoundState:
    return RoundState(
        round=message.round,
        attempt=message.attempt,
        state=strict.text(message.state, "a round's state"),
        asked=message.asked,
        included=strict.sites(message.included, 0, limits.COHORT_MAX, "included sites"),
        dropped=_left_from(message.dropped, limits.SITES_MAX, "dropped sites"),
        lost=_left_from(message.lost, limits.COHORT_MAX, "lost sites"),
        epsilon_by_plan=strict.decimal(message.epsilon_by_plan, "an epsilon"),
        seconds=message.seconds,
        result=strict.text(message.result, "a round's result"),
    )


def _left_to(sites: tuple[tuple[ClientId, str], ...]) -> list[pb.Left]:
    return [pb.Left(site=site, reason=strict.clip(reason)) for site, reason in sites]


def _left_from(messages: Sequence[pb.Left], most: int, what: str) -> tuple[tuple[ClientId, str], ...]:
    strict.increasing([item.site for item in messages], 0, most, what)
    return tuple((strict.site(item.site), strict.text(item.reason, "a reason")) for item in messages)
