"""The account of one or several ledgers: what each round spent, what is left, and what that means.

Worked out from verified ledgers alone. `form_json`, `form_csv`, `form_text`, `form_md` and
`form_html` write the same numbers; a figure that is infinite is null in JSON, empty in CSV and "not
private" or "infinite" in words. Several ledgers stand side by side, and the federation's figure is
their largest: it holds for whoever's data lie at one site only.

Source: NIST SP 800-226 (what a reader of a differential-privacy claim must be told).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from secfed import __version__
from secfed.errors import LedgerError
from secfed.ids import JobId
from secfed.privacy.accountant import Figure, round_down, round_up
from secfed.privacy.book import Charge, LedgerState
from secfed.privacy.events import Event, Gaussian, NonPrivate, PoissonGaussian, declared
from secfed.privacy.ledger import Verdict
from secfed.privacy.report.audits import Audit
from secfed.privacy.report.figures import Ask, Figures, asks, compose, points_for
from secfed.privacy.report.lines import Chain, JobLine, Report, RoundLine, SiteReport

__all__ = ["CURVE_DELTAS", "Report", "ahead", "build", "guess_bound"]

CURVE_DELTAS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)
"""Deltas at which the same events are also accounted."""


def build(
    verdicts: Sequence[Verdict],
    *,
    now: datetime,
    recompute: str,
    code: str | None = None,
    audits: Mapping[Path, Sequence[Audit]] | None = None,
    figures: Figures | None = None,
) -> Report:
    """Work out the account of verified ledgers; a damaged one is reported as far as it is sound.

    Args:
        verdicts: Of different ledgers, at least one.
        now: When the report is made.
        recompute: The command line that makes it again.
        code: Digest of the program's files, in hexadecimal.
        audits: What was measured from outside, by the path of the ledger that it belongs to.
        figures: Those that `ahead` worked out.

    Raises:
        LedgerError: Not even the opening of a ledger can be read, one was given twice, or the accountant
            refuses.
    """
    states = [_state(verdict) for verdict in verdicts]
    if not states or len({state.opening.ledger for state in states}) != len(states):
        raise LedgerError("a report takes at least one ledger, and each of them once")
    figures = Figures(points=points_for(len(states))) if figures is None else figures
    figures.ask(ask for state in states for ask in _asks(state, figures.points))
    sites = tuple(
        _site(verdict, state, figures, tuple((audits or {}).get(verdict.path, ())))
        for verdict, state in zip(verdicts, states, strict=True)
    )
    return Report(
        created=now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=__version__,
        code=code,
        epsilon=max(site.epsilon for site in sites),
        filter_spent=max(site.filter_spent for site in sites),
        delta=max((site.delta for site in sites if site.delta is not None), default=None),
        sites=sites,
        recompute=recompute,
    )


def ahead(verdict: Verdict, figures: Figures) -> None:
    """Work out one ledger's figures, which most others of its job share, while these are still verified.

    Args:
        figures: For `build`; made for the number of ledgers in all.

    Raises:
        LedgerError: The accountant refuses.
    """
    if verdict.state is not None:
        figures.ask(_asks(verdict.state, figures.points))


def guess_bound(epsilon: float, delta: float) -> float:
    """Largest chance to tell by any means whether one unit took part, where blind guessing has one half.

    Source: Kairouz, Oh, Viswanath 2015, arXiv:1311.0776 (hypothesis testing region).
    """
    if math.isinf(epsilon):
        return 1.0
    return min(1.0, (1 + delta * math.exp(-epsilon)) / (1 + math.exp(-epsilon)))


def _state(verdict: Verdict) -> LedgerState:
    if verdict.state is None:
        raise LedgerError(f"{verdict.path}: {verdict.fault}")
    return verdict.state


def _asks(state: LedgerState, points: int) -> Iterator[Ask]:
    """Which figures the account of a ledger needs; none for a scratch ledger."""
    if state.opening.budget is not None:
        jobs = [_counted(listed) for listed in _by_job(state).values()]
        delta = float(state.opening.budget.delta)
        yield from asks(state.spent, jobs, delta, CURVE_DELTAS, points)


def _site(verdict: Verdict, state: LedgerState, figures: Figures, audits: tuple[Audit, ...]) -> SiteReport:
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
        return _scratch(state, chain, audits)
    delta, cap, spent = float(budget.delta), float(budget.epsilon), state.spent
    together = compose(spent)
    total = figures.of(together, delta)
    alone = {event: figures.of(compose([event]), delta).epsilon for event, _ in together}
    counted = zip(figures.running(spent, delta), figures.gate(spent, state.opening), strict=True)
    (so_far, exact), gate, lines = (0.0, True), 0.0, []
    for charge in state.charges:
        counts = charge.voided is None
        if counts:
            (so_far, exact), gate = next(counted)
        lines.append(
            _line(
                charge,
                epsilon_round=alone[charge.reserved.event] if counts else 0.0,
                epsilon_so_far=so_far,
                exact=exact,
                filter_so_far=round_up(gate),
                remaining=_remaining(cap, gate, chain),
            )
        )
    return SiteReport(
        opening=state.opening,
        chain=chain,
        epsilon=total.epsilon,
        figure=total,
        filter_spent=round_up(gate),
        remaining=_remaining(cap, gate, chain),
        one_plan=_one_plan(state),
        chance=_chance(round_up(gate), delta) if chain.sound else None,
        one_record=_one_record(state, figures, delta) if chain.sound else None,
        curve=tuple((point, figures.of(together, point).epsilon) for point in CURVE_DELTAS),
        jobs=_jobs(state, lambda listed: figures.of(compose(listed), delta).epsilon),
        rounds=tuple(lines),
        audits=audits,
    )


def _scratch(state: LedgerState, chain: Chain, audits: tuple[Audit, ...]) -> SiteReport:
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
        one_record=None,
        curve=(),
        jobs=_jobs(state, lambda listed: math.inf if listed else 0.0),
        rounds=tuple(lines),
        audits=audits,
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
    reserved, sent = charge.reserved, charge.sent
    q, noise_multiplier, steps = _mechanism(reserved.event)
    return RoundLine(
        job=reserved.job,
        round=reserved.round,
        at=reserved.at,
        sent_at=sent[0].at if sent else None,
        plan=reserved.plan,
        event=reserved.event,
        q=q,
        noise_multiplier=noise_multiplier,
        steps=steps,
        declared=declared(reserved.event),
        state="void" if charge.voided else "sent" if sent else "reserved",
        note=_note(charge),
        attempts=len({each.attempt for each in sent}),
        epsilon_round=epsilon_round,
        epsilon_so_far=epsilon_so_far,
        exact=exact,
        filter_so_far=filter_so_far,
        remaining=remaining,
    )


def _note(charge: Charge) -> str | None:
    if charge.voided is not None:
        return charge.voided.reason
    event = charge.reserved.event
    return event.reason if isinstance(event, NonPrivate) else None


def _one_plan(state: LedgerState) -> bool:
    counted = [charge.reserved for charge in state.charges if charge.voided is None]
    return len({(reserved.job, reserved.event) for reserved in counted}) <= 1


def _chance(filter_spent: float, delta: float) -> float | None:
    if math.isinf(filter_spent):
        return None
    return math.ceil(1000 * guess_bound(filter_spent, delta)) / 1000


def _one_record(state: LedgerState, figures: Figures, delta: float) -> Figure | None:
    """See `SiteReport.one_record`."""
    whole = all(
        isinstance(event, Gaussian) or (isinstance(event, PoissonGaussian) and event.sampling == "unit")
        for event in state.spent
    )
    if state.opening.unit == "record" or not (state.spent and whole):
        return None
    return figures.of(compose(state.spent), delta, "replace-one")


def _mechanism(event: Event) -> tuple[float | None, str | None, int | None]:
    """Sampling rate, noise multiplier and number of steps."""
    match event:
        case PoissonGaussian():
            return event.q, event.noise_multiplier, event.steps
        case Gaussian():
            return 1.0, event.noise_multiplier, event.count
        case _:
            return None, None, None


def _by_job(state: LedgerState) -> dict[JobId, list[Charge]]:
    """All charges by job, in the order of their first charge."""
    jobs: dict[JobId, list[Charge]] = {}
    for charge in state.charges:
        jobs.setdefault(charge.reserved.job, []).append(charge)
    return jobs


def _counted(charges: Sequence[Charge]) -> list[Event]:
    return [charge.reserved.event for charge in charges if charge.voided is None]


def _jobs(state: LedgerState, epsilon: Callable[[list[Event]], float]) -> tuple[JobLine, ...]:
    return tuple(
        JobLine(
            job=job,
            charges=len(counted := _counted(charges)),
            declared=sum(map(declared, counted)),
            epsilon=epsilon(counted),
            plans=tuple(dict.fromkeys(charge.reserved.plan for charge in charges)),
            events=tuple(Counter(counted).items()),
        )
        for job, charges in _by_job(state).items()
    )


def _remaining(cap: float, spent: float, chain: Chain) -> float | None:
    """What is left; nobody knows under a damaged ledger, which may hold more charges than can be read."""
    if not chain.sound:
        return None
    return max(0.0, round_down(cap - spent)) if math.isfinite(spent) else 0.0
