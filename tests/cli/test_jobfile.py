"""JOB.toml: templates that run as they stand, mistakes with their line, plans that keep their target."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from secfed.aggregation.strategy import POINT
from secfed.cli.jobfile import TEMPLATES, plan_of, template
from secfed.config import JobPolicy, load, to_toml
from secfed.config.job import JobFile
from secfed.errors import BudgetExceededError, ConfigError, SecfedError
from secfed.identity import roster
from secfed.identity.fields import from_base64
from secfed.identity.roster import Roster
from secfed.ids import ClientId
from secfed.privacy import accountant
from secfed.rounds.plan import DpoSpec, JobPlan, KtoSpec, PublicMessage, PublicPair
from secfed.training.spec import planned_event, update_bound

Command = Callable[..., Any]
Plan = Callable[..., JobPlan]

ADMIN = ClientId("admin")
NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.fixture
def members(federation: Path) -> Roster:
    key = from_base64((federation / "roster.pub").read_text().strip(), 32)
    return roster.verify((federation / "roster.txt").read_bytes(), key)


@pytest.fixture(scope="session")
def models() -> Path:
    """The prepared base models; a missing cache is a failure with its remedy, not a skip."""
    named = os.environ.get("SECFED_CACHE")
    if not named:
        pytest.fail("SECFED_CACHE is not set: run the tests with `make test`, which prepares the assets")
    return Path(named)


@pytest.fixture
def plan(members: Roster, models: Path, tmp_path: Path) -> Plan:
    """The plan of a template, with some lines of its file replaced."""

    def make(kind: str, *changes: tuple[str, str]) -> JobPlan:
        return plan_of(
            load(edited(tmp_path, kind, *changes), JobFile), members, ADMIN, models=models, now=NOW
        )

    return make


def edited(folder: Path, kind: str, *changes: tuple[str, str]) -> Path:
    """A template's file in which the line of a key, by its name, is replaced by another line."""
    lines = to_toml(template(kind), folder).splitlines()
    for key, line in changes:
        (place,) = [number for number, each in enumerate(lines) if each.partition(" = ")[0] == key]
        lines[place] = line
    path = folder / "JOB.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def aiming_at(target: float) -> tuple[tuple[str, str], ...]:
    """Changes to a training template: a target instead of a noise multiplier."""
    return ("noise_multiplier", f"target_epsilon = {target:f}"), ("# target_epsilon", "")


def refusal(path: Path) -> str:
    """What is wrong with a job file, after its name."""
    with pytest.raises(ConfigError) as refused:
        load(path, JobFile)
    return str(refused.value).removeprefix(str(path))


@pytest.mark.parametrize("kl", ["public", "ride-along"])
def test_a_reference_point_from_public_texts_needs_their_file(tmp_path: Path, kl: str) -> None:
    path = edited(tmp_path, "kto", ("loss_type", 'loss_type = "kto"'), ("kl", f'kl = "{kl}"'))
    assert f"kl = {kl} needs kl_file" in refusal(path)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_job_init_writes_a_commented_file_that_reads_back(tmp_path: Path, secfed: Command, kind: str) -> None:
    path = tmp_path / "JOB.toml"
    done = secfed("job", "init", "--template", kind, "-o", path)
    assert (done.code, done.fact("job file").startswith(str(path))) == (0, True)
    assert load(path, JobFile) == template(kind)
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), line


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_is_within_the_default_policys_delta(kind: str) -> None:
    privacy = template(kind).privacy
    assert privacy is None or privacy.delta <= JobPolicy().max_delta


def test_job_init_overwrites_nothing(tmp_path: Path, secfed: Command) -> None:
    (tmp_path / "JOB.toml").write_text("mine")
    done = secfed("job", "init", "--template", "vector", "-o", tmp_path / "JOB.toml")
    assert (done.code, (tmp_path / "JOB.toml").read_text()) == (2, "mine")
    assert "--output" in done.remedy


def test_an_unknown_template_is_answered_with_the_known_ones(tmp_path: Path, secfed: Command) -> None:
    done = secfed("job", "init", "--template", "grpo", "-o", tmp_path / "JOB.toml")
    assert (done.code, done.remedy) == (2, "Choose one of: vector, classify, sft, dpo, kto.")
    assert not (tmp_path / "JOB.toml").exists()


@pytest.mark.parametrize(
    ("kind", "key", "line", "expected"),
    [
        ("vector", "bits", "bit = 16", "unknown key 'bit'; did you mean 'bits'?"),
        ("vector", "weight_cap", "wieght_cap = 1", "unknown key 'wieght_cap' in [vector]; did you mean"),
        ("sft", "steps", "step = 4", "unknown key 'step' in [training]; did you mean 'steps'?"),
        ("sft", "delta", "epsilon = 3.0", "unknown key 'epsilon' in [privacy]; did you mean 't"),
        ("vector", "phase_s", "phase = 60", "unknown key 'phase' in [deadlines]; did you mean"),
        ("vector", "name", 'name = "My job"', "'name': expected 1 to 63 lower-case letters"),
        ("vector", "rounds", "rounds = 0", "'rounds': input should be greater than or equal to 1"),
        ("vector", "min_cohort", "min_cohort = 2", "'min_cohort': input should be greater than"),
        ("vector", "bits", "bits = 25", "'bits': input should be less than or equal to 24"),
        ("vector", "shapes", "shapes = { bias = [0] }", "'bias' in [vector.shapes]: input should be"),
        ("vector", "bound", "bound = -1.0", "'bound' in [vector]: input should be greater than 0"),
        ("sft", "unit", "unit = \"record\"", "'privacy': records_per_unit belongs to unit = "),
        ("sft", "batch", "batch = 301.0", "'privacy': batch is at most nominal_units"),
        ("sft", "delta", "delta = 1.0", "'delta' in [privacy]: input should be less than 1"),
        ("sft", "# target_epsilon", "target_epsilon = 2.0", "'privacy': give one of noise_"),
        ("classify", "labels", 'labels = ["yes"]', "'training': classify needs at least two labels"),
        ("classify", "labels", 'labels = ["yes", "yes"]', "'training': classify needs at least two"),
        ("sft", "labels", 'labels = ["a", "b"]', "'training': labels belong to trainer = classify"),
        ("dpo", "trainer", 'trainer = "sft"', "'training': [training.dpo] belongs to trainer = dpo"),
        ("dpo", "beta", "beta = 0.0", "'beta' in [training.dpo]: input should be greater than 0"),
        ("dpo", "label_smoothing", "label_smoothing = 0.1", "'dpo' in [training]: label_smoothing belongs"),
        ("kto", "loss_type", 'loss_type = "kdo"', "'loss_type' in [training.kto]: "),
        ("kto", "kl", 'kl = "batch"', "'kl' in [training.kto] is refused: a reference point estimated"),
        ("dpo", "loss_type", 'loss_type = "aot"', "'loss_type' in [training.dpo] is refused: AOT losses"),
        ("kto", "kl_value", "kl_value = 1.0", "'kto' in [training]: kl and kl_value belong to"),
        ("kto", "# kl_file", 'kl_file = "a"', "'kto' in [training]: kl_file belongs to kl = public or"),
        ("kto", "desirable_weight", "desirable_weight = -1.0", "'desirable_weight' in [training.kto]: "),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(
    tmp_path: Path, kind: str, key: str, line: str, expected: str
) -> None:
    path = edited(tmp_path, kind, (key, line))
    number, _, what = refusal(path).removeprefix(":").partition(" ")
    assert what.startswith(expected)
    named = path.read_text().splitlines()[int(number) - 1]
    assert named == line or named.startswith("[")  # the key itself, or the table that does not fit together


VECTOR = "[vector]\nshapes = { a = [3] }\nbound = 1.0\n"
TRAINING = '[training]\ntrainer = "sft"\nbase_model = "x"\ntarget_modules = ["q"]\n'
PRIVACY = '[privacy]\nunit = "record"\nnominal_units = 100\nbatch = 10.0\nnoise_multiplier = 1.0\n'


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ("", "has one of the sections [vector] and [training]"),
        (VECTOR + TRAINING + PRIVACY, "has one of the sections [vector] and [training]"),
        (PRIVACY, "has one of the sections [vector] and [training]"),
        (VECTOR + PRIVACY, "a vector job trains nothing, so it has no [privacy] section"),
        (TRAINING, "has a [privacy] section, or says non_private = true"),
        ("non_private = true\n" + TRAINING + PRIVACY, "has a [privacy] section, or says non_private = true"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(
    tmp_path: Path, sections: str, expected: str
) -> None:
    path = tmp_path / "JOB.toml"
    path.write_text('name = "x"\nrounds = 1\n' + sections)
    assert expected in refusal(path)


def test_job_start_names_the_mistake_before_it_asks_for_anything(
    tmp_path: Path, federation: Path, secfed: Command
) -> None:
    path = edited(tmp_path, "vector", ("bits", "bist = 16"))
    done = secfed("job", "start", path, "--config", federation / "admin.toml")
    assert done.code == 2
    assert "did you mean 'bits'?" in done.error


def test_the_plan_of_a_vector_job(plan: Plan, members: Roster) -> None:
    made = plan("vector", ("bound", "bound = 1e-05"), ("phase_s", "phase_s = 7"))
    assert (made.kind, made.job, made.rounds, made.created_by) == ("vector", "vector-sum", 1, "admin")
    assert (made.federation, made.created) == (members.federation, "2026-05-06T07:08:09Z")
    assert made.shapes == {"weights": (100, 100), "bias": (100,)}
    assert (made.bound, made.deadlines.phase_s, made.training, made.dp) == ("0.00001", 7, None, None)


def test_a_plan_never_goes_below_the_rosters_floor(members: Roster) -> None:
    from dataclasses import replace

    strict = replace(members, min_cohort=5)
    made = plan_of(template("vector"), strict, ADMIN, models=Path("unused"), now=NOW)
    assert made.min_cohort == 5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("weight_cap", "weight_cap = 100000"), "weight_cap must fit in `bits`"),
        (("bound", "bound = 1e-20"), "bound: String should match"),
    ],
)
def test_what_only_the_plan_can_see_is_one_line_too(
    plan: Plan, change: tuple[str, str], expected: str
) -> None:
    with pytest.raises(ConfigError, match="does not fit together") as refused:
        plan("vector", change)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "Value error" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "unit", "records"),
    [("classify", "record", 1), ("sft", "person", 4), ("dpo", "record", 1), ("kto", "record", 1)],
)
def test_the_plan_of_a_training_job(plan: Plan, kind: str, unit: str, records: int) -> None:
    made = plan(kind)
    train, dp, section = made.training, made.dp, template(kind).privacy
    assert train is not None
    assert dp is not None
    assert section is not None
    assert (made.kind, train.trainer, train.strategy) == ("train", kind, "ffa")
    assert set(made.shapes) < set(train.adapter)  # the frozen arrays stay at home
    assert all(".lora_A." not in name for name in made.shapes)
    assert (dp.unit, dp.records_per_unit) == (unit, records)
    assert dp.batch == pytest.approx(section.batch)
    bound = update_bound(train, dp)
    assert bound <= float(made.bound) <= bound + 2e-9
    figures = [Decimal(figure) for figure in made.epsilon_by_round]
    assert figures == sorted(figures)
    whole = accountant.epsilon([planned_event(train, dp)] * made.rounds, float(dp.delta)).epsilon
    assert float(figures[-1]) == pytest.approx(whole, abs=2e-3)
    assert len(tomllib.loads(to_toml(template(kind), Path()))["training"]["target_modules"]) == 2


def test_preference_losses_become_constants_of_the_plan(plan: Plan, tmp_path: Path) -> None:
    made = plan("dpo", ("loss_type", 'loss_type = "robust"'), ("label_smoothing", "label_smoothing = 0.05"))
    assert made.training is not None
    assert made.training.preference == DpoSpec(loss_type="robust", beta="0.1", label_smoothing="0.05")
    asked, said = {"role": "user", "content": "One?"}, {"role": "assistant", "content": "Blue."}
    public = [{"prompt": [asked], "completion": [said]}]
    (tmp_path / "public.jsonl").write_text("".join(json.dumps(row) + "\n" for row in public))
    made = plan(
        "kto",
        ("loss_type", 'loss_type = "kto"'),
        ("kl", 'kl = "public"'),
        ("# kl_file", 'kl_file = "public.jsonl"'),
    )
    assert made.training is not None
    pair = PublicPair(prompt=(PublicMessage(**asked),), completion=(PublicMessage(**said),))
    assert made.training.preference == KtoSpec(kl="public", kl_pairs=(pair,))
    assert POINT not in made.training.adapter
    riding = plan(
        "kto",
        ("loss_type", 'loss_type = "kto"'),
        ("kl", 'kl = "ride-along"'),
        ("# kl_file", 'kl_file = "public.jsonl"'),
    )
    assert riding.training is not None
    assert riding.training.preference == KtoSpec(kl="ride-along", kl_pairs=(pair,))
    assert riding.training.adapter == made.training.adapter | {POINT: (1,)}
    assert riding.shapes == made.shapes | {POINT: (1,)}
    assert (riding.dp, riding.bound, riding.epsilon_by_round) == (made.dp, made.bound, made.epsilon_by_round)


@pytest.mark.parametrize(
    ("row", "count", "expected"),
    [
        ({"prompt": "One?"}, 1, "no column 'completion'"),
        ({"prompt": "One?", "completion": "Blue."}, 33, "at most 32"),
        ({"prompt": "x" * 40_000, "completion": "Blue."}, 2, "at most 65536 characters"),
    ],
)
def test_public_rows_that_no_plan_can_carry(
    plan: Plan, tmp_path: Path, row: dict[str, Any], count: int, expected: str
) -> None:
    (tmp_path / "public.jsonl").write_text((json.dumps(row) + "\n") * count)
    with pytest.raises(SecfedError, match=expected):
        plan(
            "kto",
            ("loss_type", 'loss_type = "kto"'),
            ("kl", 'kl = "public"'),
            ("# kl_file", 'kl_file = "public.jsonl"'),
        )


def test_two_plans_share_no_seed(plan: Plan) -> None:
    seeds = {made.training.seed for made in (plan("classify"), plan("classify")) if made.training}
    assert len(seeds) == 2


@pytest.mark.parametrize(("target", "spare"), [(2.0, 0), (0.5, 1)])
def test_target_epsilon_is_kept_by_the_whole_plan(plan: Plan, target: float, spare: int) -> None:
    """Spare rounds are counted as if all of them were used."""
    made = plan(
        "classify",
        *aiming_at(target),
        ("spare_rounds", f"spare_rounds = {spare}"),
    )
    assert made.training is not None
    assert made.dp is not None
    event = planned_event(made.training, made.dp)
    whole = accountant.epsilon([event] * (made.rounds + spare), float(made.dp.delta)).epsilon
    assert 0.9 * target < whole <= target
    assert float(made.epsilon_by_round[-1]) <= target


def test_a_target_that_no_noise_reaches_is_refused(plan: Plan) -> None:
    with pytest.raises(BudgetExceededError):
        plan("classify", *aiming_at(0.00001))


def test_a_base_model_that_is_not_there_is_named(members: Roster, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="all-MiniLM-L6-v2"):
        plan_of(template("classify"), members, ADMIN, models=tmp_path, now=NOW)


def test_a_module_that_the_model_lacks_is_named(plan: Plan) -> None:
    with pytest.raises(ConfigError, match="querry"):
        plan("classify", ("target_modules", 'target_modules = ["querry", "value"]'))
