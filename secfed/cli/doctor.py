"""`secfed doctor`: what would keep this member from working, found before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secfed.cli.passphrase import Descriptor, PassphraseFile

if TYPE_CHECKING:
    from secfed.cli.checkup import Config, Finding
    from secfed.cli.passphrase import Source

__all__ = ["SCHEMA", "doctor"]

SCHEMA = 1
"""Version of the JSON; a field is never given another meaning under one number."""

_EVERY_MEMBERS = {"site", "key", "roster", "roster_key"}
"""Keys of all three files; a policy or a job has none of them."""

_DIALLERS_OWN = {"aggregator", "federation", "ledger_dir"}
"""Keys of client.toml and admin.toml that aggregator.toml has not."""


def doctor(
    config: Annotated[
        Path, typer.Option("--config", help="A client.toml, admin.toml or aggregator.toml.")
    ] = Path("client.toml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: Descriptor = None,
) -> None:
    """Look at configuration, keys, roster, folders, ledgers, ports and the aggregator; change nothing.

    A line each: ok, warn or fail, with the remedy. The exit code is the first failure's, as of a start.
    """
    from secfed.cli.passphrase import source

    findings = _examined(config, source(passphrase_file, passphrase_fd))
    code = next((finding.exit_code for finding in findings if finding.verdict == "fail"), 0)
    typer.echo(_as_json(config, findings, code) if as_json else _as_text(findings))
    raise typer.Exit(code)


def _examined(path: Path, secrets: Source) -> list[Finding]:
    from datetime import UTC, datetime

    from secfed.cli import checkup, checkup_net
    from secfed.config import AggregatorConfig

    opened: list[Config] = []
    findings = [
        checkup.examine("program", _program),
        checkup.examine("configuration", lambda: _read(path, opened)),
    ]
    if not opened:
        return findings
    patient = checkup.Patient(path, opened[0], secrets, datetime.now(UTC))
    findings += [checkup.examine(name, look) for name, look in checkup.local_checks(patient)]
    listens = isinstance(patient.config, AggregatorConfig)
    beyond = checkup_net.listening_checks if listens else checkup_net.dialling_checks
    return findings + [checkup.examine(name, look) for name, look in beyond(patient)]


def _program() -> str:
    """The versions that a report of a fault should name."""
    import platform
    from importlib.metadata import version

    from secfed import __version__
    from secfed.crypto.labels import PROTOCOL_VERSION

    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("grpcio", "protobuf", "cryptography", "numpy")
    )
    return (
        f"secfed {__version__}, protocol {PROTOCOL_VERSION}, Python {platform.python_version()}, {libraries}"
    )


def _read(path: Path, opened: list[Config]) -> str:
    """Read the configuration, whoever's it is."""
    import tomllib

    from secfed.cli.connect import member_config
    from secfed.config import AggregatorConfig, load
    from secfed.errors import ConfigError

    try:
        keys = set(tomllib.loads(path.read_text("utf-8")))
    except OSError as problem:
        raise ConfigError(
            f"{path}: {problem.strerror}",
            hint="Name a client.toml, admin.toml or aggregator.toml with --config.",
        ) from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        keys = set()  # `member_config` says what is wrong, with the line
    if keys and not keys & _EVERY_MEMBERS:
        raise ConfigError(
            f"{path} is no client.toml, admin.toml or aggregator.toml",
            hint="Name one of these with --config: it leads to the policy and the other files.",
        )
    listens = "state_dir" in keys and not keys & _DIALLERS_OWN
    found = load(path, AggregatorConfig) if listens else member_config(path)
    opened.append(found)
    return f"{path}  {found.site}, {type(found).__name__.removesuffix('Config').lower()}"


def _as_text(findings: list[Finding]) -> str:
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.verdict:<5} {finding.check:<{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<{width + 8}}remedy: {finding.remedy}")
    count = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in ("fail", "warn")}
    lines.append(f"{len(findings)} checks, {count['fail']} failed, {count['warn']} to look at")
    return "\n".join(lines)


def _as_json(path: Path, findings: list[Finding], code: int) -> str:
    import json
    from dataclasses import asdict

    checks = [asdict(finding) for finding in findings]
    document = {"kind": "checks", "schema": SCHEMA, "config": str(path), "exit_code": code, "checks": checks}
    return json.dumps(document, indent=2)
