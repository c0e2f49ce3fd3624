"""The account as one JSON object, for programs; the other forms show the same numbers."""

from __future__ import annotations

import math
from dataclasses import asdict

from secfed.privacy import events
from secfed.privacy.accountant import finite
from secfed.privacy.report.lines import JobLine, Report, RoundLine, SiteReport

__all__ = ["SCHEMA", "to_json"]

SCHEMA = 1
"""Version of the JSON; a field is never given another meaning under one number."""


def to_json(report: Report) -> dict[str, object]:
    """The report as a JSON object of version `SCHEMA`.

    Where `sound` is false, a ledger is damaged: its figures, and those of the whole, are the least that was
    spent, and `private` is null unless it is known to be false; `reason` says why it is not true. Where
    `declared` is above 0, figures hold only as far as the sites' word is true.
    """
    return {
        "kind": "report",
        "schema": SCHEMA,
        "created": report.created,
        "version": report.version,
        "code": report.code,
        "epsilon": finite(report.epsilon),
        "filter_spent": finite(report.filter_spent),
        "private": report.private,
        "reason": report.reason,
        "delta": report.delta,
        "sound": report.sound,
        "declared": report.declared,
        "sites": [_site(site) for site in report.sites],
        "recompute": report.recompute,
    }


def _site(site: SiteReport) -> dict[str, object]:
    opening, budget = site.opening, site.opening.budget
    return {
        "site": opening.site,
        "ledger": opening.ledger,
        "opened": opening.at,
        "unit": opening.unit,
        "unit_column": opening.unit_column,
        "records_per_unit": opening.records_per_unit,
        "relation": opening.relation,
        "cap": site.cap,
        "delta": site.delta,
        "public_n": None if budget is None else budget.public_n,
        "epsilon": finite(site.epsilon),
        "private": site.private,
        "reason": site.reason,
        "figure": None if site.figure is None else site.figure.to_json(),
        "filter_spent": finite(site.filter_spent),
        "remaining": site.remaining,
        "declared": site.declared,
        "one_plan": site.one_plan,
        "chance": site.chance,
        "one_record": None if site.one_record is None else site.one_record.to_json(),
        "curve": [{"delta": delta, "epsilon": finite(epsilon)} for delta, epsilon in site.curve],
        "jobs": [_job(job) for job in site.jobs],
        "rounds": [_round(line) for line in site.rounds],
        "audits": [audit.to_json() for audit in site.audits],
        "chain": asdict(site.chain),
    }


def _job(job: JobLine) -> dict[str, object]:
    return {
        "job": job.job,
        "charges": job.charges,
        "declared": job.declared,
        "epsilon": finite(job.epsilon),
        "plans": [plan.hex() for plan in job.plans],
    }


def _round(line: RoundLine) -> dict[str, object]:
    return {
        "job": line.job,
        "round": line.round,
        "at": line.at,
        "sent_at": line.sent_at,
        "plan": line.plan.hex(),
        "event": events.to_json(line.event),
        "q": line.q,
        "sigma": None if line.noise_multiplier is None else float(line.noise_multiplier),
        "steps": line.steps,
        "declared": line.declared,
        "state": line.state,
        "note": line.note,
        "attempts": line.attempts,
        "private": not math.isinf(line.epsilon_round),
        "epsilon_round": finite(line.epsilon_round),
        "epsilon_so_far": finite(line.epsilon_so_far),
        "exact": line.exact,
        "filter_so_far": finite(line.filter_so_far),
        "remaining": line.remaining,
    }
