"""The clients of an arena: unmodified, as processes that a user would start, or as threads.

Both run the same loop over the same link; a thread saves the start of an interpreter, so that
a hundred fit on one machine, and it is where a test puts a client without its defences.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from safetensors.numpy import load as load_safetensors

from secfed.attack.daemons import PROGRAM, BuildDaemon, uninterrupted
from secfed.attack.people import POLICY, People
from secfed.errors import NetworkError, SecfedError
from secfed.ids import ClientId, JobId
from secfed.privacy.ledger import Ledger
from secfed.rounds.admission import Site
from secfed.rounds.client import ClientRounds
from secfed.rounds.contribution import ContributionStore, site_key
from secfed.rounds.conversation import take_part
from secfed.rounds.ports import Contributor
from secfed.rounds.rosters import RosterKeeper
from secfed.rounds.vector import VectorContributor
from secfed.store.decisions import DecisionStore
from secfed.transport.client import Connection, Sequence
from secfed.wire.codec import ProtoCodec

__all__ = ["UPDATE_FILE", "Client", "ClientProcess", "ClientThread", "Victims"]

_PATIENCE_S = 60.0
"""How long a client on a thread tries an aggregator that is away, as it may seem on a busy machine."""

_PAUSE_S = 0.05
"""What a thread waits after a setback: nobody else is kept busy by its haste."""

_STOP_S = 30.0
"""How long a client may take to end."""

UPDATE_FILE = "update.safetensors"
"""What a site gives, in its folder."""

_POLICY_DIGEST = "00" * 32
"""Of the policy on a thread, which no plan asks for."""


@dataclass(frozen=True, slots=True)
class Victims:
    """What victims on threads are made of: the real classes, unless a test puts in weaker ones.

    Attributes:
        rounds: A client's part in rounds.
        connect: Its way to the aggregator.
        contributor: What makes its update; None for the file beside its key.
        site: A last change of what it is given.
        aggregator: What wires an aggregator that runs on a thread; None for the operator's process.
        program: What such a process runs, as the interpreter's arguments.
    """

    rounds: Callable[[Site], ClientRounds] = ClientRounds
    connect: Callable[..., Connection] = Connection
    contributor: Callable[[ClientId, Path], Contributor] | None = None
    site: Callable[[Site], Site] = lambda site: site
    aggregator: BuildDaemon | None = None
    program: tuple[str, ...] = PROGRAM


class Client(Protocol):
    """A victim that can be started, killed and started again on the same files.

    Who kills one calls `halt`, lets go of the call that it holds, and calls `kill`.
    """

    def start(self) -> None:
        """Begin to take part."""

    def halt(self) -> None:
        """Prepare for the end."""

    def kill(self) -> None:
        """End at once, as a power cut would; what was durable stays."""


class ClientProcess:
    """`secfed client run`, as its operator would start it.

    Args:
        command: `run`, or `push` for a vector that serves a training job.
    """

    def __init__(self, people: People, site: ClientId, address: str, *, command: str = "run") -> None:
        self._config = people.client_toml(site, address)
        self._home, self._command = people.home(site), command
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        arguments = ["--config", str(self._config), "--update", str(self._home / UPDATE_FILE)]
        with (self._home / "output.log").open("ab") as log, uninterrupted():
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "secfed", "client", self._command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, PYTHONUNBUFFERED="1", NO_COLOR="1", OMP_NUM_THREADS="1"),
            )

    def halt(self) -> None:
        """SIGKILL."""
        if self._popen is not None:
            self._popen.kill()

    def kill(self) -> None:
        """SIGKILL, and gone on return."""
        self.halt()
        if self._popen is not None:
            self._popen.wait(_STOP_S)
            self._popen = None


class _Silent:
    """An observer that keeps nothing."""

    def note(
        self, event: str, *, job: JobId | None = None, site: ClientId | None = None, **facts: object
    ) -> None:
        """Nothing."""


class _HaltedError(SecfedError):
    """A client on a thread ends, because it was asked to."""


class ClientThread:
    """The same core and the same link in a thread of this process; see `Client`.

    Attributes:
        error: What ended it, if anything did.
    """

    def __init__(self, people: People, site: ClientId, address: str, victims: Victims) -> None:
        self._people, self._site, self._address, self._victims = people, site, address, victims
        self._home = people.home(site)
        people.publish(people.roster, site)
        self._halt = threading.Event()
        self._thread = threading.Thread()
        self.error: SecfedError | None = None

    def start(self) -> None:
        """Start the thread."""
        self._halt.clear()
        self._thread = threading.Thread(target=self._run, name=self._site, daemon=True)
        self._thread.start()

    def halt(self) -> None:
        """Say no more once the call that is held comes back."""
        self._halt.set()

    def kill(self) -> None:
        """Wait for the end that `halt` asked for: the memory is gone, the files stay."""
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)
        if self._thread.is_alive():
            raise NetworkError(f"{self._site} has not ended within {_STOP_S:.0f} s")

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                rounds, link = self._wire(stack)
                for _fact in take_part(rounds, link, lambda _pause: time.sleep(_PAUSE_S)):
                    if self._halt.is_set():
                        return
        except _HaltedError:
            return
        except SecfedError as error:
            self.error = error

    def _on_retry(self, _failure: NetworkError) -> None:
        """Whoever is to end does not wait for an aggregator that has ended before."""
        if self._halt.is_set():
            raise _HaltedError(f"{self._site} was asked to end")

    def _wire(self, stack: contextlib.ExitStack) -> tuple[ClientRounds, Connection]:
        keys, home, victims = self._people.keys[self._site], self._home, self._victims
        decisions = stack.enter_context(DecisionStore(home / "decisions.sqlite"))
        rosters = RosterKeeper(home / "roster.txt", self._people.roster_public, decisions)
        link = victims.connect(
            self._address,
            keys,
            rosters,
            Sequence(),
            now=lambda: datetime.now(UTC),
            patience_s=_PATIENCE_S,
            on_retry=self._on_retry,
        )
        stack.callback(link.close)
        ledger = stack.enter_context(self._ledger())
        made = victims.contributor or (lambda _site, path: VectorContributor(path))
        contributor = made(self._site, home / UPDATE_FILE)
        site = Site(
            name=self._site,
            key=keys.signing,
            only=None,
            codec=ProtoCodec(),
            rosters=rosters,
            decisions=decisions,
            contributions=ContributionStore(home / "contributions", site_key(home / "site.key")),
            policy=POLICY,
            policy_digest=_POLICY_DIGEST,
            ledger=lambda _plan: ledger,
            contributor=lambda _plan: contributor,
            base=lambda wanted: load_safetensors(link.download(wanted)),
            observer=_Silent(),
            now=lambda: datetime.now(UTC),
            monotonic=time.monotonic,
        )
        return victims.rounds(victims.site(site)), link

    def _ledger(self) -> Ledger:
        """The scratch ledger that vectors made elsewhere are charged to."""
        path, key = self._home / "scratch.ledger", self._people.keys[self._site].signing
        if path.exists():
            return Ledger.open(path, key=key)
        return Ledger.create(
            path,
            key=key,
            site=self._site,
            unit="record",
            records_per_unit=1,
            relation="add-remove",
            budget=None,
        )
