"""What `secfed doctor` looks at beyond this machine: the aggregator, its clock, its version; free ports."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

from secfed import __version__
from secfed.cli.checkup import Doubt, Look, Patient, Skipped, needed
from secfed.cli.connect import PATIENCE_S
from secfed.config import AggregatorConfig, split_address
from secfed.errors import AuthenticationError, ConfigError, NetworkError, PortBusyError
from secfed.identity import roster as rosters
from secfed.identity.fields import from_base64
from secfed.identity.roster import Roster, RosterPin
from secfed.limits import MAX_SKEW_S
from secfed.rounds.exchange import StatusReply
from secfed.transport.client import Connection

__all__ = ["dialling_checks", "listening_checks"]

CONNECT_S = 5.0
"""How long a TCP connection may take."""

CLOCK_S = 30
"""A clock that is off by more is worth a word: at `MAX_SKEW_S` every call is refused."""


class _Held:
    """The roster on disk and what the aggregator tells of newer ones: verified, gone by, and not stored."""

    def __init__(self, current: Roster, key: bytes) -> None:
        self._current, self._key = current, key

    @property
    def current(self) -> Roster:
        return self._current

    def accept(self, data: bytes) -> Roster:
        fresh = rosters.verify(data, self._key)
        RosterPin.of(self._current).check_successor(fresh)
        self._current = fresh
        return fresh


# -- who dials ---------------------------------------------------------------------------------


def dialling_checks(patient: Patient) -> list[tuple[str, Look]]:
    """For a client, an admin or an auditor."""
    reached: list[bool] = []
    told: list[StatusReply] = []
    return [
        ("address", lambda: _address(patient, reached)),
        ("aggregator", lambda: _round_trip(patient, reached, told)),
        ("clock", lambda: _clock(patient, told)),
        ("versions", lambda: _versions(told)),
    ]


def _dialled(patient: Patient) -> str:
    if isinstance(patient.config, AggregatorConfig):
        raise Skipped
    return patient.config.aggregator


def _address(patient: Patient, reached: list[bool]) -> str:
    """The name has an address, and something listens there."""
    address = _dialled(patient)
    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as problem:
        raise NetworkError(f"the name in {address} cannot be resolved: {problem.strerror}") from problem
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except ConnectionRefusedError as problem:
        raise NetworkError(f"nothing listens at {address}") from problem
    except OSError as problem:
        raise NetworkError(f"{address} cannot be reached: {problem.strerror or 'no answer'}") from problem
    reached.append(True)
    return f"{address} is {found[0][4][0]}, and something listens there"


def _connection(patient: Patient, sequence: Callable[[], int]) -> Connection:
    keys, roster = needed(patient.keys), needed(patient.roster)
    held = _Held(roster, from_base64(patient.config.roster_key, 32))
    return Connection(
        _dialled(patient), keys, held, sequence, now=lambda: datetime.now(UTC), patience_s=PATIENCE_S
    )


def _round_trip(patient: Patient, reached: list[bool], told: list[StatusReply]) -> str:
    """TLS, a signed hello, and an answer."""
    if not reached:
        raise Skipped
    begin = time.monotonic()
    with _connection(patient, time.time_ns) as link:
        reply = link.status()
    told.append(reply)
    took = 1000 * (time.monotonic() - begin)
    own = needed(patient.roster).version
    text = f"signed round trips in {took:.0f} ms"
    if reply.roster_version > own:
        return f"{text}; roster version {reply.roster_version} is in force, this side takes it up by itself"
    return f"{text}; roster version {reply.roster_version} is in force"


def _clock(patient: Patient, told: list[StatusReply]) -> str:
    """Two calls whose hellos stand some seconds within the ends of what the aggregator's clock allows."""
    if not told:
        raise Skipped
    for seconds in (CLOCK_S - MAX_SKEW_S, MAX_SKEW_S - CLOCK_S):
        with _connection(patient, partial(_number, seconds)) as link:
            try:
                link.status()
            except AuthenticationError as refusal:
                raise Doubt(
                    f"the clocks differ by more than {CLOCK_S} s; at {MAX_SKEW_S} s every call is refused",
                    refusal.hint,
                ) from None
    return f"within {CLOCK_S} s of the aggregator's"


def _number(seconds: int) -> int:
    """A hello's number as a clock would give it that is off by so much."""
    return time.time_ns() + seconds * 10**9


def _versions(told: list[StatusReply]) -> str:
    if not told:
        raise Skipped
    text = f"secfed {__version__} here, {told[0].version} at the aggregator"
    if told[0].version != __version__:
        raise Doubt(f"{text}; the protocol is the same", "Install the same secfed version on both sides.")
    return text


# -- who listens -------------------------------------------------------------------------------


def listening_checks(patient: Patient) -> list[tuple[str, Look]]:
    """For the aggregator: each of its ports can be opened."""
    config = patient.config
    if not isinstance(config, AggregatorConfig):
        raise TypeError("only an aggregator listens")
    named = [("port", config.listen), ("metrics port", config.ops_listen)]
    if config.health_listen is not None:
        named.append(("health port", config.health_listen))
    checks: list[tuple[str, Look]] = [(name, partial(_free, patient, address)) for name, address in named]
    if config.advertise is not None:
        checks.append(("advertised", partial(_resolved, config.advertise)))
    return checks


def _free(patient: Patient, address: str) -> str:
    host, port = split_address(address)
    if port == 0:
        return "any free one"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with closing(socket.create_server((host, port), family=family)):
            return f"{address} is free"
    except OSError as problem:
        if patient.running:
            raise Doubt(f"{address} is taken, by the aggregator that runs", "Nothing to do.") from problem
        raise PortBusyError(f"{address} cannot be opened: {problem.strerror}") from problem


def _resolved(address: str) -> str:
    """What invites tell sites to dial."""
    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as problem:
        raise ConfigError(
            f"sites are told to dial {address}, and that name cannot be resolved: {problem.strerror}",
            hint="Mend `advertise` in aggregator.toml, or the name's entry in DNS.",
        ) from problem
    return f"{address} is {found[0][4][0]}"
