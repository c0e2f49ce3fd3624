"""An aggregator that dies: `doomed_aggregator.py POINT COMMAND...` runs a `secfed` command and is killed.

Points:
    before:WHAT, after:WHAT   WHAT is the beginning of what a store calls its barrier with, such as
                              `before:decide frozen/`: the moment before a survivor list is durable;
                              `after:commit` is an upload that is durable and not acknowledged
    answer:PHASE              the first reply of that phase came in; nothing was done about it yet
    upload:half               the first piece of an upload is written, and more is to come
    upload:acked              one site heard that its upload is safe; all others wait at the door

The process ends by its own SIGKILL: no handler runs, nothing is flushed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import partial
from typing import Any

from secfed.cli import build_aggregator
from secfed.cli.main import main
from secfed.ids import ClientId
from secfed.rounds.aggregator import AggregatorRounds
from secfed.rounds.attempt import LiveAttempt, Upload
from secfed.rounds.exchange import Ready, Said
from secfed.secagg.messages import Reply
from secfed.store.decisions import DecisionStore
from secfed.store.spool import Spool
from secfed.transport.daemon import Daemon
from secfed.transport.server import FederationService

ACK_S = 0.2
"""How long an upload's sender is kept before it hears that its vector is safe, where that is the point."""

FOREVER_S = 3600.0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def barrier(what: str) -> None:
    if what.startswith(point):
        die()


def answer(self: LiveAttempt, site: ClientId, reply: Reply) -> None:
    if point == f"answer:{self.session.phase.value}":
        die()
    plain_answer(self, site, reply)


def write(self: Upload, piece: bytes) -> None:
    plain_write(self, piece)
    if point == "upload:half" and self.received_bytes < self.size_bytes:
        die()


async def receive(self: FederationService, site: ClientId, *rest: Any) -> None:
    """The first site's upload is taken, everybody else's waits."""
    if site != uploaders.setdefault("first", site):
        await asyncio.sleep(FOREVER_S)
    await plain_receive(self, site, *rest)
    uploaders["safe"] = site


def hear(self: AggregatorRounds, site: ClientId, said: Said, **rest: Any) -> bool:
    if uploaders.get("safe") == site and isinstance(said, Ready):  # it goes on, so it heard
        die()
    return plain_hear(self, site, said, **rest)


if __name__ == "__main__":
    point = sys.argv.pop(1)
    uploaders: dict[str, ClientId] = {}
    plain_answer, plain_write = LiveAttempt.answer, Upload.write
    plain_receive, plain_hear = FederationService._receive, AggregatorRounds.hear
    LiveAttempt.answer = answer  # type: ignore[method-assign]
    Upload.write = write  # type: ignore[method-assign]
    if point == "upload:acked":
        FederationService._receive = receive  # type: ignore[method-assign]
        AggregatorRounds.hear = hear  # type: ignore[method-assign]
        build_aggregator.Daemon = partial(Daemon, poll_s=ACK_S)  # type: ignore[assignment,misc]
    build_aggregator.DecisionStore = partial(DecisionStore, barrier=barrier)  # type: ignore[assignment,misc]
    build_aggregator.Spool = partial(Spool, barrier=barrier)  # type: ignore[assignment,misc]
    main()
