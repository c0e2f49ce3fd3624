"""A site's configuration turned into a wired client: stores, ledgers, contributor, rounds, link.

Torch is loaded only when a job trains. Everything that is opened here is locked for this process
until `close`; a second client on the same state directory is turned away.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from secfed.cli import key_state, ranks
from secfed.cli.heads import Heads
from secfed.cli.ledgers import Ledgers
from secfed.cli.loading import large_libraries
from secfed.config import ClientConfig, DataConfig, PolicyConfig
from secfed.config import load as load_config
from secfed.crypto.kdf import digest
from secfed.crypto.labels import Label
from secfed.errors import AuthenticationError, ConfigError, PeerError
from secfed.identity import keyfile
from secfed.identity.fields import from_base64
from secfed.identity.keyfile import MemberKeys
from secfed.ids import Digest, JobId
from secfed.privacy.events import Event
from secfed.privacy.ledger import Ledger
from secfed.rounds.admission import Site
from secfed.rounds.client import ClientRounds
from secfed.rounds.contribution import ContributionStore, site_key
from secfed.rounds.plan import JobPlan
from secfed.rounds.ports import Contributor, Observer
from secfed.rounds.rosters import RosterKeeper
from secfed.rounds.vector import VectorContributor
from secfed.store import files
from secfed.store.decisions import DecisionStore
from secfed.transport.client import Connection, Sequence
from secfed.wire.codec import ProtoCodec

if TYPE_CHECKING:
    from secfed.cli.passphrase import Source
    from secfed.cli.ranks import Place
    from secfed.training.ranks import Team

__all__ = ["Client", "UpdateFile", "load_site", "open_client", "utc_now"]


def utc_now() -> datetime:
    """The wall clock, for validity."""
    return datetime.now(UTC)


# -- contributors ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpdateFile:
    """A vector made elsewhere.

    Attributes:
        trained: It also serves for jobs that train (`push`), as a release without a bound.
        charge_data_set: It is charged to the data set's ledger, not to the scratch ledger, as anything
            declared always is.
        event: What the site declares that it cost; None for a release without a bound.
    """

    path: Path
    weight: int = 1
    trained: bool = False
    charge_data_set: bool = False
    event: Event | None = None

    def serves(self, plan: JobPlan) -> bool:
        """Whether it is what this site gives to a job."""
        return plan.kind == "vector" or self.trained


@dataclass(slots=True)
class _Contributors:
    """Which contributor serves a plan; one that trains is made once, since it keeps its model."""

    config: ClientConfig
    update: UpdateFile | None
    key: bytes = field(repr=False)
    on_step: Callable[[int, int], None]
    where: Place | None
    team: Team | None
    _training: Contributor | None = None

    def __call__(self, plan: JobPlan) -> Contributor:
        if self.update is not None and self.update.serves(plan):
            return VectorContributor(self.update.path, weight=self.update.weight, event=self.update.event)
        if plan.kind == "vector":
            raise ConfigError(
                f"job {plan.job} sums vectors, and this client was given none",
                hint="Start it with --update FILE.safetensors, or use `secfed client push`.",
            )
        if self._training is None:
            self._training = self._trainer()
        return self._training

    def prepare(self) -> None:
        """Load what training takes, where a job of this site will most likely train; nothing is decided."""
        if self.config.data is not None and self.update is None:
            with contextlib.suppress(ConfigError):
                _load_training()

    def _trainer(self) -> Contributor:
        data = _data(self.config)
        _load_training()
        from secfed.training.contributor import SiteSettings, TrainingContributor
        from secfed.training.models import model_folder

        settings = SiteSettings(
            data=data.file,
            model_folder=lambda model: model_folder(self.config.models_dir, model),
            scratch=self.config.state_dir,
            columns=data.columns,
            labels=data.labels,
            unit=data.unit,
            device=ranks.device_of(self.config.device, self.where),
            threads=self.config.threads,
            precision=self.config.precision,
        )
        return TrainingContributor(settings, self.key, on_step=self.on_step, team=self.team)


def _load_training() -> None:
    """Import the libraries that train.

    Raises:
        ConfigError: One of them is not installed.
    """
    try:
        with large_libraries():
            import secfed.training.contributor  # noqa: F401
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"this job trains, and {missing.name} is not installed here",
            hint="pip install 'secfed[train]'",
        ) from missing


def _data(config: ClientConfig) -> DataConfig:
    if config.data is None:
        raise ConfigError(
            "this job trains, and client.toml has no [data] section", hint="Join again with --data."
        )
    return config.data


# -- the client --------------------------------------------------------------------------------


@dataclass(slots=True)
class Client:
    """A wired client; `close` releases everything.

    Attributes:
        prepare: Loads what a job of this site will most likely take, while there is time.
    """

    config: ClientConfig
    keys: MemberKeys
    rosters: RosterKeeper
    rounds: ClientRounds
    link: Connection
    ledgers: Ledgers
    prepare: Callable[[], None]
    _stack: contextlib.ExitStack = field(repr=False)

    def close(self) -> None:
        """Close link, ledgers and stores."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_site(path: Path, secrets: Source) -> tuple[ClientConfig, PolicyConfig, MemberKeys]:
    """Read a site's configuration, policy and keys.

    Raises:
        ConfigError, KeyFileError: One of them cannot be used.
        AuthenticationError: The key file is another site's.
    """
    config = load_config(path, ClientConfig)
    policy = load_config(config.policy, PolicyConfig)
    keys = keyfile.load(config.key, secrets.for_existing(config.key))
    if keys.site != config.site:
        raise AuthenticationError(
            f"{config.key} is the key file of {keys.site}, and {path} is {config.site}'s"
        )
    return config, policy, keys


def open_client(
    path: Path,
    secrets: Source,
    *,
    observer: Observer,
    only: JobId | None = None,
    update: UpdateFile | None = None,
    on_step: Callable[[int, int], None] = lambda _done, _steps: None,
    on_retry: Callable[[Exception], None] = lambda _: None,
    arrival_s: float | None = None,
    where: Place | None = None,
    state_moved: bool = False,
) -> Client:
    """Wire a client from its client.toml.

    Args:
        only: The one job it takes part in.
        update: A vector made elsewhere, which it offers.
        on_step: Told the steps done and the steps of the round, while training.
        on_retry: Told of each failed try to reach the aggregator.
        arrival_s: How long an aggregator that never answered is tried; None for ever, as one that did.
        where: This process among those that a launcher started for this site: number 0 of them.
        state_moved: The operator says that the state directory came here whole.

    Raises:
        LockedError: Another client uses the same state directory.
        AuthenticationError: The key has served, with another state than this one.
        SecfedError: Configuration, keys, roster or stores cannot be used.
    """
    config, policy, keys = load_site(path, secrets)
    heads = Heads(config.state_dir)
    forgotten = key_state.forgotten_charges(config.ledger_dir, heads.known)
    key_state.check_start(config.key, config.state_dir, forgotten=forgotten)
    with contextlib.ExitStack() as stack:
        files.private_directory(config.state_dir)
        decisions = stack.enter_context(DecisionStore(config.state_dir / key_state.DATABASE))
        state = key_state.state_for(
            config.key, config.state_dir, decisions, forgotten=forgotten, moved=state_moved
        )
        ledgers = Ledgers(config.ledger_dir, keys, heads, config.data)
        stack.callback(ledgers.close)
        rosters = RosterKeeper(config.roster, from_base64(config.roster_key, 32), decisions)
        key = site_key(config.state_dir / "site.key")

        def ledger_of(plan: JobPlan) -> Ledger:
            if update is not None and update.serves(plan):
                of_data = update.charge_data_set or update.event is not None
                return ledgers.data_set() if of_data else ledgers.scratch()
            if plan.kind == "vector":
                return ledgers.scratch()
            return ledgers.data_set()

        team = None if where is None else ranks.team(config, where)
        if team is not None:
            stack.callback(team.close)
        contributors = _Contributors(config, update, key, on_step, where, team)
        link = Connection(
            config.aggregator,
            keys,
            rosters,
            Sequence(),
            now=utc_now,
            state=Digest(state),
            ledger_head=lambda: rounds.ledger_head,
            arrival_s=arrival_s,
            on_retry=on_retry,
        )
        stack.callback(link.close)
        site = Site(
            name=keys.site,
            key=keys.signing,
            only=only,
            codec=ProtoCodec(),
            rosters=rosters,
            decisions=decisions,
            contributions=ContributionStore(config.state_dir / "contributions", key),
            policy=policy,
            policy_digest=digest(Label.POLICY, config.policy.read_bytes()).hex(),
            ledger=ledger_of,
            contributor=contributors,
            base=lambda wanted: _adapter(link.download(wanted)),
            observer=observer,
            now=utc_now,
            monotonic=time.monotonic,
        )
        rounds = ClientRounds(site)
        link.check()
        key_state.bind(config.key, config.state_dir, decisions, state)
        return Client(config, keys, rosters, rounds, link, ledgers, contributors.prepare, stack.pop_all())


def _adapter(data: bytes) -> Mapping[str, NDArray[np.float32]]:
    """The arrays of an adapter's bytes, whose digest was checked."""
    try:
        arrays: dict[str, NDArray[np.float32]] = load_safetensors(data)
    except (SafetensorError, KeyError) as problem:  # KeyError: a number type that numpy lacks
        raise PeerError(f"the base adapter is no safetensors file: {problem}") from problem
    return arrays
