"""What every command needs and one way to type it, shown at the end of its `--help`.

In one place, so that a test can hold each example against the command that it is for. Imports
nothing but the command line's own library, since `secfed --help` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import typer

__all__ = ["EXAMPLES", "Example", "attach"]


class Example(NamedTuple):
    """The words after `secfed COMMAND`, and what must be there before they can work."""

    needs: str
    words: str


_ADMIN = "admin.toml with its key, and an aggregator that runs"
_SITE = "client.toml with its key, and an aggregator that runs"
_OWNER = "the federation's folder with the roster key"

EXAMPLES: Final[Mapping[str, Example]] = {
    "adapter fetch": Example(_SITE, "--job classify --round 3 --output adapter"),
    "aggregator run": Example(
        "aggregator.toml, the key and the roster that `secfed init` made",
        "--config federation/aggregator.toml",
    ),
    "aggregator verify-log": Example(
        "the log and the aggregator's public key file, which anybody may have",
        "federation/state/audit-0123456789abcdef.jsonl --public federation/aggregator.pub",
    ),
    "attack": Example("nothing: it makes parties of its own on loopback", "list"),
    "audit canaries bound": Example(
        "coins.json and scores.json", "--coins canaries/coins.json --scores scores.json"
    ),
    "audit canaries make": Example("nothing but a new folder", "--trainer classify --output canaries"),
    "audit canaries score": Example(
        "the canaries, an adapter's folder and its base model",
        "--canaries canaries/canaries.jsonl --adapter adapter",
    ),
    "audit mechanism": Example("the libraries of secfed[train]", "--trainer classify"),
    "bench dp-step": Example(
        "the libraries of secfed[train], and a model that `make setup-assets` made", "--json"
    ),
    "bench keystream": Example("nothing", "--json"),
    "bench secure-sum": Example("nothing", "--json"),
    "bench targets": Example(
        "a machine with nothing else to do; but with --no-training what `bench dp-step` needs", "--json"
    ),
    "budget calibrate": Example("nothing", "--epsilon 4 --sampling-rate 0.01 --steps 1000 --delta 1e-6"),
    "budget epsilon": Example(
        "nothing", "--noise-multiplier 1.1 --sampling-rate 0.01 --steps 1000 --delta 1e-6"
    ),
    "budget plan": Example("a JOB.toml; with --site a site's ledger too", "--config JOB.toml"),
    "client join": Example(
        "the owner's invite and this site's key file",
        "hosp-a.invite --key hosp-a.key --data rows.jsonl --unit record --public-n 1000",
    ),
    "client push": Example(_SITE, "--update update.safetensors --wait 600"),
    "client run": Example(_SITE, "--config hosp-a/client.toml"),
    "data check": Example(
        "client.toml with [data], its file, and the base model", "--trainer classify --labels no,yes"
    ),
    "data redistribute": Example(
        "files of feedback, such as `secfed data unpair` writes",
        "feedback.jsonl --mode shuffle --seed 1 --output spread",
    ),
    "data unpair": Example("a .jsonl file of preference pairs", "pairs.jsonl --output feedback.jsonl"),
    "demo": Example(
        "for classify and sft what `make setup-assets` prepares; for vector nothing", "--task vector"
    ),
    "doctor": Example("a client.toml, admin.toml or aggregator.toml", "--config hosp-a/client.toml"),
    "enroll": Example(_OWNER + ", and the SITE.pub of each site", "hosp-a.pub hosp-b.pub hosp-c.pub"),
    "eval": Example(
        "an adapter's folder, its base model, and rows that are public",
        "--adapter out/classify/round-0003 --data public.jsonl",
    ),
    "init": Example("nothing but a new folder", "federation --address sums.example.org:8443"),
    "job init": Example("nothing", "--template classify --output JOB.toml"),
    "job list": Example(_ADMIN, "--json"),
    "job pause": Example(_ADMIN, "classify"),
    "job resume": Example(_ADMIN, "classify"),
    "job start": Example(_ADMIN + "; for training the base model", "JOB.toml"),
    "job stop": Example(_ADMIN, "classify"),
    "keys new": Example("nothing: a passphrase is asked for", "hosp-a"),
    "keys passphrase": Example("a key file and its passphrase", "hosp-a.key"),
    "keys rotate": Example("the key file in use and its passphrase", "hosp-a.key"),
    "keys show": Example("a .pub file, or a key file and its passphrase", "hosp-a.pub"),
    "ledger hand-over": Example(
        "client.toml, the old and the new key, and the client stopped", "--to hosp-a-20270101000000.key"
    ),
    "ledger verify": Example(
        "a ledger, and the client.toml or the SITE.pub of its site",
        "ledger/dataset.ledger --config client.toml",
    ),
    "report": Example(
        "a site's client.toml and its ledger; with --job the plan's figures, and an aggregator that runs",
        "--config client.toml --format html --output report.html",
    ),
    "revoke": Example(_OWNER, "hosp-a"),
    "roster renew": Example(_OWNER, "--days 365"),
    "roster show": Example("a roster.txt", "federation/roster.txt --json"),
    "roster verify": Example("a roster.txt with its roster.pub", "federation/roster.txt"),
    "status": Example(
        "an admin.toml or client.toml, and an aggregator that runs", "--config client.toml --json"
    ),
}
"""By the command's words."""


def attach(app: typer.Typer, group: str = "") -> None:
    """Give every command of an application, and of the groups in it, its last lines of help."""
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__ if command.callback else "")
        path = f"{group} {name}".strip()
        if path in EXAMPLES:
            needs, words = EXAMPLES[path]
            command.epilog = f"\b\nNeeds:    {needs}.\nExample:  secfed {path} {words}"
    for inner in app.registered_groups:
        if inner.typer_instance is not None:
            attach(inner.typer_instance, f"{group} {inner.name}".strip())
