"""A client that dies: `doomed_client.py POINT COMMAND...` runs a `secfed` command and is killed at a point.

Points:
    say:NAME       about to say it; nothing of it left (`say:Ready`: the contribution is durable)
    hear:NAME      that request came, or that outcome; nothing was done about it yet
    upload:begin   the masked vector is made and marked as sent; no byte of it left
    upload:half    all of its pieces but the last left
    upload:acked   the aggregator acknowledged it

The process ends by its own SIGKILL: no handler runs, nothing is flushed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

from secfed.cli.main import main
from secfed.identity.signed import Signed
from secfed.ids import Digest
from secfed.rounds.exchange import Ask, Said, Told
from secfed.transport import chunks
from secfed.transport import client as transport

FLIGHT_S = 0.5
"""Time for what was handed to the network to arrive, seconds."""


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be outlived")


def all_but_the_last(data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
    """The pieces of `chunks.split`, up to the last."""
    pieces = list(split(data))
    assert len(pieces) > 1, "an upload of one piece has no middle"
    yield from pieces[:-1]
    time.sleep(FLIGHT_S)
    die()


def told(reply: Told) -> Told:
    if isinstance(reply, Ask) and point == f"hear:{type(reply.request).__name__}":
        die()
    return reply


def exchange(self: transport.Connection, said: Said) -> Told:
    if point == f"say:{type(said).__name__}":
        die()
    return told(plain_exchange(self, said))


def upload(self: transport.Connection, attempt: Digest, statement: Signed, packed: bytes) -> Told:
    if point == "upload:begin":
        die()
    reply = plain_upload(self, attempt, statement, packed)
    if point == "upload:acked":
        die()
    return told(reply)


if __name__ == "__main__":
    point = sys.argv.pop(1)
    split, plain_exchange = chunks.split, transport.Connection.exchange
    plain_upload = transport.Connection.upload
    transport.Connection.exchange = exchange  # type: ignore[method-assign]
    transport.Connection.upload = upload  # type: ignore[method-assign]
    if point == "upload:half":
        chunks.split = all_but_the_last  # type: ignore[assignment]
    main()
