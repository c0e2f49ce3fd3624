"""CSV, Markdown and HTML: the numbers of the JSON, and a page that needs nothing but itself."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from secfed.crypto.signing import SigningKey
from secfed.ids import ClientId, Digest, JobId, RoundId
from secfed.privacy.budget import authorize
from secfed.privacy.entries import Budget
from secfed.privacy.events import Gaussian, NonPrivate, PoissonGaussian
from secfed.privacy.ledger import Ledger, verify
from secfed.privacy.report.account import Report, build
from secfed.privacy.report.form_csv import to_csv
from secfed.privacy.report.form_html import BYTES_MAX, to_html
from secfed.privacy.report.form_json import to_json
from secfed.privacy.report.form_md import to_md
from secfed.privacy.report.form_text import WIDTH, to_text

Make = Callable[..., Ledger]
Event = Callable[..., PoissonGaussian]
Rows = list[dict[str, str]]

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
JOB = JobId("reviews")
FIGURES = ("epsilon_round", "epsilon_so_far", "filter_so_far", "remaining")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, void: Callable[..., None]) -> Report:
    """Three sites: one with a void, a repeated and a declared charge; one of persons; one not private."""
    folder, key = tmp_path_factory.mktemp("ledgers"), SigningKey.from_seed(bytes(range(32)))
    step = PoissonGaussian(round(0.01 * 2**64), "2", 5, "add-remove", "record")
    said = Gaussian("8", 1, "add-remove", "record", declared=True)
    plain = NonPrivate("made elsewhere <script>alert(1)</script>")
    settings: dict[str, dict[str, Any]] = {
        "hosp-a": {"unit": "record", "records_per_unit": 1},
        "hosp-b": {"unit": "person", "records_per_unit": 4, "unit_column": "id<b>"},
        "hosp-c": {"unit": "record", "records_per_unit": 1},
    }
    for name, unit in settings.items():
        with Ledger.create(
            folder / f"{name}.ledger", key=key, site=ClientId(name), relation="add-remove",
            budget=Budget("3", "0.00001", 10_000), now=lambda: NOW, **unit,
        ) as ledger:  # fmt: skip

            def charge(number: int, event: Any, job: JobId = JOB, ledger: Ledger = ledger) -> Any:
                leave = authorize(ledger.state, event, allow_non_private=True)
                return ledger.reserve(job, number, Digest(b"\x01" * 32), leave)

            if name == "hosp-a":
                for number in range(1, 22):
                    charge(number, step)
                    ledger.mark_sent(RoundId(JOB, number), 1, Digest(bytes(32)))
                ledger.mark_sent(RoundId(JOB, 21), 2, Digest(bytes(32)))
                void(ledger, charge(22, step), "called off")
                charge(1, said, JobId("pushed"))
            elif name == "hosp-b":
                charge(1, replace(step, unit="person", records_per_unit=4))
            else:
                charge(1, step)
                charge(2, plain)
    return build(
        [verify(folder / f"{name}.ledger", key.public) for name in settings],
        now=NOW,
        recompute="secfed report --config 'a & b.toml'",
        code="c0" * 32,
    )


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    """Its page."""
    return to_html(report)


class Page(HTMLParser):
    """A page taken apart: its tags with attributes, its visible text, and its tables by caption."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.text = ""
        self._into: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._into = tag
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._into = None

    def handle_data(self, data: str) -> None:
        if self._into != "style":
            self.text += f" {data}"
        if self._into == "caption":
            self.tables[-1] = (data, self.tables[-1][1])
        elif self._into in ("td", "th"):
            self.tables[-1][1][-1][-1] += data.strip()

    def table(self, caption: str) -> list[Rows]:
        """All tables under a caption, each as rows by column name."""
        return [named(rows) for title, rows in self.tables if title == caption]


def named(rows: list[list[str]]) -> Rows:
    head, *others = rows
    return [dict(zip(head, row, strict=True)) for row in others]


def tables_of_markdown(text: str) -> dict[str, list[Rows]]:
    """Tables by the bold line above them."""
    found: dict[str, list[Rows]] = {}
    for title, body in re.findall(r"^\*\*(.*)\*\*\n\n((?:\|.*\n)+)", text, flags=re.MULTILINE):
        rows = [
            [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in body.splitlines()
        ]
        found.setdefault(title, []).append(named([rows[0], *rows[2:]]))
    return found


def number(text: str) -> float | None:
    """A figure as a reader takes it from a table."""
    text = text.removeprefix("<= ")
    return None if text in ("-", "", "infinite", "not private") else float(text)


def check_rounds(tables: list[Rows], document: dict[str, Any]) -> None:
    for rows, site in zip(tables, document["sites"], strict=True):
        assert [row["round"] for row in rows] == [str(line["round"]) for line in site["rounds"]]
        for row, line in zip(rows, site["rounds"], strict=True):
            shown = [number(row[name]) for name in ("epsilon", "so far", "gate", "remaining")]
            assert shown == [line[name] for name in FIGURES]
            assert (number(row["q"]), number(row["sigma"])) == (line["q"], line["sigma"])
            assert row["so far"].startswith("<=") is not line["exact"]
            assert row["state"].startswith(line["state"])
            assert ("declared" in row["state"]) is line["declared"]


def check_overview(rows: Rows, document: dict[str, Any]) -> None:
    for row, site in zip(rows, document["sites"], strict=True):
        assert row["site"] == site["site"]
        shown = [number(row[name]) for name in ("epsilon", "gate", "cap", "remaining", "delta")]
        assert shown == [site[name] for name in ("epsilon", "filter_spent", "cap", "remaining", "delta")]


def test_the_page_holds_the_numbers_of_the_json(report: Report, page: str) -> None:
    document, parts = json.loads(json.dumps(to_json(report))), Page(page)
    check_rounds(parts.table("Every charge to this data set"), document)
    (overview,) = parts.table("All ledgers side by side")
    check_overview(overview, document)
    check_words(" ".join(parts.text.split()), document)


def test_markdown_holds_the_numbers_of_the_json(report: Report) -> None:
    document, text = json.loads(json.dumps(to_json(report))), to_md(report)
    tables = tables_of_markdown(text)
    check_rounds(tables["Every charge to this data set"], document)
    check_overview(tables["All ledgers side by side"][0], document)
    check_words(re.sub(r"\\(.)", r"\1", text), document)


def test_the_text_holds_the_same_words(report: Report) -> None:
    check_words(" ".join(to_text(report).split()), json.loads(json.dumps(to_json(report))))


def check_words(text: str, document: dict[str, Any]) -> None:
    for site in document["sites"]:
        if site["private"]:
            assert f"epsilon {site['epsilon']:.3f} at delta 0.00001" in text
            assert (
                f"of it the gate counts {site['filter_spent']:.3f} and leaves {site['remaining']:.3f}" in text
            )
            assert f"right in at most {100 * site['chance']:.1f} of 100" in text
            for point in site["curve"]:
                assert f"{point['delta']:.0e}: {point['epsilon']:.3f}" in text
        assert site["chain"]["head"] in text
        assert site["ledger"] in text
        assert all(plan in text for job in site["jobs"] for plan in job["plans"])
    assert "1 of 22 charges were declared by the site, not enforced" in text
    assert document["code"] in text
    assert document["recompute"] in text


def test_csv_holds_the_numbers_of_the_json(report: Report) -> None:
    document = json.loads(json.dumps(to_json(report)))
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    whole, *others = rows
    assert (whole["row"], number(whole["epsilon"]), whole["private"]) == ("all", document["epsilon"], "false")
    assert (whole["declared"], whole["sound"]) == (str(document["declared"]), "true") == ("1", "true")
    for site in document["sites"]:
        own = [row for row in others if row["ledger"] == site["ledger"]]
        (total,) = [row for row in own if row["row"] == "site"]
        names = {"epsilon": "epsilon", "filter": "filter_spent", "cap": "cap", "remaining": "remaining",
                 "delta": "delta", "chance": "chance", "declared": "declared"}  # fmt: skip
        assert {name: number(total[name]) for name in names} == {a: site[b] for a, b in names.items()}
        curve = [(float(row["delta"]), number(row["epsilon"])) for row in own if row["row"] == "curve"]
        assert curve == [(point["delta"], point["epsilon"]) for point in site["curve"]]
        jobs = [(row["job"], number(row["epsilon"])) for row in own if row["row"] == "job"]
        assert jobs == [(job["job"], job["epsilon"]) for job in site["jobs"]]
        lines = [row for row in own if row["row"] == "round"]
        for row, line in zip(lines, site["rounds"], strict=True):
            columns = ("epsilon", "epsilon_so_far", "filter", "remaining", "q", "sigma")
            assert [number(row[name]) for name in columns] == [
                line[name] for name in (*FIGURES, "q", "sigma")
            ]
            for name in ("private", "exact", "declared"):
                assert row[name] == json.dumps(line[name])
            assert (row["plan"], row["at"], row["state"]) == (line["plan"], line["at"], line["state"])


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    """No script, no request, no form; what is linked is on the page, and every id stands there once."""
    assert len(page.encode()) <= BYTES_MAX
    tags = Page(page).tags
    names = {name for name, _ in tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "image"}
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    known = {f"#{name}" for name in ids}
    for tag, attributes in tags:
        assert not {
            name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action")
        }
        for name in ("href", "xlink:href"):
            assert attributes.get(name) in {None, *known}, (tag, attributes)
        for name in ("aria-labelledby",):
            assert attributes.get(name) is None or f"#{attributes[name]}" in known
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= known
    assert set(re.findall(r"https?://[^\"' )<]*", page)) <= {"http://www.w3.org/1999/xlink"}
    assert "@import" not in page
    (policy,) = [a["content"] for tag, a in tags if tag == "meta" and "http-equiv" in a]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_each_plot_says_in_words_what_it_shows(report: Report, page: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(plots) == 1 + 2 * 3
    for plot in plots:
        assert 'role="img"' in plot
        (said,) = re.findall(r"<title[^>]*>(.*?)</title>", plot)
        assert re.search(r"\d", said)
        assert "#0" not in plot, "a stand-in colour was left in"
    assert f"{report.sites[0].filter_spent:.3f}" in plots[1]


def test_a_page_is_the_same_at_every_run(report: Report, page: str) -> None:
    assert to_html(report) == page


def test_what_others_wrote_stays_text(report: Report, page: str) -> None:
    """A reason or a column's name is shown as it was written, and commands neither page nor table."""
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "id&lt;b&gt;" in page
    assert r"\<script\>" in to_md(report)


def test_a_page_of_many_sites_and_rounds_stays_small(report: Report) -> None:
    """20 sites of 1000 rounds: under a megabyte, with the first and last round of each, and it says so."""
    line = report.sites[0].rounds[0]
    many = tuple(replace(line, round=number) for number in range(1, 1001))
    sites = tuple(
        replace(report.sites[0], opening=replace(report.sites[0].opening, site=f"site-{place}"), rounds=many)
        for place in range(20)
    )
    text = to_html(replace(report, sites=sites))
    assert len(text.encode()) <= BYTES_MAX
    page = Page(text)
    tables = page.table("Every charge to this data set")
    assert len(tables) == 20
    for rows in tables:
        assert (rows[0]["round"], rows[-1]["round"]) == ("1", "1000")
        assert len(rows) == 150
    assert page.text.count("150 of 1000 charges are shown") == 20


FORMS = {
    "text": lambda made: " ".join(to_text(made).split()),
    "md": lambda made: re.sub(r"\\(.)", r"\1", to_md(made)),
    "html": lambda made: " ".join(Page(to_html(made)).text.split()),
}
"""The forms with words, each as one that can be searched."""


@pytest.fixture
def damaged(make: Make, event: Event, charge: Any, tmp_path: Path, key: SigningKey) -> Callable[..., Report]:
    """hosp-a with one charge that can be read and one that cannot; any others beside it are whole."""

    def made(*others: str) -> Report:
        names = ("hosp-a", *others)
        for name in names:
            ledger = make(name)
            for number in (1, 2):
                charge(ledger, event(), number)
        path = tmp_path / "hosp-a.ledger"
        path.write_bytes(path.read_bytes().replace(b'"round":2', b'"round":3'))
        found = [verify(tmp_path / f"{name}.ledger", key.public) for name in names]
        return build(found, now=NOW, recompute="secfed report")

    return made


BOLD = ("in any case", "right in at most", "right at most", "figure holds against", "leaves")
"""What is said only where a figure holds."""


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_ledger_has_no_figure_that_holds(damaged: Callable[..., Report], form: str) -> None:
    """What can be read is the least that was spent: in summary, outcome, cards and tables alike."""
    made = damaged()
    text, (site,) = FORMS[form](made), made.sites
    assert "DAMAGED: entry 2" in text
    least = f"at least epsilon {site.epsilon:.3f} at delta 0.00001"
    gate = f"by the gate at least {site.filter_spent:.3f}"
    assert text.count(least) == text.count(gate) == 2
    assert text.count("the ledger is damaged, no figure holds") == (3 if form == "html" else 2)
    assert "no figure bounds what they learn: a ledger is damaged" in text
    assert "how much of it remains is not known" in text
    assert "whatever was charged after these cannot be read" in text
    assert "as far as the ledger can be read, nothing has left" in text
    assert not [words for words in BOLD if words.lower() in text.lower()]


def test_a_damaged_ledger_is_marked_on_the_page(damaged: Callable[..., Report]) -> None:
    """Its cards stand in red, and no plot is drawn of it."""
    page = to_html(damaged())
    assert "The ledger is DAMAGED." in page
    cards = re.findall(r'<p class="bad"><b>(.*?)</b>', page)
    assert cards == [f"at least {damaged_figure(page)}", "3.000"]
    assert "<svg" not in page


def damaged_figure(page: str) -> str:
    (found,) = re.findall(r"by the gate at least (\d\.\d{3})\)", page)
    return found


def test_one_damaged_ledger_makes_the_federations_figure_a_least(damaged: Callable[..., Report]) -> None:
    made = damaged("hosp-b")
    first, second = made.sites
    assert (first.remaining, first.chance, first.rounds[0].remaining) == (None, None, None)
    assert None not in (second.remaining, second.chance, second.rounds[0].remaining)
    for form in FORMS.values():
        text = form(made)
        assert f"at least epsilon {made.epsilon:.3f} at delta 0.00001 (by the gate at least" in text
        assert "one of them is damaged, so no figure holds" in text
        assert "hosp-a: the ledger is damaged, no figure holds." in text
        assert "hosp-b: the ledger is damaged" not in text
        assert f"In any case epsilon {second.filter_spent:.3f} holds" in text
    assert max(map(len, to_text(made).splitlines())) <= WIDTH
    overview = tables_of_markdown(to_md(made))["All ledgers side by side"][0]
    shown = [[row[name] for name in ("epsilon", "gate", "remaining")] for row in overview]
    assert shown == [
        [f"at least {first.epsilon:.3f}", f"at least {first.filter_spent:.3f}", "-"],
        [f"{second.epsilon:.3f}", f"{second.filter_spent:.3f}", f"{second.remaining:.3f}"],
    ]


def test_programs_see_that_a_ledger_is_damaged(damaged: Callable[..., Report]) -> None:
    made = damaged("hosp-b")
    document = json.loads(json.dumps(to_json(made), allow_nan=False))
    assert document["sound"] is False
    assert [site["chain"]["sound"] for site in document["sites"]] == [False, True]
    assert (document["sites"][0]["remaining"], document["sites"][0]["chance"]) == (None, None)
    rows = list(csv.DictReader(io.StringIO(to_csv(made))))
    assert [row["sound"] for row in rows if row["row"] in ("all", "site")] == ["false", "false", "true"]
    assert (document["private"], document["sites"][0]["private"]) == (None, None)
    assert document["sites"][1]["private"] is True
    fault = made.sites[0].chain.fault
    assert document["sites"][0]["reason"] == f"the ledger is damaged: {fault}"
    assert document["reason"] == f"hosp-a: the ledger is damaged: {fault}"
    counted = [row for row in rows if row["row"] != "round"]
    unknown = {(row["row"], row["site"]) for row in counted if row["private"] == ""}
    assert unknown >= {("all", ""), ("site", "hosp-a"), ("job", "hosp-a"), ("curve", "hosp-a")}
    assert all(site != "hosp-b" for _, site in unknown)
    assert [row["reason"] for row in rows[:2]] == [document["reason"], document["sites"][0]["reason"]]
    damaged_rows = [row for row in rows if row["site"] == "hosp-a"]
    assert {row["remaining"] for row in damaged_rows} == {row["chance"] for row in damaged_rows} == {""}


@pytest.fixture
def said(make: Make, charge: Any, tmp_path: Path, key: SigningKey) -> Report:
    """One site with one declared charge."""
    charge(make(), Gaussian("8", 1, "add-remove", "record", declared=True))
    found = [verify(tmp_path / "hosp-a.ledger", key.public)]
    return build(found, now=NOW, recompute="secfed report")


@pytest.mark.parametrize("form", FORMS)
def test_what_a_site_declared_holds_as_far_as_that_is_true(said: Report, form: str) -> None:
    """Each figure, and each sentence that rests on one, stands under the condition; nothing says why."""
    text, (site,) = FORMS[form](said), said.sites
    condition = (
        "as far as the site's declaration is true; the noise that it declares was neither added nor checked "
        "by this program"
    )
    assert f"(by the gate {site.filter_spent:.3f}), {condition}" in text
    assert "By the gate's figure, somebody" in text
    assert f"a blind guess is right in 50. This holds {condition}." in text
    assert f"Without that epsilon {site.filter_spent:.3f} holds, which is what the gate counts; both" in text
    assert text.count(f"the figure holds against them {condition}") == 5
    assert text.count(condition) == 8 + (2 if form == "html" else 0)
    for words in ("noise was added at the site", "itself adds the noise", "noisy vector", "in any case"):
        assert words not in text.lower()


def test_a_declared_site_beside_others_is_named(report: Report) -> None:
    whole = replace(report, sites=report.sites[:2], epsilon=1.0, filter_spent=1.0)
    assert "The figures of hosp-a hold as far as the site's declaration is true" in to_md(whole)


def test_a_void_declaration_changes_nothing(
    make: Make, charge: Any, tmp_path: Path, key: SigningKey, void: Callable[..., None]
) -> None:
    ledger = make()
    void(ledger, charge(ledger, Gaussian("8", 1, "add-remove", "record", declared=True)), "called off")
    made = build([verify(tmp_path / "hosp-a.ledger", key.public)], now=NOW, recompute="secfed report")
    assert made.declared == 0
    assert "noise was added at the site" in " ".join(to_text(made).split())


def test_a_ledger_without_charges_has_every_form(make: Make, tmp_path: Path, key: SigningKey) -> None:
    ledger = make(budget=None)
    made = build([verify(tmp_path / "hosp-a.ledger", key.public)], now=NOW, recompute="secfed report")
    assert ledger.state.charges == ()
    for write in (to_html, to_md, to_csv, to_text):
        assert "hosp-a" in write(made)
    assert math.isfinite(made.epsilon)
