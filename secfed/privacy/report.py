"""The account of one or several ledgers: what each round spent, what is left, and what that means.

Worked out from verified ledgers alone. `to_json` and `report_text.to_text` show the same numbers;
a figure that is infinite is null in JSON and "not private" in text. Several ledgers stand side by
side, and the federation's figure is their largest: it holds for whoever's data lie at one site only.

Source: NIST SP 800-226 (what a reader of a differential-privacy claim must be told).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from secfed.errors import LedgerError
from secfed.ids import ClientId, JobId
from secfed.privacy import accountant, events
from secfed.privacy.accountant import Figure, finite, round_down, round_up
from secfed.privacy.book import Charge, LedgerState
from secfed.privacy.budget import open_meter
from secfed.privacy.entries import Opening
from secfed.privacy.events import Event, Gaussian, PoissonGaussian
from secfed.privacy.ledger import Verdict

__all__ = [
    "CURVE_DELTAS",
    "SCHEMA",
    "Chain",
    "JobLine",
    "Report",
    "RoundLine",
    "SiteReport",
    "build",
    "guess_bound",
    "to_json",
]

SCHEMA = 1
"""Version of the JSON; a field is never given another meaning under one number."""

CURVE_DELTAS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
"""Deltas at which the same events are also accounted."""


@dataclass(frozen=True, slots=True)
class RoundLine:
    """One charge.

    Attributes:
        q: Sampling rate; 1 for a release over all the data. noise_multiplier, steps: As in the event; all
            three None for a release that was not private.
        state: `reserved` (counts, nothing left yet), `sent` (counts) or `void` (does not count).
        attempts: How often its contribution went out under fresh masks, at no further charge.
        epsilon_round: Of this charge alone, by PLD. epsilon_so_far: Of all up to here.
        exact: False where a bound from above stands for the PLD figure in `epsilon_so_far`.
        filter_so_far: What the gate counts. remaining: What it leaves of the cap, rounded down.
    """

    job: JobId
    round: int
    at: str
    event: Event
    q: float | None
    noise_multiplier: str | None
    steps: int | None
    state: str
    attempts: int
    epsilon_round: float
    epsilon_so_far: float
    exact: bool
    filter_so_far: float
    remaining: float | None


@dataclass(frozen=True, slots=True)
class JobLine:
    """All charges of one job, and their epsilon by PLD."""

    job: JobId
    charges: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class Chain:
    """Verdict on the ledger's file; see `ledger.Verdict`."""

    sound: bool
    fault: str | None
    entries: int
    head: str
    torn_bytes: int
    compared: bool


@dataclass(frozen=True, slots=True)
class SiteReport:
    """One ledger's account.

    Attributes:
        epsilon: Spent in all; infinite as soon as one release was not private.
        figure: The same with its accountant and cross-checks; None without a budget, which gives no delta.
        filter_spent: What the gate counts: holds however later plans were chosen.
        remaining: Of the cap by the filter, rounded down; None without a budget.
        one_plan: All that counts came from one job and one event. A ledger does not know whether these were
            the plan's whole number of rounds, and where a plan was chosen or stopped after results were
            seen, only `filter_spent` is a claim.
        chance: `guess_bound` of `filter_spent`, which holds in any case, rounded up to a tenth of a percent;
            None without a finite figure.
        curve: (delta, epsilon) of the same events at other deltas, as `epsilon` is: spent, by fixed plans.
    """

    opening: Opening
    chain: Chain
    epsilon: float
    figure: Figure | None
    filter_spent: float
    remaining: float | None
    one_plan: bool
    chance: float | None
    curve: tuple[tuple[float, float], ...]
    jobs: tuple[JobLine, ...]
    rounds: tuple[RoundLine, ...]

    @property
    def site(self) -> ClientId:
        """Whose ledger it is."""
        return self.opening.site


@dataclass(frozen=True, slots=True)
class Report:
    """Several ledgers side by side.

    Attributes:
        epsilon: The largest of the sites. filter_spent: The same by the filter.
        delta: The largest of the sites', None if none has one.
        recompute: The command that gives this report again.
    """

    created: str
    epsilon: float
    filter_spent: float
    delta: float | None
    sites: tuple[SiteReport, ...]
    recompute: str


def build(verdicts: Sequence[Verdict], *, now: datetime, recompute: str) -> Report:
    """Work out the account of verified ledgers; a damaged one is reported as far as it is sound.

    Args:
        verdicts: Of different ledgers, at least one.
        now: When the report is made.
        recompute: The command line that makes it again.

    Raises:
        LedgerError: Not even the opening of a ledger can be read, one was given twice, or the accountant
            refuses.
    """
    sites = tuple(_site(verdict) for verdict in verdicts)
    if not sites or len({site.opening.ledger for site in sites}) != len(sites):
        raise LedgerError("a report takes at least one ledger, and each of them once")
    deltas = [site.figure.delta for site in sites if site.figure is not None]
    return Report(
        created=now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        epsilon=max(site.epsilon for site in sites),
        filter_spent=max(site.filter_spent for site in sites),
        delta=max(deltas, default=None),
        sites=sites,
        recompute=recompute,
    )


def guess_bound(epsilon: float, delta: float) -> float:
    """Largest chance to tell by any means whether one unit took part, where blind guessing has one half.

    Source: Kairouz, Oh, Viswanath 2015, arXiv:1311.0776 (hypothesis testing region).
    """
    if math.isinf(epsilon):
        return 1.0
    return min(1.0, (1 + delta * math.exp(-epsilon)) / (1 + math.exp(-epsilon)))


def to_json(report: Report) -> dict[str, object]:
    """The report as a JSON object of version `SCHEMA`."""
    return {
        "schema": SCHEMA,
        "created": report.created,
        "epsilon": finite(report.epsilon),
        "filter_spent": finite(report.filter_spent),
        "private": not math.isinf(report.epsilon),
        "delta": report.delta,
        "sites": [_site_json(site) for site in report.sites],
        "recompute": report.recompute,
    }


def _site(verdict: Verdict) -> SiteReport:
    state = verdict.state
    if state is None:
        raise LedgerError(f"{verdict.path}: {verdict.fault}")
    budget = state.opening.budget
    chain = Chain(
        sound=verdict.fault is None,
        fault=verdict.fault,
        entries=verdict.head.count,
        head=verdict.head.digest.hex(),
        torn_bytes=verdict.torn_bytes,
        compared=verdict.compared,
    )
    if budget is None:
        return _scratch(state, chain)
    delta, cap, spent = float(budget.delta), float(budget.epsilon), state.spent
    figure = accountant.epsilon(spent, delta)
    meter = open_meter(state.opening)
    running = iter(accountant.running(spent, delta))
    alone = {event: accountant.epsilon([event], delta).epsilon for event in set(spent)}
    so_far, exact, lines = 0.0, True, []
    for charge in state.charges:
        event, counts = charge.reserved.event, charge.voided is None
        if counts:
            meter.add(event)
            point = next(running)
            so_far, exact = point.epsilon, point.exact
        lines.append(
            _line(
                charge,
                epsilon_round=alone[event] if counts else 0.0,
                epsilon_so_far=so_far,
                exact=exact,
                filter_so_far=round_up(meter.epsilon),
                remaining=_remaining(cap, meter.epsilon),
            )
        )
    return SiteReport(
        opening=state.opening,
        chain=chain,
        epsilon=figure.epsilon,
        figure=figure,
        filter_spent=round_up(meter.epsilon),
        remaining=_remaining(cap, meter.epsilon),
        one_plan=_one_plan(state),
        chance=_chance(round_up(meter.epsilon), delta),
        curve=tuple(zip(CURVE_DELTAS, accountant.curve(spent, CURVE_DELTAS), strict=True)),
        jobs=_jobs(state, delta),
        rounds=tuple(lines),
    )


def _scratch(state: LedgerState, chain: Chain) -> SiteReport:
    """A ledger without a budget holds non-private releases only: nothing to compose, nothing remains."""
    so_far, lines = 0.0, []
    for charge in state.charges:
        of_round = 0.0 if charge.voided else math.inf
        so_far = max(so_far, of_round)
        lines.append(_line(charge, of_round, so_far, exact=True, filter_so_far=so_far, remaining=None))
    return SiteReport(
        opening=state.opening,
        chain=chain,
        epsilon=so_far,
        figure=None,
        filter_spent=so_far,
        remaining=None,
        one_plan=_one_plan(state),
        chance=None,
        curve=(),
        jobs=_jobs(state, None),
        rounds=tuple(lines),
    )


def _line(
    charge: Charge,
    epsilon_round: float,
    epsilon_so_far: float,
    *,
    exact: bool,
    filter_so_far: float,
    remaining: float | None,
) -> RoundLine:
    q, noise_multiplier, steps = _mechanism(charge.reserved.event)
    return RoundLine(
        job=charge.reserved.job,
        round=charge.reserved.round,
        at=charge.reserved.at,
        event=charge.reserved.event,
        q=q,
        noise_multiplier=noise_multiplier,
        steps=steps,
        state="void" if charge.voided else "sent" if charge.sent else "reserved",
        attempts=len({sent.attempt for sent in charge.sent}),
        epsilon_round=epsilon_round,
        epsilon_so_far=epsilon_so_far,
        exact=exact,
        filter_so_far=filter_so_far,
        remaining=remaining,
    )


def _one_plan(state: LedgerState) -> bool:
    counted = [charge.reserved for charge in state.charges if charge.voided is None]
    return len({(reserved.job, reserved.event) for reserved in counted}) <= 1


def _chance(filter_spent: float, delta: float) -> float | None:
    if math.isinf(filter_spent):
        return None
    return math.ceil(1000 * guess_bound(filter_spent, delta)) / 1000


def _mechanism(event: Event) -> tuple[float | None, str | None, int | None]:
    """Sampling rate, noise multiplier and number of steps."""
    match event:
        case PoissonGaussian():
            return event.q, event.noise_multiplier, event.steps
        case Gaussian():
            return 1.0, event.noise_multiplier, event.count
        case _:
            return None, None, None


def _jobs(state: LedgerState, delta: float | None) -> tuple[JobLine, ...]:
    """One line a job, in the order of their first charge."""
    by_job: dict[JobId, list[Event]] = {}
    for charge in state.charges:
        listed = by_job.setdefault(charge.reserved.job, [])
        if charge.voided is None:
            listed.append(charge.reserved.event)
    return tuple(JobLine(job, len(listed), _job_epsilon(listed, delta)) for job, listed in by_job.items())


def _job_epsilon(listed: list[Event], delta: float | None) -> float:
    if delta is None:
        return math.inf if listed else 0.0
    return accountant.epsilon(listed, delta).epsilon


def _remaining(cap: float, spent: float) -> float:
    return max(0.0, round_down(cap - spent)) if math.isfinite(spent) else 0.0


def _site_json(site: SiteReport) -> dict[str, object]:
    opening, budget = site.opening, site.opening.budget
    return {
        "site": opening.site,
        "ledger": opening.ledger,
        "opened": opening.at,
        "unit": opening.unit,
        "records_per_unit": opening.records_per_unit,
        "relation": opening.relation,
        "cap": None if budget is None else float(budget.epsilon),
        "delta": None if budget is None else float(budget.delta),
        "public_n": None if budget is None else budget.public_n,
        "epsilon": finite(site.epsilon),
        "private": not math.isinf(site.epsilon),
        "figure": None if site.figure is None else site.figure.to_json(),
        "filter_spent": finite(site.filter_spent),
        "remaining": site.remaining,
        "one_plan": site.one_plan,
        "chance": site.chance,
        "curve": [{"delta": delta, "epsilon": finite(epsilon)} for delta, epsilon in site.curve],
        "jobs": [
            {"job": job.job, "charges": job.charges, "epsilon": finite(job.epsilon)} for job in site.jobs
        ],
        "rounds": [_round_json(line) for line in site.rounds],
        "chain": asdict(site.chain),
    }


def _round_json(line: RoundLine) -> dict[str, object]:
    return {
        "job": line.job,
        "round": line.round,
        "at": line.at,
        "event": events.to_json(line.event),
        "q": line.q,
        "sigma": None if line.noise_multiplier is None else float(line.noise_multiplier),
        "steps": line.steps,
        "state": line.state,
        "attempts": line.attempts,
        "private": not math.isinf(line.epsilon_round),
        "epsilon_round": finite(line.epsilon_round),
        "epsilon_so_far": finite(line.epsilon_so_far),
        "exact": line.exact,
        "filter_so_far": finite(line.filter_so_far),
        "remaining": line.remaining,
    }
