"""What a site reads while its client runs: one line a round, and what is awaited until when."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from secfed.ids import ClientId, JobId
    from secfed.privacy.book import LedgerState
    from secfed.rounds.client import RoundEnd
    from secfed.rounds.conversation import Awaited

__all__ = ["Lines", "Teller", "epsilon_words", "round_words"]

QUIET_S = 5.0
"""Off a terminal, progress is at most one line in so many seconds."""

UNTIL_TOLD = ", until that changes or this client is stopped"
"""The end of a wait that nobody gave a time, such as for an admin."""


def round_words(end: RoundEnd, cost: str) -> str:
    """Such as `round 12/50  included  eps 1.840 of 8.000 (gate leaves 3.295)  41 s`."""
    how = "included" if end.included else f"not included ({end.reason})"
    return f"round {end.round}/{end.rounds}  {how}  {cost}  {end.seconds} s"


def epsilon_words(state: LedgerState) -> str:
    """What the ledger's data set has spent, of how much, and what the gate leaves; private to the site.

    The gate counts more than was spent, so what it leaves is no difference of the two figures.
    """
    from secfed.privacy import accountant
    from secfed.privacy.budget import remaining

    budget = state.opening.budget
    if budget is None:
        return "not private"
    spent = accountant.epsilon(state.spent, float(budget.delta)).epsilon
    figure = "infinite" if math.isinf(spent) else f"{spent:.3f}"
    return f"eps {figure} of {float(budget.epsilon):.3f} (gate leaves {remaining(state):.3f})"


class Lines:
    """Prints to stdout; waits and progress only when they changed and not too often."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._last, self._printed_at = "", -math.inf
        self._drawn = False

    def say(self, line: str) -> None:
        """A line that must be seen."""
        self._clear()
        typer.echo(line)

    def awaited(self, fact: Awaited) -> None:
        """What is waited for, and until when."""
        until = f", for {fact.remaining_s} s at most" if fact.remaining_s else UNTIL_TOLD
        self._passing(f"waiting: {fact.what}", until)

    def step(self, done: int, steps: int) -> None:
        """Training goes on."""
        self._passing(f"training: step {done}/{steps}", "")

    def retry(self, failure: Exception) -> None:
        """The aggregator is away."""
        self._passing(f"trying again: {failure}", "")

    def _passing(self, line: str, changing: str) -> None:
        """Redrawn in place on a terminal; elsewhere a line of its own when it says something new."""
        now = time.monotonic()
        if self._terminal:
            typer.echo(f"\r\x1b[2K{line}{changing}", nl=False)
            self._drawn = True
        elif line != self._last and now - self._printed_at >= QUIET_S:
            typer.echo(line + changing)
            self._last, self._printed_at = line, now

    def _clear(self) -> None:
        if self._drawn:
            typer.echo("\r\x1b[2K", nl=False)
            self._drawn = False


class Teller:
    """Hands what happens in rounds to the log, and what a person should know to the terminal.

    Args:
        ends: A refusal ends this process, whose last words give the cause: the log at its usual level does
            not say it a second time.
    """

    def __init__(self, lines: Lines, *, ends: bool = False) -> None:
        import structlog

        self._lines, self._ends, self._log = lines, ends, structlog.get_logger("client")

    def note(
        self, event: str, *, job: JobId | None = None, site: ClientId | None = None, **facts: object
    ) -> None:
        """One fact."""
        named = {name: value for name, value in (("job", job), ("site", site)) if value is not None}
        if event == "declined" and self._ends:
            self._log.debug(event, **named, **facts)
        elif event in ("declined", "refused", "charged_again"):
            self._log.warning(event, **named, **facts)
        else:
            self._log.info(event, **named, **facts)
        if event == "accepted":
            self._lines.say(_accepted_words(job, **facts))


def _accepted_words(
    job: JobId | None,
    *,
    rounds: object,
    epsilon_by_plan: object,
    rounds_within_budget: object,
    declared: object,
) -> str:
    """What a job will cost, before it starts."""
    count = f"{rounds} {'round' if rounds == 1 else 'rounds'}"
    if epsilon_by_plan == "infinite":
        return f"job {job}  accepted  {count}, not private"
    source = "as declared" if declared else "by plan"
    verb = "costs" if rounds == 1 else "cost"
    cost = f"job {job}  accepted  {count} {verb} epsilon {epsilon_by_plan} {source}"
    if rounds_within_budget == rounds:
        return cost
    return f"{cost}  the budget ends after round {rounds_within_budget}"
