"""Configuration files: every mistake is named with file, line and key, and templates are read back."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from secfed.config import (
    AggregatorConfig,
    BudgetPolicy,
    ClientConfig,
    DataConfig,
    JobPolicy,
    PolicyConfig,
    checked,
    load,
    split_address,
    to_toml,
)
from secfed.config.job import DeadlineSection
from secfed.errors import ConfigError
from secfed.rounds.plan import Deadlines

ROSTER_KEY = base64.b64encode(bytes(32)).decode()

AGGREGATOR = f"""\
# an aggregator
site = "center"
key = "keys/center.key"
roster = "roster.txt"
roster_key = "{ROSTER_KEY}"
state_dir = "/var/lib/secfed"
output_dir = "../out"
"""

CLIENT = f"""\
site = "hosp-a"
key = "a.key"
federation = "{"0f" * 16}"
roster_key = "{ROSTER_KEY}"
roster = "roster.txt"
aggregator = "center.example:8443"
aggregator_certificate = "center.pem"
state_dir = "state"
ledger_dir = "ledger"
policy = "policy.toml"
output_dir = "out"

[data]
file = "notes.jsonl"
unit = "patient_id"
max_records_per_unit = 4
public_n = 1000
"""

POLICY = """\
[budget]
epsilon = 8

[job]
max_epsilon = 2.5
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path: Path, text: str, model: Any) -> str:
    """What the error says after the file's name."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        load(path, model)
    message = str(refused.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def test_a_file_is_read_with_defaults_and_paths_beside_it(tmp_path: Path) -> None:
    found = load(write(tmp_path, AGGREGATOR), AggregatorConfig)
    assert found.key == tmp_path / "keys" / "center.key"
    assert found.output_dir == tmp_path.parent / "out"
    assert found.state_dir == Path("/var/lib/secfed")
    assert (found.listen, found.ops_listen, found.advertise) == ("127.0.0.1:8443", "127.0.0.1:9443", None)
    assert (found.training_deadline_s, found.phase_timeout_s, found.upload_idle_s) == (3600, 60, 30)
    assert found.retain_uploads is False


def test_paths_do_not_depend_on_where_the_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, AGGREGATOR)
    monkeypatch.chdir(tmp_path)
    assert load(Path("file.toml"), AggregatorConfig) == load(path, AggregatorConfig)
    monkeypatch.chdir("/")
    assert load(path, AggregatorConfig).key == tmp_path / "keys" / "center.key"


def test_the_home_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load(write(tmp_path, CLIENT), ClientConfig).models_dir == tmp_path / "home" / ".cache" / "secfed"
    text = CLIENT.replace("[data]", 'models_dir = "~/models"\n[data]')
    assert load(write(tmp_path, text), ClientConfig).models_dir == tmp_path / "home" / "models"


def test_a_config_from_options_names_the_key_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="epsilon"):
        checked(PolicyConfig, tmp_path, budget={"epsilon": -1.0})
    assert checked(PolicyConfig, tmp_path, budget={"epsilon": 2.0}).budget.epsilon == 2.0


def test_a_client_without_data_is_for_vector_jobs(tmp_path: Path) -> None:
    assert load(write(tmp_path, CLIENT[: CLIENT.index("[data]")]), ClientConfig).data is None
    found = load(write(tmp_path, CLIENT), ClientConfig)
    assert found.data is not None
    assert (found.data.unit, found.data.max_records_per_unit, found.device) == ("patient_id", 4, "auto")


def test_policies_are_safe_by_default(tmp_path: Path) -> None:
    found = load(write(tmp_path, "[budget]\nepsilon = 8\n"), PolicyConfig).job
    assert found == JobPolicy()
    assert (found.min_cohort, found.allow_non_private) == (3, False)


@pytest.mark.parametrize(
    ("text", "model", "expected"),
    [
        (AGGREGATOR + 'lisen = "x"\n', AggregatorConfig, ":8 unknown key 'lisen'; did you mean 'listen'?"),
        (AGGREGATOR + "zzz = 1\n", AggregatorConfig, ":8 unknown key 'zzz'"),
        (
            POLICY + "max_epsilom = 2\n",
            PolicyConfig,
            ":6 unknown key 'max_epsilom' in [job]; did you mean 'max_epsilon'?",
        ),
        (
            POLICY + "delta = 1e-6\n",
            PolicyConfig,
            ":6 unknown key 'delta' in [job]; did you mean 'max_delta'?",
        ),
        (
            CLIENT + 'ledger_dir = "x"\n',
            ClientConfig,
            ":18 unknown key 'ledger_dir' in [data]; did you mean 'ledger_dir' above the first table?",
        ),
        ("[budgett]\n" + POLICY, PolicyConfig, ":1 unknown key 'budgett'; did you mean 'budget'?"),
        (
            CLIENT + "\n[data.extra]\nx = 1\n",
            ClientConfig,
            ":19 unknown key 'extra' in [data]; did you mean 'text'?",
        ),
        (POLICY + '"min_chort" = 3\n', PolicyConfig, ":6 unknown key 'min_chort' in [job]; did you mean"),
        ("budget.epsilon = 8\nbudget.dleta = 1\n", PolicyConfig, ":2 unknown key 'dleta' in [budget]; did"),
    ],
)
def test_an_unknown_key_is_named_with_line_and_nearest_key(
    tmp_path: Path, text: str, model: type[BaseModel], expected: str
) -> None:
    assert refusal(tmp_path, text, model).startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('site = "center"', "site = 7", ":2 'site': input should be a valid string, found 7"),
        ('site = "center"', 'site = "Center"', ":2 'site': expected 1 to 63 lower-case"),
        ('site = "center"\n', "", ":1 key 'site' is missing"),
        ('key = "keys/center.key"', "key = []", ":3 'key': input is not a valid path"),
        ("# an agg", 'phase_timeout_s = "60"\n# ', ":1 'phase_timeout_s': input should be a valid integer"),
        ("# an agg", "phase_timeout_s = true\n# ", ":1 'phase_timeout_s': input should be a valid integer"),
        ("# an agg", "phase_timeout_s = 0\n# ", ":1 'phase_timeout_s': input should be greater than"),
        ("# an agg", "retain_uploads = 1\n# ", ":1 'retain_uploads': input should be a valid boolean"),
        ("# an agg", 'listen = "8443"\n# ', ":1 'listen': expected host:port"),
        ("# an agg", 'listen = "a:70000"\n# ', ":1 'listen': a port is at most 65535"),
        ("# an agg", 'advertise = "a:0"\n# ', ":1 'advertise': an address to dial needs its port"),
        ("# an agg", 'ops_listen = "0.0.0.0:9443"\n# ', ":1 'ops_listen': must be a loopback address"),
        ("# an agg", 'ops_listen = "10.0.0.1:1"\n# ', ":1 'ops_listen': must be a loopback address"),
        ("# an agg", 'ops_listen = "example.org:1"\n# ', ":1 'ops_listen': must be a loopback address"),
        ("# an agg", 'log_level = "all"\n# ', ":1 'log_level': input should be 'debug'"),
    ],
)
def test_a_wrong_value_is_named_with_line_and_what_is_expected(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert refusal(tmp_path, AGGREGATOR.replace(old, new, 1), AggregatorConfig).startswith(expected)


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("training_deadline_s", "training_s"),
        ("phase_timeout_s", "phase_s"),
        ("upload_idle_s", "upload_idle_s"),
    ],
)
def test_a_deadline_that_no_plan_can_say_is_refused_where_it_is_read(
    tmp_path: Path, key: str, field: str
) -> None:
    """The bounds of an aggregator's file, a job's file and a round's plan are the same."""
    (most,) = (each.le for each in Deadlines.model_fields[field].metadata if hasattr(each, "le"))
    Deadlines(**{field: most})
    assert load(write(tmp_path, f"{key} = {most}\n{AGGREGATOR}"), AggregatorConfig)
    DeadlineSection(**{field: most})
    found = refusal(tmp_path, f"{key} = {most + 1}\n{AGGREGATOR}", AggregatorConfig)
    assert found.startswith(f":1 '{key}': input should be less than or equal to {most}")
    with pytest.raises(ValidationError):
        DeadlineSection(**{field: most + 1})


def test_two_listeners_do_not_share_an_address(tmp_path: Path) -> None:
    for port, refused in (("9450", True), ("0", False)):
        text = AGGREGATOR + f'ops_listen = "127.0.0.1:{port}"\nhealth_listen = "127.0.0.1:{port}"\n'
        if refused:
            assert "need an address each" in refusal(tmp_path, text, AggregatorConfig)
        else:
            assert load(write(tmp_path, text), AggregatorConfig).health_listen == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("max_records_per_unit = 4\n", "", ":13 'data': a unit column needs max_records_per_unit"),
        ('"patient_id"', '"record"', ":13 'data': with unit = \"record\" max_records"),
        ('unit = "patient_id"\n', "", ":13 key 'unit' is missing in [data]"),
        ("public_n = 1000", "public_n = 0", ":17 'public_n' in [data]: input should be greater"),
        ('"a.key"', '"a.key"\ndevice = "tpu"', ":3 'device': string should match"),
        ("0f0f", "0F0F", ":3 'federation': string should match"),
        ("AAAA", "", ":4 'roster_key': expected 32 bytes"),
    ],
)
def test_wrong_values_of_a_client(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert refusal(tmp_path, CLIENT.replace(old, new, 1), ClientConfig).startswith(expected)


def test_the_first_of_several_mistakes_is_shown_with_their_number(tmp_path: Path) -> None:
    text = AGGREGATOR + "b = 1\na = 2\nmax_upload_mib = -1\n"
    assert refusal(tmp_path, text, AggregatorConfig) == ":8 unknown key 'b' (and 2 more)"


def test_a_key_inside_a_long_string_is_not_taken_for_the_key(tmp_path: Path) -> None:
    text = 'allowed = """\n[job]\nmin_cohort = 9\n"""\n' + POLICY + "min_cohort = 1\n"
    message = refusal(tmp_path, text.replace("allowed", "budgets"), PolicyConfig)
    assert message.startswith(":1 unknown key 'budgets'")
    tail = "[budget]\nepsilon = 1\n[job]\nallowed_trainers = ['''\nmin_cohort = 9\n''']\nmin_cohort = 1\n"
    assert refusal(tmp_path, tail, PolicyConfig).startswith(":7 'min_cohort' in [job]")


def test_broken_toml_is_named_with_its_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a = 1\nb =\n", PolicyConfig).startswith(":2 is no TOML: ")
    assert "file.toml:1 is no TOML" in "file.toml" + refusal(tmp_path, "= 3", PolicyConfig)
    assert "TOML" in refusal(tmp_path, 'a = """', PolicyConfig)
    assert "twice" not in refusal(tmp_path, "a = 1\na = 2\n", PolicyConfig)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    with pytest.raises(ConfigError, match="No such file"):
        load(path, PolicyConfig)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(path, PolicyConfig)
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match="longer than"):
        load(path, PolicyConfig)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:8443", ("::1", 8443)),
        ("[fe80::1%eth0.1]:8443", ("fe80::1%eth0.1", 8443)),
        ("[::ffff:10.0.0.1]:8443", ("::ffff:10.0.0.1", 8443)),
        ("a.example:1", ("a.example", 1)),
        ("host_1.my-net:1", ("host_1.my-net", 1)),
    ],
)
def test_addresses_are_parted(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text) == expected


@pytest.mark.parametrize("text", ["", "a", ":1", "a:", "::1:80", "a:x", "a:-1", "a:99999", "a: 1", "a:١"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="port"):
        split_address(text)


@pytest.mark.parametrize(
    "host",
    [
        "a\x1b[2K", "[::1\x1b[2K]", "[::1%\x1b[2K]", "a\r", "a\n", "a\u202eb", "a\u200bb", "[a b]", "a b",
        "bücher", "[a.example]", "[127.0.0.1]", "[]", "[", "a/b", "user@a", "a" * 254, f"[::1%{'a' * 65}]",
        "[1::2::3]",
    ],
)  # fmt: skip
def test_a_host_is_what_a_host_can_be(host: str) -> None:
    """It is printed beside what people compare."""
    with pytest.raises(ValueError, match=r"host:port|colon|octet|parts|'::'") as refused:
        split_address(f"{host}:8443")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"])
def test_loopback_is_allowed_for_operations(tmp_path: Path, host: str) -> None:
    text = AGGREGATOR + f'ops_listen = "{host}:9443"\n'
    assert load(write(tmp_path, text), AggregatorConfig).ops_listen == f"{host}:9443"


def test_delta_defaults_to_the_smaller_of_two() -> None:
    assert BudgetPolicy(epsilon=8).delta_for(1_000) == 1e-6
    assert BudgetPolicy(epsilon=8).delta_for(1_000_000) == 1e-7
    assert BudgetPolicy(epsilon=8, delta=1e-4).delta_for(1_000) == 1e-4
    for public_n in (1000, 2000):
        with pytest.raises(ConfigError, match="not below 1/public_n"):
            BudgetPolicy(epsilon=8, delta=1e-3).delta_for(public_n)


@pytest.mark.parametrize("epsilon", ["0", "-1", "inf", "nan", '"8"', "true"])
def test_a_senseless_budget_is_refused(tmp_path: Path, epsilon: str) -> None:
    message = refusal(tmp_path, f"[budget]\nepsilon = {epsilon}\n", PolicyConfig)
    assert message.startswith(":2 'epsilon' in [budget]:")


def test_templates_say_what_each_key_is_for(tmp_path: Path) -> None:
    text = to_toml(load(write(tmp_path, CLIENT), ClientConfig), tmp_path)
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), line
    assert 'key = "a.key"' in lines  # relative again
    assert "# threads = (not given)" in lines


@pytest.mark.parametrize(
    ("text", "model"), [(AGGREGATOR, AggregatorConfig), (CLIENT, ClientConfig), (POLICY, PolicyConfig)]
)
def test_templates_are_read_back(tmp_path: Path, text: str, model: Any) -> None:
    config = load(write(tmp_path, text), model)
    again = to_toml(config, tmp_path)
    assert load(write(tmp_path, again), model) == config
    assert to_toml(load(write(tmp_path, again), model), tmp_path) == again


@given(
    name=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_value_is_escaped_right(tmp_path: Path, name: str) -> None:
    """Quotes, backslashes, newlines, control characters, emoji: in paths and in texts."""
    data = DataConfig(file=tmp_path / "d" / ("x" + name), unit="u" + name, max_records_per_unit=1, public_n=9)
    config = load(write(tmp_path, CLIENT), ClientConfig).model_copy(update={"data": data})
    assert load(write_bytes(tmp_path, to_toml(config, tmp_path)), ClientConfig) == config


def write_bytes(tmp_path: Path, text: str) -> Path:
    """Without the translation of newlines."""
    path = tmp_path / "exact.toml"
    path.write_bytes(text.encode())
    return path


def test_a_path_that_is_no_text_is_refused(tmp_path: Path) -> None:
    config = load(write(tmp_path, AGGREGATOR), AggregatorConfig)
    odd = config.model_copy(update={"key": Path(os.fsdecode(b"/a\xff"))})
    with pytest.raises(ConfigError, match="not UTF-8"):
        to_toml(odd, tmp_path)
