"""The account as one CSV table: a row each for the whole, a site, a job, a charge, an audit.

`row` says which of them a line is; a column that a kind of row has no value for is empty. A figure
that is infinite is empty as well, and `private` is false. Where `sound` is false, a ledger is damaged:
its figures are the least that was spent, `private` is empty unless it is known to be false, and `reason`
says why. `declared` counts charges that are the site's word only.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator

from secfed.privacy.report.audits import Audit, Canaries, Mechanism, Unread
from secfed.privacy.report.lines import Report, SiteReport, private

__all__ = ["COLUMNS", "to_csv"]

COLUMNS = (
    "row", "site", "ledger", "job", "round", "at", "sent_at", "plan", "kind", "q", "sigma", "steps", "state",
    "attempts", "declared", "charges", "private", "exact", "epsilon", "epsilon_so_far", "filter", "cap",
    "remaining", "delta", "chance", "epsilon_rdp", "accountant", "unit", "records_per_unit", "relation",
    "sound", "head", "reason", "epsilon_lower", "ceiling", "confidence", "claim", "claim_delta", "verdict",
)  # fmt: skip
"""In a row of the whole or of a site, `epsilon` is all that was spent; of a job or charge, its own. Of an
audit, `epsilon_lower` holds at `delta` with `confidence`, and `claim` is what it was held against."""

_Row = dict[str, object]


def to_csv(report: Report) -> str:
    """The report as CSV with a header line."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in _rows(report):
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return out.getvalue()


def _rows(report: Report) -> Iterator[_Row]:
    yield {
        "row": "all",
        "at": report.created,
        "private": report.private,
        "reason": report.reason,
        "epsilon": report.epsilon,
        "filter": report.filter_spent,
        "delta": report.delta,
        "declared": report.declared,
        "sound": report.sound,
    }
    for site in report.sites:
        own: _Row = {"site": site.site, "ledger": site.opening.ledger}
        for row in _site(site):
            yield own | row


def _site(site: SiteReport) -> Iterator[_Row]:
    opening, figure = site.opening, site.figure
    yield {
        "row": "site",
        "at": opening.at,
        "declared": site.declared,
        "private": site.private,
        "reason": site.reason,
        "epsilon": site.epsilon,
        "filter": site.filter_spent,
        "cap": site.cap,
        "remaining": site.remaining,
        "delta": site.delta,
        "chance": site.chance,
        "epsilon_rdp": None if figure is None else figure.epsilon_rdp,
        "accountant": None if figure is None else f"{figure.accountant} {figure.accountant_version}",
        "unit": opening.unit,
        "records_per_unit": opening.records_per_unit,
        "relation": opening.relation,
        "sound": site.chain.sound,
        "head": f"{site.chain.entries}:{site.chain.head}",
    }
    for delta, epsilon in site.curve:
        yield {"row": "curve", "private": site.private, "epsilon": epsilon, "delta": delta}
    for job in site.jobs:
        yield {
            "row": "job",
            "job": job.job,
            "charges": job.charges,
            "declared": job.declared,
            "private": private(job.epsilon, sound=site.sound),
            "epsilon": job.epsilon,
            "delta": site.delta,
        }
    for line in site.rounds:
        yield {
            "row": "round",
            "job": line.job,
            "round": line.round,
            "at": line.at,
            "sent_at": line.sent_at,
            "plan": line.plan.hex(),
            "kind": line.event.kind,
            "q": line.q,
            "sigma": line.noise_multiplier,
            "steps": line.steps,
            "state": line.state,
            "attempts": line.attempts,
            "declared": line.declared,
            "private": not math.isinf(line.epsilon_round),
            "exact": line.exact,
            "epsilon": line.epsilon_round,
            "epsilon_so_far": line.epsilon_so_far,
            "filter": line.filter_so_far,
            "cap": site.cap,
            "remaining": line.remaining,
            "delta": site.delta,
        }

    yield from (_audit(audit) for audit in site.audits)


def _audit(audit: Audit) -> _Row:
    """What was measured from outside, and against which claim."""
    match audit:
        case Canaries(claim=claim):
            return {
                "row": "audit",
                "kind": audit.kind,
                "at": audit.date,
                "job": audit.job,
                "round": audit.round,
                "delta": audit.delta,
                "epsilon_lower": audit.epsilon_lower,
                "ceiling": audit.ceiling,
                "confidence": audit.confidence,
                "claim": None if claim is None else claim.epsilon,
                "claim_delta": None if claim is None else claim.delta,
                "verdict": audit.verdict,
            }
        case Mechanism():
            return {
                "row": "audit",
                "kind": audit.kind,
                "at": audit.date,
                "job": audit.job,
                "verdict": audit.verdict,
            }
        case Unread():
            return {"row": "audit", "kind": audit.kind, "reason": f"of an unknown format: {audit.name}"}


def _cell(value: object) -> object:
    """Truth values as programs write them; nothing and infinity as an empty cell."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None or value == math.inf else value
