"""A federation whose aggregator is honest: a victim of its members, or the judge of what they gain.

The adversary holds keys of members, never the roster key; what an honest owner does in an attack
(to revoke somebody, say) is done with the owner's. Vectors lie on the job's grid, so that a
published sum can be held against the truth to the last step.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from secfed.attack.clients import UPDATE_FILE, ClientThread, Victims
from secfed.attack.daemons import PATIENCE_S, Aggregator, AggregatorProcess, AggregatorThread
from secfed.attack.people import ADMIN, AGGREGATOR, AUDITOR, gather
from secfed.attack.venue import Venue
from secfed.encoding.fixedpoint import FixedPoint
from secfed.errors import NetworkError, SecfedError
from secfed.identity.fields import write_time
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roster import Roster
from secfed.ids import NO_DIGEST, ClientId, Digest, JobId
from secfed.rounds.exchange import JobState
from secfed.rounds.plan import Deadlines, JobPlan
from secfed.rounds.proposal import sign_job_plan
from secfed.rounds.rosters import RosterKeeper
from secfed.transport import status, tls
from secfed.transport.client import Connection, Sequence
from secfed.transport.hello import GREETING, HelloMaker
from secfed.wire import calls, service

__all__ = ["ARRAY", "BITS", "BOUND", "LENGTH", "Published", "Refusal", "Town"]

ARRAY = "x"
BOUND, BITS = 4.0, 16
LENGTH = 48
"""Coordinates of a vector: enough to tell one vector from another, and a part of one."""

CALL_S = 60.0
"""Longest a single call may take, seconds."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """How the aggregator refused a call."""

    code: grpc.StatusCode
    error: SecfedError

    @classmethod
    def of(cls, failure: grpc.RpcError) -> Refusal:
        """What a failed call says."""
        trailing = [(item.key, item.value) for item in failure.trailing_metadata() or ()]
        return cls(failure.code(), status.restore(failure.code(), failure.details(), trailing))

    def __str__(self) -> str:
        return f"{self.code.name} {type(self.error).__name__}: {self.error}"


@dataclass(frozen=True, slots=True)
class Published:
    """A round's result, as it lies in the aggregator's output folder."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def total(self) -> NDArray[np.float64]:
        """The published sum of a vector job, shape (LENGTH,)."""
        total: NDArray[np.float64] = load_file(self.folder / "sum.safetensors")[f"weighted_sum.{ARRAY}"]
        return total


class Town:
    """A federation with a running honest aggregator; use `with`.

    Args:
        venue: Where, and what the victims are made of.
        sites: Clients.
        corrupt: A; None for the roster's default.
        passphrase: Encrypts every key file; None leaves them in clear.
        log_level: The aggregator's.
        extra: More variables of the aggregator's environment, where it is a process.

    Attributes:
        people: Everybody, with all keys: an attack uses only those that its adversary has.
        owner: The honest owner of the roster key.
        roster: The roster in force.
    """

    def __init__(
        self,
        venue: Venue,
        sites: int = 3,
        *,
        corrupt: int | None = None,
        passphrase: str | None = None,
        log_level: str = "info",
        extra: dict[str, str] | None = None,
    ) -> None:
        venue.root.mkdir(parents=True, exist_ok=True)
        self.root = Path(tempfile.mkdtemp(dir=venue.root, prefix="town-"))
        self.victims: Victims = venue.victims
        self.people, self.owner = gather(self.root, sites, corrupt=corrupt, passphrase=passphrase)
        self.roster: Roster = self.people.roster
        self.secret: Path | None = None
        if passphrase is not None:
            self.secret = self.root / "passphrase"
            self.secret.touch(mode=0o600)
            self.secret.write_text(passphrase + "\n", encoding="utf-8")
        self.aggregator: Aggregator
        build = self.victims.aggregator
        if build is None:
            self.aggregator = AggregatorProcess(
                self.people,
                passphrase=self.secret,
                log_level=log_level,
                extra=extra,
                program=self.victims.program,
            )
        else:
            self.aggregator = AggregatorThread(self.people, build)
        self._begun: Digest | None = None
        self._numbers = Sequence()
        self._clients: list[ClientThread] = []

    def __enter__(self) -> Self:
        try:
            self.aggregator.start()
        except BaseException:  # Ctrl-C too: a program that was begun does not outlive this one
            self.aggregator.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.root)

    def stop(self) -> None:
        """End everybody, and leave the files."""
        for client in self._clients:
            client.halt()
        self.aggregator.stop()
        for client in self._clients:
            client.kill()

    @property
    def address(self) -> str:
        """Where the aggregator listens: this machine, and no other."""
        return f"127.0.0.1:{self.aggregator.port}"

    # -- honest work ---------------------------------------------------------------------------

    def plan(self, name: str, **changes: Any) -> JobPlan:
        """A vector job's plan, by the honest admin."""
        fields: dict[str, Any] = {
            "federation": self.roster.federation,
            "job": name,
            "kind": "vector",
            "created": write_time(datetime.now(UTC)),
            "created_by": ADMIN,
            "rounds": 1,
            "shapes": {ARRAY: (LENGTH,)},
            "bound": str(int(BOUND)),
            "bits": BITS,
            "deadlines": Deadlines(training_s=600, phase_s=60, upload_idle_s=30),
        }
        return JobPlan(**(fields | changes))

    def start_job(self, name: str, **changes: Any) -> JobId:
        """Start a job as the honest admin.

        Raises:
            SecfedError: The aggregator refuses it.
        """
        text = sign_job_plan(self.people.keys[ADMIN].signing, self.plan(name, **changes)).text
        with self.connect(ADMIN) as admin:
            admin.start_job(text)
        return JobId(name)

    def vector(self, site: ClientId) -> NDArray[np.float64]:
        """A random vector on the job's grid, written as the site's update; shape (LENGTH,)."""
        grid = FixedPoint(BOUND, BITS)
        steps = np.random.default_rng().integers(0, grid.levels, LENGTH, endpoint=True)
        values = np.asarray(steps * grid.step - grid.bound, dtype=np.float64)
        save_file({ARRAY: values}, self.people.home(site) / UPDATE_FILE)
        return values

    def client(self, site: ClientId, victims: Victims | None = None) -> ClientThread:
        """A client on a thread, started; unmodified unless it is given as something else."""
        made = ClientThread(self.people, site, self.address, victims or self.victims)
        self._clients.append(made)
        made.start()
        return made

    def job_state(self, job: JobId) -> JobState:
        """How a job stands, as an auditor reads it."""
        with self.connect(AUDITOR) as auditor:
            (state,) = auditor.status(job).jobs
        return state

    def ended(self, job: JobId) -> JobState:
        """Wait until a job is over, or stands still.

        Raises:
            NetworkError: It is still running.
        """
        over = ("done", "failed", "paused", "stopped")
        self.until(lambda: self.job_state(job).state in over, f"the end of job {job}")
        return self.job_state(job)

    def published(self, job: JobId) -> Published | None:
        """The first round's result; None if nothing was published."""
        folder = self.people.home(AGGREGATOR) / "out" / job / "round-0001"
        if not folder.exists():
            return None
        manifest = json.loads((folder / "secfed_manifest.json").read_text(encoding="utf-8"))
        return Published(folder, manifest)

    def publish(self, roster: Roster) -> None:
        """The honest owner puts another roster into the aggregator's place."""
        self.roster = roster
        self.people.publish(roster, AGGREGATOR)

    def until(self, reached: Callable[[], object], what: str) -> None:
        """Wait until something holds.

        Raises:
            NetworkError: It does not within `PATIENCE_S`, so nothing follows from this run.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            if time.monotonic() > deadline:
                raise NetworkError(
                    f"waited {PATIENCE_S:.0f} s for {what}, so this attack came to no end",
                    hint="Is this machine very busy? Try again.",
                )
            time.sleep(0.05)

    # -- calls of members, honest or not -------------------------------------------------------

    def connect(self, name: ClientId, *, roster: Roster | None = None) -> Connection:
        """A member's own connection, in a folder of its own; it holds this roster, or the one in force."""
        home = Path(tempfile.mkdtemp(dir=self.root, prefix=f"{name}-"))
        held = home / "roster.txt"
        held.write_bytes((roster or self.roster).text)
        return Connection(
            self.address,
            self.people.keys[name],
            RosterKeeper(held, self.people.roster_public),
            self._numbers,
            now=lambda: datetime.now(UTC),
            patience_s=PATIENCE_S,
        )

    def channel(self, keys: MemberKeys) -> grpc.Channel:
        """A bare channel with somebody's certificate, for what no honest client sends."""
        credentials = tls.channel_credentials(keys, self.people.keys[AGGREGATOR].certificate.pem)
        return grpc.secure_channel(self.address, credentials, tls.channel_options())

    def hello(
        self, keys: MemberKeys, method: str, body: bytes, *, roster: Digest | None = None
    ) -> calls.Call:
        """A call as these keys can make it, with a hello that is right in all but its maker's rights."""
        aggregator = self.people.keys[AGGREGATOR].certificate
        maker = HelloMaker(keys, self.roster.federation, aggregator, self._numbers)
        start = NO_DIGEST if method == GREETING else self.begun
        return calls.Call(maker.make(method, body, roster=roster or self.roster.digest, start=start), body)

    @property
    def begun(self) -> Digest:
        """What the aggregator drew at its start; the auditor asks, once."""
        if self._begun is None:
            keys = self.people.keys[AUDITOR]
            with self.channel(keys) as channel:
                told = self.send(channel, GREETING, calls.encode_call(self.hello(keys, GREETING, b"")))
            if isinstance(told, Refusal):
                raise told.error
            self._begun = calls.decode_in_force(told).start
        return self._begun

    def call(self, keys: MemberKeys, method: str, body: bytes) -> bytes | Refusal:
        """One call over a channel of its own, and what came of it."""
        call = self.hello(keys, method, body)
        encode = calls.encode_upload_frame if method == "Upload" else calls.encode_call
        with self.channel(keys) as channel:
            return self.send(channel, method, encode(call))

    def send(self, channel: grpc.Channel, method: str, data: bytes) -> bytes | Refusal:
        """Send these very bytes to a method; the reply, all of it, or the refusal."""
        path = service.path(method)
        try:
            if method == "Upload":
                upload: Callable[..., bytes] = channel.stream_unary(path)
                return upload(iter([data]), timeout=CALL_S)
            if method == "Download":
                download: Callable[..., Iterator[bytes]] = channel.unary_stream(path)
                return b"".join(download(data, timeout=CALL_S))
            ask: Callable[..., bytes] = channel.unary_unary(path)
            return ask(data, timeout=CALL_S)
        except grpc.RpcError as failure:
            return Refusal.of(failure)
