"""What an account says in words, for a data-protection officer without a glossary.

Here is what holds for the whole of it, as (label, text) pairs; `site_words` speaks of one site.
Nothing is worked out: figures come from the report, and only how they are written is decided here.
"""

from __future__ import annotations

import math

from secfed.privacy.events import PoissonGaussian
from secfed.privacy.report.lines import Report

__all__ = [
    "AS_DECLARED", "COLUMNS", "DAMAGED", "NOT_COVERED", "NOT_PRIVATE", "Answers", "adversaries", "at_least",
    "decimal", "epsilon", "figure", "made", "masking", "rate", "spent_in_all", "total", "training",
]  # fmt: skip

Answers = tuple[tuple[str, str], ...]
"""Labels and texts."""

NOT_PRIVATE = "not private"

DAMAGED = "the ledger is damaged, no figure holds"

AS_DECLARED = (
    "as far as the site's declaration is true; the noise that it declares was neither added nor checked by "
    "this program"
)
"""What a figure rests on as soon as one counted charge is declared."""

NOT_COVERED = (
    "the data that the public base model was trained on before",
    "persons who are mentioned in a record that belongs to somebody else",
    "a person whose data lie at several sites, beyond the sum of these sites' figures",
    "that the site took part at all, when, and how long its training took",
    "that the site stayed away from a round, where that follows from its data (a file that cannot be used)",
    "measuring, choosing settings or stopping early on private data, unless it is charged above",
    "releases that were made outside of this ledger, and copies of the data that have another ledger",
    "whoever can read the site's own machine: the data themselves lie there",
)

COLUMNS: Answers = (
    (
        "epsilon",
        "how much one charge by itself lets anybody learn about one unit at the most: 0 is nothing, and each "
        "further 0.7 doubles the odds that a guess can reach",
    ),
    (
        "so far",
        "of all charges up to this one together, for plans that were fixed in advance; '<=' marks a bound "
        "that stands for the exact figure",
    ),
    (
        "gate",
        "what counts against the cap: larger, because it stays true whatever is decided after results were "
        "seen",
    ),
    ("remaining", "the cap less the gate's figure, rounded down"),
    ("delta", "the chance, over the noise, that more may be learned than epsilon says"),
    (
        "PLD and Renyi bound",
        "two calculations of the same figure, one from the whole distribution of what a release gives away, "
        "one from its moments; neither is below the truth, and the smaller one is given",
    ),
    (
        "q, sigma, steps",
        "chance of each unit to be drawn in a step; standard deviation of the noise, in multiples of the "
        "most that one unit can add; steps of the round",
    ),
    (
        "state",
        "a charge counts once it is reserved, before data are touched, whether anything is sent or not. A "
        "void one does not, because nothing left the site. '2x': the same contribution was sent again under "
        "fresh masks, which costs nothing. 'declared': the site's word, not enforced",
    ),
)


# -- the whole report --------------------------------------------------------------------------


def spent_in_all(report: Report) -> str:
    """The federation's figure."""
    if math.isinf(report.epsilon):
        what = f"{NOT_PRIVATE}: at least one release had no privacy bound, so epsilon is infinite"
    elif report.delta is None:
        what = "nothing was released" if report.sound else "nothing that could be read was released"
    elif not report.sound:
        what = f"at least epsilon {report.epsilon:.3f} at delta {decimal(report.delta)}"
        what += f" (by the gate at least {report.filter_spent:.3f})"
    else:
        what = f"epsilon {report.epsilon:.3f} at delta {decimal(report.delta)}"
        way = "by the gate" if report.declared else "in any case"
        what += f" ({way} {report.filter_spent:.3f})"
    if report.declared and report.sound and math.isfinite(report.epsilon):
        what += f", {AS_DECLARED}"
    if len(report.sites) == 1:
        return what if report.sound else f"{what}; {DAMAGED}"
    if not report.sound:
        return (
            f"{what}. This is the largest of {len(report.sites)} sites, as far as their ledgers can be read; "
            "one of them is damaged, so no figure holds."
        )
    return (
        f"{what}. This is the largest of {len(report.sites)} sites. It holds for whoever's data lie at "
        "one of them; somebody with data at several sites has at most the sum of their figures."
    )


def adversaries(report: Report) -> Answers:
    """A sentence for each who might want to know more than they should."""
    if math.isinf(report.epsilon):
        return _unbounded(
            "no figure bounds what they learn from releases that are not private: those carry no noise"
        )
    if not report.sound:
        return _unbounded(
            "no figure bounds what they learn: a ledger is damaged, and what else was charged is not known"
        )
    if report.declared:
        holds, by_noise = f"the figure holds against them {AS_DECLARED}", ""
        by_site, again = ". The site itself", "vector"
    else:
        holds = "the figure holds against them"
        by_noise = ", because the noise was added at the site before anything left it"
        by_site, again = ", because the site itself adds the noise,", "noisy vector"
    return (
        (
            "Users of a result",
            f"whoever uses the published adapter or model, for as long as they like: {holds}{by_noise}.",
        ),
        (
            "A curious aggregator",
            f"runs the program as it is and keeps all it receives: {holds}. By masking it sees the sites' "
            "sum, never one site's update.",
        ),
        (
            "An aggregator with some of the sites",
            f"they pool all they know: {holds}. Up to as many sites as the roster tolerates (a tenth, "
            "rounded up), masking still hides each other site's update within a sum.",
        ),
        (
            "An aggregator that cheats",
            f"it lies, drops sites, or asks again: {holds}{by_site} keeps the ledger "
            "and refuses what would pass its cap. A contribution is made once: asking again "
            f"brings the same {again}.",
        ),
        (
            "Other sites",
            f"see the published results and who took part: {holds}, also if all of them work together.",
        ),
    )


def _unbounded(none: str) -> Answers:
    """The same where no figure holds, and why."""
    return (
        ("Users of a result", f"whoever sees a published sum or adapter: {none}."),
        ("The aggregator", f"sees the sum, not one site's update, as long as masking holds; {none}."),
        ("Other sites", f"see what users of a result see; {none}."),
    )


def masking() -> Answers:
    """What the secure sum is good for, and what not."""
    return (
        (
            "What masking adds",
            "nobody sees one site's update alone, only a sum over at least as many sites as the roster says "
            "(three or more). That rests on the protocol's own assumptions, which await outside review.",
        ),
        (
            "What it does not",
            "it is no part of any figure here and does not lower it: a sum is exact, and without noise it "
            "may give away single records.",
        ),
    )


def training(report: Report) -> Answers:
    """How noise is added where this program trained; nothing where it did not."""
    lines = (line for site in report.sites for line in site.rounds)
    return TRAINING if any(isinstance(x.event, PoissonGaussian) and not x.declared for x in lines) else ()


TRAINING: Answers = (
    (
        "A step",
        "each unit (a record or a person) is drawn by itself with chance q (Poisson sampling; an empty draw "
        "is a step as well, and is charged). What one unit adds is cut to the length C, and Gaussian noise "
        "of sigma times C is added, at the site, before anything else happens.",
    ),
    (
        "Its numbers",
        "q, sigma and steps stand in the tables. C stands in the signed plan, not in the ledger: no figure "
        "here depends on it.",
    ),
    (
        "Randomness",
        "sampling, noise and rounding come from separate AES-256 streams under keys from the operating "
        "system, never from a library's generator, and no state is kept. Norms, sums and noise are 64-bit "
        "floating point; a noisy sum is put on a fixed grid. The noise is a floating-point Gaussian, not a "
        "discrete one.",
    ),
    (
        "Sites that were lost",
        "how many sites' contributions reached a sum changes no figure: each site adds its whole noise by "
        "itself.",
    ),
)


def made(report: Report) -> Answers:
    """By which program, and how to make it again."""
    code = "" if report.code is None else f", its files' SHA-256 {report.code}"
    return (
        ("Program", f"secfed {report.version}{code}"),
        ("From", "the sites' ledgers alone, each verified first; a figure is worked out anew every time"),
        ("Recompute with", report.recompute),
    )


# -- figures as text ---------------------------------------------------------------------------


def epsilon(value: float) -> str:
    """Of one charge or job."""
    return NOT_PRIVATE if math.isinf(value) else f"{value:.3f}"


def total(value: float) -> str:
    """Of a sum of charges."""
    return "infinite" if math.isinf(value) else f"{value:.3f}"


def at_least(value: float, *, sound: bool) -> str:
    """Of a sum of charges; where the ledger is not sound, as the least that was spent."""
    return total(value) if sound or math.isinf(value) else f"at least {value:.3f}"


def figure(value: float | None) -> str:
    """One that may not exist."""
    return "-" if value is None else f"{value:.3f}"


def rate(q: float | None) -> str:
    """A sampling rate."""
    return "-" if q is None else f"{q:.4g}"


def decimal(delta: float) -> str:
    """A delta without an exponent."""
    return f"{delta:.12f}".rstrip("0")
