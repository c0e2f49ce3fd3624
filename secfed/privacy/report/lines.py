"""What the account of one or several ledgers holds, before it is written in any form."""

from __future__ import annotations

import math
from dataclasses import dataclass

from secfed.ids import ClientId, Digest, JobId
from secfed.privacy.accountant import Figure
from secfed.privacy.entries import Opening
from secfed.privacy.events import Event
from secfed.privacy.report.audits import Audit

__all__ = ["Chain", "JobLine", "Report", "RoundLine", "SiteReport", "private"]


def private(epsilon: float, *, sound: bool) -> bool | None:
    """Whether every release that counts has a bound; None where nobody knows, as the ledger is damaged."""
    if math.isinf(epsilon):
        return False
    return True if sound else None


_NO_BOUND = "a release was not private: epsilon is infinite"


@dataclass(frozen=True, slots=True)
class RoundLine:
    """One charge.

    Attributes:
        at: When it was reserved. sent_at: When its contribution first left; None if it did not.
        plan: Digest of the job plan that it was charged for.
        q: Sampling rate; 1 for a release over all the data. noise_multiplier, steps: As in the event; all
            three None for a release that was not private.
        declared: The event is the site's word for what was done elsewhere.
        state: `reserved` (counts, nothing left yet), `sent` (counts) or `void` (does not count).
        note: Why it was voided, or why it is not private.
        attempts: How often its contribution went out under fresh masks, at no further charge.
        epsilon_round: Of this charge alone, by PLD. epsilon_so_far: Of all up to here.
        exact: False where a bound from above stands for the PLD figure in `epsilon_so_far`.
        filter_so_far: What the gate counts. remaining: What it leaves of the cap, rounded down; None without
            a budget, and where the ledger is damaged.
    """

    job: JobId
    round: int
    at: str
    sent_at: str | None
    plan: Digest
    event: Event
    q: float | None
    noise_multiplier: str | None
    steps: int | None
    declared: bool
    state: str
    note: str | None
    attempts: int
    epsilon_round: float
    epsilon_so_far: float
    exact: bool
    filter_so_far: float
    remaining: float | None


@dataclass(frozen=True, slots=True)
class JobLine:
    """All charges of one job.

    Attributes:
        charges: Those that count; `declared` of them are the site's word only.
        epsilon: Of them together, by PLD.
        plans: Digests of the plans that they were charged for.
        events: The different events among them, each with how often it was charged.
    """

    job: JobId
    charges: int
    declared: int
    epsilon: float
    plans: tuple[Digest, ...]
    events: tuple[tuple[Event, int], ...]


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
    """One ledger's account; of a damaged one, what its sound part says, which is the least that was spent.

    Attributes:
        epsilon: Spent in all; infinite as soon as one release was not private.
        figure: The same with its accountant and cross-checks; None without a budget, which gives no delta.
        filter_spent: What the gate counts: holds however later plans were chosen.
        remaining: Of the cap by the filter, rounded down; None without a budget, and where the ledger is
            damaged, since nobody knows what followed.
        one_plan: All that counts came from one job and one event. A ledger does not know whether these were
            the plan's whole number of rounds, and where a plan was chosen or stopped after results were
            seen, only `filter_spent` is a claim.
        chance: `guess_bound` of `filter_spent`, which holds in any case, rounded up to a tenth of a percent;
            None without a finite figure that holds.
        one_record: What was spent for one record of a person, which another takes the place of or which is
            taken out: the person's mean then is another, so this is the persons' figure under replace-one.
            None where the unit is a record, where records were drawn one by one, and without a figure.
        curve: (delta, epsilon) of the same events at other deltas, as `epsilon` is: spent, by fixed plans.
        audits: What was measured from outside, beside the claim.
    """

    opening: Opening
    chain: Chain
    epsilon: float
    figure: Figure | None
    filter_spent: float
    remaining: float | None
    one_plan: bool
    chance: float | None
    one_record: Figure | None
    curve: tuple[tuple[float, float], ...]
    jobs: tuple[JobLine, ...]
    rounds: tuple[RoundLine, ...]
    audits: tuple[Audit, ...] = ()

    @property
    def site(self) -> ClientId:
        """Whose ledger it is."""
        return self.opening.site

    @property
    def sound(self) -> bool:
        """The ledger is whole; otherwise every figure is one that was exceeded, for all one knows."""
        return self.chain.sound

    @property
    def private(self) -> bool | None:
        """See `private`."""
        return private(self.epsilon, sound=self.sound)

    @property
    def reason(self) -> str | None:
        """Why it is not private, or why that is not known; None where it is."""
        if math.isinf(self.epsilon):
            return _NO_BOUND
        return None if self.sound else f"the ledger is damaged: {self.chain.fault}"

    @property
    def declared(self) -> int:
        """How many of the charges that count are the site's word only."""
        return sum(job.declared for job in self.jobs)

    @property
    def cap(self) -> float | None:
        """The budget's epsilon; None without a budget."""
        return None if self.opening.budget is None else float(self.opening.budget.epsilon)

    @property
    def delta(self) -> float | None:
        """The budget's delta; None without a budget."""
        return None if self.opening.budget is None else float(self.opening.budget.delta)


@dataclass(frozen=True, slots=True)
class Report:
    """Several ledgers side by side.

    Attributes:
        version: Of this program. code: Digest of its files, in hexadecimal, if whoever asks knows it.
        epsilon: The largest of the sites. filter_spent: The same by the filter.
        delta: The largest of the sites', None if none has one.
        recompute: The command that gives this report again.
    """

    created: str
    version: str
    code: str | None
    epsilon: float
    filter_spent: float
    delta: float | None
    sites: tuple[SiteReport, ...]
    recompute: str

    @property
    def sound(self) -> bool:
        """All ledgers are whole; otherwise the figures are the least that was spent."""
        return all(site.sound for site in self.sites)

    @property
    def private(self) -> bool | None:
        """See `private`."""
        return private(self.epsilon, sound=self.sound)

    @property
    def reason(self) -> str | None:
        """As a site's; of several damaged ledgers, the first one's."""
        if math.isinf(self.epsilon):
            return _NO_BOUND
        return next((f"{site.site}: {site.reason}" for site in self.sites if not site.sound), None)

    @property
    def declared(self) -> int:
        """How many of the charges that count are a site's word only."""
        return sum(site.declared for site in self.sites)
