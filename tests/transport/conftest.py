"""A federation on real sockets: the daemon in a thread of this process, members that dial in."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from secfed.cli import build_aggregator
from secfed.config import AggregatorConfig
from secfed.errors import SecfedError
from secfed.identity import keyfile, membership
from secfed.identity.fields import to_base64
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import ClientId, Digest, JobId
from secfed.rounds.plan import JobPlan
from secfed.rounds.proposal import sign_job_plan
from secfed.rounds.rosters import RosterKeeper
from secfed.transport import tls
from secfed.transport.client import Connection, Sequence
from secfed.transport.daemon import Daemon, Listening
from secfed.transport.hello import GREETING, HelloMaker
from secfed.wire import calls, service

SITES = ("hosp-a", "hosp-b", "hosp-c")


class Town:
    """Keys, roster and files of one federation, and its daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = datetime.now(UTC) - timedelta(minutes=1)
        self.owner = keyfile.create_roster_key(root / "roster.key", passphrase=None, now=self.now)
        roles = {"center": Role.AGGREGATOR, "office": Role.ADMIN, "reviewer": Role.AUDITOR}
        roles |= dict.fromkeys(SITES, Role.CLIENT)
        self.keys = {name: self.make_keys(name, role) for name, role in roles.items()}
        self.roster = membership.create(
            self.owner,
            [keys.enrolment for keys in self.keys.values()],
            now=self.now,
            not_after=self.now + timedelta(days=30),
        )
        self.file = root / "roster.txt"
        self.publish(self.roster)
        self.out = io.StringIO()
        self.poll_s = 5.0
        self.daemon: Daemon | None = None
        self.error: BaseException | None = None
        self._begun: Digest | None = None
        self.numbers = iter(range(time.time_ns(), 2**63))

    def make_keys(self, name: str, role: Role) -> MemberKeys:
        return keyfile.create(
            self.root / f"{name}.key", site=ClientId(name), role=role, passphrase=None, now=self.now
        )

    def publish(self, roster: Roster) -> None:
        """What `secfed enroll` and `secfed revoke` do to the aggregator's file."""
        self.roster = roster
        draft = self.file.with_suffix(".new")
        draft.write_bytes(roster.text)
        draft.rename(self.file)

    # -- the daemon ----------------------------------------------------------------------------

    def config(self, **changes: Any) -> AggregatorConfig:
        fields: dict[str, Any] = {
            "site": "center",
            "key": self.root / "center.key",
            "roster": self.file,
            "roster_key": to_base64(self.owner.public),
            "state_dir": self.root / "state",
            "output_dir": self.root / "out",
            "listen": "127.0.0.1:0",
            "ops_listen": "127.0.0.1:0",
            "health_listen": "127.0.0.1:0",
        }
        return AggregatorConfig(**(fields | changes))

    def start(self, **changes: Any) -> None:
        ready = threading.Event()

        def listening(at: Listening) -> None:
            self.at = at
            ready.set()

        def run() -> None:
            try:
                asyncio.run(self._serve(listening, changes))
            except SecfedError as error:
                self.error = error
            finally:
                ready.set()

        self.error, self._begun = None, None
        self.thread = threading.Thread(target=run)
        self.thread.start()
        assert ready.wait(20)
        if self.error is not None:
            self.thread.join()
            raise self.error
        self.address = f"127.0.0.1:{self.at.port}"

    async def _serve(self, listening: Callable[[Listening], None], changes: dict[str, Any]) -> None:
        from dataclasses import replace

        daemon = build_aggregator.build_daemon(self.config(**changes), self.keys["center"], self.out)
        daemon.reports = replace(daemon.reports, listening=listening)
        daemon.poll_s = self.poll_s
        self.daemon, self.loop, self.ending = daemon, asyncio.get_running_loop(), asyncio.Event()
        await daemon.serve(self.ending)

    def stop(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.ending.set)
        self.thread.join(30)
        assert not self.thread.is_alive()

    # -- members -------------------------------------------------------------------------------

    def connect(self, name: str, **options: Any) -> Connection:
        """A member's own connection; it holds the roster as of now."""
        held = self.root / f"{name}.roster"
        held.write_bytes(self.roster.text)
        rosters = RosterKeeper(held, self.owner.public)
        return Connection(
            self.address,
            self.keys[name],
            rosters,
            Sequence(),
            now=lambda: datetime.now(UTC),
            **({"patience_s": 3.0} | options),
        )

    def channel(self, name: str) -> grpc.Channel:
        """A bare channel, for what no honest client sends."""
        return grpc.secure_channel(
            self.address,
            tls.channel_credentials(self.keys[name], self.keys["center"].certificate.pem),
            tls.channel_options(),
        )

    def maker(self, name: str, **changes: Any) -> HelloMaker:
        keys = changes.pop("keys", self.keys[name])
        return HelloMaker(
            keys,
            changes.pop("federation", self.roster.federation),
            changes.pop("peer", self.keys["center"].certificate),
            changes.pop("sequence", lambda: next(self.numbers)),
        )

    def raw(self, name: str, method: str, body: bytes, **changes: Any) -> bytes:
        """One call with a hello that says whatever a test wants."""
        with self.channel(name) as channel:
            named = {"roster": self.roster.digest, "start": self.begun}
            named |= {key: changes.pop(key) for key in named.keys() & changes.keys()}
            hello = self.maker(name, **changes).make(method, body, **named)
            return self.send(channel, method, calls.Call(hello, body))

    @property
    def begun(self) -> Digest:
        """The start that all hellos of this run of the daemon must name; the reviewer asks for it, once."""
        if self._begun is None:
            with self.channel("reviewer") as channel:
                hello = self.maker("reviewer").make(GREETING, b"", roster=self.roster.digest)
                reply = self.send(channel, GREETING, calls.Call(hello, b""))
            self._begun = calls.decode_in_force(reply).start
        return self._begun

    def send(self, channel: grpc.Channel, method: str, call: calls.Call) -> bytes:
        reply: bytes = channel.unary_unary(service.path(method))(calls.encode_call(call), timeout=10)
        return reply

    def plan(self, **changes: Any) -> bytes:
        fields: dict[str, Any] = {
            "federation": self.roster.federation,
            "job": "sum-1",
            "kind": "vector",
            "created": "2026-03-01T12:00:00Z",
            "created_by": "office",
            "rounds": 1,
            "shapes": {"a": (2, 3)},
            "bound": "4",
        }
        return sign_job_plan(self.keys["office"].signing, JobPlan(**(fields | changes))).text

    def audit(self) -> list[dict[str, Any]]:
        import json

        lines = (self.root / "state" / "audit.jsonl").read_text().splitlines()
        return [json.loads(line)["body"] for line in lines]

    def status(self, job: str | None = None) -> Any:
        with self.connect("reviewer") as reviewer:
            return reviewer.status(JobId(job) if job else None)


@pytest.fixture
def quiet_town(disk: Path) -> Iterator[Town]:
    """A federation whose daemon a test starts itself."""
    town = Town(disk)
    town.thread = threading.Thread()
    yield town
    if town.thread.ident is not None:
        with contextlib.suppress(RuntimeError):
            town.stop()


@pytest.fixture
def town(quiet_town: Town) -> Town:
    """A federation with its daemon running."""
    quiet_town.start()
    return quiet_town


def wait_until(reached: Callable[[], object], within_s: float = 10) -> None:
    """Poll for something that happens on another thread."""
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def until() -> Callable[..., None]:
    """`wait_until`."""
    return wait_until
