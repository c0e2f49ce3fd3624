"""What `secfed doctor` looks at on this machine: configuration, keys, roster, folders, ledgers, data.

Every check is a function that says what it found, raises `Doubt` for what works today and may not
tomorrow, or raises the very error with which a start would end. Nothing is changed: what a first
start would make is not made here, and a roster that the aggregator tells is only looked at.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from secfed.cli import checkup_state, key_state
from secfed.config import AdminConfig, AggregatorConfig, ClientConfig, PolicyConfig, load
from secfed.errors import (
    AuthenticationError,
    CertificateExpiredError,
    ConfigError,
    DataError,
    LedgerError,
    LockedError,
    SecfedError,
    StorageError,
)
from secfed.identity import keyfile
from secfed.identity.fields import from_base64, write_time
from secfed.identity.roles import Role
from secfed.rounds.rosters import RosterKeeper
from secfed.store import files
from secfed.transport.auditlog import log_file

if TYPE_CHECKING:
    from secfed.cli.passphrase import Source
    from secfed.identity.keyfile import MemberKeys
    from secfed.identity.roster import Roster

__all__ = [
    "Config",
    "Doubt",
    "Finding",
    "Look",
    "Patient",
    "Skipped",
    "examine",
    "local_checks",
    "needed",
]

T = TypeVar("T")

Config = AdminConfig | AggregatorConfig | ClientConfig

Look = Callable[[], str]
"""A check: what it found, in a few words."""

WARN_AHEAD = timedelta(days=30)
"""A key, an entry or a roster that ends sooner is worth a word today."""

SPACE_LEAST_BYTES = 100 << 20
"""Below this nothing should start: journals and decisions could not be written to their end."""

SPACE_GOOD_BYTES = 2 << 30
"""Some uploads of an adapter, and the adapters themselves."""

SYNC_SLOW_S = 0.25
"""A phase takes several synced writes a site; at this pace they are what a round waits for."""

TRAINING_MODULES = ("torch", "opacus", "peft", "transformers", "datasets", "accelerate")


class Doubt(Exception):
    """Something that does not stop a start."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Skipped(Exception):
    """There is nothing to look at: the check that should have opened it failed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to.

    Attributes:
        check: What was looked at.
        verdict: `ok`, `warn`, `fail`, or `skip` where an earlier failure left nothing to look at.
        text: What was found.
        remedy: What to do; empty if nothing.
        exit_code: What a start would end with; 0 if it would not end here.
    """

    check: str
    verdict: str
    text: str
    remedy: str = ""
    exit_code: int = 0


@dataclass(slots=True)
class Patient:
    """Who is looked at, and what the checks so far have opened.

    Attributes:
        path: Its configuration file.
        running: Whether another process holds its state: then it runs already.
    """

    path: Path
    config: Config
    secrets: Source = field(repr=False)
    now: datetime
    keys: MemberKeys | None = field(default=None, repr=False)
    rosters: RosterKeeper | None = None
    running: bool = False

    @property
    def roster(self) -> Roster | None:
        """The roster on disk, if it could be read."""
        return None if self.rosters is None else self.rosters.current


def examine(check: str, look: Look) -> Finding:
    """Carry out one check."""
    try:
        return Finding(check, "ok", look())
    except Doubt as doubt:
        return Finding(check, "warn", str(doubt), doubt.hint)
    except Skipped:
        return Finding(check, "skip", "not looked at: a check above failed")
    except SecfedError as error:
        return Finding(check, "fail", str(error), error.hint, error.exit_code)
    except OSError as problem:
        what = "" if problem.filename is None else f"{problem.filename}: "
        failure = StorageError(f"{what}{problem.strerror or problem}")
        return Finding(check, "fail", str(failure), failure.hint, failure.exit_code)


def local_checks(patient: Patient) -> list[tuple[str, Look]]:
    """All that can be looked at without the network, in the order in which a start would fail."""
    config = patient.config
    checks: list[tuple[str, Look]] = [
        ("key file", lambda: _key_file(patient)),
        ("key", lambda: _key(patient)),
        ("roster", lambda: _roster(patient)),
        ("entry", lambda: _entry(patient)),
    ]
    if not isinstance(config, AdminConfig):
        checks += [
            ("state folder", lambda: _state(patient, config)),
            ("free space", lambda: _space(config.state_dir)),
            ("disk sync", lambda: _sync(config.state_dir)),
        ]
    if isinstance(config, AggregatorConfig):
        checks += [
            ("audit log", lambda: _audit_log(patient, config.state_dir)),
            ("output folder", lambda: _output(config.output_dir)),
            ("sites", lambda: _sites(patient)),
        ]
    if isinstance(config, ClientConfig):
        checks += [
            ("policy", lambda: _policy(config)),
            ("ledgers", lambda: _ledgers(patient.path)),
            ("data", lambda: _data(config)),
            ("training", lambda: _training(config)),
            ("models", lambda: _models(config)),
        ]
    return checks


# -- who one is --------------------------------------------------------------------------------


def _key_file(patient: Patient) -> str:
    path = patient.config.key
    keys = keyfile.load(path, patient.secrets.for_existing(path))
    if keys.site != patient.config.site:
        raise AuthenticationError(
            f"{path} is the key file of {keys.site}, and {patient.path} is {patient.config.site}'s"
        )
    patient.keys = keys
    files.refuse_shared(path.parent)
    return f"{path}  mode 0600, {keys.fingerprint}"


def _key(patient: Patient) -> str:
    keys = needed(patient.keys)
    keys.certificate.check_validity(patient.now)
    return _until(
        f"{keys.site}'s keys serve", min(keys.expires, keys.certificate.not_after), patient.now,
        f"`secfed keys rotate {patient.config.key}`, and have the new key enrolled.",
    )  # fmt: skip


def _roster(patient: Patient) -> str:
    config = patient.config
    patient.rosters = RosterKeeper(config.roster, from_base64(config.roster_key, 32))
    roster = patient.rosters.current
    roster.check_validity(patient.now)
    return _until(
        f"version {roster.version}, signed by the pinned key,", roster.not_after, patient.now,
        "Ask the federation's owner for the next roster version (`secfed roster renew`).",
    )  # fmt: skip


def _entry(patient: Patient) -> str:
    """This member in its roster: listed with these keys, in a role that serves here."""
    keys, roster = needed(patient.keys), needed(patient.roster)
    listens = isinstance(patient.config, AggregatorConfig)
    if not listens and all(member.certificate.digest != keys.certificate.digest for member in roster.members):
        raise Doubt(
            f"roster version {roster.version} does not list {keys.site} with this key ({keys.fingerprint})",
            "If the key is new, a newer roster is fetched by itself; else use the key that was enrolled.",
        )
    role = Role.AGGREGATOR if listens else roster.member(keys.site).role
    member = roster.require(keys.site, role, patient.now)
    if member.fingerprint != keys.fingerprint:
        raise AuthenticationError(
            f"the key file of {keys.site} ({keys.fingerprint}) is not the one that roster version "
            f"{roster.version} lists ({member.fingerprint})"
        )
    return _until(
        f"{keys.site} is enrolled as {role.value}", member.valid_until, patient.now,
        "Have a new key enrolled before that day (`secfed keys rotate`).",
    )  # fmt: skip


def _until(what: str, end: datetime, now: datetime, remedy: str) -> str:
    """That something lasts; a doubt if not for long, an error if it is over."""
    text = f"{what} until {write_time(end)}"
    if now > end:
        raise CertificateExpiredError(f"{text}; it is {write_time(now)}", hint=remedy)
    if end - now < WARN_AHEAD:
        raise Doubt(f"{text}: {max(0, (end - now).days)} days are left", remedy)
    return text


# -- folders -----------------------------------------------------------------------------------


def _state(patient: Patient, config: AggregatorConfig | ClientConfig) -> str:
    """As a start takes it; what cannot be held against it failed in a check above."""
    folder = config.state_dir
    key, roster = patient.keys is not None, patient.rosters is not None
    if key:
        checkup_state.check_key(config)
    if not folder.exists():
        return f"{folder} is not there yet: the first start makes it"
    files.private_directory(folder)
    if not (folder / key_state.DATABASE).exists():
        return f"{folder}  mode 0700, and nothing was decided yet"
    try:
        checkup_state.try_decisions(config, key=key, roster=roster)
    except LockedError:
        patient.running = True
        raise Doubt(
            f"{folder} is in use: {config.site} runs already",
            "Nothing to do, unless another one was to be started: only one may use a state folder.",
        ) from None
    return f"{folder}  mode 0700, not in use" + (", and this key's" if key else "")


def _audit_log(patient: Patient, folder: Path) -> str:
    if patient.running:
        return "it is being written by the aggregator that runs"
    keys = needed(patient.keys)
    path = log_file(folder, keys.signing)
    if not path.exists() and not path.with_name(f"{path.name}.head").exists():
        return "none yet: the first start makes it"
    size = path.stat().st_size if path.exists() else 0
    if size > checkup_state.AUDIT_LOG_MOST_BYTES:
        return f"{path}  {size >> 20} MiB, which the start verifies"
    checkup_state.try_audit_log(path, keys)
    return f"{path}  whole, its end is the one that was noted"


def _space(folder: Path) -> str:
    there = _existing(folder)
    free = shutil.disk_usage(there).free
    text = f"{free / 2**30:.1f} GiB at {there}"
    if free < SPACE_LEAST_BYTES:
        raise StorageError(f"only {text}", hint="Free the disk; nothing that was begun could be finished.")
    if free < SPACE_GOOD_BYTES:
        raise Doubt(text, "Free the disk before large adapters are summed.")
    return text


def _sync(folder: Path) -> str:
    """Write, sync and remove a small file; in the folder itself, as file systems differ."""
    there = _existing(folder)
    probe = there / f".secfed-doctor-{os.getpid()}"
    begin = time.monotonic()
    try:
        files.create_exclusive(probe, b"a few bytes\n")
    finally:
        files.remove(probe)
    took = time.monotonic() - begin
    text = f"a synced write and its removal take {1000 * took:.0f} ms"
    if took > SYNC_SLOW_S:
        raise Doubt(text, "Put the state folder on a faster disk, not on a network share.")
    return text


def _output(folder: Path) -> str:
    there = _existing(folder)
    if not os.access(there, os.W_OK | os.X_OK):
        raise StorageError(f"{there} cannot be written to", hint="Let the daemon's user write there.")
    return f"{folder}" if there == folder else f"{folder} is not there yet: the first start makes it"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


# -- what it works with ------------------------------------------------------------------------


def _sites(patient: Patient) -> str:
    roster = needed(patient.roster)
    clients = roster.active(Role.CLIENT, patient.now)
    text = f"{len(clients)} clients in date, {roster.min_cohort} are needed for a sum"
    if len(clients) < roster.min_cohort:
        raise Doubt(text, "Enrol more sites (`secfed enroll`); a daemon may run meanwhile.")
    return text


def _policy(config: ClientConfig) -> str:
    policy = load(config.policy, PolicyConfig)
    text = f"epsilon {policy.budget.epsilon:g} in all, at least {policy.job.min_cohort} sites"
    if policy.job.allow_non_private:
        raise Doubt(
            f"{text}, and releases WITHOUT a privacy bound are allowed",
            "Set allow_non_private = false unless vector jobs are wanted.",
        )
    return text


def _ledgers(path: Path) -> str:
    from secfed.cli import report

    verdicts = report.verdicts(path)
    for verdict in verdicts:
        if verdict.fault is not None:
            raise LedgerError(f"{verdict.path}: {verdict.fault}")
    entries = sum(verdict.head.count for verdict in verdicts)
    return f"{len(verdicts)} whole, {entries} entries, every signature good" if verdicts else "none yet"


def _data(config: ClientConfig) -> str:
    if config.data is None:
        return "none named: vector jobs only"
    path = config.data.file
    if not path.is_file() or not os.access(path, os.R_OK):
        raise DataError(f"{path} is not there, or cannot be read", hint="Mend `file` in [data].")
    return f"{path}  (`secfed data check` looks inside)"


def _training(config: ClientConfig) -> str:
    if config.data is None:
        return "not needed without data"
    missing = [name for name in TRAINING_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"not installed: {', '.join(missing)}", hint="pip install 'secfed[train]'")
    return "all libraries are installed"


def _models(config: ClientConfig) -> str:
    if config.data is None:
        return "not needed without data"
    folder = config.models_dir / "models"
    found = sorted(path.parent.name for path in folder.glob("*/config.json"))
    wanted = [name.rpartition("/")[2] for name in load(config.policy, PolicyConfig).job.allowed_base_models]
    missing = [name for name in wanted if name not in found]
    if missing or not found:
        raise Doubt(
            f"not in {folder}: {', '.join(missing) or 'any base model'}",
            "Prepare the models (`make setup-assets`), or name their folder as models_dir.",
        )
    return f"{', '.join(found)} in {folder}"


def needed(value: T | None) -> T:
    """What an earlier check opened."""
    if value is None:
        raise Skipped
    return value
