"""A member that was revoked, has expired, or does not count yet, goes on calling.

It has its real keys and a connection that was open before. Judged by what it is told once the
roster is in force that does not allow it any more, on the open connection and on a new one.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc

from secfed.attack.finding import Evidence, Report
from secfed.attack.people import AUDITOR
from secfed.attack.town import Refusal, Town
from secfed.attack.venue import Venue
from secfed.identity import membership
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roster import Roster, publish
from secfed.ids import ClientId, JobId
from secfed.rounds.exchange import Declined, Present, Said
from secfed.transport.hello import RosterChangedError
from secfed.wire import calls, sums
from secfed.wire.sums import encode_said

__all__ = ["run"]

_SITES = 5

_CUT_WITHIN_S = 15.0
"""A held call that brings an answer after so many seconds was not cut: it came to its end as calls do, after
20. One that is refused was cut, however late on a busy machine; 5 seconds are promised."""

_AGAIN_S = 0.05
"""After what time a call is made again that came between two rosters."""


def run(venue: Venue, report: Report) -> None:
    """Revoke one site while it holds a call, let two others fall out of their dates, and call on."""
    with Town(venue, _SITES) as town:
        revoked, expired, early = town.people.sites[-3:]
        parts = {
            revoked: report.part("a revoked member"),
            expired: report.part("an expired member"),
            early: report.part("a member before its time"),
        }
        says = Declined(JobId("none"), 1)  # what is answered at once
        open_ = {site: town.channel(town.people.keys[site]) for site in (revoked, expired, early)}
        for site in (expired, early):
            parts[site].saw(f"{site} before: {_words(_exchange(town, open_[site], site, says))}")
        held = _Held(town, open_[revoked], revoked)
        town.until(lambda: _waits(town, revoked), f"{revoked} to hold a call")
        town.publish(_roster(town, revoked, expired, early))
        town.until(lambda: _in_force(town), "the new roster to be in force")
        _judge(report.part("a held call"), revoked, held.end())
        for site, channel in open_.items():
            _try_all(town, site, channel, says, parts[site])
            channel.close()


class _Held:
    """A site that holds one call after the other until it is refused."""

    def __init__(self, town: Town, channel: grpc.Channel, site: ClientId) -> None:
        self._ask = partial(_exchange, town, channel, site, Present(""))
        self._since = threading.Event()
        self._ends: list[tuple[float, bytes | Refusal]] = []
        self._thread = threading.Thread(target=self._hold, daemon=True)
        self._thread.start()

    def end(self) -> list[tuple[float, bytes | Refusal]]:
        """From now on it may not; how many seconds later each call ended, with what; the held one first."""
        begun = time.monotonic()
        self._since.set()
        self._thread.join()
        after = [(ended - begun, told) for ended, told in self._ends if ended >= begun]
        return after or [(0.0, self._ends[-1][1])]

    def _hold(self) -> None:
        while True:
            already = self._since.is_set()
            told = self._ask()
            if isinstance(told, Refusal) and isinstance(told.error, RosterChangedError):
                time.sleep(_AGAIN_S)  # the owner has published a roster that is not in force yet
                continue
            self._ends.append((time.monotonic(), told))
            if already or isinstance(told, Refusal):
                return


def _judge(evidence: Evidence, site: ClientId, ends: list[tuple[float, bytes | Refusal]]) -> None:
    """How the call ended that was held when the roster changed, and what came after."""
    (held_s, held), (_, last) = ends[0], ends[-1]
    evidence.saw(f"{site}, whose call was held meanwhile, {held_s:.1f} s later: {_words(last)}")
    if not isinstance(last, Refusal):
        evidence.gained(f"what the revoked {site} was told on its held call: {_words(last)}")
    elif not isinstance(held, Refusal) and held_s > _CUT_WITHIN_S:
        evidence.gained(f"a call of the revoked {site} that was held for {held_s:.0f} s more")


def _roster(town: Town, revoked: ClientId, expired: ClientId, early: ClientId) -> Roster:
    """The honest owner's next version but two: one entry revoked, one that ended, one that has not begun."""
    key, now = town.owner.key, datetime.now(UTC).replace(microsecond=0)
    after = membership.revoke(town.roster, key, revoked)
    ends, begins = {expired: now - timedelta(seconds=1)}, {early: now + timedelta(days=1)}
    members = [
        replace(
            each,
            valid_from=begins.get(each.site, each.valid_from),
            valid_until=ends.get(each.site, each.valid_until),
        )
        for each in after.members
    ]
    return publish(key, after.version + 1, after.not_after, after.min_cohort, after.corrupt, members)


def _exchange(town: Town, channel: grpc.Channel, site: ClientId, said: Said) -> bytes | Refusal:
    call = town.hello(town.people.keys[site], "Exchange", encode_said(said))
    return town.send(channel, "Exchange", calls.encode_call(call))


def _waits(town: Town, site: ClientId) -> bool:
    with town.connect(AUDITOR) as auditor:
        return site in auditor.status().connected


def _in_force(town: Town) -> bool:
    with town.connect(AUDITOR) as auditor:
        return auditor.status().roster_version == town.roster.version


def _try_all(town: Town, site: ClientId, channel: grpc.Channel, says: Said, evidence: Evidence) -> None:
    """Once more over the open connection, and over a new one with the same keys."""
    over = {"its open connection": _exchange(town, channel, site, says), "a new one": _anew(town, site, says)}
    for way, told in over.items():
        evidence.saw(f"{site} over {way}: {_words(told)}")
        if not isinstance(told, Refusal):
            evidence.gained(f"an answer to {site} over {way}: {_words(told)}")


def _anew(town: Town, site: ClientId, says: Said) -> bytes | Refusal:
    keys: MemberKeys = town.people.keys[site]
    with town.channel(keys) as channel:
        return _exchange(town, channel, site, says)


def _words(told: bytes | Refusal) -> str:
    return str(told) if isinstance(told, Refusal) else f"told {type(sums.decode_told(told)).__name__}"
