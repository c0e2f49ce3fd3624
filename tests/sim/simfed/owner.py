"""The federation's owner: whoever holds the roster key, and what the rosters of one seed say.

Seldom the owner changes something: a site is enrolled, revoked, comes back with a new key, or has its
key exchanged; each is a new version of the roster, made by the very functions that the owner's commands
call. Who hears of it, and when, is not the owner's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from simfed.invariants import Group, Sites
from simfed.people import NOW, People, newcomer

from secfed.crypto.signing import SigningKey
from secfed.identity import membership
from secfed.identity.enrolment import Enrolment
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import ClientId, Digest

_MOST = 6
"""Versions in one seed: so many that each change meets others that are not known everywhere yet."""

_SITES_MOST, _SITES_LEAST = 8, 3


@dataclass
class Owner:
    """All versions so far, oldest first, and each site's newest key.

    Attributes:
        changes: Probability of a new version in one step; 0 where the roster stays what it is.
        kept: Sites whose keys are not touched.
    """

    people: People
    random: Random
    changes: float = 0.0
    kept: Sites = frozenset()
    keys: dict[ClientId, SigningKey] = field(default_factory=dict)
    versions: list[Roster] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys = dict(self.people.clients)
        self.versions = [self.people.roster]

    @property
    def newest(self) -> Roster:
        return self.versions[-1]

    def named(self, digest: Digest) -> Roster | None:
        """The version with this digest, if there is one."""
        return next((roster for roster in self.versions if roster.digest == digest), None)

    def act(self) -> ClientId | None:
        """Perhaps publish a new version; the site that it is about."""
        if not self.changes or len(self.versions) == _MOST or self.random.random() >= self.changes:
            return None
        roster, key = self.newest, self.people.roster_key
        active = [member.site for member in roster.active(Role.CLIENT)]
        revoked = sorted(self.keys.keys() - set(active) - self.kept)
        change = self.random.choice(("enroll", "revoke", "revoke", "rotate", "rotate", "return"))
        if change == "revoke" and len(active) > _SITES_LEAST:
            site = self.random.choice(active)
            self.versions.append(membership.revoke(roster, key, site))
        elif change == "rotate" and set(active) - self.kept:
            site = self.random.choice(sorted(set(active) - self.kept))
            self.versions.append(membership.rotate(roster, key, self._new_keys(site), now=NOW))
        elif change == "return" and revoked:
            site = self.random.choice(revoked)
            self.versions.append(membership.enroll(roster, key, [self._new_keys(site)], now=NOW))
        elif change == "enroll" and len(active) < _SITES_MOST:
            site = ClientId(f"site-{len(self.keys)}")
            raised = len(active) > _SITES_LEAST and self.random.random() < 0.5
            more = max(2, roster.corrupt) if raised else None
            new = self._new_keys(site)
            self.versions.append(membership.enroll(roster, key, [new], now=NOW, corrupt=more))
        else:
            return None
        return site

    def _new_keys(self, site: ClientId) -> Enrolment:
        """Keys that this site never had: the roster refuses any other."""
        key, enrolment = newcomer(site, self.newest.version)
        self.keys[site] = key
        return enrolment


def group(roster: Roster) -> Group:
    """Whom a roster lists, by their keys, and how many of them may be corrupt."""
    return frozenset(member.identity_key for member in roster.active(Role.CLIENT)), roster.corrupt
