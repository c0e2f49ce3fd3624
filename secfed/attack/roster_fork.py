"""Roster downgrade and fork: a member is to go by a roster that is not the newest of its federation.

A malicious aggregator answers a site's greeting with an older version, in which its accomplice
was not revoked yet; with another roster of the same version, as an owner's restored backup would
have signed; and with one under a roster key of its own. A thief at the site's disk puts the
older one into its place before it starts again. Judged by the roster that the site's own hellos
name afterwards; and, where it is the aggregator's file that is replaced, by the version that it
says is in force.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from secfed.attack.clients import ClientThread
from secfed.attack.daemons import Program, uninterrupted
from secfed.attack.finding import Evidence, Report
from secfed.attack.hostile import PATIENCE_S, Hostile
from secfed.attack.people import AGGREGATOR, AUDITOR, Owner, People, gather
from secfed.attack.town import Refusal, Town
from secfed.attack.venue import Venue
from secfed.errors import AuthenticationError, NetworkError
from secfed.identity import keyfile, membership
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import NO_DIGEST, ClientId, Digest
from secfed.transport.hello import GREETING
from secfed.wire import calls

__all__ = ["run"]

_SITES = 4

_OLDER = "an older version"


def run(venue: Venue, report: Report) -> None:
    """Lie to a client about the roster, then put lies into the aggregator's place for it."""
    people, owner = gather(venue.root / "forked", _SITES)
    newest, lies = _rosters(people, owner)
    _lie_to_a_client(venue, replace(people, roster=newest), lies, report)
    _lie_to_the_aggregator(venue, report)


def _rosters(people: People, owner: Owner) -> tuple[Roster, dict[str, Roster]]:
    """The newest version, in which the accomplice is revoked; and rosters in which it, or a sybil, is not."""
    first, accomplice = people.roster, people.sites[-1]
    newest = membership.revoke(first, owner.key, accomplice)
    folder = people.root / "adversary"
    sybil = keyfile.create(
        folder / "sybil.key",
        site=ClientId("sybil"),
        role=Role.CLIENT,
        passphrase=None,
        now=owner.now,
        validity=timedelta(days=1),
    )
    fork = membership.enroll(first, owner.key, [sybil.enrolment], now=owner.now)
    own_key = keyfile.create_roster_key(folder / "roster.key", passphrase=None, now=owner.now)
    everyone = [keys.enrolment for keys in people.keys.values()]
    own = membership.create(own_key, [*everyone, sybil.enrolment], now=owner.now, not_after=first.not_after)
    return newest, {_OLDER: first, "a fork": fork, "another key's": own}


# -- a client ----------------------------------------------------------------------------------


class _Watcher(Hostile):
    """A hostile aggregator that notes which roster its callers say they go by."""

    def __init__(self, people: People) -> None:
        super().__init__(people.keys[AGGREGATOR], people.roster, len(people.sites))
        self._seen: list[Digest] = []
        self._noting = threading.Lock()

    def _exchange(self, data: bytes, context: Any) -> bytes:
        hello = calls.decode_hello(calls.decode_call(data).hello.statement)
        with self._noting:
            self._seen.append(hello.roster)
        return super()._exchange(data, context)

    def seen(self) -> list[Digest]:
        """What was named since the last time of asking."""
        with self._noting:
            seen, self._seen = self._seen, []
        return seen


class _Victim:
    """One site's client, as a process or a thread, and how it ended."""

    def __init__(self, venue: Venue, people: People, address: str) -> None:
        self._people, self._venue, self._address = people, venue, address
        self._site = people.sites[0]
        self._program: Program | None = None
        self._thread: ClientThread | None = None

    def start(self, found: Roster) -> None:
        """Start it; this roster lies in its folder."""
        people, home = self._people, self._people.home(self._site)
        if self._venue.processes:
            config = people.client_toml(self._site, self._address)
            people.publish(found, self._site)
            with uninterrupted():
                self._program = Program(home / "output.log", ["client", "run", "--config", str(config)])
        else:
            self._thread = ClientThread(people, self._site, self._address, self._venue.victims)
            people.publish(found, self._site)
            self._thread.start()

    @property
    def ended(self) -> str:
        """Why it ended by itself; empty while it runs."""
        if self._program is not None and self._program.code is not None:
            causes = [line for line in self._program.output.splitlines() if line.startswith("error: ")]
            return f"exit code {self._program.code}: {causes[-1].removeprefix('error: ') if causes else ''}"
        if self._thread is not None and self._thread.error is not None:
            return f"{type(self._thread.error).__name__}: {self._thread.error}"
        return ""

    def stop(self, hostile: Hostile) -> None:
        """End it, whatever it is at."""
        if self._program is not None:
            self._program.stop()
        if self._thread is not None:
            self._thread.halt()
            hostile.release(self._site)
            self._thread.kill()
        self._program = self._thread = None


def _lie_to_a_client(venue: Venue, people: People, lies: dict[str, Roster], report: Report) -> None:
    newest, older = people.roster, lies[_OLDER]
    with _Watcher(people) as hostile:
        victim = _Victim(venue, people, f"127.0.0.1:{hostile.port}")
        heard = _run_once(victim, hostile, newest, b"")
        report.saw(f"{people.sites[0]} goes by version {newest.version}: {newest.digest in heard[0]}")
        for name, lie in lies.items():
            evidence = report.part(f"{name}, told to a client")
            _judge(name, lie, _run_once(victim, hostile, newest, lie.text), evidence)
        evidence = report.part(f"{_OLDER} in a client's folder")
        _judge(_OLDER, older, _run_once(victim, hostile, older, b""), evidence)


def _run_once(victim: _Victim, hostile: _Watcher, found: Roster, told: bytes) -> tuple[list[Digest], str]:
    """Start the client; the rosters that its calls named, and why it ended by itself, if it did."""
    hostile.forged = told
    hostile.seen()
    victim.start(found)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while True:
            seen, ended = hostile.seen(), victim.ended
            if seen or ended:
                return seen, ended
            if time.monotonic() > deadline:
                raise NetworkError(f"the client neither called nor ended within {PATIENCE_S:.0f} s")
            time.sleep(0.02)
    finally:
        victim.stop(hostile)


def _judge(name: str, lie: Roster, heard: tuple[list[Digest], str], evidence: Evidence) -> None:
    seen, ended = heard
    goes_by = "it goes by that" if lie.digest in seen else "it goes by the newest as before"
    evidence.saw(f"the client found {name}: {ended or goes_by}")
    if lie.digest in seen:
        evidence.gained(f"a client that goes by {name}, version {lie.version}")


# -- the aggregator ----------------------------------------------------------------------------

_REFUSED = "the roster's file is refused"


def _goes_by(town: Town) -> bytes:
    """The text of the roster in force, as the aggregator tells it to who greets it.

    Of another federation's, as one under another roster key is, nothing is told to members of this one.
    """
    keys = town.people.keys[AUDITOR]
    with town.channel(keys) as channel:
        call = town.hello(keys, GREETING, b"", roster=NO_DIGEST)
        told = town.send(channel, GREETING, calls.encode_call(call))
    if isinstance(told, Refusal):
        if isinstance(told.error, AuthenticationError):
            return b""
        raise told.error
    return calls.decode_in_force(told).roster


def _looked(town: Town, newest: Roster, said: int) -> bool:
    """Whether it refused what it found, or went by it."""
    return town.aggregator.output.count(_REFUSED) > said or _goes_by(town) != newest.text


def _lie_to_the_aggregator(venue: Venue, report: Report) -> None:
    with Town(venue, _SITES) as town:
        newest, lies = _rosters(town.people, town.owner)
        town.publish(newest)
        town.until(lambda: _goes_by(town) == newest.text, "the newest roster to be in force")
        for name, lie in lies.items():
            _replace(town, newest, name, lie, report.part(f"{name} in the aggregator's folder"))
        _call_under(town, lies[_OLDER], report.part("a call under an older version"))


def _replace(town: Town, newest: Roster, name: str, lie: Roster, evidence: Evidence) -> None:
    """Put it into the place of the aggregator's file; afterwards the newest lies there again."""
    said = town.aggregator.output.count(_REFUSED)
    town.people.publish(lie, AGGREGATOR)
    town.until(partial(_looked, town, newest, said), "the aggregator to look at its file")
    if _goes_by(town) != newest.text:
        evidence.saw(f"the aggregator found {name} in its file, and goes by it")
        evidence.gained(f"an aggregator that goes by {name}")
    else:
        cause = town.aggregator.output.rpartition(_REFUSED)[2].partition(": ")[2].splitlines()[0]
        evidence.saw(f"the aggregator found {name} in its file: {cause}")
    town.people.publish(newest, AGGREGATOR)
    town.until(lambda: _goes_by(town) == newest.text, "the newest roster to be in force again")


def _call_under(town: Town, older: Roster, evidence: Evidence) -> None:
    """A member's call whose hello names a version that is not in force any more."""
    site = town.people.sites[0]
    with town.channel(town.people.keys[site]) as channel:
        call = town.hello(town.people.keys[site], "GetStatus", b"", roster=older.digest)
        told = town.send(channel, "GetStatus", calls.encode_call(call))
    words = str(told) if isinstance(told, Refusal) else "answered"
    evidence.saw(f"a call under version {older.version}, which is not in force: {words}")
    if not isinstance(told, Refusal):
        evidence.gained("an answer to a call under an older roster")
