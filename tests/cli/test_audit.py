"""`secfed audit`: as an operator gives the commands, on the small model and on jobs really trained."""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secfed import audit as secfed_audit
from secfed.aggregation import folder
from secfed.aggregation.initial import initial_adapter
from secfed.aggregation.spec import AdapterSpec
from secfed.audit import mechanism
from secfed.audit.canary import WORDS
from secfed.audit.small_model import target_modules, write_small_model
from secfed.config import ClientConfig, DataConfig, checked, to_toml
from secfed.rounds.publish import MANIFEST_FILE
from secfed.training import dpsgd
from secfed.training.adapter import schema

Command = Callable[..., Any]

LABELS = ("no", "yes")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site's client.toml, with person and column names of its own."""
    data = {"file": "rows.jsonl", "unit": "patient", "max_records_per_unit": 2, "public_n": 100}
    config = checked(
        ClientConfig, tmp_path, site="hosp-a", key="a.key", federation="0f" * 16,
        roster_key="A" * 43 + "=", roster="roster.txt", aggregator="127.0.0.1:8443",
        aggregator_certificate="aggregator.pem", state_dir="state", ledger_dir="ledger",
        policy="policy.toml", output_dir="out", models_dir="cache",
        data=checked(DataConfig, tmp_path, text="note", labels=LABELS, **data).model_dump(),
    )  # fmt: skip
    (tmp_path / "client.toml").write_text(to_toml(config, tmp_path))
    return tmp_path / "client.toml"


@pytest.fixture
def job(tmp_path: Path, secfed: Command) -> Path:
    """The template's job with its own noise: sigma .75, C 1, B 64."""
    path = tmp_path / "JOB.toml"
    assert secfed("job", "init", "--template", "classify", "-o", path).code == 0
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the small encoder, as `small/random`."""
    place = tmp_path_factory.mktemp("cache")
    (place / "models").mkdir()
    write_small_model(place / "models" / "random", "classify", WORDS)
    return place


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer coordinates than an operator gets."""
    monkeypatch.setattr(mechanism, "_COORDINATES", 8_000)


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What loads torch cannot be imported: a command that is refused needs none of it."""
    for name in ("mechanism", "workbench", "score", "small_model"):
        monkeypatch.setitem(sys.modules, f"secfed.audit.{name}", None)
        monkeypatch.delattr(secfed_audit, name, raising=False)


@pytest.fixture
def make(tmp_path: Path, secfed: Command) -> Callable[..., Path]:
    """Makes a set of canaries; returns its folder."""

    def call(name: str = "set", *options: object) -> Path:
        done = secfed(
            "audit", "canaries", "make", "--trainer", "classify", "--labels", "no,yes", "--count", 160,
            "--length", 8, "-o", tmp_path / name, *options,
        )  # fmt: skip
        assert done.code == 0, done.err
        return tmp_path / name

    return call


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def round_folder(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A round's folder with an adapter as it starts out, and a manifest that claims epsilon 0.5."""
    spec = AdapterSpec("small/random", "main", "classify", target_modules("classify"), 4, 16, LABELS)
    out = tmp_path_factory.mktemp("out") / "round-0003"
    shapes = schema(spec, models / "models" / "random")
    written = folder.write(out, spec, initial_adapter(shapes, bytes(32)))
    manifest = {
        "job": "canary-job", "round": 3, "result": "ab" * 32, "job_plan": "cd" * 32,
        "privacy": {"epsilon_by_plan": "0.500", "parameters": {"delta": "0.00001"}},
        "files": {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in written},
    }  # fmt: skip
    (out / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
    return out


# -- mechanism ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("brief")
def test_a_jobs_mechanism_passes_and_is_kept(job: Path, site: Path, secfed: Command) -> None:
    done = secfed("audit", "mechanism", "--job", job, "--config", site, "--trials", 10)
    assert (done.code, done.err) == (0, "")
    assert done.fact("mechanism") == "classify on random weights: sigma 0.75, C 1, B 64"
    assert done.out.count("PASS") == 7
    kept = Path(done.fact("kept"))
    assert kept.parent == site.parent / "ledger" / "audits"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    found = json.loads(kept.read_text())
    assert (found["schema"], found["kind"], found["job"], found["passed"]) == (
        1,
        "mechanism",
        "classify",
        True,
    )


@pytest.mark.usefixtures("brief")
def test_a_fault_is_named_and_ends_with_its_exit_code(
    secfed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpsgd, "ROUNDING_MARGIN", 1.5)
    done = secfed("audit", "mechanism", "--trainer", "classify", "--trials", 10, "--json")
    assert (done.code, bool(done.remedy)) == (52, True)
    assert "canary shift (classify)" in done.error
    (found,) = json.loads(done.out)["audits"]
    failed = {check["name"] for check in found["checks"] if not check["passed"]}
    by_chance = {"swap one"}  # only where two units of a trial point away from each other
    assert (found["passed"], failed - by_chance) == (False, {"canary shift", "add or remove one"})


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--trainer", "grpo"), "--trainer is one of"),
        (("--model", "big"), "--model is small or site"),
        (("--model", "site"), "--model site needs --config"),
        (("--job", "missing.toml"), "missing.toml"),
        (("--trials", "3"), "--trials"),
    ],
)
@pytest.mark.usefixtures("unloaded")
def test_a_mechanism_that_cannot_be_audited_is_refused(
    words: tuple[str, ...], what: str, secfed: Command
) -> None:
    done = secfed("audit", "mechanism", *words)
    assert (done.code, bool(done.remedy)) == (2, True)
    assert what in done.error


def test_a_job_without_noise_has_no_mechanism(tmp_path: Path, secfed: Command) -> None:
    path = tmp_path / "JOB.toml"
    secfed("job", "init", "--template", "vector", "-o", path)
    done = secfed("audit", "mechanism", "--job", path)
    assert (done.code, "trains nothing with differential privacy" in done.error) == (2, True)


# -- canaries ----------------------------------------------------------------------------------


def test_a_set_is_secret_and_fits_the_sites_file(make: Callable[..., Path], site: Path) -> None:
    made = make("set", "--config", site)
    coins = json.loads((made / "coins.json").read_text())
    rows, inserted = read_lines(made / "canaries.jsonl"), read_lines(made / "insert.jsonl")
    chosen = [row for row, coin in zip(rows, coins["included"], strict=True) if coin == "1"]
    assert [(row["note"], row["label"]) for row in inserted] == [
        (row["text"], row["label"]) for row in chosen
    ]
    assert len({row["patient"] for row in inserted}) == len(inserted)
    assert coins["canaries_sha256"] == hashlib.sha256((made / "canaries.jsonl").read_bytes()).hexdigest()
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()} == {0o600}


def test_two_sets_differ(make: Callable[..., Path]) -> None:
    first, second = make("one"), make("two")
    assert (first / "canaries.jsonl").read_bytes() != (second / "canaries.jsonl").read_bytes()
    assert json.loads((first / "coins.json").read_text()) != json.loads((second / "coins.json").read_text())


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--trainer", "classify"), "need the job's labels"),
        (("--trainer", "sft", "--count", "19"), "too few"),
        (("--trainer", "ppo"), "--trainer is one of"),
        (("--trainer", "kto", "--format", "csv"), "--format is jsonl"),
        (("--trainer", "sft", "--words", "missing.txt"), "missing.txt is no file of words"),
    ],
)
def test_a_set_that_cannot_be_made_leaves_nothing(
    words: tuple[str, ...], what: str, tmp_path: Path, secfed: Command
) -> None:
    done = secfed("audit", "canaries", "make", "-o", tmp_path / "set", *words)
    assert (done.code, bool(done.remedy)) == (2, True)
    assert what in done.error
    assert not (tmp_path / "set").exists()


def test_nothing_is_overwritten(make: Callable[..., Path], secfed: Command) -> None:
    made = make()
    done = secfed("audit", "canaries", "make", "--trainer", "sft", "-o", made)
    assert (done.code, "exists already" in done.error) == (2, True)


def test_from_a_set_to_a_verdict(
    make: Callable[..., Path], models: Path, round_folder: Path, site: Path, tmp_path: Path, secfed: Command
) -> None:
    """Scores that know every coin refute the claim, with its exit code; and what `bound` refuses."""
    made = make()
    scores = tmp_path / "scores.json"
    scored = secfed(
        "audit", "canaries", "score", "--canaries", made / "canaries.jsonl", "--adapter", round_folder,
        "--models", models, "--max-length", 16, "-o", scores,
    )  # fmt: skip
    assert (scored.code, scored.err) == (0, "")
    assert scored.fact("claim") == "epsilon 0.5 at delta 1e-05, by the manifest"
    bound = ("audit", "canaries", "bound", "--coins", made / "coins.json", "--scores", scores)
    coins = json.loads((made / "coins.json").read_text())["included"]
    told = json.loads(scores.read_text()) | {"scores": [float(coin) for coin in coins]}
    scores.write_text(json.dumps(told))
    done = secfed(*bound, "--guess-in", 20, "--guess-out", 20, "--config", site)
    assert (done.code, done.fact("verdict"), bool(done.remedy)) == (52, "refuted", True)
    found = json.loads(Path(done.fact("kept")).read_text())
    assert found["epsilon_lower"] > 0.5
    assert found["epsilon_lower"] == found["bounds"][0]["epsilon_lower"] <= found["ceiling"]
    assert (found["kind"], found["job"], found["round"]) == ("canaries", "canary-job", 3)
    assert (found["guesses"], found["right"]) == (40, 40)
    assert found["claim"] == {"epsilon": 0.5, "delta": 1e-5, "source": "round manifest"}
    assert done.fact("lower bound") == (
        f"epsilon >= {found['epsilon_lower']:.3f} at delta 1e-05, confidence 95 %"
    )

    larger = secfed(*bound, "--claim", 9, "--json")
    assert (larger.code, json.loads(larger.out)["verdict"]) == (0, "consistent")
    assert "could not have refuted it" in secfed(*bound, "--claim", 9).out
    elsewhere = secfed(*bound, "--delta", 0.1)
    assert (elsewhere.code, "the round's claim is at delta 1e-05" in elsewhere.error) == (2, True)
    half = secfed(*bound, "--guess-in", 5)
    assert (half.code, "--guess-out" in half.error) == (2, True)
    too_many = secfed(*bound, "--guess-in", 100, "--guess-out", 61)
    assert (too_many.code, "do not fit 160 canaries" in too_many.error) == (2, True)

    other = make("other")
    foreign = secfed(*bound[:4], other / "coins.json", *bound[5:])
    assert (foreign.code, "different sets of canaries" in foreign.error) == (2, True)
    swapped = secfed(*bound[:4], scores, *bound[5:])
    assert (swapped.code, bool(swapped.remedy)) == (2, True)
    assert "does not hold the secret coins" in swapped.error
    gone = secfed(*bound[:4], tmp_path / "missing.json", *bound[5:])
    assert (gone.code, "missing.json: No such file" in gone.error) == (2, True)


@pytest.mark.usefixtures("unloaded")
def test_what_cannot_be_scored_is_refused_at_once(
    make: Callable[..., Path], models: Path, round_folder: Path, secfed: Command
) -> None:
    made = make()
    words = ("audit", "canaries", "score", "--models", models, "-o", made / "scores.json")
    canaries = ("--canaries", made / "canaries.jsonl")
    for wrong, what in (
        ((*canaries, "--adapter", made), "adapter"),
        (("--canaries", made / "none.jsonl", "--adapter", round_folder), "none.jsonl is no file"),
        ((*canaries, "--adapter", round_folder, "--device", "gpu"), "--device is auto"),
        ((*canaries, "--adapter", round_folder, "--models", made), "small/random"),
    ):
        done = secfed(*words, *wrong)
        assert (done.code, bool(done.remedy)) == (2, True)
        assert what in done.error
    assert not (made / "scores.json").exists()
    bound = ("audit", "canaries", "bound", "--coins", made / "coins.json", "--scores", made / "scores.json")
    assert "--confidence" in secfed(*bound, "--confidence", 95).error


@pytest.mark.parametrize("command", ["mechanism", "canaries make", "canaries bound"])
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from secfed.cli import main; "
        f"main.run(['audit', *{command.split()!r}, '--help']); "
        "sys.exit(bool({'torch', 'numpy', 'scipy', 'dp_accounting', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
