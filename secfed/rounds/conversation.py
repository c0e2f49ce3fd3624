"""The loop around a client: say, be told, hear, say again; what happened comes out as facts.

Nothing here decides. A refusal by either side ends an attempt or a round for this site and not the
conversation; what should end the process (the way is gone for good, the disk fails, this site is not
allowed) is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from secfed.errors import (
    BudgetExceededError,
    NetworkError,
    PeerError,
    PolicyRefusedError,
    RoundAbortedError,
    SecfedError,
    StorageError,
)
from secfed.ids import JobId
from secfed.rounds.client import ClientRounds, RoundEnd, Upload
from secfed.rounds.exchange import Declined, Said, Told, Wait
from secfed.rounds.ports import Link

__all__ = ["Awaited", "DeclinedRound", "Fact", "Setback", "take_part"]

PAUSE_FIRST_S, PAUSE_MOST_S = 1.0, 30.0
"""Pauses after a setback, doubling: a peer that errs every time must not keep this site busy."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """Nothing to do here now: what is awaited, and for how long at most."""

    what: str
    remaining_s: int


@dataclass(frozen=True, slots=True)
class DeclinedRound:
    """This site stays out of the offered round, and why; the reason stays here.

    A decision, by policy or budget, is a fact once it was said, so that whoever ends on it leaves nobody
    waiting. Anything else can be mended: whoever ends on it has said nothing, and is asked again.
    """

    reason: SecfedError
    job: JobId


@dataclass(frozen=True, slots=True)
class Setback:
    """One side refused what the other said; the conversation goes on after a pause."""

    reason: SecfedError


Fact = Awaited | DeclinedRound | RoundEnd | Setback


def take_part(rounds: ClientRounds, link: Link, sleep: Callable[[float], None]) -> Iterator[Fact]:
    """Take part in rounds, for as long as the caller asks for the next fact.

    Args:
        sleep: Waits for so many seconds.

    Raises:
        NetworkError: The aggregator stayed away beyond the link's patience.
        RosterError: This site is not allowed there.
        StorageError: A decision, charge or contribution cannot be made durable.
    """
    saying: Said | Upload = rounds.standing
    pause = PAUSE_FIRST_S
    due: RoundEnd | DeclinedRound | None = None
    while True:
        told = _say(link, saying)
        if due is not None:  # the countersignature or the refusal has left, or cannot
            yield due
        setback: SecfedError | None
        if isinstance(told, SecfedError):
            setback = _bearable(told, PeerError, RoundAbortedError)
        else:
            saying, setback = _hear(rounds, told)
        due = rounds.ended if setback is None else None
        if setback is not None:
            yield Setback(setback)
            sleep(pause)
            pause = min(2 * pause, PAUSE_MOST_S)
            saying = rounds.standing
            continue
        pause = PAUSE_FIRST_S
        match saying, rounds.refusal:
            case Declined(job), BudgetExceededError() | PolicyRefusedError() as decision:
                due = DeclinedRound(decision, job)
            case Declined(job), SecfedError() as reason:
                yield DeclinedRound(reason, job)
            case _ if isinstance(told, Wait):
                yield Awaited(told.what, told.remaining_s)


def _say(link: Link, saying: Said | Upload) -> Told | SecfedError:
    """What was told; or the error, once what is due has been said."""
    try:
        if isinstance(saying, Upload):
            return link.upload(saying.attempt, saying.statement, saying.packed)
        return link.exchange(saying)
    except SecfedError as problem:
        return problem


def _hear(rounds: ClientRounds, told: Told) -> tuple[Said | Upload, SecfedError | None]:
    """What to say next; an offer that nobody here can believe is a setback, not the end."""
    try:
        return rounds.hear(told), None
    except (NetworkError, StorageError):
        raise
    except SecfedError as problem:
        return rounds.standing, problem


def _bearable(problem: SecfedError, *kinds: type[SecfedError]) -> SecfedError:
    """The problem, if the conversation goes on after it; raised otherwise."""
    if isinstance(problem, kinds):
        return problem
    raise problem
