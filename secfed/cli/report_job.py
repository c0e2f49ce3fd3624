"""`secfed report --job` and `--plan`: a signed plan's epsilon after each round, worked out again."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from secfed.cli.connect import Member, member_config
from secfed.cli.tables import table
from secfed.errors import ConfigError, DataError, PolicyRefusedError
from secfed.identity.fields import from_base64
from secfed.identity.signed import unverified_text
from secfed.ids import JobId
from secfed.privacy.report.document import at_even_distances
from secfed.privacy.report.plan import PlanAccount, PlanLine, recompute
from secfed.rounds.charge import dp_event
from secfed.rounds.plan import JobPlan
from secfed.rounds.plan_address import plan_address
from secfed.rounds.proposal import JobProposal, open_job_plan
from secfed.rounds.rosters import RosterKeeper
from secfed.store.files import storage_errors

if TYPE_CHECKING:
    from secfed.cli.passphrase import Source
    from secfed.rounds.plan import DpSpec

__all__ = ["check", "fetch", "read", "refuse_wrong", "to_json", "to_text"]

_ROWS_MAX = 100
"""Most rounds that the table shows; JSON has all of them."""


def read(path: Path, config: Path) -> JobProposal:
    """A signed plan from a file, verified against the roster that the configuration names; needs no key.

    Raises:
        DataError: It is no plan, whoever wrote it.
        PeerError: It was changed, or is another federation's.
        RosterError: Who signed it is no admin of the roster.
    """
    member = member_config(config)
    roster = RosterKeeper(member.roster, from_base64(member.roster_key, 32)).current
    with storage_errors(path):
        data = path.read_bytes()
    try:
        JobPlan.model_validate_json(unverified_text(data, what=str(path), error=DataError))
    except (ValidationError, DataError) as problem:
        raise DataError(
            f"{path} is no signed job plan",
            hint="Name a file that `secfed report --job J --save-plan` wrote.",
        ) from problem
    return open_job_plan(data, roster, datetime.now(UTC))


def fetch(job: str, config: Path, secrets: Source) -> JobProposal:
    """A job's signed plan from the aggregator, verified as `read` does.

    Raises:
        ConfigError: The aggregator knows no such job.
        PeerError: What came is another job's plan.
    """
    member = Member(config, secrets)
    with member.connection() as connection:
        try:
            text = connection.fetch_archive(plan_address(JobId(job)))
        except ConfigError as problem:  # nothing lies at this address
            raise ConfigError(
                f"the aggregator knows no job {job!r}", hint="`secfed status` lists its jobs."
            ) from problem
    return open_job_plan(text, member.rosters.current, datetime.now(UTC))


def check(proposal: JobProposal, job: str | None) -> tuple[PlanAccount, DpSpec]:
    """Work the plan's figures out again.

    Raises:
        ConfigError: The plan is another job's, or promises no privacy.
        LedgerError: The accountant refuses.
    """
    plan, event = proposal.plan, dp_event(proposal.plan)
    if job is not None and plan.job != job:
        raise ConfigError(f"the plan is of job {plan.job}, not of {job}")
    if plan.dp is None or event is None:
        raise ConfigError(
            f"job {plan.job} has no dp section: its releases are not private, and no figure bounds them",
            hint="Only a training job with a [privacy] section has an epsilon by plan.",
        )
    delta = float(plan.dp.delta)
    return recompute(event, plan.rounds, plan.spare_rounds, delta, plan.epsilon_by_round), plan.dp


def refuse_wrong(proposal: JobProposal, account: PlanAccount) -> None:
    """End in an error where the plan says something else.

    Raises:
        PolicyRefusedError: Naming the first round.
    """
    if account.wrong:
        first = account.wrong[0]
        raise PolicyRefusedError(
            f"the plan of job {proposal.plan.job} says epsilon {first.stated:.3f} after round {first.round}; "
            f"it is {first.epsilon_so_far:.3f}",
            hint="Do not go by the plan's figures; ask who signed it, and have it planned anew.",
        )


def to_json(proposal: JobProposal, account: PlanAccount, dp: DpSpec) -> str:
    """One JSON object: the plan's constants, its rounds, and the figure of the whole."""
    plan = proposal.plan
    document = {
        "kind": "plan-account",
        "schema": 1,
        "job": plan.job,
        "plan": proposal.digest.hex(),
        "signed_by": plan.created_by,
        "created": plan.created,
        "rounds": plan.rounds,
        "spare_rounds": plan.spare_rounds,
        "unit": dp.unit,
        "records_per_unit": dp.records_per_unit,
        "relation": dp.relation,
        "q": dp.sampling_rate,
        "sigma": float(dp.noise_multiplier),
        "clip": float(dp.clip),
        "steps": None if plan.training is None else plan.training.steps,
        "delta": float(dp.delta),
        "by_round": [asdict(line) for line in account.lines],
        "whole": account.whole.to_json(),
        "agrees": not account.wrong,
    }
    return json.dumps(document, indent=2) + "\n"


def to_text(proposal: JobProposal, account: PlanAccount, dp: DpSpec) -> str:
    """The plan's constants and a line a round, what was worked out beside what the plan says."""
    plan = proposal.plan
    steps = "-" if plan.training is None else plan.training.steps
    unit = dp.unit if dp.unit == "record" else f"{dp.unit} with at most {dp.records_per_unit} records"
    shown, left_out = at_even_distances(account.lines, _ROWS_MAX)
    head = ("round", "q", "sigma", "steps", "epsilon", "so far", "gate", "plan says", "")
    constants = (f"{dp.sampling_rate:.4g}", dp.noise_multiplier, steps)
    rows = [(line.round, *constants, *_figures(line)) for line in shown]
    whole = account.whole
    lines = [
        f"job            {plan.job}  rounds {plan.rounds}, spare rounds {plan.spare_rounds}",
        f"plan           {proposal.digest.hex()}",
        f"signed by      {plan.created_by}, {plan.created}",
        f"protects       one {unit}, relation {dp.relation}",
        f"mechanism      clipping norm {dp.clip}, noise {dp.noise_multiplier} times that, B {dp.batch:.6g}",
        f"in all         epsilon {whole.epsilon:.3f} at delta {dp.delta}, spare rounds included, by "
        f"{whole.accountant} ({whole.accountant_version}); cross-check {whole.epsilon_rdp:.3f}, "
        f"gate {whole.epsilon_filter:.3f}",
        "",
        table(head, rows),
    ]
    if left_out:
        lines.append(f"note           {len(shown)} of {plan.rounds} rounds are shown; JSON has all")
    if not plan.epsilon_by_round:
        lines.append("note           the plan states no figures: it has too many rounds for that")
    lines.append("verdict        " + ("DIFFERS" if account.wrong else "the plan's figures are right"))
    return "\n".join(lines) + "\n"


def _figures(line: PlanLine) -> tuple[str, ...]:
    return (
        f"{line.epsilon_round:.3f}",
        f"{line.epsilon_so_far:.3f}" if line.exact else f"<= {line.epsilon_so_far:.3f}",
        f"{line.filter_so_far:.3f}",
        "-" if line.stated is None else f"{line.stated:.3f}",
        "" if line.agrees else "DIFFERS",
    )
