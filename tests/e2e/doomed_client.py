"""A client that dies: `doomed_client.py POINT COMMAND...` runs a `secfed` command and is killed at a point.

Points:
    say:NAME       about to say it; nothing of it left (`say:Ready`: the contribution is durable)
    hear:NAME      that request came, or that offer or outcome; nothing was done about it yet
    answered:NAME  the reply to that request left, and what came of it was never heard
    upload:begin   the masked vector is made and marked as sent; no byte of it left
    upload:half    all of its pieces but the last left
    upload:sent    all of it left, and whether it is safe was never heard
    upload:acked   the aggregator acknowledged it
    never          it lives

The process ends by its own SIGKILL: no handler runs, nothing is flushed. At every point, and where it
lives, a copy of each contribution that it made lies in `made/` beside its state, one file for each
time: a round whose contribution was made twice has two.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

from secfed.cli.main import main
from secfed.identity.signed import Signed
from secfed.ids import Digest, RoundId
from secfed.rounds.contribution import Contribution, ContributionStore, Encoded
from secfed.rounds.exchange import Answer, Ask, Said, Told
from secfed.transport import chunks
from secfed.transport import client as transport

FLIGHT_S = 0.5
"""Time for what was handed to the network to arrive, seconds."""


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be outlived")


def die_in_flight() -> None:
    """Die once what is sent next has arrived, whatever comes back."""

    def wait() -> None:
        time.sleep(FLIGHT_S)
        die()

    threading.Thread(target=wait, daemon=True).start()


def all_but_the_last(data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
    """The pieces of `chunks.split`, up to the last."""
    pieces = list(split(data))
    assert len(pieces) > 1, "an upload of one piece has no middle"
    yield from pieces[:-1]
    time.sleep(4 * FLIGHT_S)  # there is an idle limit to outlive it: a busy machine has time to send
    die()


def told(reply: Told) -> Told:
    name = type(reply.request if isinstance(reply, Ask) else reply).__name__
    if point == f"hear:{name}":
        die()
    heard.append(name)
    return reply


def exchange(self: transport.Connection, said: Said) -> Told:
    if point == f"say:{type(said).__name__}":
        die()
    answers = isinstance(said, Answer) and point == f"answered:{heard[-1]}"
    if answers:
        die_in_flight()
    reply = plain_exchange(self, said)
    if answers:
        die()
    return told(reply)


def upload(self: transport.Connection, attempt: Digest, statement: Signed, packed: bytes) -> Told:
    if point == "upload:begin":
        die()
    if point == "upload:sent":
        die_in_flight()
    reply = plain_upload(self, attempt, statement, packed)
    if point in ("upload:sent", "upload:acked"):
        die()
    return told(reply)


def save(self: ContributionStore, round_id: RoundId, round_plan: Digest, encoded: Encoded) -> Contribution:
    contribution = plain_save(self, round_id, round_plan, encoded)
    stored = self._path(round_id)
    made = self._directory.parent.parent / "made"
    made.mkdir(exist_ok=True)
    shutil.copy(stored, made / f"{stored.stem}.{len(list(made.glob(stored.stem + '*')))}.bin")
    return contribution


if __name__ == "__main__":
    point = sys.argv.pop(1)
    heard = [""]
    split, plain_exchange = chunks.split, transport.Connection.exchange
    plain_upload, plain_save = transport.Connection.upload, ContributionStore.save
    transport.Connection.exchange = exchange  # type: ignore[method-assign]
    transport.Connection.upload = upload  # type: ignore[method-assign]
    ContributionStore.save = save  # type: ignore[method-assign]
    if point == "upload:half":
        chunks.split = all_but_the_last  # type: ignore[assignment]
    main()
