"""Everybody in an arena: real keys, one roster, and the files that each of them would have.

The roster key makes the roster and is then forgotten: no adversary here can sign a roster.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from secfed.config import (
    AggregatorConfig,
    BudgetPolicy,
    ClientConfig,
    JobPolicy,
    PolicyConfig,
    to_toml,
)
from secfed.identity import keyfile, membership
from secfed.identity.fields import to_base64
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roles import Role
from secfed.identity.roster import DEFAULT_MIN_COHORT, Roster
from secfed.ids import ClientId
from secfed.store import files

__all__ = ["ADMIN", "AGGREGATOR", "AUDITOR", "POLICY", "People", "gather"]

AGGREGATOR, ADMIN, AUDITOR = ClientId("center"), ClientId("office"), ClientId("reviewer")

POLICY = PolicyConfig(budget=BudgetPolicy(epsilon=8.0), job=JobPolicy(allow_non_private=True))
"""What every site accepts: vectors made elsewhere, as `client join --allow-non-private` writes it."""

_VALID = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class People:
    """A federation's members.

    Attributes:
        root: Each has a folder of its name below.
        roster_public: The pinned roster key.
        sites: The clients, sorted: a site's place in a full cohort is its place here.
        keys: Everybody's private keys.
    """

    root: Path
    roster: Roster
    roster_public: bytes
    sites: tuple[ClientId, ...]
    keys: dict[ClientId, MemberKeys] = field(repr=False)

    def home(self, name: ClientId) -> Path:
        """A member's folder."""
        return self.root / name

    def client_toml(self, site: ClientId, address: str) -> Path:
        """Write a site's client.toml and policy.toml, as `client join` would; the former's path."""
        home = self.home(site)
        config = ClientConfig(
            site=site,
            key=home / f"{site}.key",
            federation=self.roster.federation,
            roster_key=to_base64(self.roster_public),
            roster=self._roster_file(site),
            aggregator=address,
            aggregator_certificate=home / "aggregator.pem",
            state_dir=home / "state",
            ledger_dir=home / "ledger",
            policy=home / "policy.toml",
            output_dir=home / "out",
        )
        (home / "aggregator.pem").write_text(self.keys[AGGREGATOR].certificate.pem)
        (home / "policy.toml").write_text(to_toml(POLICY, home))
        path = home / "client.toml"
        path.write_text(to_toml(config, home))
        return path

    def aggregator_config(self, port: int) -> AggregatorConfig:
        """The aggregator's configuration, on this loopback port."""
        home = self.home(AGGREGATOR)
        return AggregatorConfig(
            site=AGGREGATOR,
            key=home / f"{AGGREGATOR}.key",
            roster=self._roster_file(AGGREGATOR),
            roster_key=to_base64(self.roster_public),
            state_dir=home / "state",
            output_dir=home / "out",
            listen=f"127.0.0.1:{port}",
            ops_listen="127.0.0.1:0",
        )

    def _roster_file(self, name: ClientId) -> Path:
        return self.publish(self.roster, name)

    def publish(self, roster: Roster, name: ClientId) -> Path:
        """Put a roster where a member looks for it; its path."""
        path = self.home(name) / "roster.txt"
        files.replace(path, roster.text, mode=files.PUBLIC_MODE)
        return path


def gather(
    root: Path,
    sites: int,
    *,
    corrupt: int | None = None,
    min_cohort: int = DEFAULT_MIN_COHORT,
    passphrase: str | None = None,
) -> tuple[People, Owner]:
    """Make a federation of so many clients, an aggregator, an admin and an auditor.

    Args:
        root: A new folder.
        corrupt: A of the roster; None for its default.
        min_cohort: Of the roster: fewest members whose sum may be opened.
        passphrase: Encrypts every key file; None leaves them in clear.

    Returns:
        Its people, and its owner, for attacks in which an honest owner acts.
    """
    now = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    width = len(str(sites - 1))
    names = tuple(ClientId(f"site-{index:0{width}}") for index in range(sites))
    roles = {AGGREGATOR: Role.AGGREGATOR, ADMIN: Role.ADMIN, AUDITOR: Role.AUDITOR}
    roles |= dict.fromkeys(names, Role.CLIENT)
    keys = {}
    for name, role in roles.items():
        files.private_directory(root / name)
        keys[name] = keyfile.create(
            root / name / f"{name}.key", site=name, role=role, passphrase=passphrase, now=now, validity=_VALID
        )
    owner = Owner(root / "roster.key", now)
    enrolments = [each.enrolment for each in keys.values()]
    roster = membership.create(
        owner.key, enrolments, now=now, not_after=now + _VALID, min_cohort=min_cohort, corrupt=corrupt
    )
    return People(root, roster, owner.key.public, names, keys), owner


class Owner:
    """The federation's honest owner, who alone has the roster key."""

    def __init__(self, path: Path, now: datetime) -> None:
        self.key = keyfile.create_roster_key(path, passphrase=None, now=now)
        self.now = now
