"""A federation on real sockets: the daemon in a thread of this process, members that dial in."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from safetensors.numpy import save_file

from secfed.cli import build_aggregator
from secfed.config import AggregatorConfig, BudgetPolicy, JobPolicy, PolicyConfig, to_toml
from secfed.errors import SecfedError
from secfed.identity import keyfile, membership
from secfed.identity.fields import to_base64
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import ClientId, Digest, JobId
from secfed.privacy.ledger import Ledger
from secfed.rounds.admission import Site
from secfed.rounds.client import ClientRounds, Upload
from secfed.rounds.contribution import ContributionStore, site_key
from secfed.rounds.exchange import Said, Told
from secfed.rounds.plan import JobPlan
from secfed.rounds.proposal import sign_job_plan
from secfed.rounds.rosters import RosterKeeper
from secfed.rounds.vector import VectorContributor
from secfed.store.decisions import DecisionStore
from secfed.transport import status, tls
from secfed.transport.auditlog import log_file
from secfed.transport.client import Connection, Sequence
from secfed.transport.daemon import Daemon, Listening
from secfed.transport.hello import GREETING, HelloMaker
from secfed.wire import calls, service
from secfed.wire.codec import ProtoCodec

SITES = ("hosp-a", "hosp-b", "hosp-c")
POLICY = PolicyConfig(budget=BudgetPolicy(epsilon=8.0), job=JobPolicy(allow_non_private=True))

WITHIN_S = [pytest.param(100.0, id="anywhere"), pytest.param(5.0, id="quiet machine", marks=pytest.mark.slow)]
"""Seconds in which something must have happened: what is promised, and, for the suite, before it hangs."""

PATIENCE_S = 120
"""For what takes a second or two where nothing else runs."""

_QUICK = Path(__file__).with_name("quick_daemon.py")


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
        self.thread = threading.Thread()
        self.process: Process | None = None
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
        assert ready.wait(PATIENCE_S)
        if self.error is not None:
            self.thread.join()
            raise self.error
        self.address = f"127.0.0.1:{self.at.port}"

    async def _serve(self, listening: Callable[[Listening], None], changes: dict[str, Any]) -> None:
        daemon = build_aggregator.build_daemon(self.config(**changes), self.keys["center"], self.out)
        daemon.reports = replace(daemon.reports, listening=listening)
        daemon.poll_s = self.poll_s
        self.daemon, self.loop, self.ending = daemon, asyncio.get_running_loop(), asyncio.Event()
        await daemon.serve(self.ending)

    def stop(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.ending.set)
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()

    def spawn(self, *, spared: str = "", idle_s: float | None = None, **changes: Any) -> Process:
        """The daemon as a process of its own; of `spared` and `idle_s` see `quick_daemon`."""
        config = self.root / "aggregator.toml"
        config.write_text(to_toml(self.config(log_level="error", **changes), self.root))
        words = [str(config), str(self.poll_s)]
        words += ["--spared", spared] if spared else []
        words += ["--idle-s", str(idle_s)] if idle_s is not None else []
        self.process = Process(words, self.root / "aggregator.log")
        self.address = f"127.0.0.1:{self.process.port}"
        self._begun = None
        return self.process

    def shut(self) -> None:
        """Stop whatever runs, at the end of a test."""
        if self.process is not None:
            self.process.stop()
        if self.thread.ident is not None:
            with contextlib.suppress(RuntimeError):
                self.stop()

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
        reply: bytes = channel.unary_unary(service.path(method))(calls.encode_call(call), timeout=PATIENCE_S)
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
        lines = log_file(self.root / "state", self.keys["center"].signing).read_text().splitlines()
        return [json.loads(line)["body"] for line in lines]

    def status(self, job: str | None = None) -> Any:
        with self.connect("reviewer") as reviewer:
            return reviewer.status(JobId(job) if job else None)


class Process:
    """A daemon with a memory of its own, which can be weighed."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self._popen = subprocess.Popen([sys.executable, str(_QUICK), *words], stdout=out, stderr=out)
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(r"aggregator  port (\d+)", self.output)):
            assert self.running, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)
        self.port = int(found[1])

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def rss_mib(self) -> float:
        """Memory that it holds now."""
        (line,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self._popen.pid}/status").read_text())
        return int(line) / 1024

    @property
    def peak_mib(self) -> float:
        """Most memory that it has held since `forget_peak`."""
        (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self._popen.pid}/status").read_text())
        return int(line) / 1024

    def forget_peak(self) -> None:
        """Let `peak_mib` begin at what it holds now."""
        Path(f"/proc/{self._popen.pid}/clear_refs").write_text("5")

    @property
    def cpu_s(self) -> float:
        """Processor seconds that it has used."""
        text = Path(f"/proc/{self._popen.pid}/stat").read_text()
        used = text.rpartition(")")[2].split()[11:13]
        return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")

    @property
    def descriptors(self) -> int:
        """Files and sockets that it holds now."""
        return len(os.listdir(f"/proc/{self._popen.pid}/fd"))

    def stop(self) -> int:
        """Ask it to stop; its exit code."""
        self._popen.terminate()
        return self._popen.wait(PATIENCE_S)


class Silent:
    """An observer that keeps nothing."""

    def note(self, event: str, **facts: object) -> None:
        """Nothing."""


class Member:
    """One site: its real client, over its real connection, on a thread of its own."""

    def __init__(self, town: Any, name: str, vector: Any, *, patience_s: float = 15.0) -> None:
        self.town, self.name = town, name
        self.home = town.root / f"site-{name}"
        self.home.mkdir(mode=0o700, exist_ok=True)
        save_file({"a": vector}, self.home / "update.safetensors")
        self.decisions = DecisionStore(self.home / "decisions.sqlite")
        roster = self.home / "roster.txt"
        roster.write_bytes(town.roster.text)
        path = self.home / "ledger.jsonl"
        keys = town.keys[name].signing
        if path.exists():  # it took part in a round before
            self.ledger = Ledger.open(path, key=keys)
        else:
            self.ledger = Ledger.create(
                path, key=keys, site=ClientId(name), unit="record", records_per_unit=1,
                relation="add-remove", budget=None,
            )  # fmt: skip
        rosters = RosterKeeper(roster, town.owner.public, self.decisions)
        self.connection: Connection = town.connect(name, patience_s=patience_s)
        self.connection._rosters = rosters
        self.connection._ledger_head = lambda: self.rounds.ledger_head
        key = site_key(self.home / "site.key")
        contributor = VectorContributor(self.home / "update.safetensors")
        self.rounds = ClientRounds(
            Site(
                name=ClientId(name),
                key=keys,
                only=None,
                codec=ProtoCodec(),
                rosters=rosters,
                decisions=self.decisions,
                contributions=ContributionStore(self.home / "kept", key),
                policy=POLICY,
                policy_digest="00" * 32,
                ledger=lambda _: self.ledger,
                contributor=lambda _: contributor,
                base=lambda _: {},
                observer=Silent(),
                now=lambda: datetime.now(UTC),
                monotonic=lambda: 0.0,
            )
        )
        self.says: Said | Upload = self.rounds.standing
        self.ends: list[Any] = []
        self.error: SecfedError | None = None
        self.uploading: Callable[[Upload], bool] = lambda _: True
        self.sending: Callable[[Upload], Told] = lambda upload: self.connection.upload(
            upload.attempt, upload.statement, upload.packed
        )
        self.thread = threading.Thread(target=self._run)
        self.stopped = False

    def _run(self) -> None:
        try:
            while not self.ends and not self.stopped:
                if isinstance(self.says, Upload):
                    if not self.uploading(self.says):
                        return
                    told = self.sending(self.says)
                else:
                    told = self.connection.exchange(self.says)
                self.says = self.rounds.hear(told)
                if self.rounds.ended is not None:
                    self.ends.append(self.rounds.ended)
            if not self.stopped and not isinstance(self.says, Upload):
                self.connection.exchange(self.says)  # the countersignature
        except SecfedError as error:
            self.error = error

    def close(self) -> None:
        self.stopped = True
        self.connection.close()
        self.thread.join(PATIENCE_S)
        self.decisions.close()
        self.ledger.close()


def refused(failure: grpc.RpcError) -> SecfedError:
    """The refusal behind a failed call, as a member's connection would raise it."""
    trailing = [(item.key, item.value) for item in failure.trailing_metadata() or ()]
    return status.restore(failure.code(), failure.details(), trailing)
