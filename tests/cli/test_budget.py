"""`secfed budget`: the reference figures, one line for what is wrong, and what a job would do to a site."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secfed.cli.ledgers import create_ledger
from secfed.cli.typed_event import declaration
from secfed.config import BudgetPolicy, ClientConfig, DataConfig, JobPolicy, PolicyConfig, checked, to_toml
from secfed.errors import ConfigError
from secfed.identity import keyfile
from secfed.ids import JobId
from secfed.privacy import accountant, budget
from secfed.privacy.cache import FigureCache
from secfed.privacy.events import Gaussian, PoissonGaussian
from secfed.privacy.ledger import Ledger
from secfed.privacy.rdp import Meter

Command = Callable[..., Any]

FIRST = {"sampling-rate": "0.01", "noise-multiplier": "1", "steps": "1000", "delta": "1e-5"}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("figures")


@pytest.fixture
def ask(secfed: Command, figures: Path) -> Command:
    """Gives `secfed budget NAME`; options by name, None leaves one out."""

    def call(name: str, *words: object, **options: object) -> Any:
        given = [
            word
            for option, value in options.items()
            if value is not None
            for word in (f"--{option.replace('_', '-')}", value)
        ]
        return secfed("budget", name, *words, *given, "--cache", figures)

    return call


def first(**changes: object) -> dict[str, object]:
    """The first setting, otherwise."""
    return {name.replace("-", "_"): value for name, value in FIRST.items()} | changes


@pytest.mark.parametrize(
    ("changes", "least", "most"),
    [
        ({}, 1.827, 1.840),
        ({"noise_multiplier": "0.6"}, 7.433, 7.45),
        ({"sampling_rate": "1", "steps": "1", "relation": "replace-one"}, 9.997, 10.02),
        ({"relation": "replace-one"}, 2.843, 2.86),
        ({"records_per_unit": "4"}, 8.89, 8.92),
    ],
    ids=["first", "less noise", "one Gaussian, replace-one", "replace-one", "four records"],
)
def test_the_reference_figures(ask: Command, changes: dict[str, str], least: float, most: float) -> None:
    done = ask("epsilon", "--json", **first(**changes))
    found = json.loads(done.out)
    assert least <= found["epsilon"] <= most
    assert (found["schema"], found["accountant"], found["delta"]) == (1, "PLD", 1e-5)
    assert found["accountant_version"].startswith("dp-accounting 0.6")
    assert found["relation"] == changes.get("relation", "add-remove")
    assert found["epsilon"] < found["epsilon_rdp"] < found["epsilon_filter"]
    assert found["epsilon_rdp_reason"] is found["epsilon_filter_reason"] is None
    if not changes:
        assert 2.10 <= found["epsilon_rdp"] <= 2.11
        assert 2.40 <= found["epsilon_filter"] <= 2.41


def test_people_read_the_same_figures_and_what_they_mean(ask: Command) -> None:
    found = json.loads(ask("epsilon", "--json", **first()).out)
    done = ask("epsilon", **first())
    assert done.code == 0
    assert done.fact("epsilon").startswith(f"{found['epsilon']:.3f} at delta 1e-05")
    assert done.fact("cross-check").startswith(f"{found['epsilon_rdp']:.3f}")
    assert done.fact("the gate").startswith(f"{found['epsilon_filter']:.3f}")
    assert f"at most {100 * found['chance']:.1f} of 100" in done.fact("in words")
    true = (1 + 1e-5 * math.exp(-1.829)) / (1 + math.exp(-1.829))  # by hand
    assert true <= found["chance"] <= true + 0.001


def test_a_target_is_kept_with_the_least_noise(ask: Command) -> None:
    asked = first(noise_multiplier=None, epsilon="1.83")
    found = json.loads(ask("calibrate", "--json", **asked).out)
    assert found["epsilon"] <= found["target_epsilon"] == 1.83
    assert 0.998 <= found["noise_multiplier"] <= 1
    assert ask("calibrate", **asked).fact("noise").startswith(f"{found['noise_multiplier']}")
    less = json.loads(
        ask("epsilon", "--json", **first(noise_multiplier=f"{found['noise_multiplier'] - 0.001:.3f}")).out
    )
    assert less["epsilon"] > 1.83


def test_the_same_question_is_answered_from_disk(ask: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ask("epsilon", "--json", **first())
    monkeypatch.setattr(accountant, "_pld_epsilon", lambda *_: pytest.fail("worked out again"))
    assert ask("epsilon", "--json", **first()).out == before.out


def test_without_a_home_every_figure_is_worked_out(secfed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    monkeypatch.setattr(FigureCache, "write", lambda *_: pytest.fail("kept somewhere"))
    words = [word for name, value in FIRST.items() for word in (f"--{name}", value)]
    assert secfed("budget", "epsilon", *words).code == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sampling_rate": "1.1"}, "--sampling-rate"),
        ({"sampling_rate": "0"}, "--sampling-rate"),
        ({"sampling_rate": "1e-30"}, "--sampling-rate"),
        ({"sampling_rate": "nan"}, "--sampling-rate"),
        ({"noise_multiplier": "0"}, "--noise-multiplier"),
        ({"noise_multiplier": "-1"}, "--noise-multiplier"),
        ({"noise_multiplier": "nan"}, "--noise-multiplier"),
        ({"noise_multiplier": "1e400"}, "--noise-multiplier"),
        ({"noise_multiplier": "1.00000000000001"}, "--noise-multiplier"),
        ({"delta": "1"}, "--delta"),
        ({"delta": "0"}, "--delta"),
        ({"delta": "nan"}, "--delta"),
        ({"delta": "1e-20"}, "--delta"),
        ({"steps": "0"}, "steps"),
        ({"steps": "1000000000000"}, "steps"),
        ({"steps": "1e3"}, "--steps"),
        ({"relation": "zero-out"}, "--relation is one of add-remove, replace-one, not 'zero-out'"),
        ({"records_per_unit": "0"}, "records_per_unit"),
        ({"records_per_unit": "1000000"}, "records_per_unit"),
        ({"records_per_unit": "1000"}, "noise is too small"),
        ({"records_per_unit": "2", "relation": "replace-one"}, "replace-one"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_bad_value_is_one_line_of_cause_and_one_of_remedy(
    ask: Command, changes: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before an accountant is asked, so that it takes no time."""
    monkeypatch.setattr(accountant, "epsilon", lambda *_, **__: pytest.fail("an accountant was asked"))
    for command, asked in (
        ("epsilon", first(**changes)),
        ("calibrate", first(**{**changes, "noise_multiplier": None, "epsilon": "1"})),
    ):
        if command == "calibrate" and (
            "noise_multiplier" in changes or changes == {"records_per_unit": "1000"}
        ):
            continue
        done = ask(command, **asked)
        assert done.code == 2
        assert named in done.error
        assert done.remedy
        assert done.out == ""


@pytest.mark.parametrize("target", ["0", "-1", "nan", "1e400"])
def test_a_target_is_a_number_above_0(ask: Command, target: str) -> None:
    done = ask("calibrate", **first(noise_multiplier=None, epsilon=target))
    assert (done.code, "--epsilon" in done.error) == (2, True)


# -- declarations ------------------------------------------------------------------------------


SAID: dict[str, Any] = {"noise_multiplier": 1.0, "steps": 50, "sampling_rate": 0.01}


@pytest.mark.parametrize("most_records", [None, 4])
def test_a_declaration_for_persons_says_what_was_drawn(most_records: int | None) -> None:
    """Whole persons cost less than single records, so neither is taken for granted."""

    def charged(**said: Any) -> PoissonGaussian:
        event = declaration("person", **(SAID | said), most_records=most_records)
        assert isinstance(event, PoissonGaussian)
        assert (event.unit, event.declared) == ("person", True)
        return event

    with pytest.raises(ConfigError, match="takes --records-per-unit") as refused:
        charged(records_per_unit=None)
    assert "1 where each person" in str(refused.value.hint)
    whole, single = charged(records_per_unit=1), charged(records_per_unit=4)
    assert (whole.sampling, whole.records_per_unit) == ("unit", 1)
    assert (single.sampling, single.records_per_unit) == ("record", 4)
    assert cost(whole) < cost(single)


def cost(event: PoissonGaussian) -> float:
    meter = Meter(1e-5)
    meter.add(event)
    return meter.epsilon


def test_where_both_ways_cost_the_same_nothing_more_is_asked() -> None:
    for unit, most in (("record", 1), ("record", None), ("person", 1)):
        assert declaration(unit, **SAID, records_per_unit=None, most_records=most) is not None
    over_all = SAID | {"sampling_rate": None}
    assert isinstance(declaration("person", **over_all, records_per_unit=None, most_records=4), Gaussian)


def test_a_push_for_persons_is_refused_before_anything_is_opened(
    secfed: Command, site: Callable[..., Path]
) -> None:
    config = site()
    text = config.read_text()
    assert 'unit = "record"' in text
    config.write_text(text.replace('unit = "record"', 'unit = "who"\nmax_records_per_unit = 4'))
    words = ("client", "push", "--config", config, "--update", "nowhere.safetensors")
    done = secfed(*words, "--noise-multiplier", "1", "--steps", "50", "--sampling-rate", "0.01")
    assert (done.code, "--records-per-unit" in done.error) == (2, True)
    assert not (config.parent / "state").exists()


# -- plans -------------------------------------------------------------------------------------


def job_file(folder: Path, **changes: object) -> Path:
    """20 rounds of 50 steps at the first setting."""
    values: dict[str, object] = {
        "rounds": 20,
        "steps": 50,
        "privacy": 'noise_multiplier = 1.0\nunit = "record"',
        **changes,
    }
    path = folder / "JOB.toml"
    path.write_text(
        f"""
name = "reviews"
rounds = {values["rounds"]}
spare_rounds = {values.get("spare_rounds", 0)}
min_cohort = 4

[training]
trainer = "classify"
base_model = "nowhere/to-be-found"
target_modules = ["query"]
steps = {values["steps"]}
labels = ["no", "yes"]

[privacy]
nominal_units = 6400
batch = 64.0
clip = 2.0
delta = 1e-5
{values["privacy"]}
"""
    )
    return path


def test_a_plan_is_priced_without_its_model(ask: Command, tmp_path: Path) -> None:
    """No model is there to be read; the figures are those of 1000 steps."""
    whole = json.loads(ask("epsilon", "--json", **first()).out)
    found = json.loads(ask("plan", "--json", config=job_file(tmp_path, rounds=5, steps=200)).out)
    for name in ("epsilon", "epsilon_rdp", "epsilon_filter", "delta", "chance", "relation", "accountant"):
        assert found[name] == whole[name]
    assert (found["steps"], found["rounds"], found["sampling_rate"]) == (200, 5, 0.01)
    by_round = found["epsilon_by_round"]
    assert len(by_round) == 5
    assert by_round == sorted(by_round)
    assert (by_round[0], by_round[-1]) == (found["one_round"]["epsilon"], found["epsilon"])
    assert found["noise_in_mean"] == pytest.approx(1 * 2 / (64 * 2))  # sigma C / (B sqrt n), 4 sites
    assert found["least"]["noise_multiplier"] == 1000
    assert 0 < found["least"]["epsilon"] < 0.01
    assert found["least"]["noise_in_mean"] == pytest.approx(1000 * found["noise_in_mean"])
    assert found["site"] is None
    assert found["one_record"] is None


def test_one_record_of_a_person_is_priced_as_an_exchange(ask: Command, tmp_path: Path) -> None:
    """A person's records are averaged, so that one of them moves no more than another person would."""
    privacy = 'noise_multiplier = 1.0\nunit = "person"\nrecords_per_unit = 2'
    job = job_file(tmp_path, rounds=1, steps=1000, privacy=privacy)
    found = json.loads(ask("plan", "--json", config=job).out)
    exchanged = json.loads(ask("epsilon", "--json", **(first() | {"relation": "replace-one"})).out)
    assert found["one_record"]["epsilon"] == exchanged["epsilon"] == 2.844
    said = ask("plan", config=job).fact("one record")
    assert said == (
        "of a person, exchanged or taken out: epsilon 2.844 at delta 1e-05, as the person's under "
        "replace-one, which is dearer than add-remove"
    )


def test_a_plan_is_priced_without_torch_or_a_network(tmp_path: Path, figures: Path) -> None:
    words = ["budget", "plan", "--config", str(job_file(tmp_path, rounds=2)), "--cache", str(figures)]
    code = f"""
import sys
from secfed.cli import main
assert main.run({words!r}) == 0
sys.exit(any(name.split(".")[0] in ("torch", "transformers", "opacus", "grpc") for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=250, check=False).returncode == 0


def test_a_plan_in_words(ask: Command, tmp_path: Path) -> None:
    done = ask("plan", config=job_file(tmp_path, rounds=15, spare_rounds=5))
    assert done.code == 0
    assert done.fact("job") == "reviews: rounds 15, 5 spare, of 50 steps each"
    assert done.fact("in all").startswith("epsilon 1.829 at delta 1e-05")
    assert "noise of 0.0156 in each coordinate" in done.fact("in the mean")
    assert done.fact("least").startswith("epsilon 0.00")


def test_a_plan_without_noise_is_said_to_be_not_private(
    ask: Command, secfed: Command, tmp_path: Path
) -> None:
    path = tmp_path / "VECTOR.toml"
    assert secfed("job", "init", "--template", "vector", "--output", path).code == 0
    found = json.loads(ask("plan", "--json", config=path).out)
    assert (found["private"], found["epsilon"]) == (False, None)
    assert "infinite" in found["reason"]
    assert "infinite" in ask("plan", config=path).fact("epsilon")


@pytest.fixture
def site(new_site: Callable[..., Path]) -> Callable[..., Path]:
    """Makes a site with a data set's ledger and so many charges of 50 steps; returns its client.toml."""

    def make(charges: int = 0, epsilon: float = 3.0, **rules: object) -> Path:
        folder = new_site("hosp-a").parent
        (folder / "rows.csv").write_text("text,label\n")
        data = checked(DataConfig, folder, file="rows.csv", unit="record", public_n=1000)
        policy = PolicyConfig(
            budget=BudgetPolicy(epsilon=epsilon, delta=1e-5), job=checked(JobPolicy, folder, **rules)
        )
        (folder / "policy.toml").write_text(to_toml(policy, folder))
        config = checked(
            ClientConfig, folder, site="hosp-a", key="hosp-a.key", federation="0f" * 16,
            roster_key="A" * 43 + "=", roster="roster.txt", aggregator="127.0.0.1:8443",
            aggregator_certificate="aggregator.pem", state_dir="state", ledger_dir="ledger",
            policy="policy.toml", output_dir="out", data=data.model_dump(),
        )  # fmt: skip
        (folder / "client.toml").write_text(to_toml(config, folder))
        (folder / "ledger").mkdir()
        keys = keyfile.load(folder / "hosp-a.key", None)
        path = create_ledger(folder / "ledger", keys, data, policy)
        event = PoissonGaussian(round(0.01 * 2**64), "1", 50, "add-remove", "record")
        with Ledger.open(path, key=keys.signing) as ledger:
            for number in range(1, charges + 1):
                ledger.reserve(JobId("older"), number, bytes(32), budget.authorize(ledger.state, event))
        return folder / "client.toml"

    return make


def test_a_site_sees_what_a_plan_would_leave(ask: Command, site: Callable[..., Path], tmp_path: Path) -> None:
    """10 rounds are charged; 20 more bring the gate to what 1500 steps count, within a cap of 3."""
    config, path = site(charges=10), job_file(tmp_path)
    found = json.loads(ask("plan", "--json", config=path, site=config).out)["site"]
    event = PoissonGaussian(round(0.01 * 2**64), "1", 50, "add-remove", "record")
    after = accountant.epsilon([event] * 30, 1e-5).epsilon_filter
    assert (found["site"], found["cap"], found["delta"]) == ("hosp-a", 3.0, 1e-5)
    assert found["filter_spent"] == accountant.epsilon([event] * 10, 1e-5).epsilon_filter
    assert (found["rounds_that_fit"], found["refusal"]) == (20, None)
    assert found["remaining_after"] == pytest.approx(3 - after, abs=1e-9)
    assert found["remaining_after"] < found["remaining"]
    done = ask("plan", config=path, site=config)
    assert "20 of 20 rounds fit" in done.fact("afterwards")
    assert "take this job" in done.fact("policy")


def test_a_site_sees_the_round_in_which_its_budget_ends(
    ask: Command, site: Callable[..., Path], tmp_path: Path
) -> None:
    found = json.loads(
        ask("plan", "--json", config=job_file(tmp_path), site=site(charges=10, epsilon=2.3)).out
    )["site"]
    assert 0 < found["rounds_that_fit"] < 20
    assert 0 <= found["remaining_after"] < 0.1


@pytest.mark.parametrize(
    ("rules", "changes", "named"),
    [
        ({"max_epsilon": 1.0}, {}, "costs epsilon"),
        ({"min_noise_multiplier": 2.0}, {}, "noise multiplier"),
        (
            {},
            {"privacy": 'noise_multiplier = 1.0\nunit = "person"\nrecords_per_unit = 2'},
            "protects a person",
        ),
    ],
    ids=["cost", "noise", "unit"],
)
def test_a_site_sees_which_of_its_rules_a_plan_breaks(
    ask: Command,
    site: Callable[..., Path],
    tmp_path: Path,
    rules: dict[str, object],
    changes: dict[str, object],
    named: str,
) -> None:
    done = ask("plan", config=job_file(tmp_path, **changes), site=site(**rules))
    assert done.code == 0
    assert named in done.fact("policy")
    assert done.fact("afterwards").endswith("0 of 20 rounds fit, the spare ones counted")


def test_a_site_without_a_ledger_is_told_so(ask: Command, site: Callable[..., Path], tmp_path: Path) -> None:
    config = site()
    (config.parent / "ledger" / "dataset.ledger").unlink()
    done = ask("plan", config=job_file(tmp_path), site=config)
    assert done.code != 0
    assert "ledger" in done.error
