"""From `aggregator.toml` to a wired daemon; nothing below this file reads a setting from anywhere else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from datetime import UTC, datetime
from typing import IO

import structlog

from secfed import __version__
from secfed.cli import key_state
from secfed.config import AggregatorConfig, split_address
from secfed.errors import AuthenticationError, SecfedError
from secfed.identity import keyfile
from secfed.identity.fields import from_base64
from secfed.identity.keyfile import MemberKeys
from secfed.identity.roles import Role
from secfed.identity.roster import Roster
from secfed.ids import ClientId, JobId
from secfed.rounds.aggregator import AggregatorRounds
from secfed.rounds.exchange import RoundState, Wait
from secfed.rounds.house import House, adapter_digest
from secfed.rounds.lines import round_line
from secfed.rounds.plan import Deadlines
from secfed.rounds.rosters import RosterKeeper
from secfed.store.adapters import AdapterStore
from secfed.store.decisions import DecisionStore
from secfed.store.files import make_directory, private_directory
from secfed.store.spool import Spool
from secfed.telemetry import PHASES, Metrics
from secfed.transport import ops
from secfed.transport.auditlog import AuditLog, log_file
from secfed.transport.daemon import Daemon, Listening, Reports
from secfed.wire.codec import ProtoCodec

__all__ = ["Teller", "build_daemon", "load_keys", "run"]


class SystemClock:
    """This machine's clocks."""

    def monotonic(self) -> float:
        """For deadlines."""
        return time.monotonic()

    def now_ns(self) -> int:
        """For logs and validity."""
        return time.time_ns()


class Teller:
    """Tells the log, the metrics and the terminal what happens; an `Observer` of the rounds.

    Args:
        out: Where people read: one line for what they wait for, a round's end above all.
    """

    def __init__(self, metrics: Metrics, out: IO[str]) -> None:
        self.metrics, self._out = metrics, out
        self._awaiting = ""
        self._log = structlog.get_logger()

    def note(
        self, event: str, *, job: JobId | None = None, site: ClientId | None = None, **facts: object
    ) -> None:
        """One fact of the rounds."""
        match event, facts:
            case "round_ended", {"state": RoundState() as state, "rounds": int(rounds), "delta": delta}:
                line = round_line(state, rounds, delta if isinstance(delta, str) else None)
                self.say(f"job {job}  {line}")
                self.metrics.enter("idle")
                if state.included:
                    self.metrics.rounds_published.inc()
                facts = {"line": line}
            case "phase", {"phase": str(phase)}:
                self.metrics.enter(phase if phase in PHASES else "publish")
            case "round_opened", _:
                self.metrics.enter("train")
            case "bad_share", {"dealer": str(dealer)}:
                self.say(f"job {job}  {site} complains: {dealer} dealt it bad shares")
            case "attempt_voided", {"reason": str(reason)}:
                self.metrics.attempts_voided.inc()
                self.say(f"job {job}  attempt {facts.get('attempt')} is void: {reason}")
            case "job", {"state": str(state_word), "reason": str(reason)}:
                self.say(f"job {job}  {state_word}" + (f": {reason}" if reason else ""))
            case "job_started", _:
                self.say(f"job {job}  started by {site}")
            case "roster", {"version": version}:
                self.say(f"roster version {version} is in force")
        named = {name: value for name, value in (("job", job), ("site", site)) if value is not None}
        self._log.info(event, **named, **facts)

    def say(self, line: str) -> None:
        """One line for people, at once."""
        self._out.write(line + "\n")
        self._out.flush()

    def listening(self, at: Listening) -> None:
        """The ports are open."""
        health = "" if at.health_port is None else f"  gRPC health on {at.health_port}"
        self.say(
            f"secfed {__version__} aggregator  port {at.port}  metrics on loopback port {at.ops_port}{health}"
        )
        self._log.info("listening", port=at.port, ops_port=at.ops_port, health_port=at.health_port)

    def awaiting(self, wait: Wait | None) -> None:
        """What the rounds wait for, and until when, if it is something else than before."""
        what = "" if wait is None else wait.what
        if wait is not None and what != self._awaiting:
            self.say(what + (f", for {wait.remaining_s} s at most" if wait.remaining_s else ""))
        self._awaiting = what

    def refused(self, error: BaseException) -> None:
        """A call was refused; what only a bug can raise gets its traceback into the log."""
        if isinstance(error, SecfedError):
            self.metrics.refused(error)
            self._log.info("refused", error=type(error).__name__, reason=str(error))
        else:
            self._log.error("failed", exc_info=error)

    def roster_refused(self, error: SecfedError) -> None:
        """The roster's file cannot be accepted; the one before stays in force."""
        self.say(f"the roster's file is refused, the one before stays in force: {error}")
        self._log.warning("roster_refused", reason=str(error))


def build_daemon(
    config: AggregatorConfig,
    keys: MemberKeys,
    out: IO[str],
    *,
    notify_socket: str | None = None,
    state_moved: bool = False,
) -> Daemon:
    """Open the state directory and wire everything to it.

    Args:
        out: Where people read.
        state_moved: The operator says that the state directory came here whole.
        notify_socket: Where systemd is told of the service's state, if it asked.

    Raises:
        SecfedError: Another process holds the directory, a file is damaged, the roster is not
            this federation's, or the key is not the aggregator's or has served with another state.
    """
    key_state.check_start(config.key, config.state_dir)
    private_directory(config.state_dir)
    make_directory(config.output_dir)
    with contextlib.ExitStack() as opened:
        decisions = opened.enter_context(DecisionStore(config.state_dir / key_state.DATABASE))
        rosters = RosterKeeper(config.roster, from_base64(config.roster_key, 32), decisions)
        _check_keys(keys, rosters.current, datetime.now(UTC))
        key_state.serve_with(config.key, config.state_dir, decisions, moved=state_moved)
        teller = Teller(Metrics(), out)
        house = _house(config, keys, decisions, rosters, teller)
        audit = AuditLog(log_file(config.state_dir, keys.signing), keys.signing, lambda: datetime.now(UTC))
        opened.callback(audit.close)
        return Daemon(
            keys=keys,
            rounds=lambda: AggregatorRounds(house),
            rosters=rosters,
            roster_file=config.roster,
            adapters=house.adapters,
            audit=audit,
            resources=opened.pop_all(),
            listen=split_address(config.listen),
            ops_listen=split_address(config.ops_listen),
            health_listen=None if config.health_listen is None else split_address(config.health_listen),
            upload_idle_s=config.upload_idle_s,
            reports=Reports(
                metrics=teller.metrics.render,
                uploaded=teller.metrics.upload_bytes.inc,
                refused=teller.refused,
                connected=teller.metrics.connected_clients.set,
                roster_refused=teller.roster_refused,
                awaiting=teller.awaiting,
                listening=teller.listening,
                state=lambda state: ops.notify(state, notify_socket),
            ),
        )


def _house(
    config: AggregatorConfig,
    keys: MemberKeys,
    decisions: DecisionStore,
    rosters: RosterKeeper,
    observer: Teller,
) -> House:
    """What the rounds are given."""
    return House(
        site=keys.site,
        key=keys.signing,
        roster=lambda: rosters.current,
        roster_key=from_base64(config.roster_key, 32),
        codec=ProtoCodec(),
        decisions=decisions,
        spool=Spool(config.state_dir / "spool"),
        adapters=AdapterStore(config.state_dir / "adapters", digest=adapter_digest),
        output=config.output_dir,
        clock=SystemClock(),
        observer=observer,
        most=Deadlines(
            training_s=config.training_deadline_s,
            phase_s=config.phase_timeout_s,
            upload_idle_s=config.upload_idle_s,
        ),
        upload_bytes_max=config.max_upload_mib << 20,
        retain_uploads=config.retain_uploads,
        threads=os.cpu_count() or 1,
    )


def _check_keys(keys: MemberKeys, roster: Roster, now: datetime) -> None:
    """This key file must be the roster's aggregator."""
    member = roster.require(keys.site, Role.AGGREGATOR, now)
    if (member.identity_key, member.certificate.digest) != (keys.signing.public, keys.certificate.digest):
        raise AuthenticationError(
            f"the key file of {keys.site} ({keys.fingerprint}) is not the one that roster version "
            f"{roster.version} lists ({member.fingerprint})"
        )


async def run(daemon: Daemon) -> None:
    """Serve until SIGTERM or SIGINT; what is being written is finished first."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await daemon.serve(stop)


def load_keys(config: AggregatorConfig, passphrase: str | None) -> MemberKeys:
    """The aggregator's keys, if they are still valid.

    Raises:
        KeyFileError: See `keyfile.load`.
        CertificateExpiredError: The TLS certificate is outside its dates.
    """
    keys = keyfile.load(config.key, passphrase)
    keys.certificate.check_validity(datetime.now(UTC))
    return keys
