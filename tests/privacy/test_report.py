"""The report: the same numbers in both formats, honest about what is not private or not sound."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from secfed.crypto.signing import SigningKey
from secfed.errors import LedgerError
from secfed.ids import Digest, JobId, RoundId
from secfed.privacy.accountant import epsilon
from secfed.privacy.entries import Budget
from secfed.privacy.events import NonPrivate, PoissonGaussian
from secfed.privacy.ledger import Ledger, Verdict, verify
from secfed.privacy.report.account import Report, ahead, build, guess_bound
from secfed.privacy.report.figures import Figures, points_for
from secfed.privacy.report.form_json import to_json
from secfed.privacy.report.form_text import WIDTH, to_text

Make = Callable[..., Ledger]
Event = Callable[..., PoissonGaussian]
Reserve = Callable[..., Any]

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
COMMAND = "secfed report --ledger hosp-a.ledger"
JOB = JobId("reviews")
DIGEST = Digest(bytes(32))


def report_of(*verdicts: Verdict) -> Report:
    return build(verdicts, now=NOW, recompute=COMMAND)


def of(ledger: Ledger, path: Path, key: SigningKey) -> Verdict:
    return verify(path / f"{ledger.state.opening.site}.ledger", key.public, expect=ledger.head)


def words(report: Report) -> str:
    """The text as one line, so that it can be searched across line breaks."""
    return " ".join(to_text(report).split())


@pytest.fixture
def two_sites(
    make: Make, event: Event, charge: Reserve, tmp_path: Path, key: SigningKey, void: Callable[..., None]
) -> Report:
    """hosp-a: three rounds, one sent twice, and one that was voided; hosp-b: one round, reserved only."""
    first, second = make("hosp-a"), make("hosp-b")
    for number in (1, 2, 3):
        charge(first, event(), number)
        first.mark_sent(RoundId(JOB, number), 1, DIGEST)
    first.mark_sent(RoundId(JOB, 3), 2, DIGEST)
    void(first, charge(first, event(), 4), "called off")
    charge(second, event(), 1)
    return report_of(of(first, tmp_path, key), of(second, tmp_path, key))


def test_a_site_spends_what_its_events_cost(two_sites: Report, event: Event) -> None:
    site = two_sites.sites[0]
    figure = epsilon([event(150)], 1e-5)
    assert site.figure == figure
    assert site.epsilon == figure.epsilon == site.rounds[2].epsilon_so_far == site.jobs[0].epsilon
    assert site.filter_spent == figure.epsilon_filter
    assert site.remaining == pytest.approx(3 - figure.epsilon_filter, abs=1e-3)
    assert site.remaining is not None
    assert site.remaining <= 3 - site.filter_spent + 1e-3


def test_each_round_stands_with_its_own_cost_and_the_sum_so_far(two_sites: Report, event: Event) -> None:
    rounds = two_sites.sites[0].rounds
    assert [(line.round, line.state, line.attempts) for line in rounds] == [
        (1, "sent", 1), (2, "sent", 1), (3, "sent", 2), (4, "void", 0),
    ]  # fmt: skip
    assert rounds[0].epsilon_round == epsilon([event()], 1e-5).epsilon
    so_far = [line.epsilon_so_far for line in rounds]
    assert so_far == sorted(so_far)
    assert (rounds[3].epsilon_round, rounds[3].epsilon_so_far) == (0, rounds[2].epsilon_so_far)
    assert two_sites.sites[1].rounds[0].state == "reserved"


def test_the_federation_is_the_largest_of_its_sites_never_their_sum(two_sites: Report) -> None:
    assert two_sites.epsilon == max(site.epsilon for site in two_sites.sites)
    assert "largest of 2 sites" in words(two_sites)


def test_numbers_are_the_same_in_both_formats(two_sites: Report) -> None:
    """Every epsilon of the JSON stands in the text, row by row, and the text has no other."""
    text, data = to_text(two_sites), json.loads(json.dumps(to_json(two_sites), allow_nan=False))
    assert data["schema"] == 1
    for site in data["sites"]:
        part = text.split(f"Site {site['site']}\n")[1]
        part = re.split(r"^(?:Site .*|How to read this)$", part, flags=re.MULTILINE)[0]
        rows = re.findall(r"^reviews +(\d+) .*$", part.split("job       round")[1], flags=re.MULTILINE)
        assert rows == [str(line["round"]) for line in site["rounds"]]
        for line in site["rounds"]:
            row = next(r for r in part.splitlines() if re.match(rf"reviews +{line['round']} +0\.01 ", r))
            figures = [float(number) for number in re.findall(r"\d+\.\d{3}", row)]
            assert figures == [
                line[name] for name in ("epsilon_round", "epsilon_so_far", "filter_so_far", "remaining")
            ]
        facts = " ".join(part.split())
        assert f"epsilon {site['epsilon']:.3f} at delta 0.00001" in facts
        assert f"cross-check by Renyi bound {site['figure']['epsilon_rdp']:.3f}" in facts
        assert f"epsilon {site['cap']:.3f}; of it the gate counts {site['filter_spent']:.3f}" in facts
        assert f"leaves {site['remaining']:.3f}" in facts
        for point in site["curve"]:
            assert f"{point['delta']:.0e}: {point['epsilon']:.3f}" in facts


def test_the_text_is_plain_narrow_and_says_how_to_recompute_it(two_sites: Report) -> None:
    text = to_text(two_sites)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.endswith(COMMAND + "\n")
    assert "2026-05-06T07:08:09Z" in text
    assert "Not covered" in text


def test_a_long_name_does_not_widen_the_table(
    make: Make, event: Event, charge: Reserve, tmp_path: Path, key: SigningKey
) -> None:
    ledger = make()
    charge(ledger, event(), 1, JobId("a" * 63))
    text = to_text(report_of(of(ledger, tmp_path, key)))
    assert max(map(len, text.splitlines())) <= WIDTH


def test_what_is_not_private_says_so_everywhere(
    make: Make, event: Event, charge: Reserve, tmp_path: Path, key: SigningKey
) -> None:
    ledger = make()
    charge(ledger, event(), 1)
    charge(ledger, NonPrivate("a vector trained elsewhere"), 2)
    report = report_of(of(ledger, tmp_path, key))
    assert report.epsilon == math.inf
    data = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert (data["epsilon"], data["private"]) == (None, False)
    site = data["sites"][0]
    assert (site["epsilon"], site["private"], site["remaining"]) == (None, False, 0)
    assert [line["private"] for line in site["rounds"]] == [True, False]
    assert [line["epsilon_so_far"] is None for line in site["rounds"]] == [False, True]
    text = words(report)
    assert text.count("not private") >= 3
    assert "right in at most" not in text
    assert "the figure holds against everybody" not in text


def test_a_scratch_ledger_promises_nothing(
    make: Make, charge: Reserve, tmp_path: Path, key: SigningKey
) -> None:
    ledger = make(budget=None)
    empty = report_of(of(ledger, tmp_path, key))
    assert (empty.epsilon, empty.delta) == (0, None)
    charge(ledger, NonPrivate("a vector trained elsewhere"))
    report = report_of(of(ledger, tmp_path, key))
    assert (report.epsilon, report.delta) == (math.inf, None)
    assert "scratch ledger" in words(report)
    json.dumps(to_json(report), allow_nan=False)


def test_several_plans_are_a_claim_only_by_the_gate(
    make: Make, event: Event, charge: Reserve, tmp_path: Path, key: SigningKey
) -> None:
    ledger = make()
    charge(ledger, event(), 1)
    one = report_of(of(ledger, tmp_path, key))
    assert one.sites[0].one_plan
    assert f"In any case epsilon {one.sites[0].filter_spent:.3f} holds" in words(one)
    charge(ledger, event(), 1, JobId("second"))
    report = report_of(of(ledger, tmp_path, key))
    assert [job.job for job in report.sites[0].jobs] == ["reviews", "second"]
    assert f"In any case epsilon {report.sites[0].filter_spent:.3f} holds" in words(report)


def test_what_was_worked_out_ahead_is_not_worked_out_again(
    make: Make,
    event: Event,
    charge: Reserve,
    tmp_path: Path,
    key: SigningKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger = make()
    for number in (1, 2):
        charge(ledger, event(), number)
    verdict = of(ledger, tmp_path, key)
    whole, figures = report_of(verdict), Figures(points=points_for(1))
    ahead(verdict, figures)
    monkeypatch.setattr("secfed.privacy.accountant.epsilon", mock.Mock(side_effect=AssertionError))
    assert build([verdict], now=NOW, recompute=COMMAND, figures=figures) == whole


def test_one_record_of_a_person_is_priced_as_an_exchange(
    make: Make, event: Event, charge: Reserve, tmp_path: Path, key: SigningKey
) -> None:
    """Not where rows are the units, and not where each record was drawn and clipped by itself."""
    persons = {"unit": "person", "records_per_unit": 4}
    whole = replace(event(20), **persons)
    single = replace(whole, steps=1, noise_multiplier="30", sampling="record")
    sites = {"hosp-a": event(), "hosp-b": whole, "hosp-c": single}
    verdicts = []
    for name, spent in sites.items():
        ledger = make(name, Budget("100", "0.00001", 100), **({} if name == "hosp-a" else persons))
        charge(ledger, spent, 1)
        verdicts.append(of(ledger, tmp_path, key))
    report = report_of(*verdicts)
    rows, exchanged, drawn = (site.one_record for site in report.sites)
    assert rows is None
    assert drawn is None
    assert exchanged == epsilon([whole], 1e-5, "replace-one")
    assert exchanged.epsilon > report.sites[1].epsilon
    text = words(report)
    assert text.count("relation replace-one") == 1
    assert (
        f"for which epsilon is {exchanged.epsilon:.3f}, on the condition that is said of the figure above"
        in text
    )
    data = to_json(report)["sites"]
    assert [site["one_record"] and site["one_record"]["epsilon"] for site in data] == [
        None, exchanged.epsilon, None,
    ]  # fmt: skip


def test_the_chance_in_plain_words_holds_in_any_case(two_sites: Report) -> None:
    """Whether one plan ran to its end is not known from a ledger, so the gate's figure stands behind it."""
    for site in two_sites.sites:
        chance = guess_bound(site.filter_spent, 1e-5)
        assert guess_bound(site.epsilon, 1e-5) + 0.001 < chance
        assert site.chance == pytest.approx(chance, abs=1e-3)
        assert site.chance is not None
        assert site.chance >= chance
        assert f"right in at most {100 * site.chance:.1f} of 100" in words(two_sites)
    assert f"(in any case {two_sites.filter_spent:.3f})" in words(two_sites)


def test_a_damaged_ledger_is_shown_as_damaged_and_as_far_as_it_is_sound(
    two_sites: Report, tmp_path: Path, key: SigningKey
) -> None:
    path = tmp_path / "hosp-a.ledger"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b'"round":2', b'"round":9')
    path.write_bytes(b"".join(lines))
    report = report_of(verify(path, key.public))
    assert not report.sites[0].chain.sound
    assert len(report.sites[0].rounds) == 2
    assert (report.sound, report.sites[0].remaining, report.sites[0].chance) == (False, None, None)
    assert "DAMAGED: entry 4" in words(report)


def test_a_cut_tail_cannot_be_excluded_without_a_known_head(
    two_sites: Report, tmp_path: Path, key: SigningKey
) -> None:
    assert "compared with a head that is known elsewhere" in words(two_sites)
    report = report_of(verify(tmp_path / "hosp-a.ledger", key.public))
    assert "not compared with a head that is known elsewhere" in words(report)


def test_what_cannot_be_reported_is_refused(make: Make, tmp_path: Path, key: SigningKey) -> None:
    verdict = of(make(), tmp_path, key)
    with pytest.raises(LedgerError, match="each of them once"):
        report_of(verdict, verdict)
    with pytest.raises(LedgerError, match="at least one"):
        report_of()
    empty = tmp_path / "empty.ledger"
    empty.touch()
    with pytest.raises(LedgerError, match="never opened"):
        report_of(verify(empty, key.public))


def test_the_guess_bound_by_hand() -> None:
    """Nothing released: a coin toss. Epsilon ln 3: three of four. No bound: always."""
    assert guess_bound(0, 0) == 0.5
    assert guess_bound(math.log(3), 0) == pytest.approx(0.75)
    assert guess_bound(math.log(3), 0.01) == pytest.approx(0.7525)
    assert guess_bound(1000, 1e-5) == 1
    assert guess_bound(math.inf, 1e-5) == 1
