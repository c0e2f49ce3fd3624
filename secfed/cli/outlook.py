"""What a job would spend, from its JOB.toml alone: a round, in all, and at one site that has a ledger.

Everything follows from public constants and, where a site is named, from its own ledger and policy.
No model is read, nothing is charged, nobody is asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from secfed.cli.jobfile import privacy_spec
from secfed.config.job import JobFile
from secfed.errors import LedgerError, PolicyRefusedError
from secfed.limits import CURVE_MAX
from secfed.privacy import accountant, budget
from secfed.privacy.accountant import Figure
from secfed.privacy.cache import FigureCache
from secfed.privacy.events import NOISE_MAX, Event, NonPrivate, PoissonGaussian
from secfed.privacy.report.account import guess_bound
from secfed.rounds import policy
from secfed.rounds.charge import steps_event
from secfed.rounds.plan import DpSpec

__all__ = ["Outlook", "Prospect", "SiteOutlook", "chance", "guess_words", "look_ahead"]

_NOT_PRIVATE = "the job adds no noise: epsilon is infinite"


@dataclass(frozen=True, slots=True)
class SiteOutlook:
    """What a job would do to one site's budget.

    Attributes:
        site: Its name. cap, delta: Of its data set's budget.
        counted: What the gate counts so far. left: Of the cap, rounded down.
        fits: How many of the job's rounds, spare ones included, the budget takes.
        left_after: Of the cap, after these.
        refusal: The first privacy rule of the site's policy or ledger that the job breaks.
    """

    site: str
    cap: float
    delta: float
    counted: float
    left: float
    fits: int
    left_after: float
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Prospect:
    """The cost of a job under noise.

    Attributes:
        dp: Its public constants. event: What a round is charged as.
        one_round: Figure of one round. whole: Of all, spare ones included.
        by_round: Epsilon after each round, by PLD or a bound from above; empty for long jobs.
        least: Figure of the whole at `NOISE_MAX`: as low as this sampling and these steps go.
        one_record: Figure of the whole for one record of a person: the person's under replace-one, since
            the mean of the person's records is then another. None where the unit is a record.
    """

    dp: DpSpec
    event: PoissonGaussian
    one_round: Figure
    whole: Figure
    by_round: tuple[float, ...]
    least: Figure
    one_record: Figure | None

    def noise_in_mean(self, sites: int, noise_multiplier: float | None = None) -> float:
        """Standard deviation of the noise in a coordinate of one step's mean gradient over so many sites."""
        sigma = float(self.dp.noise_multiplier) if noise_multiplier is None else noise_multiplier
        return sigma * float(self.dp.clip) / (self.dp.batch * math.sqrt(sites))

    def one_record_lines(self) -> Iterator[tuple[str, str]]:
        """What one record of a person costs; nothing where the unit is a record."""
        figure = self.one_record
        if figure is not None:
            yield (
                "one record",
                f"of a person, exchanged or taken out: epsilon {figure.epsilon:.3f} at delta "
                f"{figure.delta:g}, as the person's under {figure.relation}, which is dearer than add-remove",
            )


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a job would spend.

    Attributes:
        prospect: None for a job that adds no noise.
        site: What it would do to one site; None where none was named.
    """

    job: JobFile
    prospect: Prospect | None
    site: SiteOutlook | None

    @property
    def charges(self) -> int:
        """The most rounds that may be charged."""
        return self.job.rounds + self.job.spare_rounds

    def to_json(self) -> dict[str, object]:
        """The outlook as a JSON object, without its schema's version."""
        job, prospect = self.job, self.prospect
        text: dict[str, object] = {
            "job": job.name,
            "private": prospect is not None,
            "rounds": job.rounds,
            "spare_rounds": job.spare_rounds,
            "sites": job.min_cohort,
        }
        if prospect is None:
            text |= {"epsilon": None, "reason": _NOT_PRIVATE}
        else:
            dp = prospect.dp
            text |= prospect.whole.to_json()
            text |= {
                "sampling_rate": prospect.event.q,
                "noise_multiplier": float(dp.noise_multiplier),
                "steps": prospect.event.steps,
                "unit": dp.unit,
                "records_per_unit": dp.records_per_unit,
                "chance": chance(prospect.whole),
                "one_round": prospect.one_round.to_json(),
                "one_record": None if prospect.one_record is None else prospect.one_record.to_json(),
                "epsilon_by_round": prospect.by_round,
                "noise_in_mean": prospect.noise_in_mean(job.min_cohort),
                "least": {
                    "noise_multiplier": NOISE_MAX,
                    "noise_in_mean": prospect.noise_in_mean(job.min_cohort, NOISE_MAX),
                    **prospect.least.to_json(),
                },
            }
        return text | {"site": None if self.site is None else _site_json(self.site)}

    def to_text(self) -> str:
        """The outlook for people, ended by a newline."""
        lines = [*self._job_lines(), *self._site_lines()]
        return "".join(f"{label:<14} {words}\n" for label, words in lines)

    def _job_lines(self) -> list[tuple[str, str]]:
        job, prospect = self.job, self.prospect
        spare = f", {job.spare_rounds} spare" if job.spare_rounds else ""
        if prospect is None:
            return [("job", f"{job.name}: rounds {job.rounds}{spare}"), ("epsilon", _NOT_PRIVATE)]
        dp, event, whole, one = prospect.dp, prospect.event, prospect.whole, prospect.one_round
        person = f" with at most {dp.records_per_unit} records" if dp.unit == "person" else ""
        return [
            ("job", f"{job.name}: rounds {job.rounds}{spare}, of {event.steps} steps each"),
            ("protects", f"one {dp.unit}{person}, {event.relation}"),
            (
                "noise",
                f"multiplier {dp.noise_multiplier}, sampling rate {event.q:.4g}, clip {dp.clip}, "
                f"batch {dp.batch:g} of {dp.nominal_units}",
            ),
            ("one round", f"epsilon {one.epsilon:.3f}; the gate counts {one.epsilon_filter:.3f} if alone"),
            (
                "in all",
                f"epsilon {whole.epsilon:.3f} at delta {whole.delta:g} by {whole.accountant} if carried out "
                f"as planned; the gate counts {whole.epsilon_filter:.3f}",
            ),
            ("in words", guess_words(whole, dp.unit)),
            *prospect.one_record_lines(),
            (
                "in the mean",
                f"noise of {prospect.noise_in_mean(job.min_cohort):.3g} in each coordinate of one step, over "
                f"{job.min_cohort} sites: noise x clip / (batch x root of the sites)",
            ),
            (
                "least",
                f"epsilon {prospect.least.epsilon:.3f} with the same sampling and steps, at the most noise a "
                f"plan may have ({NOISE_MAX}); in the mean "
                f"{prospect.noise_in_mean(job.min_cohort, NOISE_MAX):.3g}",
            ),
        ]

    def _site_lines(self) -> list[tuple[str, str]]:
        site = self.site
        if site is None:
            return []
        fits = f"{site.fits} of {self.charges} rounds fit, the spare ones counted"
        return [
            (
                "site",
                f"{site.site}: the gate counts {site.counted:.3f} of {site.cap:.3f} at delta {site.delta:g} "
                f"so far, and leaves {site.left:.3f}",
            ),
            ("afterwards", f"{site.left_after:.3f} is left; {fits}"),
            ("policy", "refuses: " + site.refusal if site.refusal else "its privacy rules take this job"),
        ]


def look_ahead(job: JobFile, site: Path | None, cache: FigureCache | None) -> Outlook:
    """Work out what a job would spend.

    Args:
        site: A client.toml whose ledger is read, not locked.
        cache: Where figures are kept.

    Raises:
        BudgetExceededError: No noise reaches the target epsilon.
        LedgerError: The site has no sound ledger, or the accountant refuses.
        ConfigError, StorageError: A file cannot be read.
    """
    prospect = _prospect(job, cache)
    return Outlook(job, prospect, None if site is None else _at_site(job, prospect, site))


def chance(figure: Figure) -> float:
    """`guess_bound` of a figure, rounded up to a tenth of a percent."""
    return math.ceil(1000 * guess_bound(figure.epsilon, figure.delta)) / 1000


def guess_words(figure: Figure, unit: str) -> str:
    """What a figure means for one record or person."""
    if figure.relation == "replace-one":
        asked = f"which of two given {unit}s took part"
    else:
        asked = f"whether one given {unit} took part"
    return (
        f"whoever guesses from all that is released {asked} is right in at most "
        f"{100 * chance(figure):.1f} of 100 cases; a blind guess in 50"
    )


def _prospect(job: JobFile, cache: FigureCache | None) -> Prospect | None:
    if job.privacy is None or job.training is None:
        return None
    dp = privacy_spec(job, job.privacy, job.training)
    delta, rounds = float(dp.delta), job.rounds + job.spare_rounds
    event = steps_event(dp, job.training.steps)
    most_noise = dp.model_copy(update={"noise_multiplier": str(NOISE_MAX)})
    few = job.rounds <= CURVE_MAX
    return Prospect(
        dp=dp,
        event=event,
        one_round=accountant.epsilon([event], delta, cache=cache),
        whole=accountant.epsilon([event] * rounds, delta, cache=cache),
        by_round=tuple(point.epsilon for point in accountant.running([event] * job.rounds, delta))
        if few
        else (),
        least=accountant.epsilon([steps_event(most_noise, event.steps)] * rounds, delta, cache=cache),
        one_record=accountant.epsilon([event] * rounds, delta, "replace-one", cache=cache)
        if dp.unit == "person"
        else None,
    )


def _at_site(job: JobFile, prospect: Prospect | None, path: Path) -> SiteOutlook:
    from secfed.cli.ledgers import DATA_LEDGER
    from secfed.cli.report import verdicts
    from secfed.config import ClientConfig, PolicyConfig, load

    config = load(path, ClientConfig)
    rules = load(config.policy, PolicyConfig).job
    found = next((verdict for verdict in verdicts(path) if verdict.path.name == DATA_LEDGER), None)
    if found is None:
        raise LedgerError(
            f"{path} has no ledger of a data set",
            hint="It is made by `secfed client join --data`; without --site the job's own cost is shown.",
        )
    if found.fault is not None or found.state is None:
        raise LedgerError(f"{found.path}: {found.fault}")
    state = found.state
    terms = state.opening.budget
    if terms is None:
        raise LedgerError(f"{found.path} is a scratch ledger, which has no budget")
    event: Event = NonPrivate(_NOT_PRIVATE) if prospect is None else prospect.event
    most = job.rounds + job.spare_rounds
    refusal = None
    try:
        if prospect is None:
            budget.authorize(state, event, allow_non_private=rules.allow_non_private)
        else:
            policy.check_promise(state.opening, job.name, event, prospect.dp.delta)
            policy.priced(rules, job.name, prospect.event, float(prospect.dp.delta), most)
    except PolicyRefusedError as problem:
        refusal = str(problem)
    fits = 0 if refusal else budget.rounds_that_fit(state, event, most)
    return SiteOutlook(
        site=config.site,
        cap=float(terms.epsilon),
        delta=float(terms.delta),
        counted=accountant.round_up(budget.spent(state)),
        left=budget.remaining(state),
        fits=fits,
        left_after=budget.remaining(state, [event] * fits),
        refusal=refusal,
    )


def _site_json(site: SiteOutlook) -> dict[str, object]:
    return {
        "site": site.site,
        "cap": site.cap,
        "delta": site.delta,
        "filter_spent": accountant.finite(site.counted),
        "remaining": site.left,
        "rounds_that_fit": site.fits,
        "remaining_after": site.left_after,
        "refusal": site.refusal,
    }
