"""What `secfed client join` does: from an invite and a key file to a site that can take part."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import typer

from secfed.cli import key_state
from secfed.cli.build_client import utc_now
from secfed.cli.ledgers import check_unclaimed, create_ledger
from secfed.cli.passphrase import Source
from secfed.config import BudgetPolicy, ClientConfig, DataConfig, JobPolicy, PolicyConfig, checked, to_toml
from secfed.errors import AuthenticationError, ConfigError, NetworkError, RosterError
from secfed.identity import invite as invites
from secfed.identity import keyfile
from secfed.identity.fields import to_base64
from secfed.identity.invite import Invite
from secfed.identity.keyfile import MemberKeys
from secfed.limits import INVITE_BYTES_MAX
from secfed.rounds.rosters import RosterKeeper
from secfed.store import files
from secfed.store.decisions import DecisionStore
from secfed.transport.client import Connection, Sequence

__all__ = ["Wishes", "join"]

TRY_S = 4.0
"""How long the trial call is tried: a running aggregator notices a new roster within about 2 seconds, and
one that is not up yet is no error here."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command's options asked for."""

    data: Path | None
    unit: str | None
    max_records_per_unit: int | None
    public_n: int | None
    epsilon: float
    models: Path | None
    allow_non_private: bool


def join(invite_path: Path, key_path: Path, directory: Path, wishes: Wishes, secrets: Source) -> None:
    """Join, step by step; nothing is written before everything was checked.

    Raises:
        ConfigError: A file is there already, or an option is missing or wrong.
        LedgerError: The data file has a ledger elsewhere.
        RosterError: The invite is forged or malformed, or for another key.
        AuthenticationError: The key has served with a state that is not here.
        KeyFileError: The key file cannot be used.
    """
    invite = _read_invite(invite_path)
    keys = keyfile.load(key_path, secrets.for_existing(key_path))
    _check_keys(invite, keys)
    directory = directory.absolute()
    config = checked(
        ClientConfig,
        directory,
        site=keys.site,
        key=str(key_path.absolute()),
        federation=invite.roster.federation,
        roster_key=to_base64(invite.roster_key),
        roster="roster.txt",
        aggregator=invite.aggregator_address,
        aggregator_certificate="aggregator.pem",
        state_dir="state",
        ledger_dir="ledger",
        policy="policy.toml",
        output_dir="out",
        data=_data(wishes),
        **({} if wishes.models is None else {"models_dir": str(wishes.models.absolute())}),
    )
    policy = _policy(directory, wishes, config.data)
    texts = {
        config.roster: invite.roster.text,
        directory / "roster.pub": to_base64(invite.roster_key).encode() + b"\n",
        config.aggregator_certificate: invite.aggregator.certificate.pem.encode(),
        config.policy: to_toml(policy, directory).encode(),
        directory / "client.toml": to_toml(config, directory).encode(),
    }
    for path in texts:
        if path.exists():
            raise ConfigError(f"{path} exists already", hint="Choose another --dir; nothing was written.")
    key_state.check_start(config.key, config.state_dir)
    if config.data is not None:
        check_unclaimed(config.data)
    for folder in (directory, config.state_dir, config.ledger_dir):
        files.make_directory(folder)
    for path, text in texts.items():
        files.create_exclusive(path, text, mode=files.PUBLIC_MODE)
    typer.echo(f"federation     {invite.roster.federation}")
    typer.echo(f"roster key     {invite.fingerprint}  (compare it with the owner by phone)")
    typer.echo(f"site           {keys.site}  {keys.fingerprint}")
    typer.echo(f"configuration  {directory / 'client.toml'}")
    typer.echo(f"policy         {config.policy}")
    if config.data is not None:
        path = create_ledger(config.ledger_dir, keys, config.data, policy)
        typer.echo(f"ledger         {path}  epsilon {wishes.epsilon:g} in all (back it up)")
    if wishes.allow_non_private:
        typer.echo(
            "warning: the policy allows releases WITHOUT a privacy bound (allow_non_private)", err=True
        )
    _try(config, keys, invite.roster_key)


def _read_invite(path: Path) -> Invite:
    try:
        return invites.verify(files.read_small(path, INVITE_BYTES_MAX))
    except OSError as problem:
        raise ConfigError(f"{path}: {problem.strerror}") from problem
    except RosterError as problem:
        raise RosterError(f"{path}: {problem}", hint=problem.hint) from problem


def _check_keys(invite: Invite, keys: MemberKeys) -> None:
    """The invite is for this very key, and both are in date."""
    if invite.site != keys.site:
        raise AuthenticationError(f"the invite is for {invite.site}, the key file is {keys.site}'s")
    member = invite.roster.require(keys.site, keys.role, utc_now())
    if member.fingerprint != keys.fingerprint:
        raise AuthenticationError(
            f"the roster lists {keys.site} with {member.fingerprint}, the key file has {keys.fingerprint}"
        )


def _data(wishes: Wishes) -> dict[str, object] | None:
    """The [data] section; what is missing is asked for on a terminal."""
    if wishes.data is None:
        return None
    if not wishes.data.is_file():
        raise ConfigError(f"{wishes.data}: no such file")
    unit = wishes.unit or _asked("--unit", 'What does privacy protect ("record", or the person\'s column)?')
    most = wishes.max_records_per_unit
    if unit != "record" and most is None:
        most = int(_asked("--max-records-per-unit", "How many records of one person count at most?"))
    count = wishes.public_n or int(_asked("--public-n", "A public round figure for the number of units?"))
    section: dict[str, object] = {"file": str(wishes.data.absolute()), "unit": unit, "public_n": count}
    return section if most is None else {**section, "max_records_per_unit": most}


def _asked(option: str, question: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(
            f"--data needs {option}", hint="The privacy unit has no default: say what is protected."
        )
    answer: str = typer.prompt(question, err=True)
    return answer


def _policy(directory: Path, wishes: Wishes, data: DataConfig | None) -> PolicyConfig:
    """Safe defaults; the unit follows the data set's."""
    policy = checked(
        PolicyConfig,
        directory,
        budget=BudgetPolicy(epsilon=wishes.epsilon).model_dump(),
        job=JobPolicy(
            max_epsilon=wishes.epsilon,
            unit="person" if data is not None and data.unit != "record" else "record",
            allow_non_private=wishes.allow_non_private,
        ).model_dump(),
    )
    if data is not None:
        policy.budget.delta_for(data.public_n)
    return policy


def _try(config: ClientConfig, keys: MemberKeys, roster_key: bytes) -> None:
    """Pin the roster, and prove the configuration by a signed call over mutual TLS."""
    with DecisionStore(config.state_dir / key_state.DATABASE) as decisions:
        rosters = RosterKeeper(config.roster, roster_key, decisions)
        link = Connection(
            config.aggregator,
            keys,
            rosters,
            Sequence(),
            now=utc_now,
            patience_s=TRY_S,
        )
        with link:
            try:
                status = link.status()
            except NetworkError as away:
                typer.echo(f"round trip     not yet: {away}; `secfed client run` tries again")
                return
    typer.echo(
        f"round trip     PASS: signed call to the aggregator ({status.version}), "
        f"roster version {status.roster_version}"
    )
