"""What a process loads: `--help` nothing heavy, the aggregator no torch and no accountant."""

from __future__ import annotations

import json
import subprocess
import sys

REPORT = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"

HEAVY = {
    "cryptography", "datasets", "dp_accounting", "google", "grpc", "jinja2", "matplotlib", "numpy", "opacus",
    "peft", "prometheus_client", "pydantic", "rich", "safetensors", "scipy", "stamina", "structlog", "torch",
    "transformers",
}  # fmt: skip
"""Everything that is installed beside typer."""

TRAINING = {"accelerate", "datasets", "opacus", "peft", "tokenizers", "torch", "transformers", "trl"}

CORE = [
    f"secfed.{name}"
    for name in ("crypto", "encoding", "store", "identity", "secagg", "aggregation", "privacy", "rounds")
]

ACCOUNT = {"dp_accounting", "scipy"}


def loaded(code: str) -> set[str]:
    """Top-level modules of a fresh interpreter after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def help_of(*commands: str) -> str:
    """Code that shows the help of some commands."""
    return "from secfed.cli import main\n" + "\n".join(
        f"assert main.run({[*command.split(), '--help']!r}) == 0" for command in commands
    )


def test_the_probe_sees_what_is_loaded() -> None:
    """Else the tests below could not fail."""
    assert {"numpy", "cryptography"} <= loaded("import secfed.crypto.prg")


def test_help_loads_nothing_heavy() -> None:
    assert loaded(help_of("")) & HEAVY == set()


def test_a_commands_help_loads_nothing_of_what_the_command_does() -> None:
    """Typer itself takes pydantic to read options."""
    found = loaded(help_of("job start", "client run", "aggregator run", "demo", "report", "eval"))
    assert found & (HEAVY - {"pydantic"}) == set()


def test_the_aggregator_loads_neither_torch_nor_the_accountant() -> None:
    found = loaded("import secfed.cli.build_aggregator")
    assert "grpc" in found  # it is the whole process that was loaded
    assert found & (TRAINING | ACCOUNT) == set()


def test_a_client_loads_torch_only_when_a_job_trains() -> None:
    assert loaded("import secfed.cli.build_client") & TRAINING == set()


def test_the_core_loads_no_network_and_no_model() -> None:
    """The import contract, as it is at run time: by way of other libraries too."""
    found = loaded(
        "import importlib, pkgutil\n"
        f"for name in {CORE!r}:\n"
        "    package = importlib.import_module(name)\n"
        "    for each in pkgutil.iter_modules(package.__path__, f'{name}.'):\n"
        "        importlib.import_module(each.name)"
    )
    assert found & ({"grpc", "google", "structlog"} | TRAINING) == set()
