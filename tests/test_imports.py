"""What a process loads: `--help` nothing heavy, the aggregator no torch and no accountant."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable

import pytest

REPORT = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"

HEAVY = {
    "cryptography", "datasets", "dp_accounting", "google", "grpc", "jinja2", "matplotlib", "numpy", "opacus",
    "peft", "prometheus_client", "pydantic", "rich", "safetensors", "scipy", "stamina", "structlog", "torch",
    "transformers",
}  # fmt: skip
"""Everything that is installed beside typer."""

TRAINING = {"accelerate", "datasets", "opacus", "peft", "tokenizers", "torch", "transformers", "trl"}

ACCOUNT = {"dp_accounting", "scipy"}


def loaded(code: str) -> set[str]:
    """Top-level modules of a fresh interpreter after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def help_of(words: Iterable[str]) -> str:
    return f"from secfed.cli import main; assert main.run({[*words, '--help']!r}) == 0"


def test_the_probe_sees_what_is_loaded() -> None:
    """Else the tests below could not fail."""
    assert {"numpy", "cryptography"} <= loaded("import secfed.crypto.prg")


def test_help_loads_nothing_heavy() -> None:
    assert loaded(help_of([])) & HEAVY == set()


@pytest.mark.parametrize("words", [("job", "start"), ("client", "run"), ("aggregator", "run"), ("demo",)])
def test_a_commands_help_loads_nothing_of_what_the_command_does(words: tuple[str, ...]) -> None:
    """Typer itself takes pydantic to read options."""
    assert loaded(help_of(words)) & (HEAVY - {"pydantic"}) == set()


def test_the_aggregator_loads_neither_torch_nor_the_accountant() -> None:
    found = loaded("import secfed.cli.build_aggregator")
    assert "grpc" in found  # it is the whole process that was loaded
    assert found & (TRAINING | ACCOUNT) == set()


def test_a_client_loads_torch_only_when_a_job_trains() -> None:
    assert loaded("import secfed.cli.build_client") & TRAINING == set()


@pytest.mark.parametrize("package", ["secagg", "rounds", "identity", "privacy", "aggregation", "store"])
def test_the_core_loads_no_network_and_no_model(package: str) -> None:
    """The import contract, as it is at run time, by way of other libraries too."""
    found = loaded(
        f"import importlib, pkgutil, secfed.{package} as package\n"
        f"for each in pkgutil.iter_modules(package.__path__, 'secfed.{package}.'):\n"
        "    importlib.import_module(each.name)"
    )
    assert found & ({"grpc", "google", "structlog"} | TRAINING) == set()
