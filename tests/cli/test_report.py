"""`secfed report` in all its forms, and `--job`/`--plan`: a signed plan's figures worked out again."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from secfed.cli.connect import connect
from secfed.cli.passphrase import source
from secfed.cli.playground import Playground
from secfed.config import AdminConfig, ClientConfig, checked, load, to_toml
from secfed.identity import keyfile
from secfed.ids import Digest, JobId, RoundId
from secfed.privacy import accountant
from secfed.privacy.budget import authorize
from secfed.privacy.entries import Budget
from secfed.privacy.events import PoissonGaussian
from secfed.privacy.ledger import Ledger
from secfed.privacy.report import audits
from secfed.rounds.charge import dp_event
from secfed.rounds.plan import BaseModelSpec, DpSpec, JobPlan, LoraSpec, TrainSpec
from secfed.rounds.proposal import sign_job_plan

Command = Callable[..., Any]

NOISY = PoissonGaussian(round(0.01 * 2**64), "2", 5, "add-remove", "record")

ADAPTER: dict[str, tuple[int, ...]] = {
    "base_model.model.layer.0.q.lora_A.weight": (1, 2),
    "base_model.model.layer.0.q.lora_B.weight": (2, 1),
}


@pytest.fixture
def hosp(new_site: Callable[..., Path]) -> Path:
    """A site's client.toml; its ledger holds two charges, one sent."""
    folder = new_site("hosp-a").parent
    config = checked(
        ClientConfig, folder, site="hosp-a", key="hosp-a.key", federation="0f" * 16,
        roster_key="A" * 43 + "=", roster="roster.txt", aggregator="127.0.0.1:8443",
        aggregator_certificate="aggregator.pem", state_dir="state", ledger_dir="ledger",
        policy="policy.toml", output_dir="out",
    )  # fmt: skip
    (folder / "client.toml").write_text(to_toml(config, folder))
    (folder / "ledger").mkdir()
    keys = keyfile.load(folder / "hosp-a.key", None)
    with Ledger.create(
        folder / "ledger" / "dataset.ledger", key=keys.signing, site=keys.site, unit="record",
        records_per_unit=1, relation="add-remove", budget=Budget("3", "0.00001", 10_000),
        now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    ) as ledger:  # fmt: skip
        for number in (1, 2):
            ledger.reserve(JobId("reviews"), number, Digest(b"\x01" * 32), authorize(ledger.state, NOISY))
        ledger.mark_sent(RoundId(JobId("reviews"), 1), 1, Digest(b"\x02" * 32))
    return folder / "client.toml"


def test_every_form_goes_to_stdout_or_a_file(hosp: Path, tmp_path: Path, secfed: Command) -> None:
    said = {}
    for form in ("text", "json", "csv", "md", "html"):
        shown = secfed("report", "--config", hosp, "--format", form)
        assert (shown.code, shown.err) == (0, "")
        done = secfed("report", "--config", hosp, "--format", form, "-o", tmp_path / f"account.{form}")
        assert (done.code, done.fact("report")) == (0, str(tmp_path / f"account.{form}"))
        said[form] = (tmp_path / f"account.{form}").read_text()
    figure = f"{json.loads(said['json'])['sites'][0]['epsilon']:.3f}"
    assert all(figure in text for text in said.values())
    whole = next(csv.DictReader(io.StringIO(said["csv"])))
    assert float(whole["epsilon"]) == float(figure)
    assert said["md"].startswith("# Privacy account\n")
    assert said["html"].startswith("<!DOCTYPE html>")


def test_no_file_is_written_over(hosp: Path, secfed: Command) -> None:
    """A slip of the pen behind -o would cost a key or a ledger."""
    ledger = hosp.parent / "ledger" / "dataset.ledger"
    before = ledger.read_bytes()
    done = secfed("report", "--config", hosp, "-o", ledger)
    assert (done.code, f"{ledger} exists already" in done.err) == (2, True)
    assert ledger.read_bytes() == before
    assert secfed("report", "--config", hosp, "--save-plan", ledger).code == 2


def test_an_audit_beside_the_ledger_stands_beside_the_claim(hosp: Path, secfed: Command) -> None:
    folder = hosp.parent / "ledger" / "audits"
    folder.mkdir()
    checks = [
        {"name": "noise variance", "figure": 1.5, "low": 0.9, "high": 1.1, "passed": False, "about": ""}
    ]
    noise = {
        "schema": 1, "kind": "mechanism", "date": "2026-01-02T00:00:00Z", "job": None, "trainer": "sft",
        "base_model": "random weights", "error": 1e-6, "passed": False, "checks": checks,
    }  # fmt: skip
    (folder / "canaries.json").write_text(json.dumps(FOUND))
    (folder / "mechanism.json").write_text(json.dumps(noise))
    (folder / "later.json").write_text(json.dumps(FOUND | {"schema": 2}))
    (folder / "odd\x1b[31m.json").write_text(json.dumps(FOUND | {"method": "\x1b[31mfine"}))
    (folder / "nothing.json").write_text(json.dumps(noise | {"passed": True, "checks": []}))
    (folder / "infinite.json").write_text(json.dumps(FOUND | {"epsilon_lower": float("nan")}))
    document = json.loads(secfed("report", "--config", hosp, "--format", "json").out)
    read = document["sites"][0]["audits"]
    assert [audit["kind"] for audit in read] == ["mechanism", "canaries", *["unknown"] * 4]
    assert read[1]["epsilon_lower"] == 0.123
    text = " ".join(secfed("report", "--config", hosp).out.split())
    assert "epsilon is at least 0.123 at delta 1e-05 (71 of 100 guesses right, 1000 planted rows" in text
    assert (
        "claimed was 1.828 at delta 1e-05: consistent. So many guesses could not show more than 3.460" in text
    )
    assert "trainer sft on random weights: checks 1, FAILED: noise variance" in text
    assert "An audit of an unknown format: later.json" in text
    assert "An audit of an unknown format: nothing.json" in text
    assert "\x1b" not in text
    table = csv.DictReader(io.StringIO(secfed("report", "--config", hosp, "--format", "csv").out))
    rows = [row for row in table if row["row"] == "audit"]
    assert [row["kind"] for row in rows] == [audit["kind"] for audit in read]
    assert (rows[0]["verdict"], rows[1]["verdict"], rows[2]["verdict"]) == ("failed", "consistent", "")
    assert [rows[1][name] for name in ("epsilon_lower", "delta", "ceiling", "confidence", "claim")] == [
        "0.123", "1e-05", "3.46", "0.95", "1.828"
    ]  # fmt: skip
    assert "later.json" in "".join(row["reason"] for row in rows[2:])


def test_a_site_with_a_scratch_ledger_alone_shows_its_audit(hosp: Path, secfed: Command) -> None:
    """And beside a data set's ledger it is shown there, once."""
    folder = hosp.parent / "ledger"
    keys = keyfile.load(hosp.parent / "hosp-a.key", None)
    with Ledger.create(
        folder / "a-scratch.ledger", key=keys.signing, site=keys.site, unit="record", records_per_unit=1,
        relation="add-remove", budget=None,
    ):  # fmt: skip
        pass
    (folder / "audits").mkdir()
    (folder / "audits" / "one.json").write_text(json.dumps(FOUND))

    def audited() -> list[list[str]]:
        sites = json.loads(secfed("report", "--config", hosp, "--format", "json").out)["sites"]
        return [[audit["kind"] for audit in site["audits"]] for site in sites]

    assert audited() == [[], ["canaries"]]
    (folder / "dataset.ledger").unlink()
    assert audited() == [["canaries"]]
    assert "epsilon is at least 0.123" in " ".join(secfed("report", "--config", hosp).out.split())


FOUND = {
    "schema": 1, "kind": "canaries", "date": "2026-01-03T00:00:00Z", "method": "one-run audit",
    "confidence": 0.95, "epsilon_lower": 0.123, "delta": 1e-5, "ceiling": 3.46, "canaries": 1000,
    "guesses": 100, "right": 71, "job": "reviews", "round": 2, "adapter": "ab" * 32,
    "claim": {"epsilon": 1.828, "delta": 1e-5, "source": "option"}, "verdict": "consistent", "more": [],
}  # fmt: skip
"""A canary audit's file."""

CLAIM = {"epsilon": 1.5, "delta": 1e-5}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"epsilon_lower": 1.5}, "consistent"),
        ({"epsilon_lower": 1.501}, "refuted"),
        ({"epsilon_lower": 1.501, "delta": 1e-6}, "not comparable"),
        ({"epsilon_lower": 0.1, "delta": 1e-6}, "not comparable"),
        ({"claim": None}, "no claim"),
        ({"claim": {"epsilon": None, "delta": 1e-5}}, "no claim"),
    ],
)
def test_an_audits_verdict_follows_from_its_figures(
    tmp_path: Path, changes: dict[str, object], verdict: str
) -> None:
    """Whatever the file says of itself."""
    found = {
        "schema": 1, "kind": "canaries", "date": "2026-01-03T00:00:00Z", "method": "one-run audit",
        "confidence": 0.95, "epsilon_lower": 0.1, "delta": 1e-5, "ceiling": 3.46, "canaries": 1000,
        "guesses": 100, "right": 71, "job": None, "round": None, "adapter": "ab" * 32, "claim": CLAIM,
    }  # fmt: skip
    for place, own in enumerate(({"verdict": "consistent"}, {"verdict": "refuted"}, {})):
        (tmp_path / f"{place}.json").write_text(json.dumps(found | changes | own))
    read = audits.read(tmp_path)
    assert [audit.to_json()["verdict"] for audit in read] == [verdict] * 3
    assert all(f": {verdict}. So many guesses" in audits.in_words(audit) for audit in read)


def test_a_damaged_ledger_is_reported_and_ends_in_an_error(
    hosp: Path, secfed: Command, tmp_path: Path
) -> None:
    """The account is written first, so that there is something to look at; its figures are the least."""
    ledger = hosp.parent / "ledger" / "dataset.ledger"
    ledger.write_bytes(ledger.read_bytes().replace(b'"round":2', b'"round":3'))
    for form in ("text", "json", "csv", "md", "html"):
        path = tmp_path / f"account.{form}"
        done = secfed("report", "--config", hosp, "--format", form, "-o", path)
        assert (done.code, done.fact("report"), str(ledger) in done.error) == (61, str(path), True)
        assert path.stat().st_size > 0
    assert json.loads((tmp_path / "account.json").read_text())["sound"] is False


def test_without_an_audit_the_report_says_so(hosp: Path, secfed: Command) -> None:
    assert "none lies beside this ledger" in " ".join(secfed("report", "--config", hosp).out.split())


def test_the_code_that_made_it_is_named(hosp: Path, secfed: Command) -> None:
    first, again = (
        json.loads(secfed("report", "--config", hosp, "--format", "json").out)["code"] for _ in range(2)
    )
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert first == again


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--format", "pdf"), "--format is one of text, json, csv, md, html here, not 'pdf'"),
        (("--job", "x", "--format", "html"), "--format is one of text, json here, not 'html'"),
        (("--job", "x", "--config", "{config}"), "a plan is looked at with one --config"),
    ],
)
def test_wrong_options_are_one_line(
    hosp: Path, secfed: Command, words: tuple[str, ...], expected: str
) -> None:
    done = secfed("report", "--config", hosp, *(word.format(config=hosp) for word in words))
    assert (done.code, done.out, expected in done.error) == (2, "", True)


# -- plans -------------------------------------------------------------------------------------


@pytest.fixture
def signed(federation: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the signed plan of a private job of four rounds; `figures` changes what it says of itself."""

    def write(
        figures: Callable[[list[float]], list[float]] = lambda true: true,
        of: Path = federation,
        **changes: object,
    ) -> Path:
        config = load(of / "admin.toml", AdminConfig)
        plan = JobPlan(
            federation=config.federation, job="reviews", kind="train", created="2026-01-02T03:04:05Z",
            created_by=config.site, rounds=4, spare_rounds=1, shapes=ADAPTER, bound="1",
            training=TrainSpec(
                trainer="sft", strategy="fedavg", base=BaseModelSpec(id="base", weights_sha256="00" * 32),
                lora=LoraSpec(r=1, alpha=1, target_modules=("q",)), steps=5, learning_rate="0.1",
                adapter=ADAPTER, seed="00" * 32,
            ),
            dp=DpSpec(
                unit="record", sampling_num=round(0.01 * 2**64), noise_multiplier="2", clip="0.5",
                nominal_units=6400, delta="0.00001",
            ),
        )  # fmt: skip
        event = dp_event(plan)
        assert event is not None
        true = [point.epsilon for point in accountant.running([event] * 4, 1e-5)]
        said = tuple(f"{value:.3f}" for value in figures(true))
        key = keyfile.load(config.key, None).signing
        path = tmp_path / "plan.txt"
        changed = plan.model_copy(update={"epsilon_by_round": said, **changes})
        path.write_bytes(sign_job_plan(key, changed).text)
        return path

    return write


@pytest.fixture
def of_plan(federation: Path, secfed: Command) -> Command:
    """Gives `secfed report --plan` under the admin's configuration."""

    def call(path: Path, *words: object) -> Any:
        return secfed("report", "--config", federation / "admin.toml", "--plan", path, *words)

    return call


def test_a_plans_figures_are_worked_out_again(signed: Callable[..., Path], of_plan: Command) -> None:
    path = signed()
    done = of_plan(path)
    assert (done.code, done.err) == (0, "")
    assert done.fact("job") == "reviews  rounds 4, spare rounds 1"
    assert done.fact("verdict") == "the plan's figures are right"
    assert "clipping norm 0.5" in done.fact("mechanism")
    rows = [line.split() for line in done.out.splitlines() if re.match(r"[1-4] ", line)]
    document = json.loads(of_plan(path, "--format", "json").out)
    assert (document["agrees"], document["q"], document["clip"]) == (True, pytest.approx(0.01), 0.5)
    assert [(row[0], row[1], row[2], row[3]) for row in rows] == [
        (str(n), "0.01", "2", "5") for n in (1, 2, 3, 4)
    ]
    for row, line in zip(rows, document["by_round"], strict=True):
        figures = ("epsilon_round", "epsilon_so_far", "filter_so_far", "stated")
        assert [float(cell) for cell in row[4:]] == [line[name] for name in figures]
    assert f"epsilon {document['whole']['epsilon']:.3f} at delta 0.00001" in done.fact("in all")
    assert document["whole"]["epsilon"] > document["by_round"][-1]["epsilon_so_far"]


@pytest.mark.parametrize("shift", [-0.01, 0.01])
def test_a_plan_that_says_another_figure_ends_in_an_error(
    signed: Callable[..., Path], of_plan: Command, shift: float
) -> None:
    done = of_plan(signed(lambda true: [*true[:2], true[2] + shift, true[3]]))
    assert done.code == 51
    assert re.match(r"the plan of job reviews says epsilon \S+ after round 3; it is ", done.error)
    assert "DIFFERS" in done.out


def test_a_plan_that_was_changed_or_is_anothers_is_refused(
    signed: Callable[..., Path], of_plan: Command
) -> None:
    path = signed()
    assert of_plan(path, "--job", "other").error == "the plan is of job reviews, not of other"
    path.write_bytes(path.read_bytes().replace(b'"noise_multiplier": "2"', b'"noise_multiplier": "9"'))
    assert of_plan(path).code == 40
    assert of_plan(path.with_name("none")).code == 60


def test_a_file_that_is_no_plan_is_an_input_error(
    signed: Callable[..., Path], of_plan: Command, federation: Path, tmp_path: Path
) -> None:
    """A signed text of another kind, a plan that was cut off, and any other file."""
    cut = tmp_path / "cut.txt"
    cut.write_bytes(signed().read_bytes()[:-20])
    roster = load(federation / "admin.toml", AdminConfig).roster
    for path in (cut, roster, federation / "admin.toml"):
        done = of_plan(path)
        assert (done.code, done.out, bool(done.remedy)) == (2, "", True)
        assert done.error == f"{path} is no signed job plan"


def test_a_plan_without_noise_has_no_figure(signed: Callable[..., Path], of_plan: Command) -> None:
    done = of_plan(signed(lambda _: [], dp=None))
    assert (done.code, done.out) == (2, "")
    assert "no dp section" in done.error


@pytest.fixture
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """A federation of three enrolled sites whose aggregator runs."""
    with Playground(tmp_path_factory.mktemp("play")) as made:
        made.found()
        made.enroll(("hosp-a", "hosp-b", "hosp-c"))
        keyfile.change_passphrase(made.federation / "admin.key", made.passphrase.read_text().strip(), None)
        made.start_aggregator()
        yield made


def test_a_jobs_plan_is_fetched_from_the_aggregator(
    running: Playground, signed: Callable[..., Path], secfed: Command, tmp_path: Path
) -> None:
    """By its name alone, verified under the roster; and kept, it reads the same without the aggregator."""
    admin = running.federation / "admin.toml"
    path = signed(of=running.federation)
    with connect(admin, source(None, None)) as connection:
        connection.start_job(path.read_bytes())
    kept = tmp_path / "kept.txt"
    done = secfed("report", "--config", admin, "--job", "reviews", "--save-plan", kept)
    assert (done.code, done.fact("verdict")) == (0, "the plan's figures are right")
    assert kept.read_bytes() == path.read_bytes()
    assert secfed("report", "--config", admin, "--plan", kept).out == done.out
    unknown = secfed("report", "--config", admin, "--job", "no-such-job")
    assert (unknown.code, unknown.error) == (2, "the aggregator knows no job 'no-such-job'")
