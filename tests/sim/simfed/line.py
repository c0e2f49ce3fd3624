"""The calls between clients and aggregator, and what befalls them on the way.

A client says something, the call arrives, a piece of an upload is written, a reply is held until there
is one and comes back. Each of these is a step, and at each the weather may strike: a message is lost
before or after its effect, heard twice, held back until later ones were heard, cut, flipped, or followed
by one of before, of anybody and from any attempt.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random

from simfed.liar import Liar
from simfed.nodes import AggregatorNode, ClientNode, Clock, Crash, Down
from simfed.weather import Weather, damaged
from simfed.witness import Witness

from secfed.errors import LedgerError, PeerError, StorageError
from secfed.ids import ClientId
from secfed.rounds.attempt import Upload as Incoming
from secfed.rounds.client import Upload
from secfed.rounds.exchange import Said
from secfed.wire import sums

HELD_S = 4.0
"""How long a call with nothing to hear is held, simulated seconds."""

_OLD = 200
"""Messages of each direction that may still be replayed."""


@dataclass
class Call:
    """One call of one client, from the moment it is made until its reply is heard."""

    said: Said | Upload
    data: bytes
    incoming: Incoming | None = None
    written: int = 0
    held_since: float | None = None
    looked_at: int | None = None
    reply: bytes | None = None


@dataclass
class Line:
    """All calls of one federation.

    Attributes:
        late_said, late_told: What was held back, for whoever gets its turn.
    """

    random: Random
    clock: Clock
    weather: Weather
    center: AggregatorNode
    nodes: dict[ClientId, ClientNode]
    witness: Witness
    liar: Liar
    trace: list[str]
    calls: dict[ClientId, Call] = field(default_factory=dict)
    old_said: deque[tuple[ClientId, bytes]] = field(default_factory=lambda: deque(maxlen=_OLD))
    old_told: deque[bytes] = field(default_factory=lambda: deque(maxlen=_OLD))
    late_said: list[tuple[ClientId, bytes]] = field(default_factory=list)
    late_told: list[tuple[ClientId, bytes]] = field(default_factory=list)

    def note(self, text: str) -> None:
        """One line of what happened, for the trace of a failing seed."""
        self.trace.append(f"{self.clock.seconds:8.1f} {text}")

    def drop_calls(self) -> None:
        """Every call breaks off when the other side dies."""
        for name in list(self.calls):
            self._break(name)

    def _break(self, name: ClientId) -> None:
        """A call is lost: the client's link says the same again, or gives up and begins anew."""
        call = self.calls.pop(name, None)
        if call is None:
            return
        if call.incoming is not None:
            call.incoming.abort()
        if self.center.rounds is not None and call.held_since is not None:
            self.center.rounds.leave(name, broken=True)
        node = self.nodes[name]
        if node.rounds is not None and self.random.random() < 0.2:
            node.saying = node.rounds.standing

    def turn(self, node: ClientNode) -> None:
        """One client gets its turn: it starts, dies, or its call goes one step on."""
        if self.center.rounds is not None and not node.is_listed(self.center.rosters.current):
            if node.up:
                self.note(f"{node.name}: its key counts no longer, and it ends")
                self.kill(node)
            return
        if not node.up:
            node.start()
            if node.up:
                self.witness.took(node)
            return
        if self.random.random() < self.weather.kill_client:
            self.note(f"{node.name}: killed")
            self.kill(node)
            return
        if self.late_said or self.late_told:
            self._deliver_late()
        if not node.up:
            return
        call = self.calls.get(node.name)
        if call is None:
            self._say(node)
        elif call.reply is not None:
            self._return(node, call)
        elif call.held_since is not None:
            self._reply(node.name, call)
        else:
            self._arrive(node.name, call)

    # -- at the gate ---------------------------------------------------------------------------

    def cut(self) -> None:
        """Calls of those who are not listed any more end."""
        roster = self.center.rosters.current
        for name in [name for name in self.calls if not self.nodes[name].is_listed(roster)]:
            self._break(name)

    def _is_admitted(self, node: ClientNode) -> bool:
        """Whether a call may begin: with another roster than the one in force, that is fetched first."""
        in_force = self.center.rosters.current
        if node.site.rosters.current.digest == in_force.digest:
            return True
        if self.random.random() < self.weather.lose:
            return False
        try:
            node.learn(in_force.text)
        except (StorageError, Crash) as error:
            self.note(f"{node.name}: died: {error}")
            self.kill(node)
            return False
        self.witness.took(node)
        return node.site.rosters.current.digest == in_force.digest

    # -- one call ------------------------------------------------------------------------------

    def _deliver_late(self) -> None:
        """Something that was held back is heard now, out of its order."""
        late = self.random.choice([each for each in (self.late_said, self.late_told) if each])
        if self.random.random() < 0.8:
            return
        name, data = late.pop(self.random.randrange(len(late)))
        if late is self.late_told:
            self._listen(self.nodes[name], data)
        elif self.center.rounds is not None:
            self._overhear(name, data)

    def kill(self, node: ClientNode) -> None:
        """One client dies; it comes back when its turn comes."""
        node.kill()
        self._break(node.name)

    def _say(self, node: ClientNode) -> None:
        saying = node.saying
        assert saying is not None
        if node.name in self.witness.owned:
            bent = self.liar.bend(node, saying)
            if bent is None:
                return
            saying = bent
        if isinstance(saying, Upload):
            if node.name in self.witness.owned:
                self.witness.left_from_a_liar(node, saying)
            else:
                self.witness.left(node, saying)
            self.calls[node.name] = Call(saying, saying.packed)
            return
        if node.name not in self.witness.owned:
            self.witness.said(node, saying)
        data = sums.encode_said(saying)
        self.old_said.append((node.name, data))
        self.calls[node.name] = Call(saying, data)

    def _arrive(self, name: ClientId, call: Call) -> None:
        """The aggregator hears what was said, or the next piece of an upload."""
        if self.center.rounds is None or self.random.random() < self.weather.lose:
            self._break(name)
            return
        if not call.written and not self._is_admitted(self.nodes[name]):
            self._break(name)
            return
        if self.random.random() < self.weather.late and not isinstance(call.said, Upload):
            self.late_said.append((name, call.data))
            self._break(name)
            return
        try:
            if isinstance(call.said, Upload):
                self._upload(name, call, call.said)
            else:
                self._hear(name, call)
        except Down:
            self.drop_calls()
        except (PeerError, LedgerError) as refusal:
            self.note(f"center refuses {name}: {refusal}")
            self._setback(name)

    def _hear(self, name: ClientId, call: Call) -> None:
        data = call.data
        if self.random.random() < self.weather.damage:
            data = damaged(self.random, data)
        said = sums.decode_said(data)
        self.center.guard(lambda rounds: rounds.enter(name))
        call.held_since = self.clock.seconds
        for _ in range(2 if self.random.random() < self.weather.repeat else 1):
            self.center.guard(lambda rounds: rounds.hear(name, said))
        if self.old_said and self.random.random() < self.weather.replay:
            self._overhear(*self.random.choice(self.old_said))

    def _overhear(self, name: ClientId, data: bytes) -> None:
        """A message of before reaches the aggregator, outside any call."""
        self.note(f"center hears {name} of before")
        try:
            self.center.guard(lambda rounds: rounds.hear(name, sums.decode_said(data)))
        except Down:
            self.drop_calls()
        except (PeerError, LedgerError) as refusal:
            self.note(f"center refuses {name}: {refusal}")

    def _upload(self, name: ClientId, call: Call, upload: Upload) -> None:
        """One step of an upload: its first frame, a piece, or the sync of the whole."""
        if call.incoming is None and call.written == 0:
            self.center.guard(lambda rounds: rounds.enter(name))
            begun = self.center.guard(
                lambda rounds: rounds.begin_upload(name, upload.attempt, upload.statement)
            )
            call.incoming = begun
            if begun is None:
                call.held_since = self.clock.seconds  # nothing owed, such as after a lost reply
            return
        incoming = call.incoming
        assert incoming is not None
        if call.written < len(upload.packed):
            size = self.random.randint(1, len(upload.packed))
            piece = upload.packed[call.written : call.written + size]
            if self.random.random() < self.weather.damage:
                piece = bytes([piece[0] ^ 1]) + piece[1:]
            incoming.write(piece)
            call.written += size
            return
        self.center.guard(lambda _: incoming.commit())
        self.center.guard(lambda rounds: rounds.finish_upload(incoming))
        call.incoming, call.held_since = None, self.clock.seconds
        self.witness.acknowledge(name, upload.attempt)

    def _reply(self, name: ClientId, call: Call) -> None:
        """Answer a call that is held, once there is something to hear or it was held long enough.

        As the daemon does, it looks again only when the core says that there may be news.
        """
        assert call.held_since is not None
        assert self.center.rounds is not None
        long_enough = self.clock.seconds - call.held_since >= HELD_S
        if call.looked_at == self.center.rounds.changes and not long_enough:
            return
        try:
            told = self.center.guard(lambda rounds: rounds.next_for(name))
            if told is None:
                call.looked_at = self.center.guard(lambda rounds: rounds.changes)
                if not long_enough:
                    return
                told = self.center.guard(lambda rounds: rounds.wait_for(name))
        except Down:
            self.drop_calls()
            return
        self.center.guard(lambda rounds: rounds.leave(name, broken=False))
        self.witness.told(told)
        call.held_since, call.reply = None, sums.encode_told(told)
        self.old_told.append(call.reply)

    def _return(self, node: ClientNode, call: Call) -> None:
        """The reply comes back, or is lost after it took effect on the other side."""
        assert call.reply is not None
        data = call.reply
        roll = self.random.random()
        if roll < self.weather.lose:
            self._break(node.name)
            return
        if roll < self.weather.lose + self.weather.late:
            self.late_told.append((node.name, data))
            self._break(node.name)
            return
        del self.calls[node.name]
        if self.random.random() < self.weather.damage:
            data = damaged(self.random, data)
        for _ in range(2 if self.random.random() < self.weather.repeat else 1):
            self._listen(node, data)
        if self.old_told and self.random.random() < self.weather.replay:
            self._listen(node, self.random.choice(self.old_told))

    def _listen(self, node: ClientNode, data: bytes) -> None:
        if node.rounds is None:
            return
        try:
            node.hear(sums.decode_told(data))
        except PeerError as refusal:
            self.note(f"{node.name}: cannot be read: {refusal}")
            node.saying = node.rounds.standing
        except (StorageError, Crash) as error:
            self.note(f"{node.name}: died: {error}")
            self.kill(node)

    def _setback(self, name: ClientId) -> None:
        """The client hears that it was refused, and says where it stands."""
        self._break(name)
        node = self.nodes[name]
        if node.rounds is not None:
            node.saying = node.rounds.standing
