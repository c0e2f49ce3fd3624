"""What an account says of one site, in words: how much was spent, whom it protects, how it was done."""

from __future__ import annotations

import math

from secfed.privacy.events import Event, Gaussian, NonPrivate, PoissonGaussian, declared
from secfed.privacy.report.audits import in_words
from secfed.privacy.report.lines import Chain, RoundLine, SiteReport
from secfed.privacy.report.words import AS_DECLARED, DAMAGED, NOT_PRIVATE, Answers, decimal, figure, rate

__all__ = ["headline", "mechanism", "outcome", "practice", "promise", "state"]


def headline(site: SiteReport) -> Answers:
    """The few figures to see first, each with what it is; nothing for a ledger without a budget."""
    if site.cap is None:
        return ()
    if math.isinf(site.filter_spent):
        return (("no bound", "a release was not private"), (f"{site.cap:.3f}", "cap, exceeded"))
    if not site.sound:
        return (
            (f"at least {site.filter_spent:.3f}", f"epsilon spent: {DAMAGED}"),
            (f"{site.cap:.3f}", "cap"),
        )
    guessed = f"of 100 guesses whether one {site.opening.unit} took part are right at most (blind: 50)"
    return (
        (f"{site.filter_spent:.3f}", f"epsilon spent, {AS_DECLARED if site.declared else 'in any case'}"),
        (f"{site.cap:.3f}", "cap"),
        (figure(site.remaining), "remaining"),
        (_of_100(site), f"{guessed}, {AS_DECLARED}" if site.declared else guessed),
    )


def outcome(site: SiteReport) -> Answers:
    """How much was spent, of how much, and what that means; and whether the record is whole."""
    rows = [("Ledger", _chain(site.chain))]
    budget, figures = site.opening.budget, site.figure
    if budget is None or figures is None or site.cap is None:
        rows.append(("Budget", "none: a scratch ledger, which takes releases without any privacy bound"))
    elif math.isinf(site.epsilon):
        rows.append(("Spent", f"{NOT_PRIVATE}: a release had no privacy bound, so epsilon is infinite"))
        rows.append(("Budget", f"epsilon {site.cap:.3f}; exceeded, nothing remains"))
    elif not site.sound:
        rows.append(
            (
                "Spent",
                f"at least epsilon {site.epsilon:.3f} at delta {decimal(figures.delta)}, by the gate at "
                f"least {site.filter_spent:.3f}; {DAMAGED}",
            )
        )
        rows.append(("Budget", f"epsilon {site.cap:.3f}; how much of it remains is not known"))
    else:
        which = "gate's figure" if site.declared else "figure that holds in any case"
        condition = f" This holds {AS_DECLARED}." if site.declared else ""
        rows.append(
            (
                "In plain words",
                f"By the {which}, somebody who sees all that was released and guesses "
                f"whether one given {site.opening.unit} was in the data is right in at most "
                f"{_of_100(site)} of 100 cases; a blind guess is right in 50.{condition}",
            )
        )
        rows.append(
            (
                "Spent",
                f"epsilon {site.epsilon:.3f} at delta {decimal(figures.delta)}, by {figures.accountant} "
                f"({figures.accountant_version}); cross-check by Renyi bound {figures.epsilon_rdp:.3f}"
                + (_ONE_PLAN if site.one_plan else _SEVERAL_PLANS)
                + (_IF_DECLARED if site.declared else _IN_ANY_CASE).format(site.filter_spent)
                + ".",
            )
        )
        rows.append(
            (
                "Budget",
                f"epsilon {site.cap:.3f}; of it the gate counts {site.filter_spent:.3f} and leaves "
                f"{figure(site.remaining)}. The gate counts more than was spent, because it must stay right "
                "whatever is decided after results were seen.",
            )
        )
        curve = ", ".join(f"{delta:.0e}: {value:.3f}" for delta, value in site.curve)
        rows.append(("Other deltas", f"{curve} (of what was spent, under the same condition)"))
    rows += [("Audit", in_words(audit)) for audit in site.audits]
    if budget is not None and not site.audits:
        rows.append(("Audit", _NO_AUDIT))
    return tuple(rows)


_SEVERAL_PLANS = ". Several plans were charged: this figure is a claim only if all of them"
_ONE_PLAN = ". This figure is a claim only if the plan and its number of rounds"

_FIXED = " were fixed before the first result was seen, and carried out to their end. "
_IN_ANY_CASE = f"{_FIXED}In any case epsilon {{:.3f}} holds, which is what the gate counts"
_IF_DECLARED = (
    f"{_FIXED}Without that epsilon {{:.3f}} holds, which is what the gate counts; both {AS_DECLARED}"
)


def _of_100(site: SiteReport) -> str:
    """How many guesses of 100 are right at the most."""
    return f"{100 * (1.0 if site.chance is None else site.chance):.1f}"


def promise(site: SiteReport) -> Answers:
    """What was released, whom it is to protect, and how identity was resolved."""
    rows = [
        ("Released", _released(site)),
        ("Protected", _protected(site)),
        ("What is one unit", _identity(site)),
    ]
    if site.one_record is not None:
        rows.append(
            (
                "One record",
                "of a person: taken out, or exchanged for another of the same person, it moves that person's "
                "part as another person in the same place would (relation replace-one), for which epsilon is "
                f"{site.one_record.epsilon:.3f}, on the condition that is said of the figure above; by the "
                f"filter {site.one_record.epsilon_filter:.3f}, though no cap was kept under this relation.",
            )
        )
    return tuple(rows)


def practice(site: SiteReport) -> Answers:
    """How the noise was made, and what else bears on the figure."""
    rows: list[tuple[str, str]] = []
    counted = [line for line in site.rounds if line.state != "void"]
    said = len([line for line in counted if line.declared])
    if said:
        rows.append(
            (
                "Declared",
                f"{said} of {len(counted)} charges were declared by the site, not enforced: the vectors were "
                "made elsewhere, and nobody but the site says how. The figures hold only as far as that is "
                "true.",
            )
        )
    if any(isinstance(line.event, NonPrivate) for line in counted):
        reasons = sorted({line.note for line in counted if isinstance(line.event, NonPrivate) and line.note})
        rows.append(("Not private", f"releases without any noise: {'; '.join(reasons)}"))
    rows.append(("Ledger's identity", f"{site.opening.ledger}, opened {site.opening.at}"))
    rows.append(("Ledger's head", f"{site.chain.entries}:{site.chain.head}"))
    plans = sorted({plan.hex() for job in site.jobs for plan in job.plans})
    if plans:
        rows.append(("Plans' digests", f"{', '.join(plans)}. {_PLAN}"))
    return tuple(rows)


_NO_AUDIT = "none lies beside this ledger: the figures rest on the calculation alone."

_PLAN = "A plan names C, the base model and its digest, the rounds and who signed it."


def mechanism(event: Event) -> tuple[str, str, str, str]:
    """What was done in one charge, and its q, sigma and steps."""
    match event:
        case PoissonGaussian():
            kind = "noisy training, by the record" if event.sampling == "record" else "noisy training"
            cells = (rate(event.q), event.noise_multiplier, str(event.steps))
        case Gaussian():
            kind, cells = "noisy release", ("1", event.noise_multiplier, str(event.count))
        case _:
            kind, cells = "no noise", ("-", "-", "-")
    return (f"{kind} (declared)" if declared(event) else kind, *cells)


def state(line: RoundLine) -> str:
    """What became of a charge."""
    text = line.state if line.attempts < 2 else f"{line.state} ({line.attempts}x)"
    return f"{text}, declared" if line.declared else text


def _released(site: SiteReport) -> str:
    sent = [line for line in site.rounds if line.sent_at is not None]
    if not sent:
        text = "nothing has left the site under this ledger so far"
    else:
        first, last = min(line.sent_at or "" for line in sent), max(line.sent_at or "" for line in sent)
        when = f"on {first[:10]}" if first[:10] == last[:10] else f"between {first[:10]} and {last[:10]}"
        text = (
            f"{_many(len(sent), 'contribution')} of {_many(len({line.job for line in sent}), 'job')}, "
            f"{when}, each as a masked vector to the aggregator. What is published of a round is the sum "
            "over all sites that took part, or the adapter made from it: to the federation's members, and "
            "to whoever they hand it on to"
        )
    reserved = sum(line.state == "reserved" for line in site.rounds)
    void = sum(line.state == "void" for line in site.rounds)
    if reserved:
        text += f". {_many(reserved, 'charge')} reserved with nothing sent; it counts all the same"
    if void:
        text += f". {_many(void, 'charge')} taken back, because nothing had left the site"
    return f"{text}." if site.sound else f"as far as the ledger can be read, {text}."


def _protected(site: SiteReport) -> str:
    opening = site.opening
    if opening.budget is None or math.isinf(site.epsilon):
        return "nothing, as long as a release without any privacy bound counts here"
    what = f"the presence of one {opening.unit}"
    if opening.unit == "person":
        what += f", with at most {opening.records_per_unit} records"
    if opening.relation == "add-remove":
        return f"{what}: data with and without it look alike (relation add-remove)"
    return f"{what}: data in which it is exchanged for another look alike (relation replace-one)"


def _identity(site: SiteReport) -> str:
    opening = site.opening
    if opening.unit == "record":
        return (
            "one row of the data file. Somebody with several rows is protected row by row, not as a person."
        )
    column = "a column of the data file" if opening.unit_column is None else f"column {opening.unit_column!r}"
    return (
        f"one person: rows with the same value in {column} are one person's. At most "
        f"{opening.records_per_unit} of them are used. Somebody under two values counts as two persons."
    )


def _chain(chain: Chain) -> str:
    if chain.fault is not None:
        return f"DAMAGED: {chain.fault}. Only the {chain.entries} entries before that are shown here."
    compared = (
        "and compared with a head that is known elsewhere"
        if chain.compared
        else "but not compared with a head that is known elsewhere, so entries cut off its end would not be "
        "seen"
    )
    torn = (
        f" A last line of {chain.torn_bytes} bytes, cut short by a crash, does not count."
        if chain.torn_bytes
        else ""
    )
    return f"sound: {chain.entries} entries, chained and signed, {compared}. Head {chain.head[:16]}.{torn}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
