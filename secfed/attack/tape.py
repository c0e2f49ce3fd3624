"""What an aggregator sees of one client beside the content: its messages' order, kinds and sizes.

A tape is kept at the client's end, before TLS, message by message. A long call that is answered
with nothing and made again is one message: how often that happens follows from the others' pace.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from secfed.attack.finding import Evidence
from secfed.errors import NetworkError
from secfed.transport.client import Connection

__all__ = ["Tape", "compare", "taped"]

_PAIRS = 3
"""Pairs of rounds that are held against each other at a time."""

_FEWEST = 2
"""Undisturbed rounds of a kind, at least."""

_Details: TypeAlias = "grpc.ClientCallDetails"


@dataclass(slots=True)
class Tape:
    """Messages of one client, in the order in which they left.

    Attributes:
        disturbed: Somebody was late, or a call failed: what left says something about that.
    """

    disturbed: bool = False
    _messages: list[tuple[str, int]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def note(self, path: str, size: int) -> None:
        """One message left."""
        with self._lock:
            self._messages.append((path.rpartition("/")[2], size))

    @property
    def messages(self) -> list[tuple[str, int]]:
        """(call, bytes) of each; what was said again at once counts as one."""
        with self._lock:
            return [message for message, _again in itertools.groupby(self._messages)]

    @property
    def over(self) -> bool:
        """Whether the client has come back to what it said first: that it is here."""
        said = [message for message in self.messages if message[0] == "Exchange"]
        return len(said) > 1 and said[0] == said[-1]

    def difference(self, other: Tape) -> str:
        """The first place in which two tapes differ; empty if there is none."""
        pairs = itertools.zip_longest(self.messages, other.messages, fillvalue=("nothing", 0))
        for place, ((call, size), (other_call, other_size)) in enumerate(pairs, 1):
            if (call, size) != (other_call, other_size):
                return f"message {place}: {call} of {size} bytes, and {other_call} of {other_size}"
        return ""

    def __str__(self) -> str:
        messages = self.messages
        late = ", disturbed" if self.disturbed else ""
        return f"{len(messages)} messages, {sum(size for _, size in messages)} bytes{late}"

    def judge(self, manifest: Mapping[str, Any], sites: int) -> None:
        """Note from its result whether a round went as it should: at once, and with all sites to its end."""
        late = len(manifest["included"]) < sites or manifest["lost_after_freeze"]
        self.disturbed |= manifest["attempt"] > 1 or bool(late)


def compare(evidence: Evidence, one: Callable[[], Tape], other: Callable[[], Tape]) -> None:
    """Hold two kinds of round against each other; what one kind alone has, and has repeatedly, is a gain.

    A round in which somebody was late has other messages than one in which nobody was. Such rounds
    are left out where it was noticed; where it was not, chance does not know which kind it strikes:
    a difference that is also there between rounds of the other kind tells nothing. One that came up
    but once is given as many pairs again to come back.

    Raises:
        NetworkError: Too few rounds were undisturbed, so nothing follows from them.
    """
    ones: list[Tape] = []
    others: list[Tape] = []
    for _ in range(2):
        for _ in range(_PAIRS):
            ones.append(one())
            others.append(other())
            evidence.saw(f"the one: {ones[-1]}; the other: {others[-1]}")
        kinds = _undisturbed(ones), _undisturbed(others)
        own = max(_own(*kinds), _own(*reversed(kinds)))
        enough = min(map(len, kinds)) >= _FEWEST
        if evidence.gains or (enough and own[0] != 1):
            break
    evidence.saw(f"{len(kinds[0])} and {len(kinds[1])} of these rounds were undisturbed")
    often, apart = own
    if often > 1 and enough:
        evidence.gained(f"what tells the two apart, in {often} rounds of one kind alone: {apart}")
    elif not enough and not evidence.gains:
        raise NetworkError(
            "too few rounds were undisturbed to compare them, so this attack came to no end",
            hint="Is this machine very busy? Try again.",
        )
    elif apart:
        evidence.saw(f"in a single round, which is chance: {apart}")
    elif enough:
        evidence.saw("message by message the same calls and the same sizes")


def _undisturbed(tapes: list[Tape]) -> list[Tape]:
    return [tape for tape in tapes if not tape.disturbed]


def _own(tapes: list[Tape], others: list[Tape]) -> tuple[int, str]:
    """How many of these are like none of the others, and the first difference."""
    known = [other.messages for other in others]
    found = [tape for tape in tapes if tape.messages not in known]
    return len(found), found[0].difference(others[0]) if found and others else ""


def taped(connect: Callable[..., Connection], tape: Tape) -> Callable[..., Connection]:
    """Connections of this kind, on whose channel every message is noted before it leaves."""
    if not (isinstance(connect, type) and issubclass(connect, Connection)):
        raise TypeError("only connections of a class can be taped")
    base: Any = connect

    class Taped(base):  # type: ignore[misc]
        def _dial(self, peer: Any) -> tuple[grpc.Channel, Any]:
            channel, maker = super()._dial(peer)
            return grpc.intercept_channel(channel, _Tap(tape)), maker

    made: Callable[..., Connection] = Taped
    return made


class _Tap(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
):
    """Notes requests as they pass."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def intercept_unary_unary(self, continuation: Any, details: _Details, request: Any) -> Any:
        """A short call."""
        self._tape.note(_path(details), len(request))
        return continuation(details, request)

    def intercept_unary_stream(self, continuation: Any, details: _Details, request: Any) -> Any:
        """A download."""
        self._tape.note(_path(details), len(request))
        return continuation(details, request)

    def intercept_stream_unary(self, continuation: Any, details: _Details, request_iterator: Any) -> Any:
        """An upload, frame by frame."""

        def noted() -> Iterator[bytes]:
            for frame in request_iterator:
                self._tape.note(_path(details), len(frame))
                yield frame

        return continuation(details, noted())


def _path(details: _Details) -> str:
    method = details.method
    return method.decode() if isinstance(method, bytes) else str(method)
